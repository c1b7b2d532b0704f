"""Who is at which step, and for how long: rich on a terminal, plain lines elsewhere."""

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

# What the steps are called, by the class of their interface. The others take no time to speak of.
STEPS = {
    'ValidateT1w': 'reading the T1w image',
    'SkullStrip': 'brain extraction',
    'BiasCorrect': 'bias field correction',
    'PrepareTemplate': 'preparing the template',
    'StopOnDoubt': 'check of the result',
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
LONG_STEPS = [
    STEPS[name] for name in ('SkullStrip', 'BiasCorrect', 'AffineAlign', 'RefineMomentum')
]
EVERYBODY = 'all'


class Display(AbstractContextManager['Display'], Protocol):
    """Somewhere to show the steps."""

    def started(self, image: str, step: str) -> None:
        """Show that a step has begun."""

    def ended(self, image: str, step: str, outcome: str) -> None:
        """Show how a step has ended."""

    def kept(self) -> None:
        """Take note of a step that there was no need to run."""

    def say(self, line: str) -> None:
        """Show a line of text."""


class PlainDisplay(Display):
    """One line with a time stamp for whatever happens."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __exit__(self, *exception: object) -> None:
        """Nothing is left to tidy."""

    def started(self, image: str, step: str) -> None:
        """Write that a step has begun, if it is one to wait for."""
        if step in LONG_STEPS:
            self.say(f'[{image}] {step} …')

    def ended(self, image: str, step: str, outcome: str) -> None:
        """Write how a step has ended."""
        self.say(f'[{image}] {step} … {outcome}')

    def kept(self) -> None:
        """Write nothing: a big dataset would make thousands of lines."""

    def say(self, line: str) -> None:
        """Write a line."""
        print(time.strftime('%Y-%m-%d %H:%M:%S'), line, file=self._stream, flush=True)


class RichDisplay(Display):
    """A line for each step at work and a bar for all, below the steps that have ended."""

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
        """Begin to draw."""
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop drawing; the lines stay."""
        self._progress.stop()

    def started(self, image: str, step: str) -> None:
        """Add a line for the step; it pulses, for nobody knows how long it takes."""
        task = self._progress.add_task(f'[{image}] {step}', total=None)
        self._running.setdefault((image, step), []).append(task)

    def ended(self, image: str, step: str, outcome: str) -> None:
        """Print the step above the lines, and advance the bar."""
        self.say(f'[{image}] {step} … {outcome}')
        self._progress.advance(self._all)
        if tasks := self._running.get((image, step)):
            self._progress.remove_task(tasks.pop(0))

    def kept(self) -> None:
        """Advance the bar."""
        self._progress.advance(self._all)

    def say(self, line: str) -> None:
        """Print a line above the bars."""
        self._progress.console.print(line, markup=False, soft_wrap=True)


@dataclass(frozen=True)
class Glossary:
    """Words for the nodes of a graph.

    Parameters
    ----------
    images
        Names of the images, such as ``sub-01_ses-pre``, by the name of the workflow of each.
    steps
        What the steps are called, by the full name of their node; other nodes take no time to
        speak of.

    """

    images: Mapping[str, str]
    steps: Mapping[str, str]

    @classmethod
    def of(cls, workflow: Any, images: Mapping[str, str]) -> Glossary:
        """Look through a workflow for the interfaces that are in `STEPS`."""
        steps = {}
        for name in workflow.list_node_names():
            interface = type(workflow.get_node(name).interface).__name__
            if interface in STEPS:
                steps[f'{workflow.name}.{name}'] = STEPS[interface]
        steps |= _told_apart(steps)
        plain = cls(images, steps)
        often = Counter((plain.image_of(node), step) for node, step in steps.items())
        for node, step in steps.items():
            if often[plain.image_of(node), step] > 1:
                name = node.rsplit('.', 1)[-1].removeprefix('prepare_')
                steps[node] = f'{step} ({name.replace("_", " ")})'
        return plain

    def image_of(self, node: str) -> str:
        """Name of the image that a node, given by its full name, works on; ``all`` if on none."""
        parts = (part for part in node.split('.') if part in self.images)
        return next((self.images[part] for part in parts), EVERYBODY)

    def totals(self) -> dict[str, int]:
        """Count the steps of each image."""
        return dict(Counter(self.image_of(node) for node in self.steps))


def _told_apart(steps: Mapping[str, str]) -> dict[str, str]:
    """Name the template in the steps of each, where there are several."""
    parts = {node: node.split('.') for node in steps}
    spaces = {way[2] for way in parts.values() if way[3:4] == ['registration_wf']}
    if len(spaces) < 2:
        return {}
    return {
        node: f'{step}, {way[2].removesuffix("_wf")}'
        for (node, step), way in zip(steps.items(), parts.values(), strict=True)
        if way[2:3] and way[2] in spaces and step != STEPS['BrainMaskReportlet']
    }


def open_display(streams: Streams, glossary: Glossary, *, plain: bool) -> Display:
    """Choose how to show the steps.

    Parameters
    ----------
    streams
        Where a person reads.
    glossary
        Words for the nodes of the graph.
    plain
        Ask for plain lines on a terminal too, for libraries that write between them.

    Returns
    -------
    Display
        Rich on a terminal.

    """
    if streams.out.isatty() and not plain:
        return RichDisplay(streams.out, glossary.totals())
    return PlainDisplay(streams.out)


class Monitor:
    """What Nipype calls when a node starts or ends, in this process or in another.

    Parameters
    ----------
    display
        Where the steps are shown.
    glossary
        What they are called.

    """

    def __init__(self, display: Display, glossary: Glossary) -> None:
        self._display = display
        self._glossary = glossary
        self._totals = glossary.totals()
        self._begun = time.time()
        self._first: dict[str, float] = {}
        self._running: dict[str, float] = {}
        self._failed: set[str] = set()
        self._kept: Counter[str] = Counter()
        self.steps_done: Counter[str] = Counter()

    def __call__(self, node: Any, status: str) -> None:
        """Take note of a node.

        Parameters
        ----------
        node
            Nipype's node.
        status
            ``start``, ``end``, ``exception``, or ``again``, before a node whose process died or
            that lacked memory is run alone. A node that is kept from an earlier run may end
            without a start; so does, in this process, one that is passed over, and one that has
            failed may end once more.

        """
        step = self._glossary.steps.get(node.fullname)
        image = self._glossary.image_of(node.fullname)
        if status == 'start':
            self._running[node.fullname] = time.time()
            self._first.setdefault(image, time.time())
            if step:
                self._display.started(image, step)
            return
        if status == 'again':
            self._display.say(
                f'[{image}] {step or node.name} … lacked memory or lost its process; '
                'once more, with nothing beside it'
            )
            return
        begun = self._running.pop(node.fullname, None)
        if status == 'exception':
            self._failed |= {node.fullname, image}
            outcome = 'failed' if begun is None else f'failed after {_since(begun)}'
            self._display.ended(image, step or node.name, outcome)
        elif node.fullname in self._failed or (
            begun is None and self._failed & {image, EVERYBODY}
        ):
            return  # told already, or passed over because of what failed before
        elif step:
            self._end(node, image, step, begun)

    def _end(self, node: Any, image: str, step: str, begun: float | None) -> None:
        """Show a step that went well, and the image if it was its last one."""
        self.steps_done[image] += 1
        is_kept = _is_older(node, self._begun)
        self._kept[image] += is_kept
        if begun is None:
            self._display.kept()
        elif is_kept:
            self._display.ended(image, step, 'kept from an earlier run')
        else:
            self._display.ended(image, step, f'done in {_since(begun)}')
        if image != EVERYBODY and self.steps_done[image] == self._totals[image]:
            self._display.say(f'[{image}] {self._story_of(image)}')

    def _story_of(self, image: str) -> str:
        total, kept = self._totals[image], self._kept[image]
        if kept == total:
            return f'all {total} steps kept from an earlier run'
        story = f'all {total} steps done in {_since(self._first[image])}'
        return f'{story}, {kept} of them in an earlier run' if kept else story


def in_words(seconds: float) -> str:
    """Write a duration.

    Examples
    --------
    >>> in_words(4.12), in_words(72), in_words(7500)
    ('4.1 s', '1 min 12 s', '2 h 05 min')

    """
    if seconds < 59.95:
        return f'{seconds:.1f} s'
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f'{minutes} min {rest:02d} s'
    return f'{minutes // 60} h {minutes % 60:02d} min'


def _since(begun: float) -> str:
    return in_words(time.time() - begun)


def _is_older(node: Any, begun: float) -> bool:
    """Whether the result is older than the run: Nipype found nothing to do."""
    result = Path(node.output_dir()) / f'result_{node.name}.pklz'
    return result.is_file() and result.stat().st_mtime < begun
