"""Registration of one image to another, without a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nipype.pipeline import engine as pe

from deepreg_wf.bids.precomputed import Precomputed
from deepreg_wf.interfaces.bids import StoreFile
from deepreg_wf.interfaces.template import PrepareTemplate
from deepreg_wf.interfaces.transforms import ApplyTransforms
from deepreg_wf.settings import Anatomical, Compute, Registration
from deepreg_wf.workflows.anatomical import init_anat_preproc_wf
from deepreg_wf.workflows.registration import init_registration_wf

if TYPE_CHECKING:
    from niworkflows.engine.workflows import LiterateWorkflow

MOVING, FIXED = 'moving_wf', 'fixed_wf'
"""Names of the workflows that prepare each image."""

FILES = {
    'warped': 'Warped.nii.gz',
    'inverse_warped': 'InverseWarped.nii.gz',
    'anat2std_xfm': 'Composite.h5',
    'std2anat_xfm': 'InverseComposite.h5',
    'log_jacobian': 'LogJacobian.nii.gz',
    'momentum': 'Momentum.nii.gz',
    'momentum2': 'Momentum2.nii.gz',
    'uncertainty': 'Uncertainty.nii.gz',
    'qc': 'Quality.json',
}
"""Name of each result after the prefix, as in ANTs where ANTs has such a result.

The uncertainty is written only with `Registration.uncertainty`, the second momentum only where
matching finds a chain of geodesics.
"""


def init_pair_wf(
    *,
    moving: Path,
    fixed: Path,
    prefix: str,
    moving_mask: Path | None = None,
    fixed_mask: Path | None = None,
    anatomical: Anatomical = Anatomical(),
    registration: Registration = Registration(direction='subject-to-template'),
    compute: Compute = Compute(),
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
        Beginning of the paths of the results; `FILES` has the endings.
    moving_mask, fixed_mask : Path, optional
        Brain masks; by default the brains are extracted.
    anatomical : Anatomical
        Brain extraction.
    registration : Registration
        Affine and deformable registration. With the default direction, the momentum is that of the
        moving image.
    compute : Compute
        Device, threads, batch size, seed and quality of the computations.
    name : str
        Name of the workflow.

    Returns
    -------
    LiterateWorkflow
        It writes its results and has no outputs.
    """
    from niworkflows.engine.workflows import LiterateWorkflow

    moving_wf, fixed_wf = (
        init_anat_preproc_wf(
            anatomical=anatomical,
            compute=compute,
            precomputed=Precomputed(mask=mask),
            name=name,
        )
        for name, mask in ((MOVING, moving_mask), (FIXED, fixed_mask))
    )
    moving_wf.inputs.inputnode.t1w = str(moving)
    fixed_wf.inputs.inputnode.t1w = str(fixed)
    prepare = PrepareTemplate(resolution=registration.registration_resolution)
    grid = pe.Node(prepare, name='grid', mem_gb=0.5)
    registration_wf = init_registration_wf(registration=registration, compute=compute)
    registration_wf.inputs.inputnode.t1w_file = str(moving)
    template = [
        ('t1w_brain', 'inputnode.template_brain'),
        ('brain_mask', 'inputnode.template_mask'),
    ]
    fields = ('t1w_brain', 't1w_mask', 'input_measures')
    brain = [(f'outputnode.{field}', f'inputnode.{field}') for field in fields]
    image = [('outputnode.t1w_preproc', 'in_file'), ('outputnode.t1w_mask', 'in_mask')]
    workflow = LiterateWorkflow(name=name)
    workflow.connect(
        [
            (fixed_wf, grid, image),
            (grid, registration_wf, template),
            (moving_wf, registration_wf, brain),
        ]
    )
    absent = {'momentum2'} - {*registration.momenta}
    absent |= set() if registration.uncertainty else {'uncertainty'}
    results = [name for name in FILES if name not in absent]
    _add_outputs(workflow, moving, fixed, prefix, results)
    return workflow


def _add_outputs(
    workflow: LiterateWorkflow, moving: Path, fixed: Path, prefix: str, results: Sequence[str]
) -> None:
    """Add the nodes that resample both images and store all results."""
    registration_wf = workflow.get_node('registration_wf')
    resampled = {
        'warped': ('anat2std_xfm', MOVING, fixed),
        'inverse_warped': ('std2anat_xfm', FIXED, moving),
    }
    for field, (transform, source, target) in resampled.items():
        apply = ApplyTransforms(reference_image=str(target))
        resample = pe.Node(apply, name=f'apply_{field}', mem_gb=0.75)
        store = _store_node(field, prefix)
        workflow.connect(
            [
                (workflow.get_node(source), resample, [('outputnode.t1w_valid', 'in_file')]),
                (registration_wf, resample, [(f'outputnode.{transform}', 'transform')]),
                (resample, store, [('out_file', 'in_file')]),
            ]
        )
    for field in [name for name in results if name not in resampled]:
        store = _store_node(field, prefix)
        workflow.connect(registration_wf, f'outputnode.{field}', store, 'in_file')


def _store_node(field: str, prefix: str) -> pe.Node:
    store = StoreFile(out_file=f'{prefix}{FILES[field]}')
    return pe.Node(store, name=f'store_{field}', run_without_submitting=True)
