"""A cohort of aligned brains, made of a BIDS dataset."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepreg_wf.app.folders import make_writable
from deepreg_wf.app.inputs import find_inputs
from deepreg_wf.engine.execute import configure, execute
from deepreg_wf.engine.failures import first_of_each
from deepreg_wf.engine.logs import Streams, libraries_to
from deepreg_wf.engine.progress import Glossary, open_display
from deepreg_wf.engine.resources import plan_resources
from deepreg_wf.errors import InputError
from deepreg_wf.settings import Execution, Selection

if TYPE_CHECKING:
    from deepreg_wf.templates.template import Template

WORK = 'work'
ALIGNED = 'aligned'


def make_cohort(options: argparse.Namespace, path: Path, device: str) -> None:
    """Extract the brains of a dataset, align them with a template, and write them as one file.

    A brain that fails is told of and left out.

    Parameters
    ----------
    options
        Of ``deepreg_wf-train``.
    path
        The file, in the output folder.
    device
        Where brains are extracted.

    Raises
    ------
    InputError
        If the dataset is unusable, or too few of its brains are left.

    """
    selection = Selection(
        bids_dir=options.cohort.absolute(),
        participant_label=tuple(_bare(options.participant_label)),
    )
    images = find_inputs(selection).images
    folder = path.parent.absolute()
    make_writable(folder)
    execution = Execution(work_dir=folder / WORK, device=device, nprocs=options.nprocs)
    log = folder / 'logs' / f'{datetime.now():%Y%m%d-%H%M%S}.txt'
    with libraries_to(log) as streams:
        _align(options, images, folder, execution, streams)
    _collect(options, images, path)


def _align(
    options: argparse.Namespace,
    images: Sequence[Path],
    folder: Path,
    execution: Execution,
    streams: Streams,
) -> None:
    """Run the workflow; what fails is told."""
    resources = plan_resources(execution, images=len(images))
    crash_dir = folder / 'logs' / f'crashes-{os.getpid()}'
    configure(resources, execution, crash_dir=crash_dir)
    from deepreg_wf.workflows.base import image_names
    from deepreg_wf.workflows.cohort import init_cohort_wf

    aligned = folder / ALIGNED
    aligned.mkdir(exist_ok=True)
    workflow: Any = init_cohort_wf(
        images=images,
        template=_find_template(options.template, execution.work_dir),
        folder=aligned,
        resolution=options.resolution,
        device=resources.device,
        omp_nthreads=resources.omp_nthreads,
    )
    workflow.base_dir = str(execution.work_dir)
    glossary = Glossary.of(workflow, image_names(images))
    with open_display(streams, glossary, plain=False) as display:
        display.say(f'Aligning {len(images)} brains with {options.template}')
        failures = execute(
            workflow,
            resources=resources,
            display=display,
            glossary=glossary,
            crash_dirs=[crash_dir],
        )
    for failure in first_of_each(failures):
        print(failure.sentence, file=streams.err)


def _collect(options: argparse.Namespace, images: Sequence[Path], path: Path) -> None:
    """Put the aligned brains into one file."""
    from deepreg_wf.training import Cohort, CohortError, choose_validation, save_cohort
    from deepreg_wf.training.cohort import TEMPLATE

    folder = path.parent / ALIGNED
    files = {
        f'{_stem(image)}': folder / f'{image.name.partition(".")[0]}.nii.gz' for image in images
    }
    files = {name: file for name, file in files.items() if file.exists()}
    tensors, spacing = {}, (0.0, 0.0, 0.0)
    for name, file in {TEMPLATE: folder / 'template.nii.gz', **files}.items():
        tensors[name], spacing = _load(file)
    chosen = _bare(options.validation_label or ())
    validation = tuple(n for n in files if n.split('_')[0].removeprefix('sub-') in chosen)
    source = f'{_dataset_name(options.cohort)}, aligned with {options.template}'
    try:
        cohort = Cohort(tensors, spacing, validation or choose_validation(list(files)), source)
    except CohortError as error:
        raise InputError(f'{options.cohort}: {error}.') from error
    save_cohort(cohort, path)


def _load(path: Path) -> Any:
    import torch

    from deepreg_wf.lddmm import normalise
    from deepreg_wf.spatial import load_image
    from deepreg_wf.training import quantise

    data, grid = load_image(path)
    return quantise(normalise(torch.from_numpy(data))), grid.spacing


def _find_template(name: str, work_dir: Path) -> Template:
    from deepreg_wf.templates.template import get_custom_template, get_template

    if Path(name).is_file():
        return get_custom_template(Path(name))
    return get_template(name, cache_dir=work_dir / 'templates')


def _dataset_name(folder: Path) -> str:
    import json

    try:
        description = json.loads((folder / 'dataset_description.json').read_text('utf-8'))
        return str(description['Name'])
    except (OSError, ValueError, KeyError):
        return folder.name


def _bare(labels: Sequence[str]) -> list[str]:
    return [label.removeprefix('sub-') for label in labels]


def _stem(image: Path) -> str:
    """Name of an image without its suffix, such as ``sub-01_ses-pre``."""
    return image.name.rsplit('_', 1)[0]
