"""Registration of a brain and a template: transforms, momentum and quality measures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from deepreg_wf.interfaces.affine import FillLesion
from deepreg_wf.interfaces.qc import RegistrationQC
from deepreg_wf.interfaces.transforms import ApplyTransforms, ComposeTransforms
from deepreg_wf.settings import Compute, Registration
from deepreg_wf.workflows.affine import init_affine_wf
from deepreg_wf.workflows.quicksilver import init_quicksilver_wf

if TYPE_CHECKING:
    from niworkflows.engine.workflows import LiterateWorkflow

    from deepreg_wf.checkpoints.locate import Weights

_INPUTS = ('template_brain', 'template_mask', 't1w_brain', 't1w_mask', 't1w_file')
_OPTIONAL = ('lesion_mask', 'input_measures')
_GEODESIC = ('log_jacobian', 'trace', 'matching_trace', 'uncertainty')
_OUTPUTS = ('anat2std_xfm', 'std2anat_xfm', 't1w_affine', *_GEODESIC, 'qc')


def init_registration_wf(
    *,
    registration: Registration = Registration(),
    compute: Compute = Compute(),
    weights: Weights | None = None,
    name: str = 'registration_wf',
) -> LiterateWorkflow:
    """Build the workflow that registers a brain and a template.

    Workflow Graph
        .. workflow::
            :graph2use: orig
            :simple_form: yes

            from deepreg_wf.workflows.registration import init_registration_wf
            wf = init_registration_wf()

    Parameters
    ----------
    registration : Registration
        Affine and deformable registration.
    compute : Compute
        Device, threads, batch size, seed and quality of the computations.
    weights : Weights, optional
        Files of the networks; those of `registration` by default.
    name : str
        Name of the workflow.

    Inputs
    ------
    template_brain, template_mask
        Template and its mask, on the registration grid
    t1w_brain, t1w_mask
        Brain of the subject and its mask, in the space of the image
    t1w_file
        The raw image, which errors name
    lesion_mask
        (optional) Lesion, in the space of the image, to which nothing of the template corresponds
    input_measures
        (optional) Measures of the image in its own space (JSON), which are added to `qc`

    Outputs
    -------
    anat2std_xfm, std2anat_xfm
        Composite transforms that resample the image onto the template, and back (ITK, ``.h5``)
    t1w_affine
        Brain of the subject after the affine alone, on the registration grid
    momentum, momentum2, log_jacobian
        Maps on the registration grid; a momentum for each geodesic of the chain
    trace, matching_trace
        Records of the shooting and, if the momentum was matched, of the matching (JSON)
    uncertainty
        Standard deviation of the warp in mm; only with `registration.uncertainty`
    qc
        Quality measures (JSON)

    Returns
    -------
    LiterateWorkflow
    """
    from niworkflows.engine.workflows import LiterateWorkflow

    workflow = LiterateWorkflow(name=name)
    inputnode = pe.Node(niu.IdentityInterface(fields=[*_INPUTS, *_OPTIONAL]), name='inputnode')
    outputs = niu.IdentityInterface(fields=[*registration.momenta, *_OUTPUTS])
    outputnode = pe.Node(outputs, name='outputnode')
    maps = [*registration.momenta, *_GEODESIC]
    affine_wf = init_affine_wf(registration=registration, compute=compute)
    quicksilver_wf = init_quicksilver_wf(
        registration=registration, compute=compute, weights=weights
    )
    fill = pe.Node(FillLesion(), name='fill', mem_gb=0.25)
    compose = pe.Node(ComposeTransforms(), name='compose', mem_gb=0.75)
    affine = [('outputnode.t1w_affine', 'in_file'), ('outputnode.affine', 'affine')]
    mask = [('outputnode.t1w_mask_affine', 'inputnode.t1w_mask_affine')]
    warps = [('outputnode.warp', 'warp'), ('outputnode.inverse_warp', 'inverse_warp')]
    transforms = [(name, name) for name in ('anat2std_xfm', 'std2anat_xfm')]
    workflow.connect(
        [
            (inputnode, affine_wf, [(name, f'inputnode.{name}') for name in _INPUTS]),
            (inputnode, quicksilver_wf, [(name, f'inputnode.{name}') for name in _INPUTS[:2]]),
            (inputnode, fill, [('lesion_mask', 'lesion_mask'), ('template_brain', 'template')]),
            (affine_wf, fill, affine),
            (fill, quicksilver_wf, [('out_file', 'inputnode.t1w_affine')]),
            (affine_wf, quicksilver_wf, mask),
            (affine_wf, compose, [('outputnode.affine', 'affine')]),
            (quicksilver_wf, compose, warps),
            (compose, outputnode, transforms),
            (affine_wf, outputnode, [('outputnode.t1w_affine', 't1w_affine')]),
            (quicksilver_wf, outputnode, [(f'outputnode.{name}', name) for name in maps]),
        ]
    )
    _add_quality_control(workflow)
    return workflow


def _add_quality_control(workflow: LiterateWorkflow) -> None:
    """Add the nodes that measure the quality of the registration, on the registration grid."""
    inputnode, outputnode, compose, affine_wf, quicksilver_wf = map(
        workflow.get_node,
        ('inputnode', 'outputnode', 'compose', 'affine_wf', 'quicksilver_wf'),
    )
    qc = pe.Node(RegistrationQC(), name='qc', mem_gb=1.25)
    for source, interpolation, target in (
        ('t1w_brain', 'linear', 'warped_image'),
        ('t1w_mask', 'nearest', 'warped_mask'),
    ):
        apply = ApplyTransforms(interpolation=interpolation)
        warp = pe.Node(apply, name=f'warp_{source}', mem_gb=0.75)
        workflow.connect(
            [
                (inputnode, warp, [(source, 'in_file'), ('template_brain', 'reference_image')]),
                (compose, warp, [('anat2std_xfm', 'transform')]),
                (warp, qc, [('out_file', target)]),
            ]
        )
    template = [('template_brain', 'template_image'), ('template_mask', 'template_mask')]
    affine = [
        ('outputnode.affine', 'affine'),
        ('outputnode.trace', 'affine_trace'),
        ('outputnode.t1w_affine', 'affine_image'),
        ('outputnode.t1w_mask_affine', 'affine_mask'),
    ]
    geodesic = [
        ('outputnode.warp', 'warp'),
        ('outputnode.inverse_warp', 'inverse_warp'),
        ('outputnode.trace', 'shooting_trace'),
    ]
    workflow.connect(
        [
            (inputnode, qc, [*template, ('input_measures', 'input_measures')]),
            (affine_wf, qc, affine),
            (quicksilver_wf, qc, geodesic),
            (qc, outputnode, [('out_file', 'qc')]),
        ]
    )
