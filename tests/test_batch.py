"""Arrays of jobs: the scripts that are written, and the reported state of a cohort."""

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

from deepreg_wf.app.batch.slurm import TASK_ID
from deepreg_wf.cli.batch import main
from deepreg_wf.cli.parser import parse_settings
from deepreg_wf.engine.failures import Failure, update_failures
from deepreg_wf.engine.usage import ResourceMonitor, write_usage
from deepreg_wf.settings import Settings

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Call:
    """Runner of the command beside a dataset of three participants, the last without an image."""
    for label in ('01', '02', '03'):
        anat = tmp_path / 'bids' / f'sub-{label}' / 'ses-a' / 'anat'
        anat.mkdir(parents=True)
        if label != '03':
            (anat / f'sub-{label}_ses-a_T1w.nii.gz').touch()
    description = {'Name': 'empty', 'BIDSVersion': '1.10.0'}
    (tmp_path / 'bids' / 'dataset_description.json').write_text(json.dumps(description))
    monkeypatch.chdir(tmp_path)
    # SLURM is not found, even if it is installed on this machine.
    monkeypatch.setenv('PATH', str(tmp_path / 'nothing'))

    def run(*words: str) -> tuple[int, str, str]:
        status = main(['bids', 'out', *words])
        return (status, *capsys.readouterr())

    return run


def last_batch(folder: Path) -> Path:
    return max((folder / 'out' / 'logs' / 'batch').iterdir())


def finish(out: Path, label: str) -> None:
    """Write the records of a completed run of one participant."""
    folder = out / f'sub-{label}' / 'log' / '20260101-000000_0'
    folder.mkdir(parents=True)
    settings = Settings.from_options({'bids_dir': 'bids', 'output_dir': str(out)})
    (folder / 'deepreg_wf.toml').write_text(settings.to_toml())
    write_usage(folder, ResourceMonitor(), Participants=1, Processors=2, Plugin='MultiProc')


# Scripts ----------------------------------------------------------------------------------------


def test_a_task_processes_the_participant_on_its_line(call: Call, tmp_path: Path) -> None:
    """The script is run as SLURM does, with another program in place of deepreg_wf."""
    script = tmp_path / 'a task.sh'
    script.write_text('echo "$@"; exit 2\n')
    command = f'bash {shlex.quote(str(script))}'
    words = ['--command', command, '-w', 'my work', '--setup', 'x=1']
    status, out, err = call(*words, '--gpus', '1', '--refine', '7')
    assert (status, err) == (0, '')
    assert 'Without an image: 03' in out
    folder = last_batch(tmp_path)
    environment = {TASK_ID: '2', 'PATH': os.defpath}
    done = subprocess.run(
        ['/bin/bash', folder / 'array.sh'], env=environment, capture_output=True, text=True
    )
    assert shlex.split(done.stdout, posix=False) == [
        *('--config-file', f'{folder}/settings.toml', '--participant-label', 'sub-02'),
        *('--work-dir', *f'{tmp_path}/my work/sub-02'.split()),
    ]
    assert (done.returncode, (folder / 'task-2.status').read_text()) == (1, '1\n')
    settings = Settings.from_toml((folder / 'settings.toml').read_text())
    assert settings.registration.refine == 7
    assert settings.execution.nprocs == 2
    assert settings.execution.mem_mb < 3072


def add_image(bids_dir: Path, label: str) -> None:
    anat = bids_dir / f'sub-{label}' / 'anat'
    anat.mkdir(parents=True)
    (anat / f'sub-{label}_T1w.nii.gz').touch()


def test_blanks_in_labels_do_not_shift_the_tasks(call: Call, tmp_path: Path) -> None:
    odd = ['0 1', ' b', "e'$(f)", '-w']
    for label in odd:
        add_image(tmp_path / 'bids', label)
    script = tmp_path / 'task.sh'
    script.write_text('printf "%s\\n" "$@"\n')
    words = ['--command', f'bash {script}', '--session-label', 'a', 'b c', '-w', 'work']
    assert call(*words)[0] == 0
    folder = last_batch(tmp_path)
    labels = sorted(['01', '02', *odd])
    for task, label in enumerate(labels, start=1):
        environment = {TASK_ID: str(task), 'PATH': os.defpath}
        command = ['/bin/bash', folder / 'array.sh']
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        _, config, _, given, _, work_dir = done.stdout.splitlines()
        assert (given, work_dir) == (f'sub-{label}', f'{tmp_path}/work/sub-{label}')
        selection = parse_settings(['--config-file', config, '--participant-label', given])
        assert selection.selection.participant_label == (label,)
        assert selection.selection.session_label == ('a', 'b c')
        (folder / f'task-{task}.status').write_text('0\n')
    assert call('--status')[1].startswith(f'{len(labels)} participants: {len(labels)} done')


