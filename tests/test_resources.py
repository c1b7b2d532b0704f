"""The processors, memory, devices and plugins of a run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from processes import ROOT

from deepreg_wf.engine.resources import (
    SUBMIT_COMMANDS,
    limit_thread_spinning,
    plan_resources,
    resolve_device,
)
from deepreg_wf.errors import InputError
from deepreg_wf.settings import Execution
from deepreg_wf.utils.memory import memory_limit


def resources_of(*, images=1, **options):
    return plan_resources(Execution(work_dir=Path('/w'), **options), images=images)


def test_processors_are_divided_among_the_images():
    assert resources_of(nprocs=16, images=1).omp_nthreads == 8
    assert resources_of(nprocs=8, images=2).omp_nthreads == 4
    assert resources_of(nprocs=8, images=100).omp_nthreads == 1
    assert resources_of(nprocs=8, images=100, omp_nthreads=5).omp_nthreads == 5
    assert resources_of(omp_nthreads=3).environment()['OMP_NUM_THREADS'] == '3'
    assert resources_of().nprocs >= 1


def test_steps_on_this_machine_know_the_memory_of_the_run():
    assert memory_limit(resources_of(mem_mb=500).environment()) == 500 * 2**20
    machine = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    assert 0 < memory_limit(resources_of().environment()) < machine


def test_spinning_of_threads_is_limited_unless_the_user_sets_it(monkeypatch):
    monkeypatch.setenv('GOMP_SPINCOUNT', '7')
    limit_thread_spinning()
    assert os.environ['GOMP_SPINCOUNT'] == '7'
    monkeypatch.delenv('GOMP_SPINCOUNT')
    limit_thread_spinning()
    assert int(os.environ['GOMP_SPINCOUNT']) <= 100_000


def test_deterministic_means_one_thread_on_the_cpu():
    resources = resources_of(nprocs=16, omp_nthreads=4, batch_size=3, deterministic=True)
    assert (resources.device, resources.omp_nthreads) == ('cpu', 1)
    assert resources == resources_of(nprocs=16, deterministic=True)


def test_a_missing_device_is_rejected():
    assert resolve_device('cpu') == 'cpu'
    assert resolve_device('auto') in ('cpu', 'cuda')
    with pytest.raises(InputError, match='cuda:99 was asked for'):
        resolve_device('cuda:99')


def test_steps_run_in_workers_even_on_one_processor():
    assert resources_of(nprocs=1).plugin(print)[0].processors == 1
    pool, arguments = resources_of(nprocs=3, mem_mb=2048).plugin(print)
    assert (pool.processors, pool.memory_gb, pool.n_gpu_procs) == (3, 2, 1)
    assert arguments['status_callback'] is print


def use_gpu_for_a_while(use_gpu, number):
    """Return when the step started and ended; Nipype runs this function from its source."""
    import time

    start = time.time()
    time.sleep(0.5)
    return start, time.time()


@pytest.mark.parametrize('slots', [1, 2])
def test_steps_that_use_the_gpu_at_the_same_time_are_limited(tmp_path, slots):
    from nipype.interfaces import utility as niu
    from nipype.pipeline import engine as pe

    workflow = pe.Workflow(name='busy', base_dir=str(tmp_path))
    interface = niu.Function(['use_gpu', 'number'], ['start', 'end'], use_gpu_for_a_while)
    nodes = [pe.Node(interface, name=f'step{number}', mem_gb=0.1) for number in range(4)]
    for number, node in enumerate(nodes):
        node.inputs.trait_set(use_gpu=True, number=number)
    workflow.add_nodes(nodes)
    plugin, arguments = resources_of(nprocs=4, n_gpu_procs=slots).plugin(lambda *_: None)
    graph = workflow.run(plugin, plugin_args=arguments)
    times = [(node.result.outputs.start, node.result.outputs.end) for node in graph]
    at_once = max(sum(s <= start < e for s, e in times) for start, _ in times)
    assert at_once == slots


SAMPLES = sorted((ROOT / 'docs' / 'plugins').glob('*.yml'))


@pytest.fixture
def login_node(tmp_path, monkeypatch):
    """Folder with the commands of all schedulers; their queues are empty."""
    folder = tmp_path / 'bin'
    folder.mkdir()
    for command in {*SUBMIT_COMMANDS.values(), 'qstat'}:
        (folder / command).write_text('#!/bin/sh\necho "<job_info><queue_info/></job_info>"\n')
        (folder / command).chmod(0o755)
    monkeypatch.setenv('PATH', f'{folder}{os.pathsep}{os.environ["PATH"]}')
    return folder


def take_plugin(resources):
    """Return the plugin of a run, and the arguments that it is given."""
    from nipype.pipeline import plugins

    from deepreg_wf.engine.multiproc import WorkerPool

    plugin, arguments = resources.plugin(print)
    assert arguments['status_callback'] is print
    kind = getattr(plugins, f'{resources.plugin_name}Plugin')
    if resources.plugin_name == 'MultiProc':
        kind = WorkerPool
    if isinstance(plugin, str):
        plugin = kind(plugin_args=arguments)
    assert isinstance(plugin, kind)
    return plugin, arguments


@pytest.mark.parametrize('sample', SAMPLES, ids=lambda sample: sample.stem)
def test_nipype_takes_the_plugin_files_of_the_documentation(login_node, sample):
    resources = resources_of(use_plugin=sample)
    assert resources.plugin_name.lower() == sample.stem
    plugin, arguments = take_plugin(resources)
    if resources.on_cluster:
        assert plugin.max_jobs == 100
        assert plugin._sbatch_args == arguments['sbatch_args']
    else:
        assert (plugin.processors, plugin.memory_gb) == (8, 24)


def test_the_documentation_has_plugin_files():
    assert {'slurm', 'multiproc'} == {sample.stem for sample in SAMPLES}


@pytest.mark.parametrize(
    ('name', 'option'),
    [('PBS', 'qsub_args'), ('SGE', 'qsub_args'), ('LSF', 'bsub_args'), ('Condor', 'qsub_args')],
)
def test_the_plugins_of_other_schedulers_are_passed_through(login_node, tmp_path, name, option):
    file = tmp_path / 'plugin.yml'
    file.write_text(f'plugin: {name}\nplugin_args: {{max_jobs: 7, {option}: -q long}}\n')
    plugin, arguments = take_plugin(resources_of(use_plugin=file))
    assert (plugin.max_jobs, arguments[option]) == (7, '-q long')


def test_the_linear_plugin_runs_all_steps_in_one_process(tmp_path):
    file = tmp_path / 'plugin.yml'
    file.write_text('plugin: Linear\n')
    assert resources_of(use_plugin=file).plugin(print) == ('Linear', {'status_callback': print})


def test_a_missing_scheduler_is_reported(login_node, monkeypatch):
    (login_node / 'sbatch').unlink()
    monkeypatch.setenv('PATH', str(login_node))
    (slurm,) = (sample for sample in SAMPLES if sample.stem == 'slurm')
    with pytest.raises(InputError, match=r'^SLURM: there is no sbatch on this machine; [^\n]+\.$'):
        resources_of(use_plugin=slurm).plugin(print)


def test_the_submitting_machine_needs_no_gpu(tmp_path):
    file = tmp_path / 'plugin.yml'
    file.write_text('plugin: SLURM\n')
    assert resources_of(use_plugin=file, device='cuda').device == 'cuda'
    assert resources_of(use_plugin=file).device == 'cpu'


def test_a_job_requests_what_its_step_needs_and_the_plugin_file_overrides_it(
    tmp_path, monkeypatch
):
    from nipype.interfaces import utility as niu
    from nipype.pipeline import engine as pe

    from deepreg_wf.engine.slurm import prepare_jobs
    from deepreg_wf.interfaces import GeodesicShooting, RaiseIfImplausible

    monkeypatch.delenv('LOGNAME', raising=False)
    shoot = pe.Node(GeodesicShooting(use_gpu=True), name='shoot', n_procs=3, mem_gb=1.5)
    check = pe.Node(RaiseIfImplausible(), name='check')
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
    with pytest.raises(InputError, match='has a blank or one of .* in its path'):
        prepare_jobs(workflow, 'SLURM', {})


def test_a_plugin_file_sets_up_the_workers(tmp_path):
    file = tmp_path / 'plugin.yml'
    file.write_text('plugin: MultiProc\nplugin_args: {n_procs: 5, memory_gb: 3}\n')
    pool, _ = resources_of(nprocs=1, use_plugin=file).plugin(print)
    assert (pool.processors, pool.memory_gb) == (5, 3)


@pytest.mark.parametrize('name', ['Nothing', 'SLURMGraph'])
def test_unknown_and_detached_plugins_are_refused(tmp_path, name):
    file = tmp_path / 'plugin.yml'
    file.write_text(f'plugin: {name}\n')
    with pytest.raises(InputError, match=rf'^{name}: [^\n]+\.$'):
        resources_of(use_plugin=file).plugin(print)
