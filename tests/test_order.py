"""The order in which the steps of a cohort are done."""

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
from deepreg_wf.engine.ordering import Waiting, image_by_image

IMAGES = ('01', '02', '03')


def _work(before: int = 0, number: int = 0, use_gpu: bool = False) -> int:
    if number < 0:
        raise ValueError('a bad image')
    return number


def make_cohort(folder: Path, bad: str = '') -> pe.Workflow:
    """One step for all, then two of each image: on a processor, and on a GPU."""
    cohort = pe.Workflow(name='cohort', base_dir=folder)
    prepare = pe.Node(niu.Function(function=_work), name='prepare')
    for label in IMAGES:
        image_wf = pe.Workflow(name=f'single_subject_{label}_wf')
        first = pe.Node(niu.Function(function=_work), name='first')
        first.inputs.number = -1 if label == bad else int(label)
        second = pe.Node(niu.Function(function=_work), name='second')
        second.inputs.use_gpu = True
        image_wf.connect(first, 'out', second, 'before')
        cohort.connect(prepare, 'out', image_wf, 'first.before')
    return cohort


def run_and_listen(cohort: pe.Workflow, nprocs: int) -> list[str]:
    """What begins and ends, in the order in which it does."""
    heard = []

    def listen(node: Any, status: str) -> None:
        image = node.fullname.split('.')[1].removeprefix('single_subject_')[:2]
        heard.append(f'{status} {node.name} {image}')

    crashes = {'crashdump_dir': str(cohort.base_dir), 'crashfile_format': 'txt'}
    cohort.config['execution'] = {**crashes, 'poll_sleep_duration': '0.02'}
    pool = WorkerPool({'n_procs': nprocs, 'n_gpu_procs': 1, 'status_callback': listen})
    try:
        cohort.run(plugin=pool)
    except RuntimeError:
        heard.append('failed')
    return [words for words in heard if 'prepare' not in words]


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(config._config['execution'], 'create_report', 'false')


def test_an_image_is_done_before_the_next_is_begun(tmp_path: Path) -> None:
    """So the first results are there when one image has had its time, not when all have."""
    heard = run_and_listen(make_cohort(tmp_path), nprocs=1)
    steps = ((label, step) for label in IMAGES for step in ('first', 'second'))
    assert heard == [f'{what} {s} {label}' for label, s in steps for what in ('start', 'end')]


def test_the_gpu_is_busy_with_one_image_while_processors_begin_another(tmp_path: Path) -> None:
    """With one slot: no two images are on the GPU at once, and none waits for all the others."""
    heard = run_and_listen(make_cohort(tmp_path), nprocs=2)
    assert heard.index('start second 01') < heard.index('start first 03')
    on_gpu = [words.split()[0] for words in heard if 'second' in words]
    assert on_gpu == ['start', 'end'] * len(IMAGES)


def test_a_bad_image_keeps_no_other_from_its_end(tmp_path: Path) -> None:
    heard = run_and_listen(make_cohort(tmp_path, bad='01'), nprocs=2)
    assert {'exception first 01', 'end second 02', 'end second 03', 'failed'} <= {*heard}
    assert 'start second 01' not in heard


def test_ready_is_what_waits_for_nothing() -> None:
    """As the sums over the columns of Nipype's matrix tell, whatever ends first."""
    generator = np.random.default_rng(0)
    edges = np.triu(generator.random((30, 30)) < 0.2, k=1)
    graph = nx.DiGraph(list(map(tuple, np.argwhere(edges))))
    nodes = sorted(graph.nodes)
    matrix = nx.to_numpy_array(graph, nodelist=nodes)
    waiting = Waiting(graph, nodes)
    for place in range(len(nodes)):
        np.testing.assert_array_equal(waiting.sum(0)[0], matrix.sum(axis=0))
        waiting.end(place)
        matrix[place] = 0


def test_nodes_come_after_what_they_depend_on(tmp_path: Path) -> None:
    cohort = make_cohort(tmp_path)
    graph = cohort._create_flat_graph()
    order = image_by_image(graph)
    places = {node: place for place, node in enumerate(order)}
    assert all(places[a] < places[b] for a, b in graph.edges)
