"""What a run leaves behind when it is ended: no process, and no file outside its work folder."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest
from processes import ROOT, run_python

from deepreg_wf.app.cleanup import remove_partial_results
from deepreg_wf.engine.worker import TEMPORARIES, run_node

pytestmark = pytest.mark.skipif(
    sys.platform != 'linux', reason='processes are found in /proc, and ended by the kernel'
)

SECONDS = 60
SCRIPT = """
import sys
sys.path[:0] = sys.argv[1:3]
from pathlib import Path
from test_leftovers import run_graph

if __name__ == '__main__':
    run_graph(Path(sys.argv[3]))
"""


def hold_interpreter(mark: str) -> None:
    """Sleep with the interpreter lock, as N4 computes."""
    Path(mark).touch()
    ctypes.PyDLL(None).sleep(SECONDS)


def leave_file(mark: str) -> None:
    """Leave a temporary file, as a library does, and compute in another process."""
    import os
    import tempfile

    from test_leftovers import hold_interpreter

    from deepreg_wf.utils.itk_subprocess import call_isolated

    descriptor, _ = tempfile.mkstemp()
    os.write(descriptor, b'data of a subject')
    call_isolated(hold_interpreter, mark)


def run_graph(folder: Path) -> None:
    """Run a graph of one node in a worker."""
    import io

    from nipype import Function, Node, Workflow

    from deepreg_wf.engine.execute import configure, execute
    from deepreg_wf.engine.progress import PlainDisplay, StepLabels
    from deepreg_wf.engine.resources import Resources
    from deepreg_wf.settings import Execution

    resources = Resources(device='cpu', nprocs=1, omp_nthreads=1)
    configure(resources, Execution(work_dir=folder), crash_dir=folder / 'crashes')
    workflow = Workflow('deepreg_wf', base_dir=str(folder))
    image = Workflow('single_subject_01_wf')
    image.add_nodes([Node(Function(['mark'], [], function=leave_file), 'step')])
    image.inputs.step.mark = str(folder / 'mark')
    workflow.add_nodes([image])
    execute(
        workflow,
        resources=resources,
        display=PlainDisplay(io.StringIO()),
        step_labels=StepLabels({}, {}),
        crash_dirs=[],
    )


def processes_of(session: int) -> list[str]:
    """Return the command lines of the processes of a session, without those that have ended."""
    found = []
    for path in Path('/proc').glob('[0-9]*'):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            fields = (path / 'stat').read_text().rpartition(')')[2].split()
            if int(fields[3]) == session and fields[0] != 'Z':
                found.append((path / 'cmdline').read_text())
    return found


def wait_until(condition, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, 'waited in vain'
        time.sleep(0.05)


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_ended_run(tmp_path, number) -> None:
    """It leaves no process, and no file elsewhere.

    The name is short, because multiprocessing has a socket in TMPDIR, whose path may have no more
    than 107 characters.
    """
    script, work, elsewhere = tmp_path / 'script.py', tmp_path / 'work', tmp_path / 'tmp'
    script.write_text(SCRIPT)
    elsewhere.mkdir()
    run = subprocess.Popen(
        [sys.executable, script, ROOT, ROOT / 'tests', work],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, 'TMPDIR': str(elsewhere)},
    )
    try:
        wait_until(lambda: (work / 'mark').exists() or run.poll() is not None, 120)
        assert any('itk_subprocess' in line for line in processes_of(run.pid))
        temporaries = list(work.rglob(f'{TEMPORARIES}*/*'))
        assert [path.read_bytes() for path in temporaries] == [b'data of a subject']
        run.send_signal(number)
        run.wait(timeout=20)
        wait_until(lambda: not processes_of(run.pid), 5)
    finally:
        run.kill()
    assert [path for path in elsewhere.rglob('*') if path.is_file()] == []
    image = ('single_subject_01_wf',)
    remove_partial_results(tmp_path / 'out', work / 'deepreg_wf', ['01'], image)
    assert list(work.rglob(f'{TEMPORARIES}*')) == []


def make_temporary() -> tuple[str, str]:
    """Leave a temporary file."""
    import os
    import tempfile

    descriptor, path = tempfile.mkstemp()
    os.close(descriptor)
    return path, os.environ['TMPDIR']


def test_temporary_files_of_a_step_are_removed_when_it_ends(tmp_path) -> None:
    from nipype import Function, Node

    before = tempfile.gettempdir(), os.environ.get('TMPDIR')
    function = Function([], ['path', 'folder'], function=make_temporary)
    node = Node(function, 'step', base_dir=str(tmp_path))
    assert run_node(node) is None
    assert (tempfile.gettempdir(), os.environ.get('TMPDIR')) == before
    path, folder = Path(node.result.outputs.path), Path(node.result.outputs.folder)
    assert path.parent == folder
    assert folder.parent == tmp_path / 'step'
    assert not folder.exists()


def test_a_process_that_has_lost_its_parent_ends(tmp_path) -> None:
    code = """
import time
from deepreg_wf.utils import parent_process
parent_process.kill_with_parent = lambda: None  # as outside Linux
parent_process.end_with_parent(parent=1)  # which is not the parent
time.sleep(60)
"""
    begun = time.monotonic()
    assert run_python('-c', code, cwd=tmp_path).returncode == -signal.SIGKILL
    assert time.monotonic() - begun < 30
