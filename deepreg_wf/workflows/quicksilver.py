"""The momentum between template and subject, and the geodesic that it shoots."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from deepreg_wf.interfaces.momentum import GeodesicShooting, RefineMomentum

if TYPE_CHECKING:
    from niworkflows.engine.workflows import LiterateWorkflow

SLOPPY_ITERATIONS = (10, 0)
"""Matching at half resolution only, for tests."""

_INPUTS = ('template_brain', 'template_mask', 't1w_affine', 't1w_mask_affine')
_MAPS = ('warp', 'inverse_warp', 'log_jacobian', 'trace')
_DESCRIPTION = """\
The deformable part of the transform is the end point of a geodesic of diffeomorphisms
(large deformation diffeomorphic metric mapping, LDDMM [@beg2005; @miller2006]), given by its
initial vector momentum [@singh2013], which was optimised by L-BFGS [@lbfgs], coarse to fine, for the local
normalised cross-correlation of {moving} with {fixed}. The inverse comes from the same geodesic.

"""


def init_quicksilver_wf(
    *,
    momentum: str = 'optimise',
    direction: str = 'template-to-subject',
    device: str = 'cpu',
    omp_nthreads: int = 1,
    sloppy: bool = False,
    name: str = 'quicksilver_wf',
) -> LiterateWorkflow:
    """Build the workflow that finds the momentum between template and subject and shoots it.

    Workflow Graph
        .. workflow::
            :graph2use: orig
            :simple_form: yes

            from deepreg_wf.workflows.quicksilver import init_quicksilver_wf
            wf = init_quicksilver_wf()

    Parameters
    ----------
    momentum : {'optimise'}
        Where the initial momentum comes from: LDDMM matching.
    direction : {'template-to-subject', 'subject-to-template'}
        Which image the momentum moves onto which.
    device : str
        ``'cpu'``, ``'cuda'`` or ``'cuda:N'``.
    omp_nthreads : int
        Threads on the CPU.
    sloppy : bool
        Fast and rough, for tests.
    name : str
        Name of the workflow.

    Inputs
    ------
    template_brain, template_mask
        Brain of the template and its mask, on the registration grid
    t1w_affine, t1w_mask_affine
        Brain of the subject and its mask after the affine, on the registration grid

    Outputs
    -------
    momentum
        Initial momentum of the geodesic
    warp, inverse_warp
        Displacements from template points to points of the aligned subject, and back
    log_jacobian
        Log-determinant of the warp
    trace, matching_trace
        Records of the shooting and of the matching (JSON)
    """
    from niworkflows.engine.workflows import LiterateWorkflow

    if momentum != 'optimise':
        raise ValueError(f"momentum must be 'optimise', got {momentum!r}")
    ends = ['t1w_affine', 'template_brain']
    words = ['the subject', 'the template']
    if direction == 'template-to-subject':
        ends.reverse()
        words.reverse()
    workflow = LiterateWorkflow(name=name)
    workflow.__desc__ = _DESCRIPTION.format(moving=words[0], fixed=words[1])
    inputnode = pe.Node(niu.IdentityInterface(fields=[*_INPUTS]), name='inputnode')
    outputnode = pe.Node(
        niu.IdentityInterface(fields=['momentum', *_MAPS, 'matching_trace']), name='outputnode'
    )
    compute = {'device': device, 'num_threads': omp_nthreads}
    match = RefineMomentum(**compute)
    if sloppy:
        match.inputs.iterations = [*SLOPPY_ITERATIONS]
    match_node = pe.Node(match, name='match', n_procs=omp_nthreads, mem_gb=3.0)
    shoot_node = pe.Node(
        GeodesicShooting(direction=direction, **compute),
        name='shoot',
        n_procs=omp_nthreads,
        mem_gb=2.0,
    )
    workflow.connect(
        [
            (inputnode, match_node, [(ends[0], 'moving_image'), (ends[1], 'fixed_image')]),
            (match_node, shoot_node, [('momentum', 'momentum'), ('metric', 'metric')]),
            (match_node, outputnode, [('momentum', 'momentum'), ('trace', 'matching_trace')]),
            (shoot_node, outputnode, [(field, field) for field in _MAPS]),
        ]
    )
    return workflow
