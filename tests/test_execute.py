"""Execution of a graph in which steps fail."""

from __future__ import annotations

import io
import json
import re
import signal
import subprocess
import sys
import time

import pytest
from processes import ROOT, run_python

from deepreg_wf.engine.execute import execute
from deepreg_wf.engine.progress import PlainDisplay, StepLabels
from deepreg_wf.engine.resources import Resources


def run_step(x, fault, device):
    """Run a step that may fail; Nipype sends this function to the workers as text."""
    import os
    import shutil
    import time

    from deepreg_wf.errors import InputError

    print('noise of a library', flush=True)
    if fault == 'input':
        raise InputError(f'{x}: is bad; mend it.')
    if fault == 'bug':
        raise ValueError('odd\nOdder: indeed')
    if fault == 'wait':
        time.sleep(1)
    if fault.endswith('/seen'):
        kind, _, mark = fault.split(' ')
        fault = '' if os.path.exists(mark) else kind
        open(mark, 'w').close()
    if fault == 'killed':
        os.kill(os.getpid(), 9)
    if fault == 'memory':
        bytearray(2**60)
    if fault == 'gpu' and device != 'cpu':
        import torch

        raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB.')
    if fault == 'sleep':
        time.sleep(60)
    action, _, folder = fault.partition(' ')
    if action in ('remove', 'replace'):
        shutil.rmtree(folder)
    if action == 'replace':
        os.makedirs(folder)
    return x


def make_graph(base_dir, faults):
    """Make a graph with two steps for each image; the first has the fault of the image."""
    from nipype import Function, Node, Workflow

    workflow = Workflow('deepreg_wf', base_dir=str(base_dir))
    images, steps = {}, {}
    for label, fault in faults.items():
        images[f'single_subject_{label}_wf'] = f'sub-{label}'
        subject = Workflow(f'single_subject_{label}_wf')
        nodes = []
        for name, words in (('first', 'affine alignment'), ('second', 'quality control')):
            function = Function(['x', 'fault', 'device'], ['y'], function=run_step)
            nodes.append(Node(function, name))
            nodes[-1].inputs.device = 'cuda'
            steps[f'deepreg_wf.{subject.name}.{name}'] = words
            nodes[-1].inputs.fault = fault if name == 'first' else ''
        nodes[0].inputs.x = label
        subject.connect(nodes[0], 'y', nodes[1], 'x')
        workflow.add_nodes([subject])
    return workflow, StepLabels(images, steps)


def execute_graph(
    base_dir, faults, *, nprocs, stop=False, resource_monitor=False, plugin='MultiProc'
):
    from nipype import config

    config.update_config(
        {
            'execution': {
                'crashdump_dir': str(base_dir / 'crashes'),
                'crashfile_format': 'txt',
                'create_report': 'false',
                'poll_sleep_duration': '0.1',
                'stop_on_first_crash': str(stop).lower(),
            }
        }
    )
    workflow, step_labels = make_graph(base_dir, faults)
    lines = io.StringIO()
    failures = execute(
        workflow,
        resources=Resources(
            device='cpu',
            nprocs=nprocs,
            omp_nthreads=1,
            resource_monitor=resource_monitor,
            plugin_name=plugin,
        ),
        display=PlainDisplay(lines),
        step_labels=step_labels,
        crash_dirs=[base_dir / 'crashes'],
        stop_on_first_crash=stop,
    )
    return failures, [line.split(' ', 2)[-1] for line in lines.getvalue().splitlines()]


