"""Two images and no dataset: one registered to the other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nipype.pipeline import engine as pe

from deepreg_wf.bids.precomputed import Precomputed
from deepreg_wf.checkpoints.find import find_weights
from deepreg_wf.interfaces.bids import StoreFile
from deepreg_wf.interfaces.template import PrepareTemplate
from deepreg_wf.interfaces.transforms import ApplyTransforms
from deepreg_wf.settings import Anatomical, Registration
from deepreg_wf.workflows.anatomical import init_anat_preproc_wf
from deepreg_wf.workflows.registration import init_registration_wf

if TYPE_CHECKING:
    from niworkflows.engine.workflows import LiterateWorkflow

MOVING, FIXED = 'moving_wf', 'fixed_wf'
"""Names of the workflows that prepare each image."""

FILES = {
    'warped': 'Warped.nii.gz',
    'inverse_warped': 'InverseWarped.nii.gz',
    't1w2std': 'Composite.h5',
    'std2t1w': 'InverseComposite.h5',
    'log_jacobian': 'LogJacobian.nii.gz',
    'momentum': 'Momentum.nii.gz',
    'qc': 'Quality.json',
}
"""What the names of the results end in; those of ANTs where it has the like."""

_ANATOMICAL, _REGISTRATION = Anatomical(), Registration(direction='subject-to-template')


def init_pair_wf(
    *,
    moving: Path,
    fixed: Path,
    prefix: str,
    moving_mask: Path | None = None,
    fixed_mask: Path | None = None,
    anatomical: Anatomical = _ANATOMICAL,
    registration: Registration = _REGISTRATION,
    device: str = 'cpu',
    omp_nthreads: int = 1,
    name: str = 'pair_wf',
) -> LiterateWorkflow:
    """Build the workflow that registers one T1-weighted image to another.

    Workflow Graph
        .. workflow::
            :graph2use: orig
            :simple_form: yes

            from pathlib import Path
            from deepreg_wf.workflows.pair import init_pair_wf
            wf = init_pair_wf(
                moving=Path('T1w.nii.gz'), fixed=Path('template.nii.gz'), prefix='out_'
            )

    Parameters
    ----------
    moving, fixed : Path
        Heads or brains, on any grids.
    prefix : str
        What the names of the results begin with; `FILES` has what they end in.
    moving_mask, fixed_mask : Path, optional
        Brain masks; they are found by default.
    anatomical : Anatomical
        How brains are taken out of the images.
    registration : Registration
        Where the momentum comes from and on which grid it lives. Turned as it is by default, the
        momentum is that of the moving image.
    device : str
        ``'cpu'``, ``'cuda'`` or ``'cuda:N'``.
    omp_nthreads : int
        Threads of the nodes that can use several.
    name : str
        Name of the workflow.

    Returns
    -------
    LiterateWorkflow
        It writes its results and has no outputs.
    """
    from niworkflows.engine.workflows import LiterateWorkflow

    workflow = LiterateWorkflow(name=name)
    made = {MOVING: (moving, moving_mask), FIXED: (fixed, fixed_mask)}
    moving_wf, fixed_wf = (
        _prepare(each, image, mask, anatomical, device, omp_nthreads)
        for each, (image, mask) in made.items()
    )
    resolution = registration.registration_resolution
    grid = pe.Node(PrepareTemplate(resolution=resolution), name='grid', mem_gb=0.5)
    registration_wf = init_registration_wf(
        momentum=registration.momentum,
        refine=registration.refine,
        weights=find_weights(
            momentum=registration.momentum, resolution=resolution, folder=registration.weights
        ),
        direction=registration.direction,
        affine_method=registration.affine_method,
        affine_polish=registration.affine_polish,
        device=device,
        omp_nthreads=omp_nthreads,
    )
    registration_wf.inputs.inputnode.t1w_file = str(moving)
    of_grid = {'t1w_brain': 'template_brain', 'brain_mask': 'template_mask'}
    brains = [(f'outputnode.{n}', f'inputnode.{n}') for n in ('t1w_brain', 't1w_mask')]
    prepared = [('outputnode.t1w_preproc', 'in_file'), ('outputnode.t1w_mask', 'in_mask')]
    workflow.connect(
        [
            (fixed_wf, grid, prepared),
            (grid, registration_wf, [(s, f'inputnode.{t}') for s, t in of_grid.items()]),
            (moving_wf, registration_wf, brains),
        ]
    )
    ends = {
        'warped': ('t1w2std', moving_wf, fixed),
        'inverse_warped': ('std2t1w', fixed_wf, moving),
    }
    for field, (transform, source, target) in ends.items():
        resample = pe.Node(
            ApplyTransforms(reference_image=str(target)), name=f'apply_{field}', mem_gb=0.75
        )
        store = _store(field, prefix)
        workflow.connect(
            [
                (source, resample, [('outputnode.t1w_valid', 'in_file')]),
                (registration_wf, resample, [(f'outputnode.{transform}', 'transform')]),
                (resample, store, [('out_file', 'in_file')]),
            ]
        )
    for field in FILES.keys() - ends.keys():
        workflow.connect(registration_wf, f'outputnode.{field}', _store(field, prefix), 'in_file')
    return workflow


def _prepare(
    name: str,
    image: Path,
    mask: Path | None,
    anatomical: Anatomical,
    device: str,
    omp_nthreads: int,
) -> LiterateWorkflow:
    workflow = init_anat_preproc_wf(
        anatomical=anatomical,
        omp_nthreads=omp_nthreads,
        device=device,
        precomputed=Precomputed(mask=mask),
        name=name,
    )
    workflow.inputs.inputnode.t1w = str(image)
    return workflow


def _store(field: str, prefix: str) -> pe.Node:
    store = StoreFile(out_file=f'{prefix}{FILES[field]}')
    return pe.Node(store, name=f'store_{field}', run_without_submitting=True)