@pytest.mark.parametrize('label', ['a\nb', 'a\rb', 'a\tb', 'a\u00a0b'])
def test_a_label_that_cannot_stand_on_a_line_is_refused(
    label: str, call: Call, tmp_path: Path
) -> None:
    add_image(tmp_path / 'bids', label)
    status, _, err = call()
    assert status == 2
    assert f'the label {label!r} has a character that cannot be printed' in err
    assert err.count('\n') == 1
    assert not list((tmp_path / 'out').rglob('*.sh'))


def test_the_options_are_written_as_directives_of_slurm(call: Call, tmp_path: Path) -> None:
    words = ['--nprocs', '4', '--mem-mb', '9000', '--time', '1:29:30', '--gpus', '2']
    words += ['--at-once', '5', '--scheduler-option=--mine=x y', '--group']
    status, out, _ = call(*words)
    assert status == 0
    batch = last_batch(tmp_path)
    script = (batch / 'array.sh').read_text().splitlines()
    expected = [
        f'#SBATCH --job-name=deepreg_wf-{batch.name}',
        '#SBATCH --cpus-per-task=4',
        '#SBATCH --mem=9000M',
        '#SBATCH --time=01:30:00',
        '#SBATCH --array=1-2%5',
        '#SBATCH --output=task-%a.out',
        '#SBATCH --gres=gpu:2',
        '#SBATCH --mine=x y',
    ]
    # SLURM stops reading directives at the first command.
    assert script[1 : 1 + len(expected)] == expected
    group = (batch / 'group.sh').read_text()
    assert f'{tmp_path}/bids {tmp_path}/out group --nprocs 4' in group
    assert '#SBATCH --output=group.out' in group
    assert '--array' not in group
    commands = re.findall(r'^To submit: \(cd (.+) && (.+)\)$', out, re.M)
    assert commands == [
        (str(batch), 'sbatch --parsable array.sh'),
        (str(batch), 'sbatch --dependency=afterany:JOB --parsable group.sh'),
    ]


def test_a_large_cohort_is_split_into_arrays_that_slurm_accepts(
    call: Call, tmp_path: Path
) -> None:
    for number in range(1200):
        anat = tmp_path / 'bids' / f'sub-a{number:04d}' / 'anat'
        anat.mkdir(parents=True)
        (anat / f'sub-a{number:04d}_T1w.nii.gz').touch()
    assert call()[0] == 0
    folders = sorted((tmp_path / 'out' / 'logs' / 'batch').iterdir())
    lists = [(folder / 'participants.txt').read_text().split() for folder in folders]
    assert [len(labels) for labels in lists] == [1000, 202]
    assert len(set(lists[0] + lists[1])) == 1202


def test_a_task_without_a_gpu_uses_the_cpu(call: Call, tmp_path: Path) -> None:
    def device(*words: str) -> str:
        assert call(*words)[0] == 0
        text = (last_batch(tmp_path) / 'settings.toml').read_text()
        return Settings.from_toml(text).execution.device

    assert device() == 'cpu'
    assert device('--gpus', 'a100:1') == 'auto'
    assert device('--device', 'cuda') == 'cuda'
    assert '--gres=gpu:1' in (last_batch(tmp_path) / 'array.sh').read_text()


# Resources --------------------------------------------------------------------------------------


def test_a_task_requests_the_defaults_unless_resources_are_given(call: Call) -> None:
    assert '2 tasks: 2 processors, 3072 MiB, 120 min each\n' in call()[1]
    assert '4096 MiB' in call('--registration-resolution', '1')[1]
    words = ['--nprocs', '3', '--mem-mb', '700', '--time', '30', '--gpus', 'a100:1']
    assert '3 processors, 700 MiB, 30 min, gpu:a100:1 each\n' in call(*words)[1]


def test_the_memory_of_child_processes_is_measured() -> None:
    code = 'import time; held = bytearray(300 << 20); time.sleep(2)'
    with ResourceMonitor() as monitor:
        children = [subprocess.Popen([sys.executable, '-c', code]) for _ in range(2)]
        for child in children:
            child.wait()
    assert monitor.memory_mb > 600
    assert monitor.seconds >= 2


# State of the cohort ----------------------------------------------------------------------------


