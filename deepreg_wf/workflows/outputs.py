"""The derivatives of one T1-weighted image and what their sidecars say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from deepreg_wf.derivatives import bids_uri, derivative_path
from deepreg_wf.interfaces.bids import DerivativesDataSink

if TYPE_CHECKING:
    from niworkflows.engine.workflows import LiterateWorkflow

    from deepreg_wf.templates import Template

_PREPROC = {'desc': 'preproc'}
_MASK = {'desc': 'brain', 'suffix': 'mask'}
_FULL_ONLY = ('t1w_std', 'mask_std', 'log_jacobian')
_ALWAYS = ('t1w_preproc', 't1w_mask', 'skull_strip_method', 'trace')


@dataclass(frozen=True, kw_only=True)
class _Derivative:
    """A file to be stored: where it comes from, what it is called and what it is."""

    source: Path
    field: str
    entities: dict[str, str]
    metadata: dict[str, Any] = field(default_factory=dict)


def init_outputs_wf(
    *,
    t1w_file: Path,
    bids_dir: Path,
    output_dir: Path,
    template: Template,
    registration_resolution: float,
    direction: str,
    uncertainty: bool = False,
    native: bool = True,
    level: str = 'full',
    sources: Sequence[str] = (),
    name: str = 'outputs_wf',
) -> LiterateWorkflow:
    """Build the workflow that stores the derivatives of one T1-weighted image.

    Workflow Graph
        .. workflow::
            :graph2use: orig
            :simple_form: yes

            from pathlib import Path
            from deepreg_wf.templates import Template
            from deepreg_wf.workflows.outputs import init_outputs_wf
            wf = init_outputs_wf(
                t1w_file=Path('bids/sub-01/anat/sub-01_T1w.nii.gz'),
                bids_dir=Path('bids'),
                output_dir=Path('out'),
                template=Template(space='MNI152NLin2009aSym', t1w=Path('template.nii.gz')),
                registration_resolution=2.0,
                direction='template-to-subject',
            )

    Parameters
    ----------
    t1w_file : Path
        The raw image; its entities name the derivatives.
    bids_dir, output_dir : Path
        Folders of the raw dataset and of the derivatives.
    template : Template
        Names the space of the derivatives.
    registration_resolution : float
        Voxel size, in mm, of the grid that the momentum and the log-Jacobian lie on.
    direction : {'template-to-subject', 'subject-to-template'}
        Which image the momentum moves onto which.
    uncertainty : bool
        Whether there is a map of the uncertainty.
    native : bool
        Whether image and mask are stored in their own space, too; once is enough.
    level : {'minimal', 'full'}
        Whether what can be made of the transforms and the momentum is left out: image and mask in
        the space of the template, and the log-Jacobian.
    sources : sequence of str
        BIDS URIs of what other programs have made of the image, if it was taken from there.
    name : str
        Name of the workflow.

    Inputs
    ------
    t1w_preproc
        Bias-corrected image, in its own space
    t1w_mask
        Brain mask, in the space of the image
    skull_strip_method
        How the mask came about
    t1w2std, std2t1w
        Composite transforms between the image and the template
    t1w_std, mask_std
        Image and mask on the output grid of the template
    log_jacobian, momentum
        Maps on the registration grid
    uncertainty
        Map on the registration grid; only with `uncertainty`
    trace
        Record of the shooting (JSON), with the metric
    qc
        Figures of merit of the registration (JSON)

    Outputs
    -------
    t1w_preproc, t1w_mask, t1w2std, std2t1w, t1w_std, mask_std, log_jacobian, momentum, qc, \