@pytest.mark.parametrize('nprocs', [1, 2])
def test_a_failure_stops_only_its_own_image(tmp_path, nprocs):
    faults = {'01': '', '02': 'input', '03': 'bug', '04': ''}
    failures, lines = execute_graph(tmp_path, faults, nprocs=nprocs)
    assert [failure.participant for failure in failures] == ['02', '03']
    bad, bug = failures
    assert bad.sentence == '[sub-02] 02: is bad; mend it.'
    assert bug.sentence == (
        f'[sub-03] affine alignment failed: ValueError: odd; see {bug.crash_file}.'
    )
    assert 'Odder: indeed' in bug.crash_file.read_text()
    for label in ('01', '04'):
        done = re.compile(rf'\[sub-{label}\] quality control … done in \d+\.\d s')
        assert sum(bool(done.fullmatch(line)) for line in lines) == 1
    assert not any('02] quality' in line or '03] quality' in line for line in lines)
    assert any(re.fullmatch(r'\[sub-02\] affine alignment … failed after .* s', x) for x in lines)


@pytest.mark.parametrize('nprocs', [1, 2])
def test_a_second_run_reuses_finished_steps(tmp_path, nprocs):
    execute_graph(tmp_path, {'01': '', '02': 'input'}, nprocs=nprocs)
    for path in (tmp_path / 'crashes').iterdir():
        path.unlink()
    failures, lines = execute_graph(tmp_path, {'01': '', '02': ''}, nprocs=nprocs)
    assert failures == []
    assert '[sub-01] all 2 steps kept from an earlier run' in lines
    assert not any(line.startswith('[sub-01]') and 'done in' in line for line in lines)
    again = [line for line in lines if line.startswith('[sub-02]') and 'done in' in line]
    assert [line.split('] ')[1].split(' …')[0] for line in again[:2]] == [
        'affine alignment',
        'quality control',
    ]
    assert re.fullmatch(r'\[sub-02\] all 2 steps done in \d+\.\d s', again[2])


@pytest.mark.parametrize('nprocs', [1, 3])
def test_a_step_that_kills_its_worker_fails_alone(tmp_path, nprocs):
    faults = {'01': 'wait', '02': 'killed', '03': 'wait', '04': ''}
    failures, lines = execute_graph(tmp_path, faults, nprocs=nprocs)
    assert [failure.participant for failure in failures] == ['02']
    assert failures[0].sentence.startswith(
        '[sub-02] affine alignment failed: its process was killed twice'
    )
    for label in ('01', '03', '04'):
        assert sum(line.startswith(f'[sub-{label}] all 2 steps done') for line in lines) == 1
    again = '[sub-02] affine alignment … lacked memory or lost its process; runs once more'
    assert sum(line.startswith(again) for line in lines) == 1


@pytest.mark.parametrize('fault', ['killed once {}/seen', 'memory once {}/seen', 'gpu'])
def test_a_step_that_succeeds_when_it_is_run_alone_has_not_failed(tmp_path, fault):
    """A step that runs out of GPU memory is run again on the CPU."""
    faults = {'01': 'wait', '02': fault.format(tmp_path), '03': ''}
    failures, lines = execute_graph(tmp_path, faults, nprocs=2)
    assert failures == []
    assert sum('steps done in' in line for line in lines) == 3


def test_running_out_of_memory_is_given_as_the_reason(tmp_path):
    failures, _ = execute_graph(tmp_path, {'01': 'memory', '02': ''}, nprocs=2)
    assert [failure.participant for failure in failures] == ['01']
    assert failures[0].reason.startswith('there is not enough memory (')


@pytest.mark.parametrize(
    ('action', 'folder', 'plugin'),
    [
        ('remove', '', 'MultiProc'),
        ('replace', '', 'MultiProc'),
        ('remove', 'deepreg_wf', 'MultiProc'),
        ('remove', '', 'Linear'),
    ],
)
def test_a_work_folder_that_is_removed_ends_the_run(tmp_path, action, folder, plugin):
    work = tmp_path / 'work'
    work.mkdir()
    faults = {'01': '', '02': f'{action} {work / folder}', '03': 'input'}
    failures, lines = execute_graph(work, faults, nprocs=1, plugin=plugin)
    first = {failure.image: failure for failure in reversed(failures)}
    done = set() if plugin == 'Linear' else {'sub-01'}  # it runs the images step by step
    assert first.keys() == {'sub-01', 'sub-02', 'sub-03'} - done
    for image, failure in first.items():
        assert failure.sentence == (
            f'[{image}] processing failed: the work folder {work} was removed or replaced during '
            'the run; make the same call again, and keep the folder until it has ended.'
        )
    if plugin == 'MultiProc':
        assert len(failures) == 2
        assert not any('failed' in line for line in lines)
        assert any(line.startswith('[sub-01] all 2 steps done') for line in lines)