def test_runs_outside_of_a_batch_count(call: Call, tmp_path: Path) -> None:
    out = tmp_path / 'out'
    assert call('--status')[:2] == (
        0,
        '2 participants: 0 done, 0 running, 0 waiting, 0 failed, 2 to do.\n',
    )
    finish(out, '01')
    finish(out, '02')
    failure = Failure(participant='02', image='sub-02', step='resampling', reason='no room.')
    update_failures(out / 'failed.tsv', [failure], ['02'])
    status, printed, _ = call('--status')
    assert status == 1
    lines = printed.splitlines()
    assert lines[0] == '2 participants: 1 done, 0 running, 0 waiting, 1 failed, 0 to do.'
    assert re.fullmatch(r'sub-02 failed: resampling: no room; see .*20260101-000000_0\.', lines[1])
    assert '1 tasks' in call('--resume')[1]
    assert (last_batch(tmp_path) / 'participants.txt').read_text() == '02\n'
    update_failures(out / 'failed.tsv', [], ['02'])
    assert 'All are done' in call('--resume')[1]


def test_the_latest_task_or_run_of_a_participant_counts(call: Call, tmp_path: Path) -> None:
    """A task that SLURM ends after a successful run, and a successful run after that."""
    finish(tmp_path / 'out', '01')
    call()
    batch = last_batch(tmp_path)
    (batch / 'task-1.out').write_text('one\nslurmstepd: error: *** JOB 7 DUE TO TIME LIMIT ***\n')
    printed = call('--status')[1]
    assert '0 done, 0 running, 0 waiting, 1 failed, 1 to do' in printed
    reason = 'the scheduler ended it because it reached its time limit'
    assert f'sub-01 failed: {reason}; see ' in printed
    (batch / 'task-2.out').write_text('bash: deepreg_wf: not found\n')
    (batch / 'task-2.status').write_text('127\n')
    assert 'sub-02 failed: bash: deepreg_wf: not found; see ' in call('--status')[1]
    (tmp_path / 'out' / 'sub-01' / 'log' / '20260101-000000_0').rename(tmp_path / 'old')
    finish(tmp_path / 'out', '01')
    assert '1 done, 0 running, 0 waiting, 1 failed, 0 to do' in call('--status')[1]


@pytest.mark.parametrize(
    ('line', 'reason'),
    [
        ('slurmstepd: error: Detected 1 oom-kill event(s) in StepId=4.batch.', 'more memory'),
        ('slurmstepd: error: Detected 1 oom_kill event in StepId=4.batch.', 'more memory'),
        ('slurmstepd-n1: error: *** JOB 4 ON n1 CANCELLED AT 2026 DUE TO TIME LIMIT ***', 'time'),
        ('slurmstepd: error: *** JOB 4 ON n1 CANCELLED AT 2026 ***', 'cancelled'),
        ('slurmstepd: error: *** JOB 4 CANCELLED AT 2026 DUE TO NODE FAILURE ***', 'machine'),
        ('[sub-01] a line that only mentions a memory limit', 'before it was done'),
    ],
)
def test_the_messages_of_slurm_are_understood(
    call: Call, tmp_path: Path, line: str, reason: str
) -> None:
    call()
    (last_batch(tmp_path) / 'task-1.out').write_text(f'2026 [sub-01] step … done\n{line}\n')
    (failed,) = call('--status')[1].splitlines()[1:]
    assert reason in failed


def test_nothing_is_submitted_while_the_queue_does_not_answer(call: Call, tmp_path: Path) -> None:
    folder = tmp_path / 'nothing'
    folder.mkdir()
    (folder / 'squeue').write_text('#!/bin/sh\necho "slurm_load_jobs error: no" >&2\nexit 1\n')
    (folder / 'squeue').chmod(0o755)
    assert call()[0] == 0  # nothing can be in the queue
    status, _, err = call('--resume')
    assert status == 2
    assert err == (
        'deepreg_wf-batch: squeue does not answer (slurm_load_jobs error: no); try again later.\n'
    )
    for task in (1, 2):
        (last_batch(tmp_path) / f'task-{task}.status').write_text('0\n')
    assert call('--status')[0] == 0


# Unusable calls ---------------------------------------------------------------------------------


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
def test_an_unusable_call_ends_with_one_sentence(
    call: Call, words: list[str], reason: str
) -> None:
    status, _, err = call(*words)
    assert status == 2
    assert re.fullmatch(rf'deepreg_wf-batch: [^\n]*{reason}[^\n]*\.\n', err)


@pytest.mark.parametrize(
    'words',
    [
        ['--time', '1:30'],
        ['--time', '0'],
        ['--at-once', '-1'],
        ['--submit', '--status'],
        ['--unknown'],
    ],
)
def test_malformed_options_are_rejected(call: Call, words: list[str]) -> None:
    with pytest.raises(SystemExit, match='2'):
        call(*words)
