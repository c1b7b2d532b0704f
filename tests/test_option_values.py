"""Values of the options of all commands: what cannot be used is refused in one sentence."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from deepreg_wf.cli import values
from deepreg_wf.engine.resources import resolve_device
from deepreg_wf.errors import InputError
from deepreg_wf.settings import Execution, Registration, Settings, read_options
from deepreg_wf.utils.home import ensure_home

APP = 'bids out participant'
REGISTER = '--moving m.nii --fixed f.nii --output-prefix p'
CALLS = [
    ('main', f'{APP} --device cuda:²'),
    ('main', f'{APP} --device cuda:٣'),
    ('main', f'{APP} --device cuda:{"9" * 5000}'),
    ('main', f'{APP} --nprocs ²'),
    ('main', f'{APP} --nprocs {"9" * 5000}'),
    ('main', f'{APP} --mem-mb ²'),
    ('main', f'{APP} --mem-mb G'),
    ('main', f'{APP} --mem-mb -1'),
    ('main', f'{APP} --registration-resolution ٣'),
    ('main', f'{APP} --registration-resolution nan'),
    ('main', f'{APP} --random-seed -1'),
    ('main', f'{APP} -d a='),
    ('main', f'{APP} -d EMPTY'),
    ('main', f'{APP} --participant-label EMPTY'),
    ('main', f'{APP} --participant-label sub-'),
    ('main', f'{APP} --session-label ses-'),
    ('main', f'{APP} --output-spaces EMPTY'),
    ('main', 'EMPTY out participant'),
    ('main', 'bids EMPTY participant'),
    *(
        ('main', f'{APP} {option} EMPTY')
        for option in (
            *('--work-dir', '--config-file', '--bids-filter-file', '--bids-database-dir'),
            *('--template', '--weights', '--use-plugin', '--skull-strip-model'),
        )
    ),
    ('batch', 'bids out --time 0:00:00'),
    ('batch', 'bids out --time ²'),
    ('batch', 'bids out --at-once ²'),
    ('batch', 'bids out --gpus -1'),
    ('batch', 'bids out --gpus ²'),
    ('register', f'{REGISTER} --refine -1'),
    ('register', f'{REGISTER} --refine ²'),
    ('register', f'{REGISTER} --nprocs 0'),
    ('register', f'{REGISTER} --registration-resolution 0'),
    ('register', f'{REGISTER} --registration-resolution nan'),
    ('register', f'{REGISTER} --device cuda:²'),
    ('register', f'{REGISTER} --work-dir EMPTY'),
    ('register', '--moving m.nii --fixed f.nii --output-prefix EMPTY'),
    ('train', 'cohort out --features 0'),
    ('train', 'cohort out --spacing 0'),
    ('train', 'cohort out --rate nan'),
    ('train', 'cohort out --affine-steps -1'),
    ('train', 'cohort out --nprocs 0'),
    ('train', 'cohort out --resolution -2'),
    ('train', 'cohort out --device cuda:²'),
    ('train', 'cohort EMPTY'),
    ('convert', 'old new --dropout 1'),
    ('convert', 'old new --dropout nan'),
    ('convert', 'old EMPTY'),
    ('evaluate', 'pairs.tsv out --nprocs ²'),
    ('evaluate', f'pairs.tsv out --labels-of-interest {"9" * 30}'),
    ('evaluate', 'pairs.tsv EMPTY'),
    ('demo', 'EMPTY'),
    ('demo', 'out --refine -1'),
]


@pytest.mark.parametrize(('command', 'call'), CALLS, ids=[f'{c} {w[:60]}' for c, w in CALLS])
def test_a_value_that_cannot_be_used_is_refused_in_one_sentence(
    command: str,
    call: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ('m.nii', 'f.nii'):
        (tmp_path / name).touch()
    before = sorted(tmp_path.rglob('*'))
    words = ['' if word == 'EMPTY' else word for word in call.split()]
    try:
        status = import_module(f'deepreg_wf.cli.{command}').main(words)
    except SystemExit as ended:
        status = ended.code
    printed = capsys.readouterr()
    assert (status, printed.out) == (2, '')
    assert printed.err.count('\n') == 1
    assert printed.err.endswith('.\n')
    assert sorted(tmp_path.rglob('*')) == before


@pytest.mark.parametrize('name', ['output_dir', 'work_dir', 'template', 'weights'])
@pytest.mark.parametrize('value', ['', 'a\\u0000b'])
def test_a_settings_file_has_no_empty_path(name: str, value: str) -> None:
    groups = {'output_dir': 'output', 'template': 'output', 'work_dir': 'execution'}
    text = f'[{groups.get(name, "registration")}]\n{name} = "{value}"\n'
    options = {'bids_dir': '/b', 'output_dir': '/o', **read_options(text, source='run.toml')}
    with pytest.raises(InputError, match=rf'^{name}: [^\n]+\.$'):
        Settings.from_options(options)


def test_names_that_no_settings_file_can_hold_are_refused() -> None:
    with pytest.raises(InputError, match='not allowed'):
        Settings.from_options({'bids_dir': '/b', 'output_dir': os.fsdecode(b'/o\xff')})


@pytest.mark.parametrize(
    ('group', 'changes'),
    [
        (Registration, {'refine': -1}),
        (Registration, {'registration_resolution': float('nan')}),
        (Registration, {'momentum': 'guess'}),
        (Execution, {'work_dir': Path('/w'), 'nprocs': 0}),
        (Execution, {'work_dir': Path('/w'), 'device': 'cuda:²'}),
    ],
)
def test_a_group_of_settings_checks_itself(group: type, changes: dict) -> None:
    with pytest.raises(InputError, match=r'unknown|out of range'):
        group(**changes)


@pytest.mark.parametrize('device', ['cuda:²', 'cuda:٣', 'cuda:-1', 'cuda:', 'CUDA', ''])
def test_only_ascii_digits_number_a_device(device: str) -> None:
    with pytest.raises(InputError, match='is unknown; choose auto, cpu, cuda or cuda:N'):
        resolve_device(device)


@pytest.mark.parametrize(('text', 'mib'), [('8000', 8000), ('16G', 16384), ('1tb', 1024**2)])
def test_memory_may_have_a_unit(text: str, mib: int) -> None:
    assert values.mebibytes(text) == mib


@pytest.mark.parametrize('text', ['', '16K', '1.5G', '16GG', '-1', 'G16'])
def test_other_amounts_of_memory_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        values.mebibytes(text)


def test_a_named_pipe_as_settings_file_is_refused_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    os.mkfifo(tmp_path / 'pipe.toml')
    main = import_module('deepreg_wf.cli.main').main
    assert main(['--config-file', str(tmp_path / 'pipe.toml')]) == 2
    assert 'pipe.toml: it is a special file; give a regular file.' in capsys.readouterr().err


# Users without a home folder --------------------------------------------------------------------


def test_a_home_folder_is_set_only_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('HOME', '/somewhere')
    ensure_home()
    assert os.environ['HOME'] == '/somewhere'

    def fail(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.delenv('HOME')
    monkeypatch.setattr('pwd.getpwuid', fail)
    ensure_home()
    assert Path.home() == Path('/')


def test_a_user_without_home_and_name_gets_the_methods_text(tmp_path: Path) -> None:
    """As in a container that runs as a user without an entry in /etc/passwd."""
    (tmp_path / 'sitecustomize.py').write_text(
        'import pwd\ndef fail(*words):\n    raise KeyError(*words)\npwd.getpwuid = fail\n'
    )
    anat = tmp_path / 'bids' / 'sub-01' / 'anat'
    anat.mkdir(parents=True)
    (anat / 'sub-01_T1w.nii.gz').touch()
    unknown = ('HOME', 'USER', 'LOGNAME', 'LNAME', 'USERNAME')
    environment = {name: value for name, value in os.environ.items() if name not in unknown}
    call = [sys.executable, '-m', 'deepreg_wf', 'bids', 'out', 'participant', '-w', 'work']
    done = subprocess.run(
        [*call, '--skip-bids-validation', '--boilerplate-only'],
        cwd=tmp_path,
        env={**environment, 'PYTHONPATH': str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, '')
    assert (tmp_path / 'out' / 'logs' / 'CITATION.md').is_file()
