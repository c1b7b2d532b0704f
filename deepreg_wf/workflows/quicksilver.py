"""The initial momentum between template and subject, and the geodesic that it defines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from deepreg_wf.checkpoints.locate import Weights, find_weights
from deepreg_wf.interfaces._tensors import compute_inputs
from deepreg_wf.interfaces.momentum import GeodesicShooting, RefineMomentum
from deepreg_wf.interfaces.prediction import CorrectMomentum, PredictMomentum, TransformUncertainty
from deepreg_wf.settings import Compute, Registration

if TYPE_CHECKING:
    from nipype.interfaces.base import BaseInterface
    from niworkflows.engine.workflows import LiterateWorkflow

SLOPPY_ITERATIONS = 2
"""Iterations of matching at each resolution, for tests."""

MEMORY_GB = {'predict': 0.75, 'correct': 1.0, 'match': 2.0, 'shoot': 1.5, 'sample': 1.5}
"""Memory of each node on a registration grid of 1 mm, plus 20 %; a grid of 2 mm takes half of it.

These and the other values of `mem_gb` were measured by `benchmarks/memory.py` on a head of 256^3
voxels.
"""

_INPUTS = ('template_brain', 'template_mask', 't1w_affine', 't1w_mask_affine')
_SHOT = ('warp', 'inverse_warp', 'log_jacobian', 'trace')
_OUTPUTS = (*_SHOT, 'matching_trace', 'uncertainty')
_GEODESIC = """\
Deformable registration used large deformation diffeomorphic metric mapping
[LDDMM, @beg2005; @miller2006]: {moving} was carried onto {fixed} along a geodesic of \
diffeomorphisms,
which is determined by its initial vector momentum [@singh2013] and computed in the space of
band-limited fields [@zhang2017]. """
_MOMENTUM = {
    'predict': 'The momentum was predicted by a convolutional network '
    '[Quicksilver, @quicksilver2017]',
    'predict+correct': 'The momentum was predicted by a convolutional network '
    'and corrected by a second one [Quicksilver, @quicksilver2017]',
    'optimise': 'The momentum was optimised by L-BFGS [@lbfgs] on the adjoint gradient '
    '[@vialard2012], coarse to fine, for the local '
    'normalized cross-correlation of the images',
}
_CHAIN = """. A second geodesic, found in the same way, then deformed what the first one
had deformed, and the maps of both were composed"""
_REFINED = """, then refined by {refine} iterations of L-BFGS [@lbfgs] at each resolution
for the local normalized cross-correlation of the images"""
_INVERSE = """. The inverse transform was computed in the same way.

"""
_UNCERTAINTY = """\
The uncertainty of the transform was estimated from {samples} momenta drawn from a network with
dropout [@quicksilver2017].

"""


def init_quicksilver_wf(
    *,
    registration: Registration = Registration(),
    compute: Compute = Compute(),
    weights: Weights | None = None,
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
    registration : Registration
        Source, refinement, direction and uncertainty of the momentum.
    compute : Compute
        Device, threads, batch size, seed and quality of the computations.
    weights : Weights, optional
        Files of the networks; those of `registration` by default.
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
    momentum, momentum2
        Initial momentum of each geodesic; the second only where matching finds a chain
    warp, inverse_warp
        Displacements from template points to points of the aligned subject, and back
    log_jacobian
        Log-determinant of the Jacobian of the warp
    trace
        Record of the shooting (JSON)
    matching_trace
        Record of the matching (JSON); only where the momentum is optimised or refined
    uncertainty
        Standard deviation of the warp in mm; only with `registration.uncertainty`

    Returns
    -------
    LiterateWorkflow

    Raises
    ------
    InputError
        If a network is missing or does not fit the registration grid.
    """
    from niworkflows.engine.workflows import LiterateWorkflow

    weights = weights or find_networks(registration)
    workflow = LiterateWorkflow(name=name)
    workflow.__desc__ = _describe(registration)
    inputnode = pe.Node(niu.IdentityInterface(fields=[*_INPUTS]), name='inputnode')
    outputs = niu.IdentityInterface(fields=[*registration.momenta, *_OUTPUTS])
    outputnode = pe.Node(outputs, name='outputnode')
    images = _image_edges(registration)
    steps = _momentum_nodes(registration, compute, weights)
    geodesic = GeodesicShooting(direction=registration.direction, **compute_inputs(compute))
    shoot = _node('shoot', geodesic, compute)
    workflow.connect([(inputnode, step, images) for step in steps])
    workflow.connect(
        [(*pair, _momentum_edges(pair[1])) for pair in zip(steps, steps[1:], strict=False)]
    )
    workflow.connect(
        [
            (steps[-1], shoot, [('momentum', 'momentum'), ('metric', 'metric')]),
            (shoot, outputnode, [(field, field) for field in ('momentum', *_SHOT)]),
        ]
    )
    if registration.uses_matching:
        later = [(name, name) for name in ('later_momenta', 'later_metrics')]
        workflow.connect([(steps[-1], shoot, later)])
        workflow.connect(steps[-1], 'trace', outputnode, 'matching_trace')
        for number, field in enumerate(registration.momenta[1:]):
            workflow.connect(shoot, ('later_momenta', _select, number), outputnode, field)
    if registration.uncertainty:
        sample = _uncertainty_node(registration, compute, weights)
        workflow.connect([(inputnode, sample, images)])
        workflow.connect(sample, 'uncertainty', outputnode, 'uncertainty')
    return workflow


