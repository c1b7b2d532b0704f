"""Names and sidecars of the derivatives of one T1-weighted image."""

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
    """File to store in the output folder.

    Attributes
    ----------
    source : Path
        Raw image.
    field_name : str
        Name of the file among the inputs of the workflow that stores it.
    entities : dict of str to str
        Entities to add to those of the raw image.
    metadata : dict
        Content of the sidecar; empty if there is none.
    """

    source: Path
    field_name: str
    entities: dict[str, str]
    metadata: dict[str, Any] = field(default_factory=dict)


def native_derivatives(
    source: Path, bids_dir: Path, precomputed: Sequence[str]
) -> tuple[Derivative, Derivative]:
    """Describe the image and its mask in native space.

    By the inheritance principle of BIDS, these sidecars also apply to the same image and mask in
    the spaces of templates, and pybids prefers them to the sidecars of those files. They have only
    keys whose values are right for all of these files; ``NativeSources`` are the sources of the
    file in native space.

    Parameters
    ----------
    source : Path
        Raw image.
    bids_dir : Path
        Root of its dataset.
    precomputed : sequence of str
        BIDS URIs of the precomputed files that were used.

    Returns
    -------
    tuple of Derivative
        Image and mask.
    """
    raw = bids_uri(source, bids_dir, 'raw')
    preproc = Derivative(
        source=source,
        field_name='t1w_preproc',
        entities=_PREPROC,
        metadata={'NativeSources': [raw, *precomputed, _uri(source, _MASK)]},
    )
    mask = Derivative(
        source=source,
        field_name='t1w_mask',
        entities=_MASK,
        metadata={'Type': 'Brain', 'NativeSources': [raw, *precomputed]},
    )
    return preproc, mask


def transform_derivatives(
    source: Path, template: Template, lesion_masks: Sequence[str] = ()
) -> tuple[Derivative, Derivative]:
    """Describe the composite transforms to the template and back.

    Parameters
    ----------
    source : Path
        Raw image.
    template : Template
    lesion_masks : sequence of str
        BIDS URIs of the lesion masks.

    Returns
    -------
    tuple of Derivative
        Transform to the template, and transform back.
    """
    space = _label(template)
    sources = [*_preproc_and_mask(source), *lesion_masks]
    forward = _transform(source, 'anat2std_xfm', ('T1w', space), template, sources)
    return forward, _transform(source, 'std2anat_xfm', (space, 'T1w'), template, sources)


