"""One image and one template: the registration, its derivatives and its figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from deepreg_wf.bids.sidecars import output_grids
from deepreg_wf.checkpoints.find import Weights, find_weights
from deepreg_wf.interfaces.transforms import ApplyTransforms, ResampleTransform
from deepreg_wf.settings import Registration
from deepreg_wf.templates.template import TEMPLATEFLOW_ROOT
from deepreg_wf.workflows.outputs import init_outputs_wf
from deepreg_wf.workflows.quicksilver import is_matched
from deepreg_wf.workflows.registration import init_registration_wf
from deepreg_wf.workflows.reports import init_reportlets_wf

if TYPE_CHECKING:
    from niworkflows.engine.workflows import LiterateWorkflow

    from deepreg_wf.templates.template import Template

# A linear interpolation is what antsApplyTransforms does unless told otherwise, and it cannot
# ring: cubic and sinc kernels leave dark rims and negative values around extracted brains.
T1W_INTERPOLATION = 'linear'

DEFAULTS = Registration()
"""How brains are registered unless told otherwise."""

TEMPLATE = ('template_brain', 'template_mask', 'template_reference')
"""What is prepared of a template, once for all images."""

NATIVE = ('t1w_preproc', 't1w_mask', 'skull_strip_method')
"""What is known of an image in its own space, beside its brain."""

FOUND = ('t1w_valid', 't1w_mask_found', 'skull_strip_method')
"""What is drawn of it, also where its brain is refused."""

_MAPS = ('momentum', 'log_jacobian', 'qc')
_RESAMPLING = """\
The bias-corrected image and its mask were resampled onto the template *{space}*{citation} in one
step, with linear and nearest-neighbor interpolation.

"""
_LESION = """\
Lesions that had been delineated were filled with the intensities of the template, so that they \
had no
influence on the deformable registration.

