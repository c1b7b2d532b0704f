"""Display of the steps of a run: with rich on a terminal, in plain lines elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TextIO

from deepreg_wf.engine.logs import Streams

STEP_LABELS = {
    'ValidateT1w': 'reading the T1w image',
    'SkullStrip': 'brain extraction',
    'BiasCorrect': 'bias field correction',
    'PrepareTemplate': 'preparing the template',
    'RaiseIfImplausible': 'check of the result',
    'AffineAlign': 'affine alignment',
    'PredictMomentum': 'prediction',
    'CorrectMomentum': 'correction',
    'RefineMomentum': 'LDDMM matching',
    'TransformUncertainty': 'uncertainty of the transform',
    'GeodesicShooting': 'geodesic shooting',
    'ComposeTransforms': 'composing the transforms',
    'ApplyTransforms': 'resampling',
    'ResampleTransform': 'resampling the transform',
    'RegistrationQC': 'quality control',
    'BrainMaskReportlet': 'figure of the brain mask',
    'AlignmentReportlet': 'figure of the alignment',
    'LogJacobianReportlet': 'figure of the log-Jacobian',
    'MomentumReportlet': 'figure of the momentum',
    'UncertaintyReportlet': 'figure of the uncertainty',
    'ConvergenceReportlet': 'figure of the matching',
}
"""Names of the steps for the user, by the class of their interface; others take no time."""

LONG_STEPS = [
    STEP_LABELS[name] for name in ('SkullStrip', 'BiasCorrect', 'AffineAlign', 'RefineMomentum')
]

ALL_IMAGES = 'all'
"""Stands in the place of an image or a participant where a step serves all images."""


class Display(AbstractContextManager['Display'], Protocol):
    """Display of steps and of lines of text."""

    def step_started(self, image: str, step: str) -> None:
        """Show that a step has started."""

    def step_ended(self, image: str, step: str, outcome: str) -> None:
        """Show the outcome of a step."""

    def step_cached(self) -> None:
        """Count a step whose result an earlier run has left."""

    def log(self, line: str) -> None:
        """Show a line of text."""


class PlainDisplay(Display):
    """One line with a time stamp for each event."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __exit__(self, *exception: object) -> None:
        """Do nothing; each line is complete."""

    def step_started(self, image: str, step: str) -> None:
        """Print that a step has started, if it is a long one."""
        if step in LONG_STEPS:
            self.log(f'[{image}] {step} …')

    def step_ended(self, image: str, step: str, outcome: str) -> None:
        """Print the outcome of a step."""
        self.log(f'[{image}] {step} … {outcome}')

    def step_cached(self) -> None:
        """Print nothing; there are thousands of such steps in a large dataset."""

    def log(self, line: str) -> None:
        """Print a line."""
        print(time.strftime('%Y-%m-%d %H:%M:%S'), line, file=self._stream, flush=True)


