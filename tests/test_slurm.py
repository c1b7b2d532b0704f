"""Runs on a real SLURM: a cohort as an array of jobs, and each step as a job."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest
from nilearn.datasets import load_mni152_brain_mask, load_mni152_template
from slurm import CannotRun, Slurm

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / 'docs' / 'cluster.md'
BATCH = [
    sys.executable,
    '-c',
    'import sys; from deepreg_wf.cli.batch import main; sys.exit(main())',
]


@pytest.fixture(scope='module')
def slurm() -> Iterator[Slurm]:
    try:
        with Slurm() as cluster:
            yield cluster
    except CannotRun as reason:
        pytest.skip(f'no SLURM: {reason}')


def write_dataset(bids: Path, *labels: str) -> None:
    """Write a brain at 4 mm for each participant, each at another position."""
    template = load_mni152_template(resolution=4)
    data = 1000 * template.get_fdata() * (load_mni152_brain_mask(resolution=4).get_fdata() > 0)
    for number, label in enumerate(labels):
        affine = template.affine.copy()
        affine[:3, 3] += [4 * number, -3, 2]
        path = bids / f'sub-{label}' / 'anat' / f'sub-{label}_T1w.nii.gz'
        path.parent.mkdir(parents=True)
        nb.Nifti1Image(data.astype(np.float32), affine).to_filename(path)
    description = {'Name': 'tiny', 'BIDSVersion': '1.10.0'}
    (bids / 'dataset_description.json').write_text(json.dumps(description))


# Arrays of jobs that run small commands in place of deepreg_wf -----------------------------------


class Cohort:
    """Dataset whose images are never read, and its batches."""

    def __init__(self, folder: Path, slurm: Slurm) -> None:
        self.folder, self.out, self._slurm = folder, folder / 'out', slurm
        for label in ('01', '02'):
            path = folder / 'bids' / f'sub-{label}' / 'anat' / f'sub-{label}_T1w.nii.gz'
            path.parent.mkdir(parents=True)
            path.touch()
        description = {'Name': 'empty', 'BIDSVersion': '1.10.0'}
        (folder / 'bids' / 'dataset_description.json').write_text(json.dumps(description))

    def __call__(self, *words: str, script: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run ``deepreg_wf-batch``; each task runs `script` with the options as its arguments."""
        call = [*BATCH, 'bids', 'out', *words]
        if script is not None:
            (self.folder / 'task.sh').write_text(script)
            call += ['--command', f'bash {self.folder}/task.sh']
        return subprocess.run(
            call, cwd=self.folder, env=self._slurm.environment, capture_output=True, text=True
        )

    def logs(self) -> dict[str, str]:
        """Return the logs of the tasks of the last batch, by the number of the task."""
        last = max((self.out / 'logs' / 'batch').iterdir())
        return {path.stem: path.read_text() for path in sorted(last.glob('*.out'))}


@pytest.fixture
def cohort(tmp_path: Path, slurm: Slurm) -> Cohort:
    return Cohort(tmp_path, slurm)


def test_a_task_gets_what_it_requests(cohort: Cohort, slurm: Slurm) -> None:
    """It gets its participant, settings, GPU, processors and the environment of the caller."""
    script = (
        'echo "gpu=$CUDA_VISIBLE_DEVICES cpus=$SLURM_CPUS_PER_TASK "'
        '"memory=$SLURM_MEM_PER_NODE call=$*"\necho "config $SLURM_CONF"'
    )
    options = ['--gpus', '1', '--nprocs', '1', '--mem-mb', '300', '--at-once', '1']
    done = cohort('--submit', *options, '--setup', 'echo ready', script=script)
    assert done.returncode == 0, done.stderr
    assert slurm.wait(120)
    logs = cohort.logs()
    assert list(logs) == ['task-1', 'task-2']
    for label, log in zip(('01', '02'), logs.values(), strict=True):
        first, second, third = log.splitlines()
        assert first == 'ready'
        assert second.startswith('gpu=0 cpus=1 memory=300 call=--config-file ')
        assert second.endswith(
            f'--participant-label sub-{label} --work-dir {cohort.folder}/work/sub-{label}'
        )
        assert third == f'config {slurm.environment["SLURM_CONF"]}'