def find_networks(registration: Registration) -> Weights:
    """Find the networks of a registration and check that they fit its grid.

    Parameters
    ----------
    registration : Registration
        The momentum and the uncertainty decide which networks are needed.

    Returns
    -------
    Weights

    Raises
    ------
    InputError
        If a network is missing or does not fit the registration grid.
    """
    return find_weights(
        momentum=registration.momentum,
        uncertainty=registration.uncertainty,
        resolution=registration.registration_resolution,
        folder=registration.weights,
    )


def _image_edges(registration: Registration) -> list[tuple[str, str]]:
    """Return the edges that make the template or the subject the moving image."""
    images = ['template_brain', 't1w_affine']
    if registration.direction == 'subject-to-template':
        images.reverse()
    return list(zip(images, ('moving_image', 'fixed_image'), strict=True))


def _momentum_edges(step: pe.Node) -> list[tuple[str, str]]:
    """Return the edges into a node that continues from the momentum of the node before it."""
    # Matching has to use the metric that the networks were trained with.
    names = ['momentum', 'metric'] if step.name == 'match' else ['momentum']
    return [(name, name) for name in names]


def _momentum_nodes(
    registration: Registration, compute: Compute, weights: Weights
) -> list[pe.Node]:
    """Return the nodes that find the momentum, in their order."""
    inputs = compute_inputs(compute)
    if registration.momentum == 'optimise':
        match = RefineMomentum(**inputs)
        if compute.sloppy:
            match.inputs.iterations = SLOPPY_ITERATIONS
        return [_node('match', match, compute)]
    network = inputs | {'batch_size': compute.batch_size}
    predict = PredictMomentum(weights=str(weights.prediction), **network)
    nodes = [_node('predict', predict, compute)]
    if registration.momentum == 'predict+correct':
        correct = CorrectMomentum(weights=str(weights.correction), **network)
        if registration.refine:
            # After one correction, an iteration of matching gains more in the same time.
            correct.inputs.n_iterations = 1
        nodes.append(_node('correct', correct, compute))
    if registration.refine:
        match = RefineMomentum(iterations=registration.refine, **inputs)
        nodes.append(_node('match', match, compute))
    return nodes


def _uncertainty_node(registration: Registration, compute: Compute, weights: Weights) -> pe.Node:
    sampling = TransformUncertainty(
        weights=str(weights.probabilistic),
        samples=registration.uncertainty,
        seed=compute.random_seed,
        direction=registration.direction,
        batch_size=compute.batch_size,
        **compute_inputs(compute),
    )
    return _node('sample', sampling, compute)


def _select(paths: list[str] | str, number: int) -> str:
    """Return one of the files, which Nipype unwraps if there is one (run from its source)."""
    return paths if isinstance(paths, str) else paths[number]


def _node(name: str, interface: BaseInterface, compute: Compute) -> pe.Node:
    return pe.Node(interface, name=name, n_procs=compute.n_procs, mem_gb=MEMORY_GB[name])


def _describe(registration: Registration) -> str:
    moving, fixed = 'the template', 'the subject'
    if registration.direction == 'subject-to-template':
        moving, fixed = fixed, moving
    text = _GEODESIC.format(moving=moving, fixed=fixed) + _MOMENTUM[registration.momentum]
    if registration.refine and registration.momentum != 'optimise':
        text += _REFINED.format(refine=registration.refine)
    if registration.uses_matching:
        text += _CHAIN
    text += _INVERSE
    if registration.uncertainty:
        text += _UNCERTAINTY.format(samples=registration.uncertainty)
    return text
