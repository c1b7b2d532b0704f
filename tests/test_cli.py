"""The command line: options mean what they say, a wrong call or a bad image is one sentence."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import nibabel as nb
import pytest

from deepreg_wf.app.run import run_app
from deepreg_wf.app.summary import write_summary, print_failures
from deepreg_wf.cli.main import main
from deepreg_wf.cli.parser import build_parser, parse_settings
from deepreg_wf.engine.execute import execute
from deepreg_wf.engine.failures import COLUMNS, Failure, first_of_each, update_table
from deepreg_wf.engine.logs import Streams, libraries_to
from deepreg_wf.engine.progress import Glossary, Monitor, PlainDisplay, RichDisplay, in_words
from deepreg_wf.engine.resources import (
    SUBMITS_WITH,
    Resources,
    plan_resources,
    resolve_device,
    share_processors,
)
from deepreg_wf.errors import InputError
from deepreg_wf.settings import Execution, Settings

CALL = ('/data/bids', '/data/out', 'participant')
ROOT = Path(__file__).resolve().parents[1]


def python(*words, cwd=None, **variables):
    """Run a Python of its own."""
    path = os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])
    return subprocess.run(
        [sys.executable, *map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, 'PYTHONPATH': path, **variables},
        check=False,
    )


def call(*words):
    """Run the real command line."""
    return python('-m', 'deepreg_wf', *words)


@pytest.fixture
def dataset(tmp_path, make_brain):
    """One good brain (sub-01), one image cut off in its middle (sub-02), nothing for sub-03."""
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


# The words of the command line ------------------------------------------------------------------


@pytest.mark.parametrize('words', [['--version'], ['--help']])
def test_help_and_version_wait_for_no_library(words):
    done = python('-X', 'importtime', '-m', 'deepreg_wf', *words)
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


def test_every_option_is_in_the_table_above():
    known = {option for action in build_parser()._actions for option in action.option_strings}
    tried = {words.split()[0].partition('=')[0] for words, *_ in OPTIONS}
    elsewhere = {'-h', '--help', '--version', '--config-file'}
    assert known - elsewhere <= tried


def test_positional_words_may_stand_between_options():
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
def test_a_wrong_call_is_one_sentence(words, capfd):
    try:
        status = main(words.split())
    except SystemExit as error:
        status = error.code
    printed = capfd.readouterr()
    assert (status, printed.out) == (2, '')
    assert_one_sentence(printed.err)


def test_a_wrong_call_leaves_nothing_behind(dataset, tmp_path):
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
        ('--use-plugin bids/sub-01/anat/sub-01_T1w.nii.gz', 'the plugin file is not YAML'),
        ('--use-plugin bids/dataset_description.json', 'a plugin file has the keys'),
    ],
)
def test_what_is_not_there_is_said_before_anything_runs(
    dataset, tmp_path, monkeypatch, words, sentence
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('TEMPLATEFLOW_HOME', str(tmp_path / 'templateflow'))
    with pytest.raises(InputError, match=r'^[^\n]+\.$') as caught:
        run_app(parse_settings([str(dataset), 'out', 'participant', *words.split()]))
    assert sentence in str(caught.value)
    assert not list((tmp_path / 'out').iterdir())


# What a run may use -----------------------------------------------------------------------------


def resources_of(*, images=1, **options):
    return plan_resources(Execution(work_dir=Path('/w'), **options), images=images)


def test_threads_are_what_the_images_leave():
    assert resources_of(nprocs=16, images=1).omp_nthreads == 8
    assert resources_of(nprocs=8, images=2).omp_nthreads == 4
    assert resources_of(nprocs=8, images=100).omp_nthreads == 1
    assert resources_of(nprocs=8, images=100, omp_nthreads=5).omp_nthreads == 5
    assert resources_of(omp_nthreads=3).environment()['OMP_NUM_THREADS'] == '3'
    assert resources_of().nprocs >= 1


def test_waiting_threads_leave_the_processor_unless_the_user_says_otherwise(monkeypatch):
    monkeypatch.setenv('GOMP_SPINCOUNT', '7')
    share_processors()
    assert os.environ['GOMP_SPINCOUNT'] == '7'
    monkeypatch.delenv('GOMP_SPINCOUNT')
    share_processors()
    assert int(os.environ['GOMP_SPINCOUNT']) <= 100_000


def test_deterministic_means_one_thread_on_the_cpu():
    resources = resources_of(nprocs=16, omp_nthreads=4, batch_size=3, deterministic=True)
    assert (resources.device, resources.omp_nthreads) == ('cpu', 1)
    assert resources == resources_of(nprocs=16, deterministic=True)


def test_a_device_that_is_asked_for_is_there():
    assert resolve_device('cpu') == 'cpu'
    assert resolve_device('auto') in ('cpu', 'cuda')
    with pytest.raises(InputError, match='cuda:99 was asked for'):
        resolve_device('cuda:99')


def test_steps_are_run_by_workers_even_on_one_processor():
    assert resources_of(nprocs=1).plugin(print)[0].processors == 1
    pool, arguments = resources_of(nprocs=3, mem_mb=2048).plugin(print)
    assert (pool.processors, pool.memory_gb, pool.n_gpu_procs) == (3, 2, 1)
    assert arguments['status_callback'] is print


def hold(use_gpu, number):
    """Stay on the GPU for a while, and tell when (the engine runs this from its source)."""
    import time

    start = time.time()
    time.sleep(0.5)
    return start, time.time()


@pytest.mark.parametrize('slots', [1, 2])
def test_no_more_steps_use_the_gpu_than_it_has_slots(tmp_path, slots):
    from nipype.interfaces import utility as niu
    from nipype.pipeline import engine as pe

    workflow = pe.Workflow(name='busy', base_dir=str(tmp_path))
    interface = niu.Function(['use_gpu', 'number'], ['start', 'end'], hold)
    nodes = [pe.Node(interface, name=f'step{number}', mem_gb=0.1) for number in range(4)]
    for number, node in enumerate(nodes):
        node.inputs.trait_set(use_gpu=True, number=number)
    workflow.add_nodes(nodes)
    plugin, arguments = resources_of(nprocs=4, n_gpu_procs=slots).plugin(lambda *_: None)
    graph = workflow.run(plugin, plugin_args=arguments)
    times = [(node.result.outputs.start, node.result.outputs.end) for node in graph]
    at_once = max(sum(s <= start < e for s, e in times) for start, _ in times)
    assert at_once == slots


SAMPLES = sorted((Path(__file__).resolve().parents[1] / 'docs' / 'plugins').glob('*.yml'))


@pytest.fixture
def login_node(tmp_path, monkeypatch):
    """Folder of the commands of schedulers: all are there, and their queues are empty."""
    folder = tmp_path / 'bin'
    folder.mkdir()
    for command in {*SUBMITS_WITH.values(), 'qstat'}:
        (folder / command).write_text('#!/bin/sh\necho "<job_info><queue_info/></job_info>"\n')
        (folder / command).chmod(0o755)
    monkeypatch.setenv('PATH', f'{folder}{os.pathsep}{os.environ["PATH"]}')
    return folder


@pytest.mark.parametrize('sample', SAMPLES, ids=lambda sample: sample.stem)
def test_nipype_takes_each_plugin_file_of_the_documentation(login_node, sample):
    from nipype.pipeline import plugins

    resources = resources_of(use_plugin=sample)
    plugin, arguments = resources.plugin(print)
    name = resources.plugin_name
    assert name.lower() == sample.stem
    assert arguments['status_callback'] is print
    nipypes = getattr(plugins, f'{name}Plugin')
    if isinstance(plugin, str):
        plugin = nipypes(plugin_args=arguments)
    assert isinstance(plugin, nipypes)
    if resources.on_cluster:
        assert plugin.max_jobs == 100
        (words,) = (name for name in arguments if name.endswith('_args'))
        assert getattr(plugin, f'_{words}') == arguments[words]
    else:
        assert (plugin.processors, plugin.memory_gb) == (8, 24)


def test_there_is_a_plugin_file_for_each_scheduler():
    assert {'slurm', 'sge', 'pbs', 'lsf', 'condor', 'multiproc'} == {s.stem for s in SAMPLES}


def test_one_process_does_all_if_a_plugin_file_says_so(tmp_path):
    file = tmp_path / 'plugin.yml'
    file.write_text('plugin: Linear\n')
    assert resources_of(use_plugin=file).plugin(print) == ('Linear', {'status_callback': print})


def test_a_scheduler_that_is_not_here_is_told(login_node, monkeypatch):
    (login_node / 'sbatch').unlink()
    monkeypatch.setenv('PATH', str(login_node))
    (slurm,) = (sample for sample in SAMPLES if sample.stem == 'slurm')
    with pytest.raises(InputError, match=r'^SLURM: there is no sbatch on this machine; [^\n]+\.$'):
        resources_of(use_plugin=slurm).plugin(print)


def test_the_machine_that_submits_needs_no_gpu(tmp_path):
    file = tmp_path / 'plugin.yml'
    file.write_text('plugin: SLURM\n')
    assert resources_of(use_plugin=file, device='cuda').device == 'cuda'
    assert resources_of(use_plugin=file).device == 'cpu'


def test_a_job_asks_for_what_its_step_needs_and_the_plugin_file_has_the_last_word(
    tmp_path, monkeypatch
):
    from nipype.interfaces import utility as niu
    from nipype.pipeline import engine as pe

    from deepreg_wf.engine.slurm import prepare_jobs
    from deepreg_wf.interfaces import GeodesicShooting, StopOnDoubt

    monkeypatch.delenv('LOGNAME', raising=False)
    shoot = pe.Node(GeodesicShooting(use_gpu=True), name='shoot', n_procs=3, mem_gb=1.5)
    check = pe.Node(StopOnDoubt(), name='check')
    rename = pe.Node(niu.IdentityInterface(['x']), name='rename')
    workflow = pe.Workflow(name='some', base_dir=str(tmp_path))
    workflow.add_nodes([shoot, check, rename])
    prepare_jobs(workflow, 'SLURM', {'sbatch_args': '--mem=9G'})
    words = '--cpus-per-task=3 --mem=1536M --gres=gpu:1 --mem=9G'
    assert shoot.plugin_args == {'sbatch_args': words, 'overwrite': True}
    alone = {node.name: node.run_without_submitting for node in (shoot, check, rename)}
    assert alone == {'shoot': False, 'check': True, 'rename': True}
    assert os.environ['LOGNAME']
    workflow.base_dir = str(tmp_path / 'with a blank')
    with pytest.raises(InputError, match='has a blank in its path'):
        prepare_jobs(workflow, 'SLURM', {})


def test_a_plugin_file_may_set_up_the_workers(tmp_path):
    file = tmp_path / 'plugin.yml'
    file.write_text('plugin: MultiProc\nplugin_args: {n_procs: 5, memory_gb: 3}\n')
    pool, _ = resources_of(nprocs=1, use_plugin=file).plugin(print)
    assert (pool.processors, pool.memory_gb) == (5, 3)


@pytest.mark.parametrize('name', ['Nothing', 'SLURMGraph'])
def test_a_plugin_that_cannot_be_followed_is_refused(tmp_path, name):
    file = tmp_path / 'plugin.yml'
    file.write_text(f'plugin: {name}\n')
    with pytest.raises(InputError, match=rf'^{name}: [^\n]+\.$'):
        resources_of(use_plugin=file).plugin(print)


# A graph that fails here and there --------------------------------------------------------------


def work(x, trouble, device):
    """A step, as a Nipype function; it is shipped to the workers as text."""
    import os
    import time

    from deepreg_wf.errors import InputError

    print('noise of a library', flush=True)
    if trouble == 'input':
        raise InputError(f'{x}: is bad; mend it.')
    if trouble == 'bug':
        raise ValueError('odd\nOdder: indeed')
    if trouble == 'wait':
        time.sleep(1)
    if trouble.endswith('/seen'):
        kind, _, mark = trouble.split(' ')
        trouble = '' if os.path.exists(mark) else kind
        open(mark, 'w').close()
    if trouble == 'death':
        os.kill(os.getpid(), 9)
    if trouble == 'memory':
        bytearray(2**60)
    if trouble == 'gpu' and device != 'cpu':
        import torch

        raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB.')
    if trouble == 'sleep':
        time.sleep(60)
    return x


def make_graph(base_dir, troubles):
    """Two steps for each image; `troubles` come at the first."""
    from nipype import Function, Node, Workflow

    workflow = Workflow('deepreg_wf', base_dir=str(base_dir))
    images, steps = {}, {}
    for label, trouble in troubles.items():
        images[f'single_subject_{label}_wf'] = f'sub-{label}'
        subject = Workflow(f'single_subject_{label}_wf')
        nodes = []
        for name, words in (('first', 'affine alignment'), ('second', 'quality control')):
            function = Function(['x', 'trouble', 'device'], ['y'], function=work)
            nodes.append(Node(function, name))
            nodes[-1].inputs.device = 'cuda'
            steps[f'deepreg_wf.{subject.name}.{name}'] = words
            nodes[-1].inputs.trouble = trouble if name == 'first' else ''
        nodes[0].inputs.x = label
        subject.connect(nodes[0], 'y', nodes[1], 'x')
        workflow.add_nodes([subject])
    return workflow, Glossary(images, steps)


def execute_graph(base_dir, troubles, *, nprocs, stop=False, resource_monitor=False):
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
    workflow, glossary = make_graph(base_dir, troubles)
    lines = io.StringIO()
    failures = execute(
        workflow,
        resources=Resources(
            device='cpu', nprocs=nprocs, omp_nthreads=1, resource_monitor=resource_monitor
        ),
        display=PlainDisplay(lines),
        glossary=glossary,
        crash_dirs=[base_dir / 'crashes'],
        stop_on_first_crash=stop,
    )
    return failures, [line.split(' ', 2)[-1] for line in lines.getvalue().splitlines()]


@pytest.mark.parametrize('nprocs', [1, 2])
def test_what_fails_stops_nothing_but_itself(tmp_path, nprocs):
    troubles = {'01': '', '02': 'input', '03': 'bug', '04': ''}
    failures, lines = execute_graph(tmp_path, troubles, nprocs=nprocs)
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
def test_a_second_run_keeps_what_is_done(tmp_path, nprocs):
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
def test_a_step_that_kills_its_worker_is_the_only_one_that_fails(tmp_path, nprocs):
    troubles = {'01': 'wait', '02': 'death', '03': 'wait', '04': ''}
    failures, lines = execute_graph(tmp_path, troubles, nprocs=nprocs)
    assert [failure.participant for failure in failures] == ['02']
    assert failures[0].sentence.startswith(
        '[sub-02] affine alignment failed: its process was killed twice'
    )
    for label in ('01', '03', '04'):
        assert sum(line.startswith(f'[sub-{label}] all 2 steps done') for line in lines) == 1
    again = '[sub-02] affine alignment … lacked memory or lost its process; once more'
    assert sum(line.startswith(again) for line in lines) == 1


@pytest.mark.parametrize('trouble', ['death once {}/seen', 'memory once {}/seen', 'gpu'])
def test_a_step_that_fares_better_alone_has_not_failed(tmp_path, trouble):
    """As here, where nothing has a GPU, one that finds no memory on it fares on the CPU."""
    troubles = {'01': 'wait', '02': trouble.format(tmp_path), '03': ''}
    failures, lines = execute_graph(tmp_path, troubles, nprocs=2)
    assert failures == []
    assert sum('steps done in' in line for line in lines) == 3


def test_a_step_that_lacks_memory_says_so(tmp_path):
    failures, _ = execute_graph(tmp_path, {'01': 'memory', '02': ''}, nprocs=2)
    assert [failure.participant for failure in failures] == ['01']
    assert failures[0].reason.startswith('there is not enough memory (')


@pytest.mark.parametrize('nprocs', [1, 2])
def test_the_first_crash_may_end_the_run(tmp_path, nprocs):
    troubles = {'01': 'input', '02': 'sleep' if nprocs > 1 else ''}
    begun = time.monotonic()
    failures, _ = execute_graph(tmp_path, troubles, nprocs=nprocs, stop=True)
    assert time.monotonic() - begun < 30
    assert [failure.participant for failure in failures] == ['01', '02']
    assert failures[1].sentence == (
        '[sub-02] processing failed: the run ended with the first crash, of another.'
    )


MONITORED = """
import sys
sys.path[:0] = sys.argv[1:3]
from pathlib import Path
from nipype import config
from test_cli import execute_graph

