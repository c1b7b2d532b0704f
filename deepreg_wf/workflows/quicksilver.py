"""The momentum between template and subject, and the geodesic that it shoots."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from deepreg_wf.checkpoints.find import Weights, find_weights
from deepreg_wf.interfaces.momentum import GeodesicShooting, RefineMomentum
from deepreg_wf.interfaces.prediction import CorrectMomentum, PredictMomentum, TransformUncertainty

if TYPE_CHECKING:
    from nipype.interfaces.base import BaseInterface
    from niworkflows.engine.workflows import LiterateWorkflow

SLOPPY_ITERATIONS = (10, 0)
"""Matching at half resolution only, for tests."""

MEMORY_GB = {'predict': 0.75, 'correct': 1.0, 'match': 2.0, 'shoot': 1.5, 'sample': 1.5}
"""What steps take on a registration grid of 1 mm, and a fifth more; half of it on one of 2 mm.

These and the other `mem_gb` are those of `benchmarks/memory.py`, of a head of 256^3 voxels.
"""

_INPUTS = ('template_brain', 'template_mask', 't1w_affine', 't1w_mask_affine')
_SHOT = ('momentum', 'warp', 'inverse_warp', 'log_jacobian', 'trace')
_OUTPUTS = (*_SHOT, 'matching_trace', 'uncertainty')
_GEODESIC = """\
Deformable registration used large deformation diffeomorphic metric mapping
[LDDMM, @beg2005; @miller2006]: {moving} was carried onto {fixed} along a geodesic of \
diffeomorphisms,
which is determined by its initial vector momentum [@singh2013]. """
_MOMENTUM = {
    'predict': 'The momentum was predicted by a convolutional network '
    '[Quicksilver, @quicksilver2017]',
    'predict+correct': 'The momentum was predicted by a convolutional network '
    'and corrected by a second one [Quicksilver, @quicksilver2017]',
    'optimise': 'The momentum was optimised by L-BFGS [@lbfgs], coarse to fine, for the local '
    'normalized cross-correlation of the images',
}
_REFINED = """, then refined by {refine} iterations of L-BFGS [@lbfgs] at each resolution
for the local normalized cross-correlation of the images"""
_INVERSE = """. The inverse transform was computed from the same geodesic.

"""
_UNCERTAINTY = """\
The uncertainty of the transform was estimated from {samples} momenta drawn from a network with
dropout [@quicksilver2017].

