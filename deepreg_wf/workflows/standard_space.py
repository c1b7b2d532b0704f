"""Registration of one image to one template, with its derivatives and figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from deepreg_wf.bids.sidecars import output_grids
from deepreg_wf.interfaces.transforms import ApplyTransforms, ResampleTransform
from deepreg_wf.settings import Compute, Registration
from deepreg_wf.templates.templateflow import TEMPLATEFLOW_URL
from deepreg_wf.workflows.outputs import init_outputs_wf
from deepreg_wf.workflows.quicksilver import find_networks
from deepreg_wf.workflows.registration import init_registration_wf
from deepreg_wf.workflows.reports import init_reportlets_wf

if TYPE_CHECKING:
    from niworkflows.engine.workflows import LiterateWorkflow

    from deepreg_wf.templates.template import Template

# Linear interpolation is the default of antsApplyTransforms, and it cannot ring: cubic and sinc
# kernels leave dark rims and negative values around extracted brains.
T1W_INTERPOLATION = 'linear'

TEMPLATE_FIELDS = ('template_brain', 'template_mask', 'template_reference')
"""Inputs that come from a template, which is prepared once for all images."""

NATIVE_FIELDS = ('t1w_preproc', 't1w_mask', 'skull_strip_method')
"""Inputs that describe an image in its own space and are stored."""

REPORT_FIELDS = ('t1w_valid', 't1w_mask_found', 'skull_strip_method')
"""Inputs that describe an image in its own space and are drawn, even if its mask is refused."""

REGISTERED_FIELDS = ('t1w_brain', 'input_measures')
"""Inputs that describe an image in its own space and that only the registration takes."""

_MAPS = ('log_jacobian', 'qc')
_RESAMPLING = """\
The bias-corrected image and its mask were resampled onto the template *{space}*{citation} in one
step, with linear and nearest-neighbor interpolation.

"""
_LESION = """\
Lesions that had been delineated were filled with the intensities of the template, so that they \
had no
influence on the deformable registration.