if __name__ == '__main__':
    config.enable_resource_monitor()
    nprocs = int(sys.argv[4])
    execute_graph(Path(sys.argv[3]), {'01': ''}, nprocs=nprocs, resource_monitor=True)
"""


@pytest.mark.parametrize('nprocs', [1, 2])
def test_the_resources_of_each_step_are_recorded(tmp_path, nprocs):
    script = tmp_path / 'script.py'
    script.write_text(MONITORED)
    done = python(script, ROOT, ROOT / 'tests', tmp_path / 'work', nprocs, cwd=tmp_path)
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
from test_cli import execute_graph

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
        # Workers hold the pipe open: its end means that none is left.
        process.communicate(timeout=30)
    assert process.returncode == 130
    assert time.monotonic() - begun < 20


# The whole of it, on images that end it soon -----------------------------------------------------


def test_bad_images_are_told_and_recorded(dataset, tmp_path):
    out, work_dir = tmp_path / 'out', tmp_path / 'work'
    options = ['-w', work_dir, '--nprocs', 1, '--sloppy', '--registration-resolution', 4]
    labels = ['--participant-label', '02', 'sub-03']
    done = call(dataset, out, 'participant', *labels, *options, '--write-graph')
    assert done.returncode == 2, 'the whole input is unusable'
    told = sorted(done.stderr.splitlines())
    assert [line.split(' ')[0] for line in told] == ['[sub-02]', '[sub-03]']
    assert all(line.endswith('.') for line in told)
    assert 'sub-02_T1w.nii.gz: ' in told[0]
    assert '0 done, 2 failed' in done.stdout
    rows = read_table(out / 'failed.tsv')
    assert [row['participant_id'] for row in rows] == ['sub-02', 'sub-03']
    assert rows[0]['reason'] in told[0]
    [log_dir] = (out / 'sub-02' / 'log').iterdir()
    assert Path(rows[0]['crash_file']).parent == log_dir
    settings = Settings.from_toml((log_dir / 'deepreg_wf.toml').read_text())
    assert settings == parse_settings(
        [str(word) for word in (dataset, out, 'participant', *labels, *options, '--write-graph')]
    )
    assert (out / 'sub-02.html').is_file()
    assert list((work_dir / 'deepreg_wf').glob('graph.*'))
    assert list((work_dir / 'deepreg_wf_logs').iterdir())


def test_the_text_on_the_methods_needs_no_computing(dataset, tmp_path):
    out, work_dir = tmp_path / 'out', tmp_path / 'work'
    (work_dir / 'deepreg_wf').mkdir(parents=True)
    (work_dir / 'mine.txt').touch()
    (work_dir / 'deepreg_wf' / 'left.txt').touch()
    options = ['-w', work_dir, '--boilerplate-only', '--clean-workdir']
    done = call(dataset, out, 'participant', *options)
    assert (done.returncode, done.stderr) == (0, '')
    assert done.stdout == f'Methods: {out / "logs" / "CITATION.md"}\n'
    assert 'deepreg_wf' in (out / 'logs' / 'CITATION.md').read_text()
    assert not (out / 'sub-01').exists()
    assert not (work_dir / 'deepreg_wf' / 'left.txt').exists()
    assert (work_dir / 'mine.txt').exists(), 'only what runs have left is removed'


@pytest.mark.parametrize(
    ('words', 'said'),
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
def test_the_methods_are_those_that_were_asked_for(
    dataset, tmp_path, monkeypatch, make_brain, words, said
):
    """Each of these options changes what is done, and so what is written about it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('TEMPLATEFLOW_HOME', str(tmp_path / 'templateflow'))
    for name in resources_of().environment():  # what the run sets is put back afterwards
        monkeypatch.setenv(name, '1')
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
    assert said in Path('out/logs/CITATION.md').read_text()


