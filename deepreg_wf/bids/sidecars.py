"""What is stored of one T1-weighted image: the names of its derivatives and their sidecars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepreg_wf.bids.entities import bids_uri, derivative_path

if TYPE_CHECKING:
    from deepreg_wf.templates.template import Template

_PREPROC = {'desc': 'preproc'}
_MASK = {'desc': 'brain', 'suffix': 'mask'}


@dataclass(frozen=True, kw_only=True)
class Derivative:
    """A file to be stored: where it comes from, what it is called and what it is."""

    source: Path
    field: str
    entities: dict[str, str]
    metadata: dict[str, Any] = field(default_factory=dict)


def native(
    source: Path, bids_dir: Path, made_before: Sequence[str]
) -> tuple[Derivative, Derivative]:
    """Describe the image and its mask in their own space.

    Parameters
    ----------
    source
        The raw image.
    bids_dir
        Root of its dataset.
    made_before
        BIDS URIs of what other programs have made of it.

    Returns
    -------
    tuple of Derivative
        The image and the mask.

    """
    raw = bids_uri(source, bids_dir, 'raw')
    preproc = Derivative(
        source=source,
        field='t1w_preproc',
        entities=_PREPROC,
        metadata={
            'Description': 'T1-weighted image corrected for intensity non-uniformity, not masked.',
            'Sources': [raw, *made_before, _uri(source, _MASK)],
            'SpatialReference': 'orig',
        },
    )
    mask = Derivative(
        source=source,
        field='t1w_mask',
        entities=_MASK,
        metadata={
            'Description': 'Brain mask of the T1-weighted image.',
            'Type': 'Brain',
            'Sources': [raw, *made_before],
            'SpatialReference': 'orig',
        },
    )
    return preproc, mask


def transforms(
    source: Path, template: Template, drawn: Sequence[str] = ()
) -> tuple[Derivative, Derivative]:
    """Describe the composite transforms to the template and back.

    Parameters
    ----------
    source
        The raw image.
    template
        Names the space.
    drawn
        BIDS URIs of masks that people have drawn.

    Returns
    -------
    tuple of Derivative
        To the template, and back.

    """
    space = _label(template)
    sources = [*_preproc_and_mask(source), *drawn]
    forward = _transform(source, 't1w2std', ('T1w', space), template, sources)
    return forward, _transform(source, 'std2t1w', (space, 'T1w'), template, sources)


def _transform(
    source: Path, field: str, ends: tuple[str, str], template: Template, sources: list[str]
) -> Derivative:
    origin, target = ends
    return Derivative(
        source=source,
        field=field,
        entities=_xfm(origin, target),
        metadata={
            'Description': (
                f'Resamples images of {origin} onto {target}: maps points of {target} to '
                f'points of {origin}, in LPS mm. An ITK composite of one affine and one '
                'displacement field.'
            ),
            'Sources': sources,
            'SpatialReference': template.uri,
        },
    )


def output_grids(template: Template) -> dict[str, Template]:
    """Templates on whose grids images are written, by what the names of their fields end in.

    Parameters
    ----------
    template
        The template that is registered to.

    Returns
    -------
    dict
        That template itself comes first, and adds nothing to the names.

    """
    others = {f'_res{other.resolution or ""}': other for other in template.others}
    return {'': template, **others}


def on_output_grids(source: Path, template: Template) -> list[Derivative]:
    """Describe the image and its mask in the space of the template, at each resolution.

    Parameters
    ----------
    source
        The raw image.
    template
        With its other resolutions.

    Returns
    -------
    list of Derivative
        Image and mask, in turn.

    """
    return [
        derivative
        for ending, grid in output_grids(template).items()
        for derivative in _on_output_grid(source, grid, ending)
    ]


def _on_output_grid(
    source: Path, template: Template, ending: str
) -> tuple[Derivative, Derivative]:
    forward = _uri(source, _xfm('T1w', _label(template)))
    entities, common = _space(template), {'SpatialReference': template.uri}
    if template.resolution:
        entities['resolution'] = template.resolution
        common['Resolution'] = f'Grid of {template.space}, res-{template.resolution}.'
    preproc = Derivative(
        source=source,
        field=f't1w_std{ending}',
        entities=entities | _PREPROC,
        metadata={
            'Description': f'T1-weighted image resampled once onto {template.space}.',
            'Sources': [_uri(source, _PREPROC), forward],
            **common,
        },
    )
    mask = Derivative(
        source=source,
        field=f'mask_std{ending}',
        entities=entities | _MASK,
        metadata={
            'Description': f'Brain mask of the image resampled onto {template.space}.',
            'Type': 'Brain',
            'Sources': [_uri(source, _MASK), forward],
            **common,
        },
    )
    return preproc, mask


def on_registration_grid(
    source: Path,
    template: Template,
    resolution: float,
    direction: str,
    networks: Mapping[str, str],
) -> tuple[Derivative, Derivative, Derivative]:
    """Describe the maps of the geodesic, and its figures of merit.

    Parameters
    ----------
    source
        The raw image.
    template
        Names the space.
    resolution
        Of the registration grid, in mm.
    direction
        Which image the momentum moves onto which.
    networks
        Checksums of the networks that the momentum comes from, by what they do.

    Returns
    -------
    tuple of Derivative
        Momentum, log-Jacobian and figures.

    """
    entities = _space(template)
    momentum = Derivative(
        source=source,
        field='momentum',
        entities=entities | {'desc': 'momentum'},
        metadata={
            'Description': (
                'Initial momentum of the geodesic that registers the template and the T1-weighted '
                'image after their affine alignment: m = L v, v the initial velocity.'
            ),
            'Units': 'mm',
            'VectorComponents': 'Along the three axes of the voxel grid, in this order.',
            'Direction': direction,
            **({'NetworksSHA256': dict(networks)} if networks else {}),
            'Sources': _preproc_and_mask(source),
            **_map_metadata(template, resolution),
        },
    )
    log_jacobian = Derivative(
        source=source,
        field='log_jacobian',
        entities=entities | {'desc': 'logjacobian'},
        metadata={
            'Description': (
                'Natural logarithm of the determinant of the Jacobian of the deformable part of '
                'the map from the template to the T1-weighted image; the affine part is not in '
                'it. Positive where the subject is larger than the template.'
            ),
            'Units': '1',
            'Direction': 'template-to-subject',
            'Sources': [_uri(source, momentum.entities)],
            **_map_metadata(template, resolution),
        },
    )
    qc_entities = entities | {'desc': 'registration', 'suffix': 'qc'}
    return momentum, log_jacobian, Derivative(source=source, field='qc', entities=qc_entities)


def uncertainty(source: Path, template: Template, resolution: float) -> Derivative:
    """Describe how far the transforms differ that a probabilistic network gives.

    Parameters
    ----------
    source
        The raw image.
    template
        Names the space.
    resolution
        Of the registration grid, in mm.

    Returns
    -------
    Derivative
        The map.

    """
    return Derivative(
        source=source,
        field='uncertainty',
        entities=_space(template) | {'desc': 'uncertainty'},
        metadata={
            'Description': (
                'Standard deviation, over momenta drawn from a network with dropout, of the place '
                'in the T1-weighted image, after its affine alignment, that a voxel of the '
                'template is mapped to: the square root of the summed variances of the three axes.'
            ),
            'Units': 'mm',
            'Direction': 'template-to-subject',
            'Sources': _preproc_and_mask(source),
            **_map_metadata(template, resolution),
        },
    )


def _map_metadata(template: Template, resolution: float) -> dict[str, Any]:
    return {
        'SkullStripped': True,
        'SpatialReference': template.uri,
        'Resolution': f'Registration grid: {template.space} at {resolution:g} mm isotropic.',
    }


def _preproc_and_mask(source: Path) -> list[str]:
    return [_uri(source, _PREPROC), _uri(source, _MASK)]


def _uri(source: Path, entities: dict[str, str]) -> str:
    return bids_uri(derivative_path(source, **entities))


def _space(template: Template) -> dict[str, str]:
    cohort = {'cohort': template.cohort} if template.cohort else {}
    return {'space': template.space, **cohort}


def _label(template: Template) -> str:
    """Name of the space in a transform, where a cohort follows a plus sign, as in fMRIPrep."""
    return f'{template.space}+{template.cohort}' if template.cohort else template.space


def _xfm(origin: str, target: str) -> dict[str, str]:
    return {'from_': origin, 'to': target, 'mode': 'image', 'suffix': 'xfm'}
