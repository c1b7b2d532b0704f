"""One brain and one template: the transforms between them, the momentum, and how good it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from deepreg_wf.interfaces.affine import FillLesion
from deepreg_wf.interfaces.qc import RegistrationQC
from deepreg_wf.interfaces.transforms import ApplyTransforms, ComposeTransforms
from deepreg_wf.workflows.affine import init_affine_wf
from deepreg_wf.workflows.quicksilver import init_quicksilver_wf

if TYPE_CHECKING:
    from niworkflows.engine.workflows import LiterateWorkflow

    from deepreg_wf.checkpoints.find import Weights

_INPUTS = ('template_brain', 'template_mask', 't1w_brain', 't1w_mask', 't1w_file')
_OPTIONAL = ('lesion_mask',)
_GEODESIC = ('momentum', 'log_jacobian', 'trace', 'matching_trace', 'uncertainty')
_OUTPUTS = ('t1w2std', 'std2t1w', 't1w_affine', *_GEODESIC, 'qc')


def init_registration_wf(
    *,
    momentum: str = 'predict+correct',
    refine: int = 5,
    uncertainty: int = 0,
    weights: Weights | None = None,
    direction: str = 'template-to-subject',
    device: str = 'cpu',
    omp_nthreads: int = 1,
    batch_size: int = 32,
    affine_method: str = 'auto',
    affine_polish: bool = True,
    random_seed: int = 0,
    sloppy: bool = False,
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
    momentum, refine, uncertainty, weights, direction, batch_size
        As in `init_quicksilver_wf`.
    device : str
        ``'cpu'``, ``'cuda'`` or ``'cuda:N'``.
    omp_nthreads : int
        Threads of the nodes that can use several.
    affine_method, affine_polish
        As in `deepreg_wf.workflows.affine.init_affine_wf`.
    random_seed : int
        Of the momenta that are drawn.
    sloppy : bool
        Fast and rough, for tests.
    name : str
        Name of the workflow.

    Inputs
    ------
    template_brain, template_mask
        Template and its mask, on the registration grid
    t1w_brain, t1w_mask
        Brain of the subject and its mask, in the space of the image
    t1w_file
        The raw image, by whose name errors call it
    lesion_mask
        (optional) Lesion, in the space of the image, that nothing of the template corresponds to

    Outputs
    -------
    t1w2std, std2t1w
        Composite transforms between the image and the template (ITK, ``.h5``)
    t1w_affine
        Brain of the subject after the affine alone, on the registration grid
    momentum, log_jacobian
        Maps on the registration grid
    trace, matching_trace
        Records of the shooting and, if there was any, of the matching (JSON)
    uncertainty
        Standard deviation of the warp in mm, if it was asked for
    qc
        Figures of merit (JSON)
    """
    from niworkflows.engine.workflows import LiterateWorkflow

    workflow = LiterateWorkflow(name=name)
    inputnode = pe.Node(niu.IdentityInterface(fields=[*_INPUTS, *_OPTIONAL]), name='inputnode')
    outputnode = pe.Node(niu.IdentityInterface(fields=[*_OUTPUTS]), name='outputnode')
    affine_wf = init_affine_wf(method=affine_method, polish=affine_polish, sloppy=sloppy)
    quicksilver_wf = init_quicksilver_wf(
        momentum=momentum,
        refine=refine,
        uncertainty=uncertainty,
        weights=weights,
        direction=direction,
        device=device,
        omp_nthreads=omp_nthreads,
        batch_size=batch_size,
        random_seed=random_seed,
        sloppy=sloppy,
    )
    fill = pe.Node(FillLesion(), name='fill', mem_gb=0.25)
    compose = pe.Node(ComposeTransforms(), name='compose', mem_gb=0.75)
    workflow.connect(
        [
            (inputnode, affine_wf, [(name, f'inputnode.{name}') for name in _INPUTS]),
            (inputnode, quicksilver_wf, [(name, f'inputnode.{name}') for name in _INPUTS[:2]]),
            (inputnode, fill, [('lesion_mask', 'lesion_mask'), ('template_brain', 'template')]),
            (affine_wf, fill, [('outputnode.t1w_affine', 'in_file')]),
            (affine_wf, fill, [('outputnode.affine', 'affine')]),
            (fill, quicksilver_wf, [('out_file', 'inputnode.t1w_affine')]),
            (
                affine_wf,
                quicksilver_wf,
                [('outputnode.t1w_mask_affine', 'inputnode.t1w_mask_affine')],
            ),
            (affine_wf, compose, [('outputnode.affine', 'affine')]),
            (
                quicksilver_wf,
                compose,
                [('outputnode.warp', 'warp'), ('outputnode.inverse_warp', 'inverse_warp')],
            ),
            (compose, outputnode, [('t1w2std', 't1w2std'), ('std2t1w', 'std2t1w')]),
            (affine_wf, outputnode, [('outputnode.t1w_affine', 't1w_affine')]),
            (quicksilver_wf, outputnode, [(f'outputnode.{name}', name) for name in _GEODESIC]),
        ]
    )
    _check(workflow, inputnode, outputnode)
    return workflow


def _check(workflow: LiterateWorkflow, inputnode: pe.Node, outputnode: pe.Node) -> None:
    """Add the nodes that measure how good the registration is, on the registration grid."""
    affine_wf, quicksilver_wf = (workflow.get_node(n) for n in ('affine_wf', 'quicksilver_wf'))
    qc = pe.Node(RegistrationQC(), name='qc', mem_gb=1.25)
    for source, interpolation, target in (
        ('t1w_brain', 'linear', 'warped_image'),
        ('t1w_mask', 'nearest', 'warped_mask'),
    ):
        warp = pe.Node(
            ApplyTransforms(interpolation=interpolation), name=f'warp_{source}', mem_gb=0.75
        )
        workflow.connect(
            [
                (inputnode, warp, [(source, 'in_file'), ('template_brain', 'reference_image')]),
                (workflow.get_node('compose'), warp, [('t1w2std', 'transform')]),
                (warp, qc, [('out_file', target)]),
            ]
        )
    workflow.connect(
        [
            (
                inputnode,
                qc,
                [('template_brain', 'template_image'), ('template_mask', 'template_mask')],
            ),
            (
                affine_wf,
                qc,
                [
                    ('outputnode.affine', 'affine'),
                    ('outputnode.trace', 'affine_trace'),
                    ('outputnode.t1w_affine', 'affine_image'),
                    ('outputnode.t1w_mask_affine', 'affine_mask'),
                ],
            ),
            (
                quicksilver_wf,
                qc,
                [
                    ('outputnode.warp', 'warp'),
                    ('outputnode.inverse_warp', 'inverse_warp'),
                    ('outputnode.trace', 'shooting_trace'),
                ],
            ),
            (qc, outputnode, [('out_file', 'qc')]),
        ]
    )