def test_reports_are_of_runs(dataset, tmp_path):
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


# What a person is told --------------------------------------------------------------------------


def test_durations_are_in_words():
    assert [in_words(s) for s in (0.04, 59.94, 59.96, 3599.6, 86400)] == [
        '0.0 s',
        '59.9 s',
        '1 min 00 s',
        '1 h 00 min',
        '24 h 00 min',
    ]


def make_node(fullname, folder):
    name = fullname.rsplit('.', 1)[-1]
    return SimpleNamespace(fullname=fullname, name=name, output_dir=lambda: str(folder))


def test_a_terminal_shows_the_same_steps(tmp_path):
    glossary = Glossary({'one_wf': 'sub-01'}, {'a.one_wf.x': 'LDDMM matching', 'a.t': 'template'})
    stream = io.StringIO()
    with RichDisplay(stream, glossary.totals()) as display:
        monitor = Monitor(display, glossary)
        for name in ('a.one_wf.x', 'a.t', 'a.one_wf.silent'):
            monitor(make_node(name, tmp_path), 'start')
            monitor(make_node(name, tmp_path), 'end')
        monitor(make_node('a.one_wf.other', tmp_path), 'start')
        monitor(make_node('a.one_wf.other', tmp_path), 'exception')
        monitor(make_node('a.one_wf.other', tmp_path), 'end')
    lines = [line.rstrip() for line in stream.getvalue().splitlines() if line.strip()]
    assert lines == [
        '[sub-01] LDDMM matching … done in 0.0 s',
        '[sub-01] all 1 steps done in 0.0 s',
        '[all] template … done in 0.0 s',
        '[sub-01] other … failed after 0.0 s',
    ]
    assert monitor.steps_done == {'sub-01': 1, 'all': 1}


