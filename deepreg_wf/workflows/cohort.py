"""Workflow that aligns the brains of a dataset with a template, for training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nipype.pipeline import engine as pe

from deepreg_wf.interfaces.bids import StoreFile
from deepreg_wf.settings import Compute
from deepreg_wf.workflows.affine import init_affine_wf
from deepreg_wf.workflows.anatomical import TEMPLATE_EDGES, init_anat_preproc_wf
from deepreg_wf.workflows.base import single_subject_name
from deepreg_wf.workflows.template import prepare_template

if TYPE_CHECKING:
    from niworkflows.engine.workflows import LiterateWorkflow

    from deepreg_wf.templates.template import Template

TEMPLATE_FILE = 'template.nii.gz'
"""Name of the brain of the template among the results."""


def init_cohort_wf(
    *,
    images: Sequence[Path],
    template: Template,
    folder: Path,
    resolution: float = 2.0,
    compute: Compute = Compute(),
    name: str = 'cohort_wf',
) -> LiterateWorkflow:
    """Build the workflow that extracts the brains of a dataset and aligns them by affines.

    Workflow Graph
        .. workflow::
            :graph2use: orig
            :simple_form: yes

            from pathlib import Path
            from deepreg_wf.templates import Template
            from deepreg_wf.workflows.cohort import init_cohort_wf
            wf = init_cohort_wf(
                images=[Path('bids/sub-01/anat/sub-01_T1w.nii.gz')],
                template=Template(space='MNI152NLin2009aSym', t1w=Path('template.nii.gz')),
                folder=Path('/out/aligned'),
            )

    Parameters
    ----------
    images : sequence of Path
        T1-weighted images.
    template : Template
        Template that the images are aligned with.
    folder : Path
        Folder of the results: the aligned brains under the names of the images, and the brain of
        the template, `TEMPLATE_FILE`.
    resolution : float
        Voxel size of the common grid, in mm.
    compute : Compute
        Device, threads and quality of the computations.
    name : str
        Name of the workflow.

    Returns
    -------
    LiterateWorkflow
        Workflow without outputs; it writes its results to `folder`.
    """
    from niworkflows.engine.workflows import LiterateWorkflow

    workflow = LiterateWorkflow(name=name)
    prepare = prepare_template(template, resolution)
    workflow.connect(prepare, 't1w_brain', _export(folder / TEMPLATE_FILE), 'in_file')
    for image in images:
        single_wf = LiterateWorkflow(name=single_subject_name(image))
        anat_wf = init_anat_preproc_wf(compute=compute)
        anat_wf.inputs.inputnode.t1w = str(image)
        affine_wf = init_affine_wf(compute=compute)
        affine_wf.inputs.inputnode.t1w_file = str(image)
        names = ('t1w_brain', 't1w_mask')
        single_wf.connect(
            [(anat_wf, affine_wf, [(f'outputnode.{n}', f'inputnode.{n}') for n in names])]
        )
        aligned = _export(folder / f'{image.name.partition(".")[0]}.nii.gz')
        single_wf.connect(affine_wf, 'outputnode.t1w_affine', aligned, 'in_file')
        shared = {'t1w_brain': 'template_brain', 'brain_mask': 'template_mask'}
        edges = [(source, f'affine_wf.inputnode.{field}') for source, field in shared.items()]
        workflow.connect([(prepare, single_wf, [*edges, *TEMPLATE_EDGES])])
    return workflow


def _export(path: Path) -> pe.Node:
    """Make the node that stores a result."""
    return pe.Node(StoreFile(out_file=str(path)), name='export', run_without_submitting=True)