"""


def init_space_wf(
    *,
    t1w_file: Path,
    bids_dir: Path,
    output_dir: Path,
    template: Template,
    native: Sequence[Template] = (),
    sources: Sequence[str] = (),
    lesion: Path | None = None,
    level: str = 'full',
    registration: Registration = DEFAULTS,
    device: str = 'cpu',
    omp_nthreads: int = 1,
    batch_size: int = 32,
    random_seed: int = 0,
    sloppy: bool = False,
    name: str = 'space_wf',
) -> LiterateWorkflow:
    """Build the workflow that takes an image to one template and stores what comes of it.

    Workflow Graph
        .. workflow::
            :graph2use: orig
            :simple_form: yes

            from pathlib import Path
            from deepreg_wf.templates import Template
            from deepreg_wf.workflows.standard_space import init_space_wf
            wf = init_space_wf(
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
        What is registered to.
    native : sequence of Template
        Templates of the run, if what lies in the image's own space is to be stored and shown,
        too: once is enough.
    sources : sequence of str
        BIDS URIs of what other programs have made of the image, if it was taken from there.
    lesion : Path, optional
        Mask of a lesion in the image, which nothing of the template corresponds to.
    level : {'minimal', 'full'}
        Which derivatives are stored, as in `init_outputs_wf`.
    registration : Registration
        Where the momentum comes from and on which grid it lives.
    device : str
        ``'cpu'``, ``'cuda'`` or ``'cuda:N'``.
    omp_nthreads : int
        Threads of the nodes that can use several.
    batch_size : int
        Patches that go through a network at once, at most.
    random_seed : int
        Seed of the affine registration, and of the momenta that are drawn.
    sloppy : bool
        Fast and rough, for tests.
    name : str
        Name of the workflow.

    Inputs
    ------
    t1w
        The raw image, by whose name errors call it
    t1w_preproc, t1w_mask, t1w_brain
        Bias-corrected image, its mask and its brain, in their own space
    t1w_valid, t1w_mask_found
        Raw image and the mask that was found in it, even if it was refused, for a picture
    skull_strip_method
        How the mask came about
    template_brain, template_mask
        Template and its mask on the registration grid
    template_reference
        Template on the output grid

    Returns
    -------
    LiterateWorkflow
        It writes its results and has no outputs.
    """
    from niworkflows.engine.workflows import LiterateWorkflow

    workflow = LiterateWorkflow(name=name)
    fields = dict.fromkeys(['t1w', 't1w_brain', *NATIVE, *FOUND, *TEMPLATE])
    inputnode = pe.Node(niu.IdentityInterface(fields=[*fields]), name='inputnode')
    weights = _find_weights(registration)
    registration_wf = init_registration_wf(
        momentum=registration.momentum,
        refine=registration.refine,
        uncertainty=registration.uncertainty,
        weights=weights,
        direction=registration.direction,
        affine_method=registration.affine_method,
        affine_polish=registration.affine_polish,
        device=device,
        omp_nthreads=omp_nthreads,
        batch_size=batch_size,
        random_seed=random_seed,
        sloppy=sloppy,
    )
    outputs_wf = init_outputs_wf(
        t1w_file=t1w_file,
        bids_dir=bids_dir,
        output_dir=output_dir,
        template=template,
        registration_resolution=registration.registration_resolution,
        direction=registration.direction,
        uncertainty=registration.uncertainty > 0,
        native=bool(native),
        level=level,
        sources=sources,
        lesion=lesion,
        networks=weights.checksums(),
    )
    # What is stored has its field where fMRIPrep expects it; all else reads the coarser one.
    spread = pe.Node(ResampleTransform(), name='spread', mem_gb=1.0)
    matched = is_matched(registration.momentum, registration.refine)
    reportlets_wf = init_reportlets_wf(
        output_dir=output_dir,
        t1w_file=t1w_file,
        template=template,
        native=native,
        lesion=lesion,
        convergence=matched,
        uncertainty=registration.uncertainty > 0,
    )
    maps = [*_MAPS, *(['uncertainty'] if registration.uncertainty else [])]
    traces = ['matching_trace'] if matched else []
    given = ('t1w_brain', 't1w_mask', *TEMPLATE[:2])
    workflow.connect(
        [
            (inputnode, registration_wf, [(name, f'inputnode.{name}') for name in given]),
            (inputnode, registration_wf, [('t1w', 'inputnode.t1w_file')]),
            (inputnode, outputs_wf, [(name, f'inputnode.{name}') for name in NATIVE]),
            (inputnode, reportlets_wf, [(name, f'inputnode.{name}') for name in FOUND]),
            (registration_wf, outputs_wf, _edges('std2t1w', 'trace', *maps)),
            (registration_wf, spread, [('outputnode.t1w2std', 'in_file')]),
            (inputnode, spread, [('template_reference', 'reference_image')]),
            (spread, outputs_wf, [('out_file', 'inputnode.t1w2std')]),
            (registration_wf, reportlets_wf, _edges('t1w_affine', *traces, *maps)),
        ]
    )
    _resample(workflow, template)
    workflow.__postdesc__ = _RESAMPLING.format(space=template.space, citation=_cite(template))
    if lesion is not None:
        registration_wf.inputs.inputnode.lesion_mask = str(lesion)
        workflow.__postdesc__ = _LESION + workflow.__postdesc__
    return workflow


def _find_weights(registration: Registration) -> Weights:
    return find_weights(
        momentum=registration.momentum,
        uncertainty=registration.uncertainty,
        resolution=registration.registration_resolution,
        folder=registration.weights,
    )


def _edges(*names: str) -> list[tuple[str, str]]:
    """Edges from the outputs of a workflow to the inputs of the same name of another."""
    return [(f'outputnode.{name}', f'inputnode.{name}') for name in names]


def _resample(workflow: LiterateWorkflow, template: Template) -> None:
    """Add the nodes that resample the image and its mask, once, onto each output grid."""
    inputnode = workflow.get_node('inputnode')
    registration_wf = workflow.get_node('registration_wf')
    outputs_wf, reportlets_wf = map(workflow.get_node, ('outputs_wf', 'reportlets_wf'))
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
                    (registration_wf, resample, [('outputnode.t1w2std', 'transform')]),
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


def _cite(template: Template) -> str:
    if template.space.startswith('MNI152NLin2009'):
        return ' [@mni2009]'
    return ' [@templateflow]' if template.uri.startswith(TEMPLATEFLOW_ROOT) else ''