def _transform(
    source: Path, field_name: str, ends: tuple[str, str], template: Template, sources: list[str]
) -> Derivative:
    origin, target = ends
    return Derivative(
        source=source,
        field_name=field_name,
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
    """Return the templates on whose grids images are written, by the endings of the field names.

    Parameters
    ----------
    template : Template
        Template of the registration.

    Returns
    -------
    dict of str to Template
        The template of the registration comes first, with an empty ending.
    """
    others = {f'_res{other.resolution or ""}': other for other in template.other_resolutions}
    return {'': template, **others}


def output_grid_derivatives(source: Path, template: Template) -> list[Derivative]:
    """Describe the image and its mask in the space of the template, at each resolution.

    Parameters
    ----------
    source : Path
        Raw image.
    template : Template
        Template with its other resolutions.

    Returns
    -------
    list of Derivative
        Image and mask at the first resolution, at the second, and so on.
    """
    grids = output_grids(template)
    # The sidecar of a file without a resolution in its name also applies to the others.
    plain = next((grid for grid in grids.values() if grid.resolution is None), None)
    return [
        derivative
        for ending, grid in grids.items()
        for derivative in _output_grid_pair(source, grid, ending, plain or grid)
    ]


def _output_grid_pair(
    source: Path, template: Template, ending: str, reference: Template
) -> tuple[Derivative, Derivative]:
    forward = _uri(source, _xfm('T1w', _label(template)))
    entities, common = _space(template), {'SpatialReference': reference.uri}
    if template.resolution:
        entities['resolution'] = template.resolution
        common['Resolution'] = f'Grid of {template.space}, res-{template.resolution}.'
    preproc = Derivative(
        source=source,
        field_name=f't1w_std{ending}',
        entities=entities | _PREPROC,
        metadata={
            'Description': f'T1-weighted image resampled once onto {template.space}.',
            'Sources': [_uri(source, _PREPROC), forward],
            **common,
        },
    )
    mask = Derivative(
        source=source,
        field_name=f'mask_std{ending}',
        entities=entities | _MASK,
        metadata={
            'Description': f'Brain mask of the image resampled onto {template.space}.',
            'Type': 'Brain',
            'Sources': [_uri(source, _MASK), forward],
            **common,
        },
    )
    return preproc, mask


def registration_grid_derivatives(
    source: Path,
    template: Template,
    resolution: float,
    direction: str,
    networks: Mapping[str, str],
) -> tuple[Derivative, Derivative, Derivative]:
    """Describe the momentum, the log-Jacobian map and the quality measures.

    Parameters
    ----------
    source : Path
        Raw image.
    template : Template
    resolution : float
        Voxel size of the registration grid in mm.
    direction : str
        Direction of the geodesic: ``template-to-subject`` or ``subject-to-template``.
    networks : mapping of str to str
        Checksums of the networks that computed the momentum, by their roles.

    Returns
    -------
    tuple of Derivative
        Momentum, log-Jacobian map and quality measures.
    """
    entities = _space(template)
    momentum = Derivative(
        source=source,
        field_name='momentum',
        entities=entities | {'desc': 'momentum'},
        metadata={
            'Description': (
                'Initial momentum of the geodesic that registers the template and the T1-weighted '
                'image after their affine alignment: m = L v, v the initial velocity.'
            ),
            **_momentum_metadata(template, resolution, direction),
            **({'NetworksSHA256': dict(networks)} if networks else {}),
            'Sources': _preproc_and_mask(source),
        },
    )
    log_jacobian = Derivative(
        source=source,
        field_name='log_jacobian',
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
    return momentum, log_jacobian, Derivative(source=source, field_name='qc', entities=qc_entities)


def later_momentum_derivatives(
    source: Path, template: Template, resolution: float, direction: str, names: Sequence[str]
) -> list[Derivative]:
    """Describe the momenta of the geodesics of a chain that follow the first one.

    Parameters
    ----------
    source : Path
        Raw image.
    template : Template
    resolution : float
        Voxel size of the registration grid in mm.
    direction : str
        Direction of the geodesics: ``template-to-subject`` or ``subject-to-template``.
    names : sequence of str
        Names of all momenta, that of the first geodesic included.

    Returns
    -------
    list of Derivative
    """
    entities = _space(template)
    return [
        Derivative(
            source=source,
            field_name=name,
            entities=entities | {'desc': name},
            metadata={
                'Description': (
                    f'Initial momentum of geodesic {number} of a chain: the deformable part of '
                    'the registration is the composition of the maps of all geodesics, the first '
                    'one applied first. This momentum lives on the image that the geodesics '
                    'before it have deformed.'
                ),
                'ChainPosition': number,
                **_momentum_metadata(template, resolution, direction),
                'Sources': [
                    *_preproc_and_mask(source),
                    *(_uri(source, entities | {'desc': before}) for before in names[: number - 1]),
                ],
            },
        )
        for number, name in enumerate(names[1:], start=2)
    ]


def uncertainty_derivative(source: Path, template: Template, resolution: float) -> Derivative:
    """Describe the uncertainty map of the transform.

    Parameters
    ----------
    source : Path
        Raw image.
    template : Template
    resolution : float
        Voxel size of the registration grid in mm.

    Returns
    -------
    Derivative
    """
    return Derivative(
        source=source,
        field_name='uncertainty',
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


def _momentum_metadata(template: Template, resolution: float, direction: str) -> dict[str, Any]:
    """Return the metadata that all momenta share."""
    return {
        'Units': 'mm',
        'VectorComponents': 'Along the three axes of the voxel grid, in this order.',
        'Direction': direction,
        **_map_metadata(template, resolution),
    }


def _map_metadata(template: Template, resolution: float) -> dict[str, Any]:
    """Return the metadata that all maps on the registration grid share."""
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
    """Return the label of the space in transforms; a cohort follows a plus sign as in fMRIPrep."""
    return f'{template.space}+{template.cohort}' if template.cohort else template.space


def _xfm(origin: str, target: str) -> dict[str, str]:
    return {'from_': origin, 'to': target, 'mode': 'image', 'suffix': 'xfm'}
