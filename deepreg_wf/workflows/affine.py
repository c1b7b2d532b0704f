"""The affine between a brain and the template."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from deepreg_wf.interfaces.affine import AffineAlign
from deepreg_wf.interfaces.checks import StopOnDoubt

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
    method: str = 'auto',
    polish: bool = True,
    sloppy: bool = False,
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
    method : str
        Where it starts from: a key of `deepreg_wf.affine.LADDERS`.
    polish : bool
        Refine what the network finds; the other starts always are.
    sloppy : bool
        Fast and rough, for tests.
    name : str
        Name of the workflow.

    Inputs
    ------
    t1w_brain, t1w_mask
        Brain of the subject and its mask, in their own space
    template_brain, template_mask
        Brain of the template and its mask, on the registration grid
    t1w_file
        The raw image, by whose name errors call it

    Outputs
    -------
    affine
        Affine of ITK that maps template points to points of the subject
    t1w_affine, t1w_mask_affine
        Brain of the subject and its mask on the registration grid, also of an affine that is
        refused
    trace
        Where it started, and how alike the brains are (JSON)
    """
    from niworkflows.engine.workflows import LiterateWorkflow

    workflow = LiterateWorkflow(name=name)
    workflow.__desc__ = _DESCRIPTION.format(starts=_STARTS[method])
    inputnode = pe.Node(niu.IdentityInterface(fields=[*_INPUTS]), name='inputnode')
    outputnode = pe.Node(niu.IdentityInterface(fields=[*_OUTPUTS]), name='outputnode')
    align = pe.Node(
        AffineAlign(method=method, polish=polish, sloppy=sloppy), name='align', mem_gb=0.5
    )
    trust = pe.Node(StopOnDoubt(), name='trust', run_without_submitting=True)
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
            (inputnode, trust, [('t1w_file', 'source_file')]),
            (align, trust, [('affine', 'in_file'), ('doubt', 'doubt')]),
            (trust, outputnode, [('out_file', 'affine')]),
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
