"""The affine between a brain and the template."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from deepreg_wf.interfaces.affine import AffineAlign

if TYPE_CHECKING:
    from niworkflows.engine.workflows import LiterateWorkflow

_INPUTS = ('t1w_brain', 't1w_mask', 'template_brain', 'template_mask', 't1w_file')
_OUTPUTS = ('affine', 't1w_affine', 't1w_mask_affine')
_DESCRIPTION = """\
The brain was aligned with the template by an affine, found with *antsRegistration* [@ants] for the
mutual information of the two, from the orientation that the header gives or, where that did not
make them alike, from the best of many. """


def init_affine_wf(
    *,
    omp_nthreads: int = 1,
    random_seed: int = 0,
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
    omp_nthreads : int
        Threads on the CPU.
    random_seed : int
        Of the choice of the voxels that are compared.
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
        Brain of the subject and its mask on the registration grid
    """
    from niworkflows.engine.workflows import LiterateWorkflow

    workflow = LiterateWorkflow(name=name)
    workflow.__desc__ = _DESCRIPTION
    inputnode = pe.Node(niu.IdentityInterface(fields=[*_INPUTS]), name='inputnode')
    outputnode = pe.Node(niu.IdentityInterface(fields=[*_OUTPUTS]), name='outputnode')
    align = pe.Node(
        AffineAlign(seed=random_seed, num_threads=omp_nthreads, sloppy=sloppy),
        name='align',
        n_procs=omp_nthreads,
        mem_gb=0.5,
    )
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
            (
                align,
                outputnode,
                [
                    ('affine', 'affine'),
                    ('out_file', 't1w_affine'),
                    ('out_mask', 't1w_mask_affine'),
                ],
            ),
        ]
    )
    return workflow
