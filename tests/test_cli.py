"""The command line: options set settings, and a wrong call or a bad image is one sentence."""

from __future__ import annotations

import csv
import errno
import json
import re
from pathlib import Path

import nibabel as nb
import pytest
from processes import run_python

from deepreg_wf.app.run import run_app
from deepreg_wf.cli.errors import handle_errors
from deepreg_wf.cli.main import main
from deepreg_wf.cli.parser import build_parser, parse_settings
from deepreg_wf.engine.resources import plan_resources
from deepreg_wf.errors import InputError
from deepreg_wf.settings import Execution, Settings

CALL = ('/data/bids', '/data/out', 'participant')


def call(*words):
    """Run the real command line."""
    return run_python('-m', 'deepreg_wf', *words)


@pytest.fixture
def dataset(tmp_path, make_brain):
    """Dataset with a good brain (sub-01), a truncated image (sub-02) and no image (sub-03)."""
    root = tmp_path / 'bids'
    for label in ('01', '02'):
        anat = root / f'sub-{label}' / 'anat'
        anat.mkdir(parents=True)
        nb.save(make_brain(), anat / f'sub-{label}_T1w.nii.gz')
    whole = (anat / 'sub-02_T1w.nii.gz').read_bytes()
    (anat / 'sub-02_T1w.nii.gz').write_bytes(whole[: len(whole) // 2])
    (root / 'sub-03' / 'anat').mkdir(parents=True)
    content = {'Name': 'tiny', 'BIDSVersion': '1.10.0'}
    (root / 'dataset_description.json').write_text(json.dumps(content))
    return root


def assert_one_sentence(text):
    assert re.fullmatch(r'deepreg_wf: [^\n]+\.\n', text), text


# Options ----------------------------------------------------------------------------------------


@pytest.mark.parametrize('words', [['--version'], ['--help']])
def test_help_and_version_import_no_heavy_library(words):
    done = run_python('-X', 'importtime', '-m', 'deepreg_wf', *words)
    assert done.returncode == 0
    assert 'deepreg_wf' in done.stdout
    imported = {line.rpartition('|')[2].strip() for line in done.stderr.splitlines()}
    assert 'deepreg_wf.cli.parser' in imported
    assert imported.isdisjoint({'numpy', 'torch', 'nibabel', 'nipype', 'scipy', 'bids'})


OPTIONS = [
    ('--participant-label 01 sub-02', 'selection', 'participant_label', ('01', '02')),
    ('--participant_label 01', 'selection', 'participant_label', ('01',)),
    ('--session-label ses-pre post', 'selection', 'session_label', ('pre', 'post')),
    ('--bids-filter-file /f.json', 'selection', 'bids_filter_file', Path('/f.json')),
    ('--bids-database-dir /db', 'selection', 'bids_database_dir', Path('/db')),
    ('-d a=/x b=/y', 'selection', 'derivatives', ('a=/x', 'b=/y')),
    ('--derivatives /x', 'selection', 'derivatives', ('/x',)),
    ('--skip-bids-validation', 'selection', 'skip_bids_validation', True),
    ('--skip_bids_validation', 'selection', 'skip_bids_validation', True),
    ('--skull-strip force', 'anatomical', 'skull_strip', 'force'),
    ('--skull-strip-t1w skip', 'anatomical', 'skull_strip', 'skip'),
    ('--skull-strip-method deepbet', 'anatomical', 'skull_strip_method', 'deepbet'),
    ('--skull-strip-model /m.pt', 'anatomical', 'skull_strip_model', Path('/m.pt')),
    ('--affine-method icstn', 'registration', 'affine_method', 'icstn'),
    ('--no-affine-polish', 'registration', 'affine_polish', False),
    ('--momentum optimise', 'registration', 'momentum', 'optimise'),
    ('--refine 5', 'registration', 'refine', 5),
    ('--uncertainty 20', 'registration', 'uncertainty', 20),
    ('--weights /w', 'registration', 'weights', Path('/w')),
    ('--batch-size 8', 'execution', 'batch_size', 8),
    ('--direction subject-to-template', 'registration', 'direction', 'subject-to-template'),
    ('--registration-resolution 3', 'registration', 'registration_resolution', 3.0),
    ('--output-spaces A:cohort-1:res-2', 'output', 'output_spaces', ('A:cohort-1:res-2',)),
    ('--template /t.nii', 'output', 'template', Path('/t.nii')),
    ('--allow-download', 'output', 'allow_download', True),
    ('--level minimal', 'output', 'level', 'minimal'),
    ('--reports-only', 'output', 'reports_only', True),
    ('--boilerplate-only', 'output', 'boilerplate_only', True),
    ('--device cuda:1', 'execution', 'device', 'cuda:1'),
    ('--nprocs 3', 'execution', 'nprocs', 3),
    ('--nthreads 3', 'execution', 'nprocs', 3),
    ('--n_cpus 3', 'execution', 'nprocs', 3),
    ('--n-cpus 3', 'execution', 'nprocs', 3),
    ('--n-gpu-procs 2', 'execution', 'n_gpu_procs', 2),
    ('--omp-nthreads 2', 'execution', 'omp_nthreads', 2),
    ('--mem-mb 4000', 'execution', 'mem_mb', 4000),
    ('--mem_mb=4000', 'execution', 'mem_mb', 4000),
    ('--mem 4000', 'execution', 'mem_mb', 4000),
    ('--mem 16G', 'execution', 'mem_mb', 16384),
    ('--mem 500MB', 'execution', 'mem_mb', 500),
    ('--use-plugin /p.yml', 'execution', 'use_plugin', Path('/p.yml')),
    ('--nipype-plugin-file /p.yml', 'execution', 'use_plugin', Path('/p.yml')),
    ('--work-dir /w', 'execution', 'work_dir', Path('/w')),
    ('-w /w', 'execution', 'work_dir', Path('/w')),
    ('--clean-workdir', 'execution', 'clean_workdir', True),
    ('--stop-on-first-crash', 'execution', 'stop_on_first_crash', True),
    ('--resource-monitor', 'execution', 'resource_monitor', True),
    ('--write-graph', 'execution', 'write_graph', True),
    ('--random-seed 7', 'execution', 'random_seed', 7),
    ('--sloppy', 'execution', 'sloppy', True),
    ('--deterministic', 'execution', 'deterministic', True),
    ('-v', 'execution', 'verbose', 1),
    ('-vv', 'execution', 'verbose', 2),
    ('--verbose', 'execution', 'verbose', 1),
    ('--notrack', 'execution', 'verbose', 0),
]


@pytest.mark.parametrize(('words', 'group', 'name', 'value'), OPTIONS)
def test_an_option_sets_its_setting_and_nothing_else(words, group, name, value):
    settings = parse_settings([*CALL, *words.split()])
    assert getattr(getattr(settings, group), name) == value
    expected = {'bids_dir': CALL[0], 'output_dir': CALL[1], name: value}
    assert settings == Settings.from_options(expected)


def test_every_option_is_in_the_table():
    known = {option for action in build_parser()._actions for option in action.option_strings}
    tested = {words.split()[0].partition('=')[0] for words, *_ in OPTIONS}
    others = {'-h', '--help', '--version', '--config-file'}
    assert known - others <= tested


def test_positional_arguments_may_stand_between_options():
    words = ['/data/bids', '-w', '/w', '/data/out', '--sloppy', 'participant']
    assert parse_settings(words).output.output_dir == Path('/data/out')


@pytest.mark.parametrize(
    'words',
    [
        '',
        '/data/bids /data/out',
        '/data/bids /data/out group',
        '/data/bids /data/out participant --flavour sweet',
        '/data/bids /data/out participant --momentum guess',
        '/data/bids /data/out participant --nprocs many',
        '/data/bids /data/out participant --mem 16X',
        '/data/bids /data/out participant --nprocs 0',
        '/data/bids /data/out participant --template /t.nii --output-spaces A',
        '/data/bids /data/out participant --output-spaces A B',
        '/data/bids /data/out participant --reports-only --boilerplate-only',
        '/data/bids /data/out participant --config-file /absent.toml',
        '/absent /tmp/out participant',
    ],
)
def test_a_wrong_call_prints_one_sentence(words, capfd):
    try:
        status = main(words.split())
    except SystemExit as error:
        status = error.code
    printed = capfd.readouterr()
    assert (status, printed.out) == (2, '')
    assert_one_sentence(printed.err)


def test_a_wrong_call_writes_nothing(dataset, tmp_path):
    before = sorted(tmp_path.rglob('*'))
    places = ['-w', tmp_path / 'work']
    for output, more in [
        (tmp_path / 'out', ['--participant-label', '99']),
        (tmp_path / 'out', ['--participant-label', '03']),
        (tmp_path / 'out', ['--session-label', '1']),
        (dataset, []),
        (dataset / 'out', []),
    ]:
        done = call(dataset, output, 'participant', *places, *more)
        assert (done.returncode, done.stdout) == (2, '')
        assert_one_sentence(done.stderr)
    assert sorted(tmp_path.rglob('*')) == before


@pytest.mark.parametrize(
    ('words', 'sentence'),
    [
        ('--output-spaces Nowhere', 'Nowhere: no such template'),
        ('--output-spaces A:B:C', 'not an output space'),
        ('--output-spaces MNI152NLin2009aSym:res-3', 'comes at 1 and 2 mm'),
        ('--template absent.nii', 'absent.nii: no such file'),
        ('--template bids/dataset_description.json', 'not a readable NIfTI image'),
        ('--device cuda:99', 'choose another device'),
        (
            '--use-plugin bids/sub-01/anat/sub-01_T1w.nii.gz',
            'the plugin file cannot be read as YAML',
        ),
        ('--use-plugin bids/dataset_description.json', 'a plugin file has the keys'),
    ],
)
def test_missing_files_and_devices_are_reported_before_anything_runs(
    dataset, tmp_path, monkeypatch, words, sentence
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('TEMPLATEFLOW_HOME', str(tmp_path / 'templateflow'))
    with pytest.raises(InputError, match=r'^[^\n]+\.$') as caught:
        run_app(parse_settings([str(dataset), 'out', 'participant', *words.split()]))
    assert sentence in str(caught.value)
    assert not list((tmp_path / 'out').iterdir())


@pytest.mark.parametrize(
    ('error', 'status', 'printed'),
    [
        (InputError('not an image', advice='give another', path='x.nii'), 2, 'x.nii: not an im'),
        (OSError(errno.ENOSPC, 'No space left on device', 'y'), 2, 'the disk is full ([Errno 28]'),
        (KeyboardInterrupt(), 130, 'interrupted.'),
    ],
)
def test_expected_errors_end_a_command_with_a_sentence_and_a_status(
    error, status, printed, capsys
):
    @handle_errors('deepreg_wf')
    def fail(argv=None):
        raise error

    assert fail([]) == status
    text = capsys.readouterr().err
    assert text.startswith(f'deepreg_wf: {printed}')
    assert_one_sentence(text)


@pytest.mark.parametrize('error', [OSError(errno.EINVAL, 'odd'), ValueError('a bug')])
def test_other_errors_of_a_command_are_raised(error):
    @handle_errors('deepreg_wf')
    def fail(argv=None):
        raise error

    with pytest.raises(type(error)):
        fail([])


# Calls ------------------------------------------------------------------------------------------


def test_bad_images_are_reported_and_recorded(dataset, tmp_path):
    out, work_dir = tmp_path / 'out', tmp_path / 'work'
    options = ['-w', work_dir, '--nprocs', 1, '--sloppy', '--registration-resolution', 4]
    labels = ['--participant-label', '02', 'sub-03']
    done = call(dataset, out, 'participant', *labels, *options, '--write-graph')
    assert done.returncode == 2, 'all of the input is unusable'
    printed = sorted(done.stderr.splitlines())
    assert [line.split(' ')[0] for line in printed] == ['[sub-02]', '[sub-03]']
    assert all(line.endswith('.') for line in printed)
    assert 'sub-02_T1w.nii.gz: ' in printed[0]
    assert '0 done, 2 failed' in done.stdout
    with (out / 'failed.tsv').open(newline='') as table:
        rows = list(csv.DictReader(table, delimiter='\t'))
    assert [row['participant_id'] for row in rows] == ['sub-02', 'sub-03']
    assert rows[0]['reason'] in printed[0]
    [log_dir] = (out / 'sub-02' / 'log').iterdir()
    assert Path(rows[0]['crash_file']).parent == log_dir
    settings = Settings.from_toml((log_dir / 'deepreg_wf.toml').read_text())
    assert settings == parse_settings(
        [str(word) for word in (dataset, out, 'participant', *labels, *options, '--write-graph')]
    )
    assert (out / 'sub-02.html').is_file()
    assert list((work_dir / 'deepreg_wf').glob('graph.*'))
    assert list((work_dir / 'deepreg_wf_logs').iterdir())


def test_boilerplate_only_computes_nothing(dataset, tmp_path):
    out, work_dir = tmp_path / 'out', tmp_path / 'work'
    (work_dir / 'deepreg_wf').mkdir(parents=True)
    (work_dir / 'mine.txt').touch()
    (work_dir / 'deepreg_wf' / 'old.txt').touch()
    options = ['-w', work_dir, '--boilerplate-only', '--clean-workdir']
    done = call(dataset, out, 'participant', *options)
    assert (done.returncode, done.stderr) == (0, '')
    assert done.stdout == f'Methods: {out / "logs" / "CITATION.md"}\n'
    assert 'deepreg_wf' in (out / 'logs' / 'CITATION.md').read_text()
    assert not (out / 'sub-01').exists()
    assert not (work_dir / 'deepreg_wf' / 'old.txt').exists()
    assert (work_dir / 'mine.txt').exists(), 'only the results of runs are removed'


@pytest.mark.parametrize(
    ('words', 'text'),
    [
        ('', 'onto the template *lab* '),
        ('--output-spaces MNI152NLin2009aSym', 'onto the template *MNI152NLin2009aSym* '),
        ('--output-spaces Toy:cohort-4:res-1:res-2', 'onto the template *Toy* '),
        ('--skull-strip force', '\nThe brain was extracted with *deepbet*'),
        ('--skull-strip skip', 'All voxels above the background'),
        ('--skull-strip-method template', 'extracted with the mask of the MNI152 brain'),
        ('--affine-method icstn', 'started from the orientation estimated by a spatial'),
        ('--momentum optimise', 'The momentum was optimised by L-BFGS'),
        ('--momentum predict --refine 0', 'network [Quicksilver, @quicksilver2017]. The inverse'),
        ('--refine 20', 'refined by 20 iterations'),
        ('--uncertainty 7', 'from 7 momenta drawn'),
        ('--direction subject-to-template', 'the subject was carried onto the template'),
    ],
)
def test_the_methods_text_follows_the_options(
    dataset, tmp_path, monkeypatch, make_brain, words, text
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('TEMPLATEFLOW_HOME', str(tmp_path / 'templateflow'))
    for name in plan_resources(Execution(work_dir=tmp_path), images=1).environment():
        monkeypatch.setenv(name, '1')  # restores the environment after the test
    toy = tmp_path / 'templateflow' / 'tpl-Toy' / 'cohort-4'
    toy.mkdir(parents=True)
    places = [tmp_path / 'tpl-lab_T1w.nii.gz']
    places += [toy / f'tpl-Toy_cohort-4_res-{size}_desc-brain_T1w.nii.gz' for size in (1, 2)]
    for place in places:
        nb.save(make_brain(), place)
    options = [*words.split(), '--boilerplate-only', '--participant-label', '01']
    if '--output-spaces' not in options:
        options += ['--template', 'tpl-lab_T1w.nii.gz']
    assert run_app(parse_settings([str(dataset), 'out', 'participant', *options])) == 0
    assert text in Path('out/logs/CITATION.md').read_text()


def test_reports_only_needs_an_earlier_run(dataset, tmp_path):
    out, label = tmp_path / 'out', ['--participant-label', '01']
    options = ['-w', tmp_path / 'work', '--reports-only']
    done = call(dataset, out, 'participant', *label, *options)
    assert done.returncode == 2
    assert re.fullmatch(
        r'\[sub-01\] no run is in .* without --reports-only first\.\n', done.stderr
    )
    log_dir = out / 'sub-01' / 'log' / '20260101-120000_0123abcd'
    log_dir.mkdir(parents=True)
    places = {'bids_dir': dataset, 'output_dir': out}
    (log_dir / 'deepreg_wf.toml').write_text(Settings.from_options(places).to_toml())
    done = call(dataset, out, 'participant', *label, *options)
    assert (done.returncode, done.stderr) == (0, '')
    assert (out / 'sub-01.html').is_file()