"""


def init_standard_space_wf(
    *,
    t1w_file: Path,
    bids_dir: Path,
    output_dir: Path,
    template: Template,
    native: Sequence[Template] = (),
    sources: Sequence[str] = (),
    lesion: Path | None = None,
    level: str = 'full',
    registration: Registration = Registration(),
    compute: Compute = Compute(),
    name: str = 'standard_space_wf',
) -> LiterateWorkflow:
    """Build the workflow that registers an image to one template and stores the results.

    Workflow Graph
        .. workflow::
            :graph2use: orig
            :simple_form: yes

            from pathlib import Path
            from deepreg_wf.templates import Template
            from deepreg_wf.workflows.standard_space import init_standard_space_wf
            wf = init_standard_space_wf(
                t1w_file=Path('bids/sub-01/anat/sub-01_T1w.nii.gz'),
                bids_dir=Path('bids'),
                output_dir=Path('out'),
                template=Template(space='MNI152NLin2009aSym', t1w=Path('template.nii.gz')),
            )

    Parameters
    ----------
    t1w_file : Path
        The raw image.
    bids_dir, output_dir : Path
        Folders of the raw dataset and of the derivatives.
    template : Template
        Template that the image is registered to.
    native : sequence of Template
        All templates, if what lies in the space of the image is to be stored and drawn, too.
    sources : sequence of str
        BIDS URIs of results of other programs that were used.
    lesion : Path, optional
        Mask of a lesion in the image, to which nothing of the template corresponds.
    level : {'minimal', 'full'}
        Set of derivatives that are stored, as in `init_outputs_wf`.
    registration : Registration
        Affine and deformable registration.
    compute : Compute
        Device, threads, batch size, seed and quality of the computations.
    name : str
        Name of the workflow.

    Inputs
    ------
    t1w
        The raw image, which errors name
    t1w_preproc, t1w_mask, t1w_brain
        Bias-corrected image, its mask and its brain, in their own space
    input_measures
        (optional) Measures of the image in its own space (JSON), for the quality control
    t1w_valid, t1w_mask_found, skull_strip_method
        Raw image, its mask, even if it is implausible, and the source of the mask, for the report
    template_brain, template_mask, template_reference
        Template and its mask on the registration grid, and template on the output grid

    Returns
    -------
    LiterateWorkflow
        It writes its results and has no outputs.
    """
    from niworkflows.engine.workflows import LiterateWorkflow

    weights = find_networks(registration)
    registration_wf = init_registration_wf(
        registration=registration, compute=compute, weights=weights
    )
    shared: dict[str, Any] = {
        't1w_file': t1w_file,
        'output_dir': output_dir,
        'template': template,
        'lesion': lesion,
        'registration': registration,
    }
    outputs_wf = init_outputs_wf(
        **shared,
        bids_dir=bids_dir,
        native=bool(native),
        level=level,
        sources=sources,
        networks=weights.checksums(),
    )
    reportlets_wf = init_reportlets_wf(**shared, native=native)
    workflow = LiterateWorkflow(name=name)
    workflow.__postdesc__ = _describe(template, lesion)
    workflow.add_nodes([registration_wf, outputs_wf, reportlets_wf])
    _connect_inputs(workflow, lesion)
    _connect_outputs(workflow, registration, template)
    return workflow


def _connect_inputs(workflow: LiterateWorkflow, lesion: Path | None) -> None:
    """Add the input node, and set the mask of the lesion."""
    fields = ['t1w', *REGISTERED_FIELDS, *NATIVE_FIELDS, *REPORT_FIELDS, *TEMPLATE_FIELDS]
    inputnode = pe.Node(niu.IdentityInterface(fields=[*dict.fromkeys(fields)]), name='inputnode')
    targets = {
        'registration_wf': (*REGISTERED_FIELDS, 't1w_mask', 'template_brain', 'template_mask'),
        'outputs_wf': NATIVE_FIELDS,
        'reportlets_wf': REPORT_FIELDS,
    }
    for name, names in targets.items():
        edges = [(field, f'inputnode.{field}') for field in names]
        workflow.connect([(inputnode, workflow.get_node(name), edges)])
    registration_wf = workflow.get_node('registration_wf')
    workflow.connect(inputnode, 't1w', registration_wf, 'inputnode.t1w_file')
    if lesion is not None:
        registration_wf.inputs.inputnode.lesion_mask = str(lesion)


def _connect_outputs(
    workflow: LiterateWorkflow, registration: Registration, template: Template
) -> None:
    """Connect the results of the registration with the derivatives and the figures."""
    inputnode, registration_wf, outputs_wf, reportlets_wf = map(
        workflow.get_node, ('inputnode', 'registration_wf', 'outputs_wf', 'reportlets_wf')
    )
    # The stored transform has its field where fMRIPrep expects it; all nodes use the coarser one.
    resample_warp = pe.Node(ResampleTransform(), name='resample_warp', mem_gb=1.0)
    maps = [*_MAPS, *(['uncertainty'] if registration.uncertainty else [])]
    traces = ['matching_trace'] if registration.uses_matching else []
    workflow.connect(
        [
            (registration_wf, outputs_wf, _edges('std2anat_xfm', 'trace', *maps)),
            (registration_wf, outputs_wf, _edges(*registration.momenta)),
            (registration_wf, resample_warp, [('outputnode.anat2std_xfm', 'in_file')]),
            (inputnode, resample_warp, [('template_reference', 'reference_image')]),
            (resample_warp, outputs_wf, [('out_file', 'inputnode.anat2std_xfm')]),
            (registration_wf, reportlets_wf, _edges('t1w_affine', 'momentum', *traces, *maps)),
        ]
    )
    _add_resampling(workflow, template)


def _edges(*names: str) -> list[tuple[str, str]]:
    """Return edges from the outputs of a workflow to the inputs of the same name of another."""
    return [(f'outputnode.{name}', f'inputnode.{name}') for name in names]


def _add_resampling(workflow: LiterateWorkflow, template: Template) -> None:
    """Add the nodes that resample the image and its mask, once, onto each output grid."""
    inputnode, registration_wf, outputs_wf, reportlets_wf = map(
        workflow.get_node, ('inputnode', 'registration_wf', 'outputs_wf', 'reportlets_wf')
    )
    for ending, grid in output_grids(template).items():
        for source, interpolation, target in (
            ('t1w_preproc', T1W_INTERPOLATION, 't1w_std'),
            ('t1w_mask', 'nearest', 'mask_std'),
        ):
            apply = ApplyTransforms(interpolation=interpolation)
            resample = pe.Node(apply, name=f'apply_{source}{ending}', mem_gb=0.75)
            workflow.connect(
                [
                    (inputnode, resample, [(source, 'in_file')]),
                    (registration_wf, resample, [('outputnode.anat2std_xfm', 'transform')]),
                    (resample, outputs_wf, [('out_file', f'inputnode.{target}{ending}')]),
                ]
            )
            if grid is template:
                workflow.connect(
                    [
                        (inputnode, resample, [('template_reference', 'reference_image')]),
                        (resample, reportlets_wf, [('out_file', f'inputnode.{target}')]),
                    ]
                )
            else:
                apply.inputs.reference_image = str(grid.t1w)


def _describe(template: Template, lesion: Path | None) -> str:
    text = _RESAMPLING.format(space=template.space, citation=_cite(template))
    return text if lesion is None else _LESION + text


def _cite(template: Template) -> str:
    if template.space.startswith('MNI152NLin2009'):
        return ' [@mni2009]'
    return ' [@templateflow]' if template.uri.startswith(TEMPLATEFLOW_URL) else ''