def test_images_that_were_done_or_refused_before_the_work_folder_is_removed_stay_so(tmp_path):
    work = tmp_path / 'work'
    work.mkdir()
    faults = {'01': '', '02': 'input', '03': f'remove {work / "deepreg_wf"}'}
    failures, _ = execute_graph(work, faults, nprocs=1)
    assert {failure.image: failure.is_input_error for failure in failures} == {
        'sub-02': True,
        'sub-03': False,
    }


@pytest.mark.parametrize('nprocs', [1, 2])
def test_stop_on_first_crash_ends_the_run(tmp_path, nprocs):
    faults = {'01': 'input', '02': 'sleep' if nprocs > 1 else ''}
    begun = time.monotonic()
    failures, _ = execute_graph(tmp_path, faults, nprocs=nprocs, stop=True)
    assert time.monotonic() - begun < 30
    assert [failure.participant for failure in failures] == ['01', '02']
    assert failures[1].sentence == (
        '[sub-02] processing failed: the run was stopped by the failure of another image.'
    )


MONITORED = """
import sys
sys.path[:0] = sys.argv[1:3]
from pathlib import Path
from nipype import config
from test_execute import execute_graph

if __name__ == '__main__':
    config.enable_resource_monitor()
    nprocs = int(sys.argv[4])
    execute_graph(Path(sys.argv[3]), {'01': ''}, nprocs=nprocs, resource_monitor=True)
"""


@pytest.mark.parametrize('nprocs', [1, 2])
def test_the_resources_of_each_step_are_recorded(tmp_path, nprocs):
    script = tmp_path / 'script.py'
    script.write_text(MONITORED)
    done = run_python(script, ROOT, ROOT / 'tests', tmp_path / 'work', nprocs, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {'script.py', 'work'}
    record = json.loads((tmp_path / 'work' / 'deepreg_wf' / 'resource_monitor.json').read_text())
    steps = {f'deepreg_wf.single_subject_01_wf.{name}' for name in ('first', 'second')}
    assert set(record['name']) == steps
    assert all(memory > 0 for memory in record['rss_GiB'])


INTERRUPTIBLE = """
import sys
sys.path[:0] = sys.argv[1:3]
from pathlib import Path
from test_execute import execute_graph

if __name__ == '__main__':
    try:
        execute_graph(Path(sys.argv[3]), {'01': 'sleep', '02': 'sleep'}, nprocs=int(sys.argv[4]))
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.mark.parametrize(('nprocs', 'number'), [(1, signal.SIGINT), (2, signal.SIGTERM)])
def test_an_interrupt_ends_the_run_and_its_workers(tmp_path, nprocs, number):
    script = tmp_path / 'script.py'
    script.write_text(INTERRUPTIBLE)
    words = [sys.executable, script, ROOT, ROOT / 'tests', tmp_path / 'work', str(nprocs)]
    pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.STDOUT, 'text': True}
    with subprocess.Popen(words, start_new_session=True, **pipes) as process:
        for line in process.stdout:
            if 'Executing' in line:
                break
        process.send_signal(number)
        begun = time.monotonic()
        # Workers hold the pipe open: its end means that all workers have ended.
        process.communicate(timeout=30)
    assert process.returncode == 130
    assert time.monotonic() - begun < 20
