"""Affine alignment of a brain with the template."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from deepreg_wf.checkpoints.locate import find_affine_network
from deepreg_wf.interfaces.affine import AffineAlign
from deepreg_wf.interfaces.checks import RaiseIfImplausible
from deepreg_wf.settings import Compute, Registration

if TYPE_CHECKING:
    from niworkflows.engine.workflows import LiterateWorkflow

_INPUTS = ('t1w_brain', 't1w_mask', 'template_brain', 'template_mask', 't1w_file')
_OUTPUTS = ('affine', 't1w_affine', 't1w_mask_affine', 'trace')
_STARTS = {
    'auto': """\
the orientation in the header and from the one estimated by a spatial transformer network [@icstn];
where neither made the brains alike, the best of many rotations was taken""",
    'classical': """\
the orientation in the header; where that did not make the brains alike, the best of many rotations
was taken""",
    'icstn': """\
the orientation estimated by a spatial transformer network [@icstn]; where that did not make the
brains alike, the one in the header or the best of many rotations was taken""",
}
_DESCRIPTION = """\
The brain was aligned with the template by an affine transform, found by Gauss-Newton iterations on
locally normalized intensities that started from {starts}. """


def init_affine_wf(
    *,
    registration: Registration = Registration(),
    compute: Compute = Compute(),
    name: str = 'affine_wf',
) -> LiterateWorkflow:
    """Build the workflow that aligns a brain with the template by an affine.

    Workflow Graph
        .. workflow::
            :graph2use: orig
            :simple_form: yes

            from deepreg_wf.workflows.affine import init_affine_wf
            wf = init_affine_wf()

    Parameters
    ----------
    registration : Registration
        Initialisation of the affine, whether it is refined, and the folder of the network.
    compute : Compute
        Quality of the computations.
    name : str
        Name of the workflow.

    Inputs
    ------
    t1w_brain, t1w_mask
        Brain of the subject and its mask, in their own space
    template_brain, template_mask
        Brain of the template and its mask, on the registration grid
    t1w_file
        The raw image, which errors name

    Outputs
    -------
    affine
        Affine of ITK that maps template points to points of the subject
    t1w_affine, t1w_mask_affine
        Brain of the subject and its mask on the registration grid, even if the affine is
        implausible
    trace
        Initialisation of the affine and similarity of the brains (JSON)

    Returns
    -------
    LiterateWorkflow

    Raises
    ------
    InputError
        If the network in the folder of the weights is not a weights file.
    """
    from niworkflows.engine.workflows import LiterateWorkflow

    workflow = LiterateWorkflow(name=name)
    workflow.__desc__ = _DESCRIPTION.format(starts=_STARTS[registration.affine_method])
    inputnode = pe.Node(niu.IdentityInterface(fields=[*_INPUTS]), name='inputnode')
    outputnode = pe.Node(niu.IdentityInterface(fields=[*_OUTPUTS]), name='outputnode')
    affine = AffineAlign(
        method=registration.affine_method,
        polish=registration.affine_polish,
        sloppy=compute.sloppy,
    )
    if registration.affine_method != 'classical':
        affine.inputs.weights = str(find_affine_network(registration.weights))
    align = pe.Node(affine, name='align', mem_gb=0.5)
    check = pe.Node(RaiseIfImplausible(), name='check', run_without_submitting=True)
    workflow.connect(
        [
            (
                inputnode,
                align,
                [
                    ('t1w_brain', 'moving_image'),
                    ('t1w_mask', 'moving_mask'),
                    ('template_brain', 'fixed_image'),
                    ('template_mask', 'fixed_mask'),
                    ('t1w_file', 'source_file'),
                ],
            ),
            (inputnode, check, [('t1w_file', 'source_file')]),
            (align, check, [('affine', 'in_file'), ('problem', 'problem'), ('advice', 'advice')]),
            (check, outputnode, [('out_file', 'affine')]),
            (
                align,
                outputnode,
                [
                    ('out_file', 't1w_affine'),
                    ('out_mask', 't1w_mask_affine'),
                    ('out_trace', 'trace'),
                ],
            ),
        ]
    )
    return workflow
