"""Preparation of a cohort for training: the brains of a BIDS dataset, aligned with a template."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepreg_wf.app.folders import make_writable
from deepreg_wf.app.inputs import find_inputs
from deepreg_wf.engine.execute import configure, execute
from deepreg_wf.engine.failures import first_per_image
from deepreg_wf.engine.logs import Streams, redirect_output
from deepreg_wf.engine.progress import StepLabels, open_display
from deepreg_wf.engine.resources import plan_resources
from deepreg_wf.settings import DEFAULT_SPACE, Compute, Execution, Selection

if TYPE_CHECKING:
    from torch import Tensor

    from deepreg_wf.templates.template import Template

WORK_FOLDER, ALIGNED_FOLDER = 'work', 'aligned'
"""Folders of intermediate results and of aligned brains in the output folder."""


@dataclass(frozen=True, kw_only=True)
class CohortSettings:
    """Settings of the preparation of a cohort.

    Attributes
    ----------
    bids_dir : Path
        BIDS dataset.
    participant_label : tuple of str
        Participants to use, with or without ``sub-``; all if empty.
    validation_label : tuple of str
        Participants to validate with; every sixth if empty.
    template : str
        Name of the template's space, or path of its T1w image.
    resolution : float
        Voxel size of the aligned brains, in mm.
    device : str
        Device of the brain extraction.
    nprocs : int or None
        Processors in use at once; all if None.
    """

    bids_dir: Path
    participant_label: tuple[str, ...] = ()
    validation_label: tuple[str, ...] = ()
    template: str = DEFAULT_SPACE
    resolution: float = 2.0
    device: str = 'cpu'
    nprocs: int | None = None


def make_cohort(settings: CohortSettings, path: Path) -> None:
    """Extract the brains of a dataset, align them with a template, and write them as one file.

    A brain that fails is reported and left out.

    Parameters
    ----------
    settings : CohortSettings
        Dataset, template and resources.
    path : Path
        File of the cohort, in the output folder.

    Raises
    ------
    InputError
        If the dataset is unusable, or too few brains are left.
    """
    selection = Selection(
        bids_dir=settings.bids_dir.absolute(),
        participant_label=tuple(_without_prefix(settings.participant_label)),
    )
    images = find_inputs(selection).images
    folder = path.parent.absolute()
    make_writable(folder)
    execution = Execution(
        work_dir=folder / WORK_FOLDER, device=settings.device, nprocs=settings.nprocs
    )
    log_file = folder / 'logs' / f'{datetime.now():%Y%m%d-%H%M%S}.txt'
    with redirect_output(log_file) as streams:
        _align(settings, images, folder, execution, streams)
    _collect(settings, images, path)


def _align(
    settings: CohortSettings,
    images: Sequence[Path],
    folder: Path,
    execution: Execution,
    streams: Streams,
) -> None:
    """Run the workflow and report failures."""
    resources = plan_resources(execution, images=len(images))
    crash_dir = folder / 'logs' / f'crashes-{os.getpid()}'
    # Nipype has to be configured before the workflows import it.
    configure(resources, execution, crash_dir=crash_dir)
    from deepreg_wf.workflows.base import image_names
    from deepreg_wf.workflows.cohort import init_cohort_wf

    aligned = folder / ALIGNED_FOLDER
    aligned.mkdir(exist_ok=True)
    workflow = init_cohort_wf(
        images=images,
        template=_find_template(settings.template, execution.work_dir),
        folder=aligned,
        resolution=settings.resolution,
        compute=Compute(device=resources.device, omp_nthreads=resources.omp_nthreads),
    )
    workflow.base_dir = str(execution.work_dir)
    step_labels = StepLabels.from_workflow(workflow, image_names(images))
    with open_display(streams, step_labels, plain=False) as display:
        display.log(f'Aligning {len(images)} brains with {settings.template}')
        failures = execute(
            workflow,
            resources=resources,
            display=display,
            step_labels=step_labels,
            crash_dirs=[crash_dir],
        )
    for failure in first_per_image(failures):
        print(failure.sentence, file=streams.err)


def _collect(settings: CohortSettings, images: Sequence[Path], path: Path) -> None:
    """Write the aligned brains as one file."""
    from deepreg_wf.training import Cohort, CohortError, choose_validation, save_cohort
    from deepreg_wf.training.cohort import TEMPLATE
    from deepreg_wf.workflows.cohort import TEMPLATE_FILE

    folder = path.parent / ALIGNED_FOLDER
    files = {
        _without_suffix(image): folder / f'{image.name.partition(".")[0]}.nii.gz'
        for image in images
    }
    files = {name: file for name, file in files.items() if file.exists()}
    tensors, spacing = {}, (0.0, 0.0, 0.0)
    for name, file in {TEMPLATE: folder / TEMPLATE_FILE, **files}.items():
        tensors[name], spacing = _load_quantised(file)
    labels = _without_prefix(settings.validation_label)
    validation = tuple(n for n in files if n.split('_')[0].removeprefix('sub-') in labels)
    source = f'{_dataset_name(settings.bids_dir)}, aligned with {settings.template}'
    try:
        cohort = Cohort(tensors, spacing, validation or choose_validation(list(files)), source)
    except CohortError as error:
        raise error.at(settings.bids_dir) from error
    save_cohort(cohort, path)


def _load_quantised(path: Path) -> tuple[Tensor, tuple[float, float, float]]:
    """Return the normalised, quantised image of a file and its voxel size."""
    import torch

    from deepreg_wf.lddmm import normalise
    from deepreg_wf.spatial import load_image
    from deepreg_wf.training import quantise

    data, grid = load_image(path)
    return quantise(normalise(torch.from_numpy(data))), grid.spacing


def _find_template(name: str, work_dir: Path) -> Template:
    """Return the template of a file or of a space."""
    from deepreg_wf.templates.locate import get_custom_template, get_template

    if Path(name).is_file():
        return get_custom_template(Path(name))
    return get_template(name, cache_dir=work_dir / 'templates')


def _dataset_name(folder: Path) -> str:
    """Return the name that a dataset states, or that of its folder."""
    try:
        description: dict[str, Any] = json.loads(
            (folder / 'dataset_description.json').read_text('utf-8')
        )
        return str(description['Name'])
    except (OSError, ValueError, KeyError):
        return folder.name


def _without_prefix(labels: Iterable[str]) -> list[str]:
    """Return participant labels without ``sub-``."""
    return [label.removeprefix('sub-') for label in labels]


def _without_suffix(image: Path) -> str:
    """Return the name of an image without its BIDS suffix, such as ``sub-01_ses-pre``."""
    return image.name.rsplit('_', 1)[0]
