"""The workflow of a run, and the files that describe the output folder."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from deepreg_wf.app.context import WORKFLOW, Run
from deepreg_wf.engine.execute import configure

if TYPE_CHECKING:
    from niworkflows.engine.workflows import LiterateWorkflow


def build_workflow(run: Run) -> LiterateWorkflow:
    """Configure Nipype, build the workflow, and describe the dataset and the methods.

    Parameters
    ----------
    run : Run
        A run that is about to start.

    Returns
    -------
    LiterateWorkflow
        Workflow of all images.
    """
    configure(run.resources, run.settings.execution, crash_dir=run.common_log_dir)
    from deepreg_wf.bids.dataset import write_citation, write_dataset_files
    from deepreg_wf.workflows.base import init_deepreg_wf

    settings = run.settings
    workflow = init_deepreg_wf(
        subjects=run.inputs.subjects,
        bids_dir=settings.selection.bids_dir,
        output_dir=run.output_dir,
        templates=run.templates,
        level=settings.output.level,
        anatomical=settings.anatomical,
        precomputed=run.inputs.precomputed,
        lesions=run.inputs.lesions,
        registration=settings.registration,
        compute=run.compute,
        run_id=run.run_id,
        name=WORKFLOW,
    )
    workflow.base_dir = str(run.base_dir)
    write_dataset_files(
        run.output_dir, settings.selection.bids_dir, derivatives=run.inputs.derivatives
    )
    write_citation(run.output_dir, workflow.visit_desc())
    return workflow


def draw_graph(workflow: LiterateWorkflow) -> str:
    """Draw the graph of a workflow; without graphviz, write it in the dot language.

    Parameters
    ----------
    workflow : LiterateWorkflow
        The workflow.

    Returns
    -------
    str
        Path of the drawing.
    """
    file_format = 'svg' if shutil.which('dot') else 'dot'
    return str(workflow.write_graph(graph2use='colored', format=file_format))
