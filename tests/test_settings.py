"""Settings: TOML round trip, validation and defaults."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest

from deepreg_wf.cli.parser import parse_settings
from deepreg_wf.errors import InputError
from deepreg_wf.settings import DEFAULT_SPACE, Compute, Settings, default_of, read_options

PLACES = {'bids_dir': '/data/bids', 'output_dir': '/data/out'}
EVERYTHING = PLACES | {
    'participant_label': ('01', 'Ünïcode'),
    'session_label': ('pre',),
    'bids_filter_file': '/data/a "quoted" name.json',
    'bids_database_dir': '/data/db',
    'skip_bids_validation': True,
    'skull_strip': 'force',
    'skull_strip_method': 'synthstrip',
    'skull_strip_model': '/data/synthstrip.1.pt',
    'affine_method': 'icstn',
    'affine_polish': False,
    'momentum': 'predict',
    'derivatives': ('smriprep=/data/smriprep',),
    'refine': 7,
    'uncertainty': 20,
    'weights': '/data/networks',
    'direction': 'subject-to-template',
    'registration_resolution': 1.1,
    'allow_download': True,
    'level': 'minimal',
    'reports_only': True,
    'template': '/data/with space/tpl-Lab_T1w.nii.gz',
    'device': 'cuda:1',
    'nprocs': 7,
    'omp_nthreads': 3,
    'n_gpu_procs': 2,
    'batch_size': 8,
    'mem_mb': 1234,
    'use_plugin': '/data/plugin.yml',
    'work_dir': '/scratch/work',
    'clean_workdir': True,
    'stop_on_first_crash': True,
    'resource_monitor': True,
    'write_graph': True,
    'random_seed': 42,
    'sloppy': True,
    'verbose': 2,
}


@pytest.mark.parametrize(
    'options', [PLACES, EVERYTHING, PLACES | {'deterministic': True}], ids=['few', 'all', 'other']
)
def test_toml_round_trip_is_exact(options):
    settings = Settings.from_options(options)
    assert Settings.from_toml(settings.to_toml()) == settings
    assert Settings.from_toml(settings.to_toml(command_line='deepreg_wf "a b"')) == settings


def test_the_round_trip_covers_every_setting():
    settings = Settings.from_options(EVERYTHING)
    untouched = {'analysis_level', 'deterministic', 'output_spaces'}
    untouched |= {'boilerplate_only'}
    names = {field.name for group in fields(settings) for field in fields(_group(settings, group))}
    assert names == EVERYTHING.keys() | untouched


def _group(settings, group):
    return getattr(settings, group.name)


def test_paths_are_independent_of_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = Settings.from_options({'bids_dir': 'bids', 'output_dir': '~/out'})
    assert settings.selection.bids_dir == tmp_path / 'bids'
    assert settings.output.output_dir == Path.home() / 'out'
    text = settings.to_toml()
    monkeypatch.chdir('/')
    assert Settings.from_toml(text) == settings


def test_settings_are_immutable():
    settings = Settings.from_options(PLACES)
    with pytest.raises(FrozenInstanceError):
        settings.execution.nprocs = 3
    other = settings.replace('execution', nprocs=3)
    assert (settings.execution.nprocs, other.execution.nprocs) == (None, 3)


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        ({'bids_dir': '/data'}, 'output_dir: not given'),
        (PLACES | {'flavour': 'sweet'}, 'flavour: unknown setting'),
        (PLACES | {'nprocs': 0}, 'nprocs: 0 is out of range; give a value from 1 to 32768'),
        (PLACES | {'nprocs': True}, 'not a whole number'),
        (PLACES | {'sloppy': 'yes'}, 'not true or false'),
        (PLACES | {'registration_resolution': 0.1}, 'from 0.5 to 8'),
        (PLACES | {'registration_resolution': float('nan')}, 'out of range'),
        (PLACES | {'random_seed': -1}, 'random_seed: -1 is out of range'),
        (PLACES | {'momentum': 'guess'}, "'guess' is unknown; choose predict or predict+correct"),
        (PLACES | {'uncertainty': 1}, '1 sample has no spread'),
        (PLACES | {'skull_strip': 'perhaps'}, 'choose auto or force or skip'),
        (PLACES | {'device': 'tpu'}, "device: 'tpu' is unknown"),
        (PLACES | {'device': 'cuda:x'}, 'choose auto, cpu, cuda or cuda:N'),
        (PLACES | {'device': 'cuda', 'deterministic': True}, 'only on the CPU'),
        (PLACES | {'output_spaces': ('A:res-1', 'B', 'A:res-1')}, 'A:res-1 is asked for twice'),
        (PLACES | {'output_spaces': ()}, 'give spaces or a template image'),
        (PLACES | {'output_spaces': ('A',), 'template': '/t.nii'}, 'and not both'),
        (PLACES | {'participant_label': '01'}, 'not a list of words'),
    ],
)
def test_unusable_values_raise_input_errors(options, words):
    with pytest.raises(InputError, match='^[^\n]+\\.$') as caught:
        Settings.from_options(options)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('[execution]\nnproc = 3\n', "unknown key 'nproc' in [execution]"),
        ('[taste]\nsalt = 3\n', "unknown table or key 'taste'"),
        ('nprocs = 3\n', "unknown table or key 'nprocs'"),
        ('[execution\n', 'not a TOML file'),
    ],
)
def test_errors_in_a_settings_file_name_the_file(text, words):
    with pytest.raises(InputError, match=r'^run\.toml: [^\n]+\.$') as caught:
        read_options(text, source='run.toml')
    assert words in str(caught.value)


def test_facts_about_the_run_are_written_and_ignored_on_reading():
    text = Settings.from_options(PLACES).to_toml(command_line='deepreg_wf a b participant')
    assert 'command_line = "deepreg_wf a b participant"' in text
    assert 'run' not in read_options(text, source='run.toml')


def test_options_override_a_settings_file(tmp_path):
    config = tmp_path / 'run.toml'
    before = Settings.from_options(EVERYTHING)
    config.write_text(before.to_toml(), encoding='utf-8')
    assert parse_settings(['--config-file', str(config)]) == before
    again = parse_settings([f'--config-file={config}', '--nprocs', '2', '--random-seed', '0'])
    assert again == before.replace('execution', nprocs=2, random_seed=0)
    moved = parse_settings(
        ['/data/bids', '/elsewhere', 'participant', '--config-file', str(config)]
    )
    assert moved == before.replace('output', output_dir=Path('/elsewhere'))


@pytest.mark.parametrize('rival', [['--output-spaces', 'A:res-1'], ['--template', '/other.nii']])
@pytest.mark.parametrize('before', [{'template': '/lab.nii'}, {'output_spaces': ('B',)}])
def test_a_template_or_space_overrides_both_of_the_file(tmp_path, rival, before):
    config = tmp_path / 'run.toml'
    config.write_text(Settings.from_options(PLACES | before).to_toml(), encoding='utf-8')
    output = parse_settings(['--config-file', str(config), *rival]).output
    if rival[0] == '--template':
        assert (output.template, output.output_spaces) == (Path('/other.nii'), ())
    else:
        assert (output.template, output.output_spaces) == (None, ('A:res-1',))


def test_default_of_returns_the_default_of_the_settings():
    settings = Settings.from_options(PLACES)
    assert default_of('registration_resolution') == settings.registration.registration_resolution
    assert settings.output.output_spaces == (DEFAULT_SPACE,)
    with pytest.raises(InputError, match='unknown setting'):
        default_of('flavour')


def test_compute_has_the_defaults_of_the_execution_settings():
    for name in ('batch_size', 'random_seed', 'sloppy'):
        assert getattr(Compute(), name) == default_of(name)


def test_a_gpu_node_occupies_one_processor():
    on_cpu, on_gpu = (Compute(device=device, omp_nthreads=4) for device in ('cpu', 'cuda:1'))
    assert (on_cpu.use_gpu, on_cpu.n_procs) == (False, 4)
    assert (on_gpu.use_gpu, on_gpu.n_procs) == (True, 1)
