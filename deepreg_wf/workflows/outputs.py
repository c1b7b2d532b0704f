"""The derivatives of one T1-weighted image and what their sidecars say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from deepreg_wf.bids import sidecars
from deepreg_wf.bids.entities import bids_uri
from deepreg_wf.interfaces.bids import DerivativesDataSink

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
    registration_resolution: float,
    direction: str,
    uncertainty: bool = False,
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
    lesion : Path, optional
        Mask of a lesion, in the raw dataset.
    networks : mapping of str to str, optional
        Checksums of the networks that the momentum comes from, by what they do.
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
        Image and mask on the output grid of the template; of its other resolutions, in fields
        that end in ``_resX``
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

    drawn = () if lesion is None else (bids_uri(lesion, bids_dir, 'raw'),)
    derivatives = [
        *(sidecars.native(t1w_file, bids_dir, sources) if native else ()),
        *sidecars.transforms(t1w_file, template, drawn),
        *sidecars.on_output_grids(t1w_file, template),
        *sidecars.on_registration_grid(
            t1w_file, template, registration_resolution, direction, networks or {}
        ),
    ]
    if uncertainty:
        derivatives.append(sidecars.uncertainty(t1w_file, template, registration_resolution))
    fields = [derivative.field for derivative in derivatives]
    # What only the run can tell is added to the sidecar then.
    images = ['t1w_preproc', *(f't1w_std{ending}' for ending in sidecars.output_grids(template))]
    measured = dict.fromkeys(images, ('skull_strip_method', _add_skull_stripped))
    measured['momentum'] = ('trace', _add_geodesic)
    workflow = LiterateWorkflow(name=name)
    inputnode = pe.Node(
        niu.IdentityInterface(fields=list(dict.fromkeys([*fields, *_ALWAYS]))), name='inputnode'
    )
    stored = [
        each for each in derivatives if level == 'full' or not each.field.startswith(_FULL_ONLY)
    ]
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


def _sink(derivative: sidecars.Derivative, output_dir: Path) -> pe.Node:
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
        mem_gb=0.3,
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
