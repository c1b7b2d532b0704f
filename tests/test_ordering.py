"""The order in which the steps of a cohort run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
from nipype import config
from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from deepreg_wf.engine.multiproc import WorkerPool
from deepreg_wf.engine.ordering import NodeQueue, sort_by_image

IMAGES = ('01', '02', '03')


def _work(before: int = 0, number: int = 0, use_gpu: bool = False) -> int:
    if number < 0:
        raise ValueError('a bad image')
    return number


def make_cohort(folder: Path, bad: str = '', large: str = '') -> pe.Workflow:
    """One step for all, then two of each image: on a processor, and on a GPU."""
    cohort = pe.Workflow(name='cohort', base_dir=folder)
    prepare = pe.Node(niu.Function(function=_work), name='prepare')
    for label in IMAGES:
        image_wf = pe.Workflow(name=f'single_subject_{label}_wf')
        needs = {'n_procs': 100, 'mem_gb': 1e6} if label == large else {}
        first = pe.Node(niu.Function(function=_work), name='first', **needs)
        first.inputs.number = -1 if label == bad else int(label)
        second = pe.Node(niu.Function(function=_work), name='second')
        second.inputs.use_gpu = True
        image_wf.connect(first, 'out', second, 'before')
        cohort.connect(prepare, 'out', image_wf, 'first.before')
    return cohort


def run_and_record(cohort: pe.Workflow, nprocs: int) -> list[str]:
    """Return the starts and ends of the steps, in their order."""
    events = []

    def record(node: Any, status: str) -> None:
        image = node.fullname.split('.')[1].removeprefix('single_subject_')[:2]
        events.append(f'{status} {node.name} {image}')

    crashes = {'crashdump_dir': str(cohort.base_dir), 'crashfile_format': 'txt'}
    cohort.config['execution'] = crashes
    pool = WorkerPool({'n_procs': nprocs, 'n_gpu_procs': 1, 'status_callback': record})
    try:
        cohort.run(plugin=pool)
    except RuntimeError:
        events.append('failed')
    return [event for event in events if 'prepare' not in event]


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(config._config['execution'], 'create_report', 'false')


def test_an_image_ends_before_the_next_begins(tmp_path: Path) -> None:
    """The first results are complete after the time of one image, not after that of all."""
    events = run_and_record(make_cohort(tmp_path), nprocs=1)
    steps = ((label, step) for label in IMAGES for step in ('first', 'second'))
    assert events == [f'{what} {s} {label}' for label, s in steps for what in ('start', 'end')]


def test_one_image_uses_the_gpu_while_processors_begin_another(tmp_path: Path) -> None:
    """With one slot, no two images use the GPU at once, and none waits for all the others."""
    events = run_and_record(make_cohort(tmp_path), nprocs=2)
    assert events.index('start second 01') < events.index('start first 03')
    on_gpu = [event.split()[0] for event in events if 'second' in event]
    assert on_gpu == ['start', 'end'] * len(IMAGES)


def test_a_bad_image_does_not_stop_the_others(tmp_path: Path) -> None:
    events = run_and_record(make_cohort(tmp_path, bad='01'), nprocs=2)
    assert {'exception first 01', 'end second 02', 'end second 03', 'failed'} <= {*events}
    assert 'start second 01' not in events
    assert {path.suffix for path in tmp_path.glob('crash-*')} == {'.txt', '.json'}


def test_a_step_that_needs_more_than_there_is_runs_alone(tmp_path: Path) -> None:
    events = run_and_record(make_cohort(tmp_path, large='02'), nprocs=2)
    assert events[events.index('start first 02') + 1] == 'end first 02'
    assert events.count('end second 03') == 1


def test_a_queue_has_the_steps_whose_predecessors_have_finished() -> None:
    generator = np.random.default_rng(0)
    edges = np.triu(generator.random((30, 30)) < 0.2, k=1)
    names = [f'cohort.step{number:02d}' for number in range(len(edges))]
    graph = nx.relabel_nodes(
        nx.DiGraph(list(map(tuple, np.argwhere(edges)))),
        dict(enumerate(map(_Named, names))),
    )
    queue, finished = NodeQueue(graph), set[_Named]()
    while queue.ready:
        waiting = set(graph) - finished
        expected = [node for node in waiting if finished.issuperset(graph.predecessors(node))]
        assert sorted(queue.ready) == queue.ready
        assert {queue.nodes[index] for index in queue.ready} == set(expected)
        index = queue.ready[generator.integers(len(queue.ready))]
        queue.start(index)
        queue.finish(index)
        finished.add(queue.nodes[index])
    assert finished == set(graph)


class _Named:
    """A node of which only the name matters."""

    def __init__(self, fullname: str) -> None:
        self.fullname = fullname


def test_nodes_come_after_those_that_they_depend_on(tmp_path: Path) -> None:
    cohort = make_cohort(tmp_path)
    graph = cohort._create_flat_graph()
    indices = {node: index for index, node in enumerate(sort_by_image(graph))}
    assert all(indices[a] < indices[b] for a, b in graph.edges)