class RichDisplay(Display):
    """One moving line for each running step and a bar for all, below the finished steps."""

    def __init__(self, stream: TextIO, totals: Mapping[str, int]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
        from rich.progress import TimeElapsedColumn as Elapsed

        text = TextColumn('{task.description}', markup=False)
        self._progress = Progress(
            *(SpinnerColumn(), text, BarColumn(bar_width=20), Elapsed()),
            console=Console(file=stream, highlight=False),
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            refresh_per_second=4,
        )
        self._all = self._progress.add_task('all steps', total=sum(totals.values()))
        self._running: dict[tuple[str, str], list[Any]] = {}

    def __enter__(self) -> RichDisplay:
        """Start to draw."""
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop drawing; the printed lines stay."""
        self._progress.stop()

    def step_started(self, image: str, step: str) -> None:
        """Add a line for the step; its duration is unknown, so that its bar only pulses."""
        task = self._progress.add_task(f'[{image}] {step}', total=None)
        self._running.setdefault((image, step), []).append(task)

    def step_ended(self, image: str, step: str, outcome: str) -> None:
        """Print the outcome above the moving lines, and advance the bar."""
        self.log(f'[{image}] {step} … {outcome}')
        self._progress.advance(self._all)
        if tasks := self._running.get((image, step)):
            self._progress.remove_task(tasks.pop(0))

    def step_cached(self) -> None:
        """Advance the bar."""
        self._progress.advance(self._all)

    def log(self, line: str) -> None:
        """Print a line above the bars."""
        self._progress.console.print(line, markup=False, soft_wrap=True)


@dataclass(frozen=True)
class StepLabels:
    """Names of the nodes of a workflow for the user.

    Parameters
    ----------
    images : mapping of str to str
        Names of the images, such as ``sub-01_ses-pre``, by the name of the workflow of each.
    steps : mapping of str to str
        Names of the steps, by the full name of their node. Nodes that take no time are not in it.
    """

    images: Mapping[str, str]
    steps: Mapping[str, str]

    @classmethod
    def from_workflow(cls, workflow: Any, images: Mapping[str, str]) -> StepLabels:
        """Find the nodes of a workflow whose interfaces are in `STEP_LABELS`.

        Parameters
        ----------
        workflow : nipype.Workflow
            The workflow.
        images : mapping of str to str
            Names of the images, by the name of the workflow of each.

        Returns
        -------
        StepLabels
            No two steps of an image have the same name.
        """
        steps = {}
        for name in workflow.list_node_names():
            interface = type(workflow.get_node(name).interface).__name__
            if interface in STEP_LABELS:
                steps[f'{workflow.name}.{name}'] = STEP_LABELS[interface]
        steps |= _add_templates(steps)
        return cls(images, _disambiguate(cls(images, steps)))

    def image_of(self, node: str) -> str:
        """Return the name of the image of a node, given by its full name; ``all`` if of none."""
        parts = (part for part in node.split('.') if part in self.images)
        return next((self.images[part] for part in parts), ALL_IMAGES)

    def totals(self) -> dict[str, int]:
        """Count the steps of each image."""
        return dict(Counter(self.image_of(node) for node in self.steps))


def _add_templates(steps: Mapping[str, str]) -> dict[str, str]:
    """Add the name of the template to the steps of each template, if there are several."""
    parts = {node: node.split('.') for node in steps}
    spaces = {names[2] for names in parts.values() if names[3:4] == ['registration_wf']}
    if len(spaces) < 2:
        return {}
    return {
        node: f'{step}, {names[2].removesuffix("_wf")}'
        for (node, step), names in zip(steps.items(), parts.values(), strict=True)
        if names[2:3] and names[2] in spaces and step != STEP_LABELS['BrainMaskReportlet']
    }


def _disambiguate(labels: StepLabels) -> dict[str, str]:
    """Add the name of the node to steps of an image that have the same name."""
    counts = Counter((labels.image_of(node), step) for node, step in labels.steps.items())

    def unique(node: str, step: str) -> str:
        if counts[labels.image_of(node), step] == 1:
            return step
        name = node.rsplit('.', 1)[-1].removeprefix('prepare_')
        return f'{step} ({name.replace("_", " ")})'

    return {node: unique(node, step) for node, step in labels.steps.items()}


def open_display(streams: Streams, step_labels: StepLabels, *, plain: bool) -> Display:
    """Choose the display of the steps.

    Parameters
    ----------
    streams : Streams
        Streams that the user reads.
    step_labels : StepLabels
        Names of the steps.
    plain : bool
        Whether to print plain lines on a terminal, too, since libraries print between them.

    Returns
    -------
    Display
        Rich on a terminal, plain elsewhere.
    """
    if streams.out.isatty() and not plain:
        return RichDisplay(streams.out, step_labels.totals())
    return PlainDisplay(streams.out)


class StatusCallback:
    """Callback of Nipype plugins for the start and the end of a node.

    Parameters
    ----------
    display : Display
        Shows the steps.
    step_labels : StepLabels
        Names of the steps.

    Attributes
    ----------
    steps_done : Counter of str
        Number of steps that have succeeded, by image.
    """

    def __init__(self, display: Display, step_labels: StepLabels) -> None:
        self._display = display
        self._labels = step_labels
        self._totals = step_labels.totals()
        self._run_started = time.time()
        self._image_started: dict[str, float] = {}
        self._node_started: dict[str, float] = {}
        self._failed: set[str] = set()
        self._cached: Counter[str] = Counter()
        self.steps_done: Counter[str] = Counter()

    def __call__(self, node: Any, status: str) -> None:
        """Record and show an event of a node.

        Parameters
        ----------
        node : nipype.Node
            The node.
        status : {'start', 'end', 'exception', 'retry'}
            Event. ``retry`` comes before a node runs alone because its process was killed or
            lacked memory. A node whose result an earlier run has left ends without a start. With
            Nipype's ``Linear`` plugin, so does a node that is skipped because another has failed,
            and a node that has failed also ends.
        """
        step = self._labels.steps.get(node.fullname)
        image = self._labels.image_of(node.fullname)
        if status == 'start':
            self._node_started[node.fullname] = time.time()
            self._image_started.setdefault(image, time.time())
            if step:
                self._display.step_started(image, step)
            return
        if status == 'retry':
            self._display.log(
                f'[{image}] {step or node.name} … lacked memory or lost its process; '
                'runs once more, with no other step beside it'
            )
            return
        started = self._node_started.pop(node.fullname, None)
        if status == 'exception':
            self._failed |= {node.fullname, image}
            outcome = 'failed' if started is None else f'failed after {_since(started)}'
            self._display.step_ended(image, step or node.name, outcome)
        elif node.fullname in self._failed or (
            started is None and self._failed & {image, ALL_IMAGES}
        ):
            return  # shown already, or skipped because another node has failed
        elif step:
            self._end(node, image, step, started)

    def _end(self, node: Any, image: str, step: str, started: float | None) -> None:
        """Show a step that succeeded, and the image if all its steps have."""
        self.steps_done[image] += 1
        is_cached = _is_older(node, self._run_started)
        self._cached[image] += is_cached
        if started is None:
            self._display.step_cached()
        elif is_cached:
            self._display.step_ended(image, step, 'kept from an earlier run')
        else:
            self._display.step_ended(image, step, f'done in {_since(started)}')
        if image != ALL_IMAGES and self.steps_done[image] == self._totals[image]:
            self._display.log(f'[{image}] {self._summary(image)}')

    def _summary(self, image: str) -> str:
        total, cached = self._totals[image], self._cached[image]
        if cached == total:
            return f'all {total} steps kept from an earlier run'
        text = f'all {total} steps done in {_since(self._image_started[image])}'
        return f'{text}, {cached} of them in an earlier run' if cached else text


def format_duration(seconds: float) -> str:
    """Write a duration in seconds, minutes or hours.

    Parameters
    ----------
    seconds : float
        The duration.

    Returns
    -------
    str

    Examples
    --------
    >>> format_duration(4.12), format_duration(72), format_duration(7500)
    ('4.1 s', '1 min 12 s', '2 h 05 min')
    """
    if seconds < 59.95:
        return f'{seconds:.1f} s'
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f'{minutes} min {rest:02d} s'
    return f'{minutes // 60} h {minutes % 60:02d} min'


def _since(started: float) -> str:
    return format_duration(time.time() - started)


def _is_older(node: Any, time_stamp: float) -> bool:
    """Return whether the result of a node is older, so that Nipype did not run it again."""
    result = Path(node.output_dir()) / f'result_{node.name}.pklz'
    return result.is_file() and result.stat().st_mtime < time_stamp
