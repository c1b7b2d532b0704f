"""Locks and atomic writes of processes that share a folder."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deepreg_wf.app.inputs import Inputs
from deepreg_wf.app.locks import (
    OUTPUT_LOCKS,
    WORK_LOCKS,
    check_unlocked,
    lock_group,
    lock_participants,
)
from deepreg_wf.errors import InputError
from deepreg_wf.utils.atomic import atomic_write, remove_stale_temporaries
from deepreg_wf.utils.locks import ParticipantLocks, is_locked, locked

HOLD = """
import sys, time
from pathlib import Path
from deepreg_wf.utils.locks import ParticipantLocks
with ParticipantLocks(Path(sys.argv[1])) as locks:
    assert locks.try_acquire_all(sys.argv[2:]) == set(sys.argv[2:])
    print('held', flush=True)
    time.sleep(600)
"""

COUNT = """
import sys
from pathlib import Path
from deepreg_wf.utils.atomic import write_text
from deepreg_wf.utils.locks import locked
folder = Path(sys.argv[1])
for _ in range(50):
    with locked(folder / '.lock'):
        number = int((folder / 'number').read_text())
        write_text(folder / 'number', str(number + 1))
"""

COUNT_AS_PARTICIPANT = """
import sys, time
from pathlib import Path
from deepreg_wf.utils.atomic import write_text
from deepreg_wf.utils.locks import ParticipantLocks
folder, done = Path(sys.argv[1]), 0
while done < 20:
    with ParticipantLocks(folder / 'locks') as locks:
        if locks.try_acquire('number'):
            path = folder / 'number'
            number = int(path.read_text()) if path.exists() else 0
            write_text(path, str(number + 1))
            done += 1
    time.sleep(0.001)
"""

WRITE_TABLES = """
import sys
from pathlib import Path
from deepreg_wf.engine.failures import Failure, update_failures
from deepreg_wf.bids.dataset import write_dataset_files
bids, out, label = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
for number in range(20):
    write_dataset_files(out, bids, {}, derivatives={f'{label}x{number}': bids})
