"""Derivatives of one T1-weighted image, with their sidecars."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from deepreg_wf.bids import sidecars
from deepreg_wf.bids.entities import bids_uri
from deepreg_wf.interfaces.bids import DerivativesDataSink
from deepreg_wf.settings import Registration

if TYPE_CHECKING:
    from niworkflows.engine.workflows import LiterateWorkflow

    from deepreg_wf.templates.template import Template

_FULL_ONLY = ('t1w_std', 'mask_std', 'log_jacobian')
_ALWAYS = ('t1w_preproc', 't1w_mask', 'skull_strip_method', 'trace')


def init_outputs_wf(
    *,
    t1w_file: Path,
    bids_dir: Path,
    output_dir: Path,
    template: Template,
    registration: Registration = Registration(),
    native: bool = True,
    level: str = 'full',
    sources: Sequence[str] = (),
    lesion: Path | None = None,
    networks: Mapping[str, str] | None = None,
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
            )

    Parameters
    ----------
    t1w_file : Path
        The raw image; its entities name the derivatives.
    bids_dir, output_dir : Path
        Folders of the raw dataset and of the derivatives.
    template : Template
        Template that names the space of the derivatives.
    registration : Registration
        Grid, direction and uncertainty of the momentum.
    native : bool
        Store image and mask in their own space, too; once is enough.
    level : {'minimal', 'full'}
        ``'minimal'`` leaves out what can be computed from the transforms and the momentum: image
        and mask in the space of the template, and the log-Jacobian.
    sources : sequence of str
        BIDS URIs of results of other programs that were used.
    lesion : Path, optional
        Mask of a lesion, in the raw dataset.
    networks : mapping of str to str, optional
        Checksums of the networks that the momentum comes from, by their task.
    name : str
        Name of the workflow.

    Inputs
    ------
    t1w_preproc, t1w_mask, skull_strip_method
        Bias-corrected image and its brain mask, in their own space, and the source of the mask
    anat2std_xfm, std2anat_xfm
        Composite transforms that resample the image onto the template, and back
    t1w_std, mask_std
        Image and mask on the output grid of the template; its other resolutions have fields that
        end in ``_resX``
    log_jacobian, momentum, momentum2
        Maps on the registration grid; a momentum for each geodesic of the chain
    uncertainty
        Map on the registration grid; only with `registration.uncertainty`
    trace
        Record of the shooting (JSON), with the metric
    qc
        Quality measures of the registration (JSON)

    Outputs
    -------
    t1w_preproc, t1w_mask, anat2std_xfm, std2anat_xfm, t1w_std, mask_std, log_jacobian, \
momentum, momentum2, qc, uncertainty
        The stored files; those of level ``full`` only at that level

    Returns
    -------
    LiterateWorkflow
    """
    from niworkflows.engine.workflows import LiterateWorkflow

    drawn = () if lesion is None else (bids_uri(lesion, bids_dir, 'raw'),)
    derivatives = _standard_derivatives(t1w_file, template, registration, drawn, networks or {})
    if native:
        derivatives = [*sidecars.native_derivatives(t1w_file, bids_dir, sources), *derivatives]
    stored = [
        each
        for each in derivatives
        if level == 'full' or not each.field_name.startswith(_FULL_ONLY)
    ]
    fields = dict.fromkeys([*(each.field_name for each in derivatives), *_ALWAYS])
    workflow = LiterateWorkflow(name=name)
    inputnode = pe.Node(niu.IdentityInterface(fields=[*fields]), name='inputnode')
    workflow.add_nodes([inputnode])
    _add_sinks(workflow, stored, template, output_dir)
    return workflow


def _add_sinks(
    workflow: LiterateWorkflow,
    stored: Sequence[sidecars.Derivative],
    template: Template,
    output_dir: Path,
) -> None:
    """Add a node that stores each derivative, and the output node."""
    inputnode = workflow.get_node('inputnode')
    fields = [derivative.field_name for derivative in stored]
    outputnode = pe.Node(niu.IdentityInterface(fields=fields), name='outputnode')
    measured = _measured_metadata(template, fields)
    for derivative in stored:
        sink = _sink(derivative, output_dir)
        workflow.connect(inputnode, derivative.field_name, sink, 'in_file')
        workflow.connect(sink, 'out_file', outputnode, derivative.field_name)
        if derivative.field_name in measured:
            source, add = measured[derivative.field_name]
            workflow.connect(inputnode, (source, add, derivative.metadata), sink, 'meta_dict')


def _standard_derivatives(
    t1w_file: Path,
    template: Template,
    registration: Registration,
    drawn: Sequence[str],
    networks: Mapping[str, str],
) -> list[sidecars.Derivative]:
    """Return the derivatives in the space of the template, and the transforms."""
    resolution = registration.registration_resolution
    derivatives = [
        *sidecars.transform_derivatives(t1w_file, template, drawn),
        *sidecars.output_grid_derivatives(t1w_file, template),
        *sidecars.registration_grid_derivatives(
            t1w_file, template, resolution, registration.direction, networks
        ),
        *sidecars.later_momentum_derivatives(
            t1w_file, template, resolution, registration.direction, registration.momenta
        ),
    ]
    if registration.uncertainty:
        derivatives.append(sidecars.uncertainty_derivative(t1w_file, template, resolution))
    return derivatives


def _measured_metadata(
    template: Template, fields: Sequence[str]
) -> dict[str, tuple[str, Callable[[str, dict[str, object]], dict[str, object]]]]:
    """Return the input and the function that complete the sidecar of a field during the run."""
    images = ['t1w_preproc', *(f't1w_std{ending}' for ending in sidecars.output_grids(template))]
    skull_stripped = ('skull_strip_method', _add_skull_stripped)
    momenta = [field for field in fields if field.startswith('momentum')]
    geodesic = ('trace', _add_geodesic)
    return {**dict.fromkeys(images, skull_stripped), **dict.fromkeys(momenta, geodesic)}


def _sink(derivative: sidecars.Derivative, output_dir: Path) -> pe.Node:
    sink = DerivativesDataSink(
        base_directory=str(output_dir),
        source_file=str(derivative.source),
        **derivative.entities,
    )
    if derivative.metadata:
        sink.inputs.meta_dict = derivative.metadata
    # Compression of an image takes seconds, in which the scheduler would be blocked.
    is_image = derivative.entities.get('suffix', 'T1w') in ('T1w', 'mask')
    return pe.Node(
        sink,
        name=f'save_{derivative.field_name}',
        mem_gb=0.3,
        run_without_submitting=not is_image,
    )


def _add_skull_stripped(method: str, metadata: dict[str, object]) -> dict[str, object]:
    """Add whether the whole image shows the brain only (Nipype runs this from its source)."""
    return {**metadata, 'SkullStripped': method in ('already-extracted', 'none')}


def _add_geodesic(trace: str, metadata: dict[str, object]) -> dict[str, object]:
    """Add the metric and the time steps of the shooting (Nipype runs this from its source)."""
    import json
    from pathlib import Path

    record = json.loads(Path(trace).read_text(encoding='utf-8'))
    number = metadata.get('ChainPosition', 1)
    if isinstance(number, int) and number > 1:
        record = record['later'][number - 2]
    names = {'metric': 'Metric', 'steps': 'TimeSteps'}
    return {**metadata, **{names[key]: record[key] for key in names if key in record}}