uncertainty
        The stored files; those of level ``full`` only where it is that
    """
    from niworkflows.engine.workflows import LiterateWorkflow

    derivatives = [
        *(_native(t1w_file, bids_dir, sources) if native else ()),
        *_transforms(t1w_file, template),
        *_on_output_grid(t1w_file, template),
        *_on_registration_grid(t1w_file, template, registration_resolution, direction),
    ]
    if uncertainty:
        derivatives.append(_uncertainty(t1w_file, template, registration_resolution))
    fields = [derivative.field for derivative in derivatives]
    # What only the run can tell is added to the sidecar then.
    measured = {
        't1w_preproc': ('skull_strip_method', _add_skull_stripped),
        't1w_std': ('skull_strip_method', _add_skull_stripped),
        'momentum': ('trace', _add_geodesic),
    }
    workflow = LiterateWorkflow(name=name)
    inputnode = pe.Node(
        niu.IdentityInterface(fields=list(dict.fromkeys([*fields, *_ALWAYS]))), name='inputnode'
    )
    stored = [each for each in derivatives if level == 'full' or each.field not in _FULL_ONLY]
    outputnode = pe.Node(
        niu.IdentityInterface(fields=[each.field for each in stored]), name='outputnode'
    )
    for derivative in stored:
        sink = _sink(derivative, output_dir)
        workflow.connect(inputnode, derivative.field, sink, 'in_file')
        workflow.connect(sink, 'out_file', outputnode, derivative.field)
        if derivative.field in measured:
            source, add = measured[derivative.field]
            workflow.connect(inputnode, (source, add, derivative.metadata), sink, 'meta_dict')
    return workflow


def _sink(derivative: _Derivative, output_dir: Path) -> pe.Node:
    sink = DerivativesDataSink(
        base_directory=str(output_dir),
        source_file=str(derivative.source),
        **derivative.entities,
    )
    if derivative.metadata:
        sink.inputs.meta_dict = derivative.metadata
    # Compressing an image takes seconds, which the scheduler should not spend itself.
    is_image = derivative.entities.get('suffix', 'T1w') in ('T1w', 'mask')
    return pe.Node(
        sink,
        name=f'save_{derivative.field}',
        mem_gb=0.5,
        run_without_submitting=not is_image,
    )


def _add_skull_stripped(method: str, metadata: dict) -> dict:
    """Say whether the whole image is of the brain only (the engine runs this from its source)."""
    return {**metadata, 'SkullStripped': method in ('already-extracted', 'none')}


def _add_geodesic(trace: str, metadata: dict) -> dict:
    """Say how the momentum is shot (the engine runs this from its source)."""
    import json
    from pathlib import Path

    record = json.loads(Path(trace).read_text(encoding='utf-8'))
    names = {'metric': 'Metric', 'steps': 'TimeSteps'}
    return {**metadata, **{names[key]: record[key] for key in names if key in record}}


def _native(
    source: Path, bids_dir: Path, made_before: Sequence[str]
) -> tuple[_Derivative, _Derivative]:
    """The image and its mask in their own space."""
    raw = bids_uri(source, bids_dir, 'raw')
    preproc = _Derivative(
        source=source,
        field='t1w_preproc',
        entities=_PREPROC,
        metadata={
            'Description': 'T1-weighted image corrected for intensity non-uniformity, not masked.',
            'Sources': [raw, *made_before, _uri(source, _MASK)],
            'SpatialReference': 'orig',
        },
    )
    mask = _Derivative(
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


def _transforms(source: Path, template: Template) -> tuple[_Derivative, _Derivative]:
    """The composite transforms to the template and back."""
    space = _label(template)
    forward = _transform(source, 't1w2std', ('T1w', space), template)
    return forward, _transform(source, 'std2t1w', (space, 'T1w'), template)


def _transform(source: Path, field: str, ends: tuple[str, str], template: Template) -> _Derivative:
    origin, target = ends
    return _Derivative(
        source=source,
        field=field,
        entities=_xfm(origin, target),
        metadata={
            'Description': (
                f'Resamples images of {origin} onto {target}: maps points of {target} to '
                f'points of {origin}, in LPS mm. An ITK composite of one affine and one '
                'displacement field.'
            ),
            'Sources': _preproc_and_mask(source),
            'SpatialReference': template.uri,
        },
    )


def _on_output_grid(source: Path, template: Template) -> tuple[_Derivative, _Derivative]:
    """The image and its mask in the space of the template."""
    forward = _uri(source, _xfm('T1w', _label(template)))
    entities, common = _space(template), {'SpatialReference': template.uri}
    if template.resolution:
        entities['resolution'] = template.resolution
        common['Resolution'] = f'Grid of {template.space}, res-{template.resolution}.'
    preproc = _Derivative(
        source=source,
        field='t1w_std',
        entities=entities | _PREPROC,
        metadata={
            'Description': f'T1-weighted image resampled once onto {template.space}.',
            'Sources': [_uri(source, _PREPROC), forward],
            **common,
        },
    )
    mask = _Derivative(
        source=source,
        field='mask_std',
        entities=entities | _MASK,
        metadata={
            'Description': f'Brain mask of the image resampled onto {template.space}.',
            'Type': 'Brain',
            'Sources': [_uri(source, _MASK), forward],
            **common,
        },
    )
    return preproc, mask


def _on_registration_grid(
    source: Path, template: Template, resolution: float, direction: str
) -> tuple[_Derivative, _Derivative, _Derivative]:
    """The maps of the geodesic, and its figures of merit."""
    entities = _space(template)
    momentum = _Derivative(
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
            'Sources': _preproc_and_mask(source),
            **_map_metadata(template, resolution),
        },
    )
    log_jacobian = _Derivative(
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
    return momentum, log_jacobian, _Derivative(source=source, field='qc', entities=qc_entities)


def _uncertainty(source: Path, template: Template, resolution: float) -> _Derivative:
    """How far the transforms differ that a probabilistic network gives."""
    return _Derivative(
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