failure = Failure(participant=label, image=f'sub-{label}', step='x', reason='y')
update_failures(out / 'failed.tsv', [failure], [label])
"""


def start(code, *words) -> subprocess.Popen[str]:
    words = [sys.executable, '-c', code, *map(str, words)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def hold():
    """Let another process lock participants in a folder; it is killed at the end of the test."""
    others = []

    def hold(path: Path, *names: str) -> subprocess.Popen[str]:
        others.append(start(HOLD, path, *names))
        assert others[-1].stdout.readline() == 'held\n'
        return others[-1]

    yield hold
    for other in others:
        other.kill()
        other.communicate()


def inputs_of(*labels: str) -> Inputs:
    return Inputs(subjects={label: (Path(f'sub-{label}_T1w.nii.gz'),) for label in labels})


def test_no_update_under_a_lock_is_lost(tmp_path):
    (tmp_path / 'number').write_text('0')
    others = [start(COUNT, tmp_path) for _ in range(4)]
    assert [other.wait() for other in others] == [0] * 4
    assert (tmp_path / 'number').read_text() == '200'
    assert [path.name for path in tmp_path.iterdir()] == ['number']


def test_a_lock_excludes_threads(tmp_path):
    inside = []

    def enter(number: int) -> None:
        with locked(tmp_path / '.lock'):
            inside.append(number)
            time.sleep(0.02)
            assert inside[-1] == number

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(enter, range(4)))


def test_jobs_that_share_a_folder_keep_all_lines_of_its_tables(tmp_path):
    bids, out = tmp_path / 'bids', tmp_path / 'out'
    bids.mkdir()
    (bids / 'dataset_description.json').write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    labels = ['01', '02', '03', '04']
    others = [start(WRITE_TABLES, bids, out, label) for label in labels]
    assert [other.wait() for other in others] == [0] * 4
    links = json.loads((out / 'dataset_description.json').read_text())['DatasetLinks']
    assert {f'{label}x{number}' for label in labels for number in range(20)} <= set(links)
    rows = (out / 'failed.tsv').read_text().splitlines()[1:]
    assert [row.split('\t')[0] for row in rows] == [f'sub-{label}' for label in labels]
    assert not list(out.rglob('.tmp-*'))


def test_a_participant_is_locked_until_the_process_ends_or_is_killed(tmp_path, hold):
    other = hold(tmp_path / 'locks', '01', '02')
    with ParticipantLocks(tmp_path / 'locks') as locks:
        assert locks.try_acquire_all(['01', '02', '03']) == {'03'}
        other.kill()
        other.wait()
        assert locks.try_acquire('01')
        assert is_locked(tmp_path / 'locks')
    assert not is_locked(tmp_path / 'locks')
    assert not (tmp_path / 'locks').exists()


def test_locks_on_many_participants_take_one_open_file(tmp_path):
    labels = {str(number) for number in range(100_000)}
    with (
        ParticipantLocks(tmp_path / 'locks') as ours,
        ParticipantLocks(tmp_path / 'locks') as other,
    ):
        assert ours.try_acquire_all(labels) == labels
        assert len(list((tmp_path / 'locks').iterdir())) == 2
        assert other.try_acquire_all(labels | {'x'}) == {'x'}
    assert not list(tmp_path.iterdir())


def test_without_locks_of_the_file_system_nothing_is_refused(tmp_path, monkeypatch):
    def flock(file, operation):
        raise OSError(errno.ENOLCK, 'No locks available')

    monkeypatch.setattr('fcntl.flock', flock)
    with (
        ParticipantLocks(tmp_path / 'locks') as ours,
        ParticipantLocks(tmp_path / 'locks') as other,
    ):
        assert ours.try_acquire('01')
        assert other.try_acquire('01')
    with locked(tmp_path / '.lock'):
        pass
    assert not list(tmp_path.iterdir())


def test_locks_exclude_while_their_folder_comes_and_goes(tmp_path):
    """Processes lock the same participant again and again, and never two of them at once."""
    others = [start(COUNT_AS_PARTICIPANT, tmp_path) for _ in range(4)]
    assert [other.wait() for other in others] == [0] * 4
    assert (tmp_path / 'number').read_text() == '80'
    assert [path.name for path in tmp_path.iterdir()] == ['number']


@pytest.mark.parametrize('place', [f'out/{OUTPUT_LOCKS}', f'work/{WORK_LOCKS}'])
def test_a_participant_locked_by_another_run_is_skipped(tmp_path, hold, place):
    hold(tmp_path / place, '01')
    folders = (tmp_path / 'out', tmp_path / 'work')
    with lock_participants(inputs_of('01', '02'), *folders) as (ours, skipped):
        assert list(ours.subjects) == ['02']
        assert [failure.participant for failure in skipped] == ['01']
        assert str(tmp_path / place.split('/')[0]) in skipped[0].sentence
    with (
        pytest.raises(InputError, match='another run'),
        lock_participants(inputs_of('01'), *folders),
    ):
        pass


def test_one_run_at_a_time_does_the_group_level(tmp_path, hold):
    with lock_group(tmp_path):
        pass
    hold(tmp_path / OUTPUT_LOCKS, 'group level')
    with pytest.raises(InputError, match='is summarising this folder'), lock_group(tmp_path):
        pass


def test_a_work_folder_in_use_is_not_emptied(tmp_path, hold):
    check_unlocked(tmp_path / 'absent')
    other = hold(tmp_path / WORK_LOCKS, '01')
    with pytest.raises(InputError, match='another run is using'):
        check_unlocked(tmp_path)
    other.kill()
    other.wait()
    check_unlocked(tmp_path)


WRITE_SLOWLY = """
import sys, time
from pathlib import Path
from deepreg_wf.utils.atomic import atomic_write
with atomic_write(Path(sys.argv[1])) as temporary:
    temporary.write_text('ha')
    print('held', flush=True)
    time.sleep(600)
"""


def test_temporary_files_of_ended_processes_alone_are_removed(tmp_path):
    others = [start(WRITE_SLOWLY, tmp_path / name) for name in ('a.txt', 'b.txt')]
    for other in others:
        other.stdout.readline()
    others[0].kill()
    others[0].wait()
    elsewhere = tmp_path / f'.tmp-{others[0].pid}@elsewhere-c.txt'
    elsewhere.write_text('ha')
    with atomic_write(tmp_path / 'mine.txt') as temporary:
        temporary.write_text('whole')
        removed = remove_stale_temporaries([tmp_path, tmp_path / 'absent'])
    assert [path.name.split('-')[-1] for path in removed] == ['a.txt']
    assert elsewhere.exists()
    assert (tmp_path / 'mine.txt').read_text() == 'whole'
    others[1].kill()
    others[1].wait()
    assert [path.name.split('-')[-1] for path in remove_stale_temporaries([tmp_path])] == ['b.txt']
