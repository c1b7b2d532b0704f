"""Processes that share a folder: each waits its turn and leaves alone what others are at."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deepreg_wf.app.inputs import Inputs
from deepreg_wf.app.locks import OUTPUT_LOCKS, WORK_LOCKS, check_unlocked, lock_participants, lock_group
from deepreg_wf.errors import InputError
from deepreg_wf.utils.atomic import remove_stale_temporaries, atomic_write
from deepreg_wf.utils.locks import Claims, locked

HOLD = """
import sys, time
from pathlib import Path
from deepreg_wf.utils.locks import Claims
with Claims(Path(sys.argv[1])) as claims:
    assert all(claims.take(name) for name in sys.argv[2:])
    print('held', flush=True)
    time.sleep(600)
"""

COUNT = """
import sys
from pathlib import Path
from deepreg_wf.bids.entities import write_text
from deepreg_wf.utils.locks import locked
folder = Path(sys.argv[1])
for _ in range(100):
    with locked(folder / '.lock'):
        number = int((folder / 'number').read_text())
        write_text(folder / 'number', str(number + 1))
"""

CLAIM = """
import sys, time
from pathlib import Path
from deepreg_wf.bids.entities import write_text
from deepreg_wf.utils.locks import Claims
folder, done = Path(sys.argv[1]), 0
while done < 50:
    with Claims(folder / 'claims') as claims:
        if claims.take('number'):
            path = folder / 'number'
            number = int(path.read_text()) if path.exists() else 0
            write_text(path, str(number + 1))
            done += 1
    time.sleep(0.001)
"""

SAY = """
import sys
from pathlib import Path
from deepreg_wf.engine.failures import Failure, update_table
from deepreg_wf.bids.dataset import write_dataset_files
bids, out, label = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
for number in range(20):
    write_dataset_files(out, bids, {}, derivatives={f'{label}x{number}': bids})
failure = Failure(participant=label, image=f'sub-{label}', step='x', reason='y')
update_table(out / 'failed.tsv', [failure], [label])
"""


def start(code, *words) -> subprocess.Popen[str]:
    words = [sys.executable, '-c', code, *map(str, words)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def hold():
    """Have another process claim names in a file; it is killed in the end."""
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


def test_what_is_read_and_written_under_a_lock_is_never_lost(tmp_path):
    (tmp_path / 'number').write_text('0')
    others = [start(COUNT, tmp_path) for _ in range(4)]
    assert [other.wait() for other in others] == [0] * 4
    assert (tmp_path / 'number').read_text() == '400'
    assert [path.name for path in tmp_path.iterdir()] == ['number']


def test_threads_take_turns_too(tmp_path):
    inside = []

    def enter(number: int) -> None:
        with locked(tmp_path / '.lock'):
            inside.append(number)
            time.sleep(0.02)
            assert inside[-1] == number

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(enter, range(4)))


def test_jobs_that_share_a_folder_lose_no_line_of_each_other(tmp_path):
    bids, out = tmp_path / 'bids', tmp_path / 'out'
    bids.mkdir()
    (bids / 'dataset_description.json').write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    labels = ['01', '02', '03', '04']
    others = [start(SAY, bids, out, label) for label in labels]
    assert [other.wait() for other in others] == [0] * 4
    links = json.loads((out / 'dataset_description.json').read_text())['DatasetLinks']
    assert {f'{label}x{number}' for label in labels for number in range(20)} <= set(links)
    rows = (out / 'failed.tsv').read_text().splitlines()[1:]
    assert [row.split('\t')[0] for row in rows] == [f'sub-{label}' for label in labels]
    assert not list(out.rglob('.tmp-*'))


def test_a_claim_is_of_one_process_until_it_ends_however_it_does(tmp_path, hold):
    other = hold(tmp_path / 'claims', '01', '02')
    with Claims(tmp_path / 'claims') as claims:
        assert [claims.take(label) for label in ('01', '02', '03')] == [False, False, True]
        assert not claims.take_all()
        other.kill()
        other.wait()
        assert claims.take('01')
        assert claims.take_all()
    assert not (tmp_path / 'claims').exists()


def test_claims_hold_while_the_file_comes_and_goes(tmp_path):
    """Processes that claim the same thing again and again, and never two of them at once."""
    others = [start(CLAIM, tmp_path) for _ in range(4)]
    assert [other.wait() for other in others] == [0] * 4
    assert (tmp_path / 'number').read_text() == '200'
    assert [path.name for path in tmp_path.iterdir()] == ['number']


@pytest.mark.parametrize('place', [f'out/{OUTPUT_LOCKS}', f'work/{WORK_LOCKS}'])
def test_a_participant_in_the_hands_of_another_run_is_left_to_it(tmp_path, hold, place):
    hold(tmp_path / place, '01')
    folders = (tmp_path / 'out', tmp_path / 'work')
    with lock_participants(inputs_of('01', '02'), *folders) as (ours, elsewhere):
        assert list(ours.subjects) == ['02']
        assert [failure.participant for failure in elsewhere] == ['01']
        assert str(tmp_path / place.split('/')[0]) in elsewhere[0].sentence
    with pytest.raises(InputError, match='another run'), lock_participants(inputs_of('01'), *folders):
        pass


def test_one_run_at_a_time_sums_a_folder_up(tmp_path, hold):
    with lock_group(tmp_path):
        pass
    hold(tmp_path / OUTPUT_LOCKS, 'group level')
    with pytest.raises(InputError, match='is summarising this folder'), lock_group(tmp_path):
        pass


def test_a_folder_where_a_run_is_at_work_is_not_emptied(tmp_path, hold):
    check_unlocked(tmp_path / 'absent')
    other = hold(tmp_path / WORK_LOCKS, '01')
    with pytest.raises(InputError, match='another run is using'):
        check_unlocked(tmp_path)
    other.kill()
    other.wait()
    check_unlocked(tmp_path)


WRITE = """
import sys, time
from pathlib import Path
from deepreg_wf.utils.atomic import atomic_write
with atomic_write(Path(sys.argv[1])) as temporary:
    temporary.write_text('ha')
    print('held', flush=True)
    time.sleep(600)
"""


def test_drafts_of_the_dead_are_removed_and_those_of_the_living_stay(tmp_path):
    others = [start(WRITE, tmp_path / name) for name in ('a.txt', 'b.txt')]
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