def test_the_state_of_the_cohort_is_reported_while_it_runs_and_afterwards(
    cohort: Cohort, slurm: Slurm
) -> None:
    script = 'echo "a word: of $4"\nuntil [ -e go ]; do sleep 0.1; done\n[ "$4" = sub-01 ]'
    assert '0 waiting, 0 failed, 2 to do' in cohort('--status').stdout
    done = cohort('--submit', '--at-once', '1', '--nprocs', '1', script=script)
    assert done.returncode == 0, done.stderr
    until(lambda: '1 running, 1 waiting' in cohort('--status').stdout)
    again = cohort('--submit', script=script)
    assert again.returncode == 2
    assert 'in the queue' in again.stderr
    assert 'All are done, or in the queue.' in cohort('--resume', '--submit').stdout
    folder = max((cohort.out / 'logs' / 'batch').iterdir())
    (folder / 'go').touch()
    assert slurm.wait(120)
    status = cohort('--status')
    assert status.returncode == 1
    assert '1 done, 0 running, 0 waiting, 1 failed, 0 to do' in status.stdout
    assert 'sub-02 failed: a word: of sub-02; see ' in status.stdout
    resumed = cohort('--resume', '--submit', '--nprocs', '1', script='true')
    assert '1 tasks' in resumed.stdout
    assert slurm.wait(120)
    status = cohort('--status')
    assert (status.returncode, status.stdout) == (
        0,
        '2 participants: 2 done, 0 running, 0 waiting, 0 failed, 0 to do.\n',
    )


def test_a_task_that_the_scheduler_ends_is_reported_with_the_reason(
    cohort: Cohort, slurm: Slurm
) -> None:
    """One task takes too much memory, the other one is cancelled."""
    eat = f'{sys.executable} -c "import time; hold = bytearray(400 << 20); time.sleep(60)"'
    script = f'[ "$4" = sub-02 ] || exec {eat}\nexec sleep 60'
    cohort('--submit', '--nprocs', '1', '--mem-mb', '200', script=script)
    until(lambda: '1 running, 0 waiting, 1 failed' in cohort('--status').stdout)
    slurm.call('scancel', f'--user={os.getuid()}')
    assert slurm.wait(120)
    status = cohort('--status').stdout
    assert 'sub-01 failed: the scheduler ended it because it took more memory than' in status
    assert 'sub-02 failed: it was cancelled; see ' in status


def test_the_group_waits_for_all_tasks(cohort: Cohort, slurm: Slurm) -> None:
    script = 'echo "$*"; [ "$3" = group ] && cat task-1.out task-2.out; sleep 1; exit 2'
    done = cohort('--submit', '--group', '--nprocs', '1', script=script)
    assert done.returncode == 0, done.stderr
    assert slurm.wait(120)
    lines = cohort.logs()['group'].splitlines()
    assert lines[0] == f'{cohort.folder}/bids {cohort.out} group --nprocs 1'
    assert len(lines) == 3
    accounts = slurm.call('scontrol', '--oneliner', 'show', 'job')
    assert len(re.findall(r'ArrayTaskId=.*ExitCode=1:0', accounts)) >= 2


def test_a_batch_that_slurm_rejects_is_reported_in_a_sentence(cohort: Cohort) -> None:
    done = cohort('--submit', '--scheduler-option=--partition=nowhere', script='true')
    assert done.returncode == 2
    assert re.fullmatch(r'deepreg_wf-batch: [^\n]*invalid partition[^\n]*\.\n', done.stderr)


def until(condition: object, timeout: float = 120) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.3)


# Steps as jobs --------------------------------------------------------------------------------


