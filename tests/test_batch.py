"""An array of jobs: what is written for each scheduler, and what is told of a cohort."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from deepreg_wf.app.batch.schedulers import SCHEDULERS
from deepreg_wf.cli.batch import main
from deepreg_wf.engine.failures import Failure, update_table
from deepreg_wf.engine.usage import Meter, write_usage
from deepreg_wf.settings import Settings

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Call:
    """Run the command beside a dataset of three participants, the last one without an image."""
    for label in ('01', '02', '03'):
        anat = tmp_path / 'bids' / f'sub-{label}' / 'ses-a' / 'anat'
        anat.mkdir(parents=True)
        if label != '03':
            (anat / f'sub-{label}_ses-a_T1w.nii.gz').touch()
    description = {'Name': 'empty', 'BIDSVersion': '1.10.0'}
    (tmp_path / 'bids' / 'dataset_description.json').write_text(json.dumps(description))
    monkeypatch.chdir(tmp_path)
    # No scheduler is asked, whatever there is on this machine.
    monkeypatch.setenv('PATH', str(tmp_path / 'nothing'))

    def run(*words: str) -> tuple[int, str, str]:
        status = main(['bids', 'out', *words])
        return (status, *capsys.readouterr())

    return run


def last_batch(folder: Path) -> Path:
    return max((folder / 'out' / 'logs' / 'batch').iterdir())


def finish(
    out: Path, label: str, *, memory_mb: float = 1000, seconds: float = 600, **options: object
) -> None:
    """Leave behind what a run of one participant does."""
    folder = out / f'sub-{label}' / 'log' / '20260101-000000_0'
    folder.mkdir(parents=True)
    settings = Settings.from_options({'bids_dir': 'bids', 'output_dir': str(out), **options})
    (folder / 'deepreg_wf.toml').write_text(settings.to_toml())
    meter = Meter()
    meter.memory_mb, meter.seconds = memory_mb, seconds
    write_usage(folder, meter, Participants=1, Processors=2, Plugin='MultiProc')


# What is written -------------------------------------------------------------------------------


@pytest.mark.parametrize('scheduler', SCHEDULERS)
def test_a_task_does_the_participant_on_its_line(
    call: Call, tmp_path: Path, scheduler: str
) -> None:
    """Each script is run as its scheduler does, with another program in the place of ours."""
    script = tmp_path / 'a task.sh'
    script.write_text('echo "$@"; exit 2\n')
    command = f'bash {shlex.quote(str(script))}'
    words = ['--scheduler', scheduler, '--command', command, '-w', 'my work', '--setup', 'x=1']
    status, out, err = call(*words, '--gpus', '1', '--refine', '7')
    assert (status, err) == (0, '')
    assert 'Without an image: 03' in out
    folder = last_batch(tmp_path)
    environment = {SCHEDULERS[scheduler].index: '2', 'PATH': os.defpath}
    done = subprocess.run(
        ['/bin/bash', folder / 'array.sh'], env=environment, capture_output=True, text=True
    )
    assert shlex.split(done.stdout, posix=False) == [
        *('--config-file', f'{folder}/settings.toml', '--participant-label', '02'),
        *('--work-dir', *f'{tmp_path}/my work/sub-02'.split()),
    ]
    assert (done.returncode, (folder / 'task-2.status').read_text()) == (1, '1\n')
    settings = Settings.from_toml((folder / 'settings.toml').read_text())
    assert settings.registration.refine == 7
    assert settings.execution.nprocs == 2
    assert settings.execution.mem_mb < 3072


ASKED = {
    'slurm': [
        '--array=1-2%5',
        '--cpus-per-task=4',
        '--mem=9000M',
        '--time=01:30:00',
        '--gres=gpu:2',
    ],
    'sge': ['-t 1-2 -tc 5', '-pe smp 4', 'h_vmem=2250M', 'h_rt=01:30:00', '-l gpu=2'],
    'pbs': ['-J 1-2%5', ':ncpus=4:mem=9000mb:ngpus=2', 'walltime=01:30:00'],
    'lsf': ['[1-2]%5', '-n 4', 'rusage[mem=9000]', '-W 01:30', 'num=2'],
}


@pytest.mark.parametrize('scheduler', SCHEDULERS)
def test_a_scheduler_is_asked_in_its_own_words(call: Call, tmp_path: Path, scheduler: str) -> None:
    words = ['--nprocs', '4', '--mem-mb', '9000', '--time', '1:29:30', '--gpus', '2']
    words += ['--at-once', '5', '--scheduler-option=--mine=x y', '--group']
    status, out, _ = call('--scheduler', scheduler, *words)
    assert status == 0
    mark = SCHEDULERS[scheduler].mark
    script = (last_batch(tmp_path) / 'array.sh').read_text()
    asked = [line for line in script.splitlines() if line.startswith(mark)]
    assert f'{mark} --mine=x y' in asked
    for words in ASKED[scheduler]:
        assert any(words in line for line in asked), words
    # After all that is said to the scheduler, and not between.
    assert script.splitlines()[1 : 1 + len(asked)] == asked
    group = (last_batch(tmp_path) / 'group.sh').read_text()
    assert f'{tmp_path}/bids {tmp_path}/out group --nprocs 4' in group
    commands = re.findall(r'^To submit: \(cd (.+) && (.+)\)$', out, re.M)
    assert [folder for folder, _ in commands] == [str(last_batch(tmp_path))] * 2
    assert 'JOB' in commands[1][1]


def test_an_array_is_as_large_as_slurm_takes_and_no_larger(call: Call, tmp_path: Path) -> None:
    for number in range(1200):
        anat = tmp_path / 'bids' / f'sub-a{number:04d}' / 'anat'
        anat.mkdir(parents=True)
        (anat / f'sub-a{number:04d}_T1w.nii.gz').touch()
    assert call()[0] == 0
    folders = sorted((tmp_path / 'out' / 'logs' / 'batch').iterdir())
    lists = [(folder / 'participants.txt').read_text().split() for folder in folders]
    assert [len(labels) for labels in lists] == [1000, 202]
    assert len(set(lists[0] + lists[1])) == 1202


def test_without_a_gpu_a_task_computes_on_processors(call: Call, tmp_path: Path) -> None:
    def device(*words: str) -> str:
        assert call(*words)[0] == 0
        text = (last_batch(tmp_path) / 'settings.toml').read_text()
        return Settings.from_toml(text).execution.device

    assert device() == 'cpu'
    assert device('--gpus', 'a100:1') == 'auto'
    assert device('--device', 'cuda') == 'cuda'
    assert '--gres=gpu:1' in (last_batch(tmp_path) / 'array.sh').read_text()


# What a task asks for ----------------------------------------------------------------------------


def test_what_others_used_is_asked_for(call: Call, tmp_path: Path) -> None:
    assert '2 processors, 3072 MiB, 120 min each (a guess' in call()[1]
    assert '4096 MiB' in call('--registration-resolution', '1')[1]
    finish(tmp_path / 'out', '01', memory_mb=2000, seconds=1200)
    finish(tmp_path / 'out', '02', memory_mb=900, seconds=3600)
    told = call()[1]
    assert '2 processors, 2560 MiB, 180 min each (2 runs took up to 2000 MiB and 60 min)' in told
    assert 'a guess' in call('--registration-resolution', '1')[1]
    assert 'a guess' in call('--nprocs', '3')[1]
    assert '2 processors, 700 MiB, 30 min' in call('--mem-mb', '700', '--time', '30')[1]


def test_the_meter_counts_what_child_processes_hold() -> None:
    code = 'import time; held = bytearray(300 << 20); time.sleep(2)'
    with Meter() as meter:
        children = [subprocess.Popen([sys.executable, '-c', code]) for _ in range(2)]
        for child in children:
            child.wait()
    assert meter.memory_mb > 600
    assert meter.seconds >= 2


# What is told -----------------------------------------------------------------------------------


def test_a_cohort_is_done_whoever_did_it(call: Call, tmp_path: Path) -> None:
    out = tmp_path / 'out'
    assert call('--status')[:2] == (
        0,
        '2 participants: 0 done, 0 running, 0 waiting, 0 failed, 2 to do.\n',
    )
    finish(out, '01')
    finish(out, '02')
    failure = Failure(participant='02', image='sub-02', step='resampling', reason='no room.')
    update_table(out / 'failed.tsv', [failure], ['02'])
    status, told, _ = call('--status')
    assert status == 1
    lines = told.splitlines()
    assert lines[0] == '2 participants: 1 done, 0 running, 0 waiting, 1 failed, 0 to do.'
    assert re.fullmatch(r'sub-02 failed: resampling: no room; see .*20260101-000000_0\.', lines[1])
    assert '1 tasks' in call('--resume')[1]
    assert (last_batch(tmp_path) / 'participants.txt').read_text() == '02\n'
    update_table(out / 'failed.tsv', [], ['02'])
    assert 'All are done' in call('--resume')[1]


def test_the_latest_word_on_a_participant_counts(call: Call, tmp_path: Path) -> None:
    """A task that was ended after a run that went well, and a run that goes well after that."""
    finish(tmp_path / 'out', '01')
    call()
    batch = last_batch(tmp_path)
    (batch / 'task-1.out').write_text('one\nslurmstepd: error: *** JOB 7 DUE TO TIME LIMIT ***\n')
    told = call('--status')[1]
    assert '0 done, 0 running, 0 waiting, 1 failed, 1 to do' in told
    assert 'sub-01 failed: the scheduler ended it, for its time was over; see ' in told
    (batch / 'task-2.out').write_text('bash: deepreg_wf: not found\n')
    (batch / 'task-2.status').write_text('127\n')
    assert 'sub-02 failed: bash: deepreg_wf: not found; see ' in call('--status')[1]
    (tmp_path / 'out' / 'sub-01' / 'log' / '20260101-000000_0').rename(tmp_path / 'old')
    finish(tmp_path / 'out', '01')
    assert '1 done, 0 running, 0 waiting, 1 failed, 0 to do' in call('--status')[1]


@pytest.mark.parametrize(
    ('said', 'meant'),
    [
        ('slurmstepd: error: Detected 1 oom-kill event(s) in StepId=4.batch.', 'more memory'),
        ('slurmstepd: error: Detected 1 oom_kill event in StepId=4.batch.', 'more memory'),
        ('slurmstepd-n1: error: *** JOB 4 ON n1 CANCELLED AT 2026 DUE TO TIME LIMIT ***', 'time'),
        ('slurmstepd: error: *** JOB 4 ON n1 CANCELLED AT 2026 ***', 'cancelled'),
        ('slurmstepd: error: *** JOB 4 CANCELLED AT 2026 DUE TO NODE FAILURE ***', 'node'),
        ('=>> PBS: job killed: mem 9kb exceeded limit 8kb', 'more memory'),
        ('=>> PBS: job killed: walltime 70 exceeded limit 60', 'time'),
        ('TERM_RUNLIMIT: job killed after reaching LSF run time limit.', 'time'),
        ('[sub-01] a memory limit that is only spoken of', 'in the middle'),
    ],
)
def test_what_a_scheduler_says_is_understood(
    call: Call, tmp_path: Path, said: str, meant: str
) -> None:
    call()
    (last_batch(tmp_path) / 'task-1.out').write_text(f'2026 [sub-01] step … done\n{said}\n')
    (line,) = call('--status')[1].splitlines()[1:]
    assert meant in line


def test_a_queue_that_does_not_answer_is_told_and_nothing_submitted_twice(
    call: Call, tmp_path: Path
) -> None:
    folder = tmp_path / 'nothing'
    folder.mkdir()
    (folder / 'squeue').write_text('#!/bin/sh\necho "slurm_load_jobs error: no" >&2\nexit 1\n')
    (folder / 'squeue').chmod(0o755)
    assert call()[0] == 0  # nothing can be in the queue
    status, _, err = call('--resume')
    assert status == 2
    assert err == (
        'deepreg_wf-batch: slurm: squeue does not answer (slurm_load_jobs error: no); '
        'try again later.\n'
    )
    for task in (1, 2):
        (last_batch(tmp_path) / f'task-{task}.status').write_text('0\n')
    assert call('--status')[0] == 0
    assert call('--status', '--scheduler', 'sge')[0] == 0


# What is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('words', 'reason'),
    [
        (['--submit'], 'there is no sbatch on this machine'),
        (['--participant-label', '09'], 'no participant 09'),
        (['--participant-label', '03', '--refine', '-1'], 'out of range'),
        (['--bids-database-dir', 'db'], 'bids_database_dir: .*leave it out'),
        (['--use-plugin', 'bids/dataset_description.json'], 'use_plugin: .*leave it out'),
    ],
)
def test_a_call_that_cannot_work_is_told_so(call: Call, words: list[str], reason: str) -> None:
    status, _, err = call(*words)
    assert status == 2
    assert re.fullmatch(rf'deepreg_wf-batch: [^\n]*{reason}[^\n]*\.\n', err)


@pytest.mark.parametrize(
    'words',
    [
        ['--time', '1:30'],
        ['--time', '0'],
        ['--at-once', '-1'],
        ['--scheduler', 'cron'],
        ['--submit', '--status'],
        ['--unknown'],
    ],
)
def test_words_that_mean_nothing_are_refused(call: Call, words: list[str]) -> None:
    with pytest.raises(SystemExit, match='2'):
        call(*words)