"""


def init_quicksilver_wf(
    *,
    momentum: str = 'predict+correct',
    refine: int = 5,
    uncertainty: int = 0,
    weights: Weights | None = None,
    direction: str = 'template-to-subject',
    device: str = 'cpu',
    omp_nthreads: int = 1,
    batch_size: int = 32,
    random_seed: int = 0,
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
    momentum : {'predict+correct', 'predict', 'optimise'}
        Where the initial momentum comes from: networks, or LDDMM matching.
    refine : int
        Iterations of matching at each resolution that a predicted momentum is refined by; 0 for
        none. Optimisation goes on to its end whatever this says.
    uncertainty : int
        Momenta that are drawn to tell how sure the transform is; 0 for none.
    weights : Weights, optional
        The networks; those that come with the package by default.
    direction : {'template-to-subject', 'subject-to-template'}
        Which image the momentum moves onto which.
    device : str
        ``'cpu'``, ``'cuda'`` or ``'cuda:N'``.
    omp_nthreads : int
        Threads on the CPU.
    batch_size : int
        Patches that go through a network at once, at most.
    random_seed : int
        Of the momenta that are drawn.
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
    trace
        Record of the shooting (JSON)
    matching_trace
        Record of the matching (JSON), if there was any
    uncertainty
        Standard deviation of the warp in mm, if it was asked for
    """
    from niworkflows.engine.workflows import LiterateWorkflow

    weights = weights or find_weights(momentum=momentum, uncertainty=uncertainty)
    ends = {'moving_image': 't1w_affine', 'fixed_image': 'template_brain'}
    words = {'moving': 'the subject', 'fixed': 'the template'}
    if direction == 'template-to-subject':
        ends = dict(zip(ends, reversed(ends.values()), strict=True))
        words = dict(zip(words, reversed(words.values()), strict=True))
    workflow = LiterateWorkflow(name=name)
    workflow.__desc__ = _describe(momentum, refine, uncertainty).format(**words)
    compute = {'device': device, 'use_gpu': device != 'cpu', 'num_threads': omp_nthreads}
    network = compute | {'batch_size': batch_size}
    steps = _momentum_steps(momentum, refine, weights, compute, network, sloppy)
    shoot = _node('shoot', GeodesicShooting(direction=direction, **compute))
    inputnode = pe.Node(niu.IdentityInterface(fields=[*_INPUTS]), name='inputnode')
    outputnode = pe.Node(niu.IdentityInterface(fields=[*_OUTPUTS]), name='outputnode')
    images = [(source, target) for target, source in ends.items()]
    workflow.connect([(inputnode, step, images) for step in steps])
    workflow.connect(
        [(*pair, _passed_to(pair[1])) for pair in zip(steps, steps[1:], strict=False)]
    )
    last = steps[-1]
    workflow.connect(
        [
            (last, shoot, [('momentum', 'momentum'), ('metric', 'metric')]),
            (shoot, outputnode, [(field, field) for field in _SHOT]),
        ]
    )
    if last.name == 'match':
        workflow.connect(last, 'trace', outputnode, 'matching_trace')
    if uncertainty:
        sampling = TransformUncertainty(
            weights=str(weights.probabilistic),
            samples=uncertainty,
            seed=random_seed,
            direction=direction,
            **network,
        )
        sample = _node('sample', sampling)
        workflow.connect([(inputnode, sample, images)])
        workflow.connect(sample, 'uncertainty', outputnode, 'uncertainty')
    return workflow


def is_matched(momentum: str, refine: int) -> bool:
    """Whether a momentum is matched, and so has a trace of its energy."""
    return momentum == 'optimise' or refine > 0


def _passed_to(step: pe.Node) -> list[tuple[str, str]]:
    """What a step that goes on with a momentum gets from the one before."""
    names = ['momentum']
    # Refinement has to keep to the metric of the networks.
    if step.name == 'match':
        names.append('metric')
    return [(name, name) for name in names]


def _momentum_steps(
    momentum: str,
    refine: int,
    weights: Weights,
    compute: dict[str, Any],
    network: dict[str, Any],
    sloppy: bool,
) -> list[pe.Node]:
    """The nodes that lead to the momentum, one after the other."""
    if momentum == 'optimise':
        match = RefineMomentum(**compute)
        if sloppy:
            match.inputs.iterations = [*SLOPPY_ITERATIONS]
        return [_node('match', match)]
    steps = [_node('predict', PredictMomentum(weights=str(weights.prediction), **network))]
    if momentum == 'predict+correct':
        correct = CorrectMomentum(weights=str(weights.correction), **network)
        if refine:
            # Beyond the first one, an iteration of matching gains more in the time.
            correct.inputs.repeats = 1
        steps.append(_node('correct', correct))
    if refine:
        steps.append(_node('match', RefineMomentum(iterations=refine, **compute)))
    return steps


def _node(name: str, interface: BaseInterface) -> pe.Node:
    # On a GPU a step keeps one processor busy, and takes one of the GPU's slots.
    threads = 1 if interface.inputs.use_gpu else interface.inputs.num_threads
    return pe.Node(interface, name=name, n_procs=threads, mem_gb=MEMORY_GB[name])


def _describe(momentum: str, refine: int, uncertainty: int) -> str:
    text = _GEODESIC + _MOMENTUM[momentum]
    if refine and momentum != 'optimise':
        text += _REFINED.replace('{refine}', str(refine))
    text += _INVERSE
    return text + (_UNCERTAINTY.replace('{samples}', str(uncertainty)) if uncertainty else '')