def test_long_steps_are_announced_in_plain_lines():
    stream = io.StringIO()
    display = PlainDisplay(stream)
    display.started('sub-01', 'LDDMM matching')
    display.started('sub-01', 'resampling')
    assert re.fullmatch(r'[\d-]{10} [\d:]{8} \[sub-01\] LDDMM matching …\n', stream.getvalue())


LIBRARIES = """
import os, subprocess, sys
from pathlib import Path
from deepreg_wf.engine.logs import libraries_to

with libraries_to(Path(sys.argv[1])) as streams:
    print('from Python')
    os.write(2, b'from compiled code\\n')
    subprocess.run(['echo', 'from a child'], check=True)
    print('for a person …', file=streams.out)
    print('of what is wrong', file=streams.err)
print('afterwards')
"""


def test_libraries_print_into_a_file(tmp_path):
    log = tmp_path / 'logs' / 'libraries.txt'
    done = python('-c', LIBRARIES, log, PYTHONIOENCODING='ascii')
    assert done.stdout == 'for a person ?\nafterwards\n'
    assert done.stderr == 'of what is wrong\n'
    text = log.read_text()
    assert all(f'from {who}' in text for who in ('Python', 'compiled code', 'a child'))


def test_without_a_file_libraries_print_as_they_like(capfd):
    with libraries_to(None) as streams:
        print('from Python')
        print('for a person', file=streams.out)
    assert capfd.readouterr().out == 'from Python\nfor a person\n'