def allocate(megabytes, seconds):
    """Take memory for a while; Nipype runs this function from its source."""
    import time

    held = bytearray(megabytes << 20)
    time.sleep(seconds)
    return len(held)


def make_workflow(folder: Path, **steps: tuple[int, int]):
    """Make a workflow of independent steps, each given by its megabytes and seconds."""
    from nipype.interfaces import utility as niu
    from nipype.pipeline import engine as pe

    workflow = pe.Workflow(name='steps', base_dir=str(folder))
    for name, (megabytes, seconds) in steps.items():
        node = pe.Node(niu.Function(['megabytes', 'seconds'], ['taken'], allocate), name=name)
        node.inputs.trait_set(megabytes=megabytes, seconds=seconds)
        node.plugin_args = {'sbatch_args': '--mem=300M'}
        workflow.add_nodes([node])
    timing = {'poll_sleep_duration': '0.2', 'job_finished_timeout': '1'}
    workflow.config['execution'] |= {
        **timing,
        'crashdump_dir': str(folder),
        'crashfile_format': 'txt',
    }
    return workflow


def test_a_step_that_slurm_ends_fails_with_the_reason_and_others_continue(
    tmp_path: Path, slurm: Slurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deepreg_wf.engine.crashes import read_crashes
    from deepreg_wf.engine.slurm import SlurmPlugin

    monkeypatch.setenv('SLURM_CONF', slurm.environment['SLURM_CONF'])
    monkeypatch.setenv('LOGNAME', 'somebody')
    workflow = make_workflow(tmp_path, small=(1, 0), large=(900, 60))
    with pytest.raises(RuntimeError):
        workflow.run(SlurmPlugin({'squeue_interval': 0.2}))
    (crash,) = read_crashes(tmp_path)
    assert crash.step == 'large'
    assert re.search('the scheduler ended it because it took more memory than', crash.reason)
    assert (tmp_path / 'steps' / 'small' / 'result_small.pklz').is_file()


def test_an_interrupted_run_leaves_no_jobs_behind(
    tmp_path: Path, slurm: Slurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deepreg_wf.engine.slurm import SlurmPlugin

    def interrupt(node, status):
        if node.name == 'quick' and status == 'end':
            raise KeyboardInterrupt

    monkeypatch.setenv('SLURM_CONF', slurm.environment['SLURM_CONF'])
    monkeypatch.setenv('LOGNAME', 'somebody')
    workflow = make_workflow(tmp_path, quick=(1, 0), long=(1, 600))
    with pytest.raises(KeyboardInterrupt):
        workflow.run(SlurmPlugin({'squeue_interval': 0.2, 'status_callback': interrupt}))
    assert slurm.wait(10)


# The commands of the documentation, with real brains ---------------------------------------------

COARSE = (
    '--registration-resolution 4 --momentum predict --refine 0 --sloppy --level minimal '
    '--template template.nii.gz --skull-strip skip --affine-method classical'
)


class Page:
    """Page of the documentation whose commands are run in a folder."""

    def __init__(self, folder: Path, slurm: Slurm) -> None:
        self.folder, self._slurm = folder, slurm
        write_dataset(folder / 'bids', '01', '02')
        shutil.copy(folder / 'bids/sub-01/anat/sub-01_T1w.nii.gz', folder / 'template.nii.gz')
        damaged = folder / 'bids/sub-02/anat/sub-02_T1w.nii.gz'
        (folder / 'scanner').mkdir()
        whole = damaged.read_bytes()
        (folder / 'scanner' / damaged.name).write_bytes(whole)
        damaged.write_bytes(whole[: len(whole) // 2])
        plugin = (ROOT / 'docs/plugins/slurm.yml').read_text('utf-8')
        quick = plugin.replace('squeue_interval: 5', 'squeue_interval: 0.5')
        (folder / 'slurm.yml').write_text(quick)
        _write_commands(folder / 'bin')

    def run_section(self, section: str) -> dict[str, subprocess.CompletedProcess[str]]:
        """Run the commands of a section one after the other, each when no job is left."""
        _, text = PAGE.read_text('utf-8').split(f'\n## {section}\n')
        lines = re.findall(r'```sh\n(.*?)```', text.split('\n## ')[0], re.S)
        return {line: self._run(line) for line in ''.join(lines).splitlines()}

    def _run(self, line: str) -> subprocess.CompletedProcess[str]:
        coarse = re.sub(r'(bids out( participant)?)', rf'\1 {COARSE}', line, count=1)
        one = coarse.replace('--work-dir', '--nprocs 1 --omp-nthreads 1 --work-dir')
        path = os.pathsep.join((str(self.folder / 'bin'), os.environ['PATH']))
        environment = {
            name: value
            for name, value in (self._slurm.environment | {'PATH': path}).items()
            if name != 'LOGNAME'
        }
        done = subprocess.run(
            ['bash', '-c', one], cwd=self.folder, env=environment, capture_output=True, text=True
        )
        assert self._slurm.wait(600)
        return done


def _write_commands(folder: Path) -> None:
    """Write the commands of the package, as its installation does."""
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text('utf-8'))['project']
    folder.mkdir()
    for name, target in project['scripts'].items():
        module, function = target.split(':')
        code = f'import sys\nfrom {module} import {function}\nsys.exit({function}())\n'
        (folder / name).write_text(f'#!{sys.executable}\n{code}')
        (folder / name).chmod(0o755)


@pytest.fixture(scope='module')
def array(
    tmp_path_factory: pytest.TempPathFactory, slurm: Slurm
) -> tuple[Path, dict[str, subprocess.CompletedProcess[str]]]:
    page = Page(tmp_path_factory.mktemp('array'), slurm)
    return page.folder, page.run_section('An array of jobs')


@pytest.mark.slow
def test_an_array_processes_a_cohort_and_then_its_group(array) -> None:
    folder, done = array
    for line, process in done.items():
        assert process.returncode == (1 if '--status' in line else 0), process.stderr
    status = next(process.stdout for line, process in done.items() if '--status' in line)
    assert '1 done, 0 running, 0 waiting, 1 failed, 0 to do' in status
    assert re.search('^sub-02 failed: reading the T1w image: .*truncated', status, re.M)
    for label in ('01', '02'):
        anat = folder / 'out' / f'sub-{label}' / 'anat'
        assert (anat / f'sub-{label}_from-T1w_to-custom_mode-image_xfm.h5').is_file()
    assert not (folder / 'out' / 'failed.tsv').exists()
    assert 'sub-02' in (folder / 'out' / 'group_desc-registration_qc.tsv').read_text()


@pytest.mark.slow
def test_completed_participants_are_not_submitted_again(array) -> None:
    _, done = array
    written, _, _, _, resumed, _ = done.values()
    assert '2 tasks' in written.stdout
    assert 'To submit: (cd ' in written.stdout
    assert '1 tasks: 1 processors' in resumed.stdout


@pytest.mark.slow
def test_each_step_is_a_job(tmp_path: Path, slurm: Slurm) -> None:
    page = Page(tmp_path, slurm)
    (done,) = page.run_section('One job for each step').values()
    assert done.returncode == 1, done.stderr
    assert re.search('^\\[sub-02\\] .*truncated', done.stderr, re.M)
    assert '1 done, 1 failed' in done.stdout
    assert (tmp_path / 'out' / 'sub-02.html').is_file()
    transform = 'sub-01/anat/sub-01_from-custom_to-T1w_mode-image_xfm.h5'
    assert (tmp_path / 'out' / transform).is_file()
    scripts = list((tmp_path / 'steps').rglob('batchscript_*skullstrip*.sh'))
    assert len(scripts) == 1
    assert not list((tmp_path / 'steps').rglob('batchscript_*save_*.sh'))
