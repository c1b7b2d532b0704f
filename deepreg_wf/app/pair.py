"""Registration of one image to another, without a dataset."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from deepreg_wf.app.exit_status import ALL_DONE, SOME_FAILED, UNUSABLE
from deepreg_wf.app.folders import make_writable
from deepreg_wf.engine.execute import configure, execute
from deepreg_wf.engine.failures import Failure, first_per_image
from deepreg_wf.engine.logs import Streams, redirect_output
from deepreg_wf.engine.progress import StepLabels, open_display
from deepreg_wf.engine.resources import limit_thread_spinning, plan_resources
from deepreg_wf.errors import InputError
from deepreg_wf.settings import Anatomical, Compute, Execution, Registration


@dataclass(frozen=True, kw_only=True)
class PairSettings:
    """Settings of the registration of one image to another.

    Parameters
    ----------
    moving, fixed : Path
        T1-weighted images; the moving image is deformed to match the fixed image.
    output_prefix : str
        Beginning of the paths of the results.
    moving_mask, fixed_mask : Path, optional
        Brain masks; by default the brains are extracted.
    anatomical : Anatomical
        Settings of the brain extraction.
    registration : Registration
        Settings of the registration.
    device : str
        ``'auto'``, ``'cpu'``, ``'cuda'`` or ``'cuda:N'``.
    nprocs : int, optional
        Processors used at once; by default all.
    work_dir : Path, optional
        Folder of intermediate files, which is kept; by default a temporary folder.
    """

    moving: Path
    fixed: Path
    output_prefix: str
    moving_mask: Path | None = None
    fixed_mask: Path | None = None
    anatomical: Anatomical
    registration: Registration
    device: str = 'auto'
    nprocs: int | None = None
    work_dir: Path | None = None


def register_pair(settings: PairSettings) -> int:
    """Register one image to another; print what failed or where the results are.

    Parameters
    ----------
    settings : PairSettings
        Settings of the call.

    Returns
    -------
    int
        Exit status.

    Raises
    ------
    InputError
        If a file is missing, or a folder cannot be written.
    """
    limit_thread_spinning()
    for file in (settings.moving, settings.fixed, settings.moving_mask, settings.fixed_mask):
        if file is not None and not file.is_file():
            raise InputError('no such file', advice='check the path', path=file)
    # A letter is added because a prefix that ends in a slash is a folder.
    make_writable(Path(f'{settings.output_prefix}x').absolute().parent)
    with tempfile.TemporaryDirectory(prefix='deepreg_wf-') as temporary:
        work_dir = (settings.work_dir or Path(temporary)).absolute()
        make_writable(work_dir)
        with redirect_output(work_dir / 'libraries.txt') as streams:
            failures = _run(settings, work_dir, streams)
            for failure in first_per_image(failures):
                print(failure.sentence, file=streams.err)
            if not failures:
                print(f'Written: {settings.output_prefix}*', file=streams.out)
                return ALL_DONE
    return UNUSABLE if all(failure.is_input_error for failure in failures) else SOME_FAILED


def _run(settings: PairSettings, work_dir: Path, streams: Streams) -> list[Failure]:
    """Build the workflow and execute it."""
    execution = Execution(
        work_dir=work_dir,
        device=settings.device,
        nprocs=settings.nprocs,
        stop_on_first_crash=True,  # one image without the other is of no use
    )
    resources = plan_resources(execution, images=1)
    crash_dir = work_dir / 'crashes'
    for crash_file in crash_dir.glob('crash-*'):
        crash_file.unlink()
    configure(resources, execution, crash_dir=crash_dir)
    from deepreg_wf.workflows.pair import FIXED, MOVING, init_pair_wf

    workflow = init_pair_wf(
        moving=settings.moving.absolute(),
        fixed=settings.fixed.absolute(),
        moving_mask=_absolute(settings.moving_mask),
        fixed_mask=_absolute(settings.fixed_mask),
        prefix=f'{Path(f"{settings.output_prefix}x").absolute()}'[:-1],
        anatomical=settings.anatomical,
        registration=settings.registration,
        compute=Compute(device=resources.device, omp_nthreads=resources.omp_nthreads),
    )
    workflow.base_dir = str(work_dir)
    labels = StepLabels.from_workflow(
        workflow, {MOVING: settings.moving.name, FIXED: settings.fixed.name}
    )
    with open_display(streams, labels, plain=False) as display:
        return execute(
            workflow,
            resources=resources,
            display=display,
            step_labels=labels,
            crash_dirs=[crash_dir],
        )


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.absolute()