def failure(label, **fields):
    values = {'image': f'sub-{label}', 'step': 'x', 'reason': 'why.', 'is_input_error': True}
    return Failure(participant=label, **(values | fields))


def test_one_sentence_for_each_image():
    failures = [
        failure('01'),
        failure('01', step='y'),
        failure('02'),
        failure('02', image='other'),
    ]
    assert first_of_each(failures) == [failures[0], *failures[2:]]


def read_table(path):
    with path.open(newline='') as file:
        return list(csv.DictReader(file, delimiter='\t'))


def test_the_table_of_failures_is_of_all_runs(tmp_path):
    table = tmp_path / 'failed.tsv'
    update_table(table, [failure('02'), failure('01', reason='a\tb\nc.')], ['01', '02', '03'])
    rows = read_table(table)
    assert [row['participant_id'] for row in rows] == ['sub-01', 'sub-02']
    assert tuple(rows[0]) == COLUMNS
    assert rows[0]['reason'] == 'a b c.'
    update_table(table, [failure('03')], ['01', '03'])
    assert [row['participant_id'] for row in read_table(table)] == ['sub-02', 'sub-03']
    update_table(table, [failure('all', image='all')], ['03'])
    assert [row['participant_id'] for row in read_table(table)] == ['all', 'sub-02']
    update_table(table, [], ['02'])
    assert not table.exists()
    update_table(table, [], ['02'])


@pytest.mark.parametrize(
    ('failures', 'status', 'summary'),
    [
        ([], 0, '2 done, 0 failed, in 1.0 s.'),
        ([failure('01')], 1, '1 done, 1 failed, in 1.0 s.'),
        ([failure('01'), failure('02')], 2, '0 done, 2 failed, in 1.0 s.'),
        ([failure('01'), failure('02', is_input_error=False)], 1, '0 done, 2 failed, in 1.0 s.'),
        ([failure('all', is_input_error=False)], 1, '0 done, 2 failed, in 1.0 s.'),
        ([failure('all')], 2, '0 done, 2 failed, in 1.0 s.'),
    ],
)
def test_the_exit_status_says_how_it_ended(tmp_path, failures, status, summary):
    streams = Streams(io.StringIO(), io.StringIO())
    (tmp_path / 'sub-01.html').touch()
    people = ['01', '02']
    ended = write_summary(
        failures, participants=people, output_dir=tmp_path, seconds=1, streams=streams
    )
    assert ended == status
    assert streams.out.getvalue().startswith(f'{summary}\n')
    assert f'Report: {tmp_path / "sub-01.html"}\n' in streams.out.getvalue()
    assert streams.err.getvalue().count('\n') == len(failures)
    assert (tmp_path / 'failed.tsv').exists() == bool(failures)
    assert print_failures(failures, participants=people, streams=streams) == status
