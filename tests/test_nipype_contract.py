"""The engine uses a few parts of Nipype that a new version may change."""

from __future__ import annotations

import importlib
import inspect

import nipype
import pytest
from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe
from nipype.pipeline.plugins import SLURMPlugin

import deepreg_wf.engine

NAMES = {
    'nipype.pipeline.plugins.base': ('PluginBase.run', 'GraphPluginBase'),
    'nipype.pipeline.plugins.tools': ('report_crash',),
    'nipype.pipeline.plugins': (
        'SLURMPlugin._submit_batchtask',
        'SLURMPlugin._is_pending',
        'SLURMPlugin._get_result',
    ),
    'nipype.pipeline.engine.nodes': ('glob',),
    'nipype.pipeline.engine.utils': ('glob',),
    'nipype.interfaces.base': ('BaseInterface._run_interface',),
    'nipype.utils.misc': ('str2bool',),
    'nipype.utils.profiler': ('get_system_total_memory_gb',),
}
NODE_ATTRIBUTES = (
    *('fullname', 'inputs', 'interface', 'is_cached', 'mem_gb', 'n_procs', 'output_dir'),
    *('overwrite', 'run', 'run_without_submitting'),
)


def assert_has(owner: object, name: str) -> None:
    """Check an attribute, and say in a sentence what to do if it is missing."""
    value = owner
    for part in name.split('.'):
        value = getattr(value, part, None)
        assert value is not None, (
            f'Nipype {nipype.__version__} has no {name}, which deepreg_wf.engine uses; adapt the '
            'modules that its docstring lists, or lower the upper bound of nipype in '
            'pyproject.toml.'
        )


@pytest.mark.parametrize('module', NAMES)
def test_nipype_has_the_names_that_the_engine_uses(module: str) -> None:
    for name in NAMES[module]:
        assert_has(importlib.import_module(module), name)


def test_nodes_have_the_attributes_that_the_engine_uses() -> None:
    node = pe.Node(niu.IdentityInterface(['x']), name='node')
    for name in NODE_ATTRIBUTES:
        assert hasattr(node, name), f'A node of Nipype {nipype.__version__} has no {name}.'
    assert_has(node.interface, 'always_run.__bool__')


def test_the_signatures_are_those_that_the_engine_overrides() -> None:
    parameters = {
        method: list(inspect.signature(getattr(SLURMPlugin, method)).parameters)
        for method in ('_submit_batchtask', '_is_pending', '_get_result', 'run')
    }
    assert parameters == {
        '_submit_batchtask': ['self', 'scriptfile', 'node'],
        '_is_pending': ['self', 'taskid'],
        '_get_result': ['self', 'taskid'],
        'run': ['self', 'graph', 'config', 'updatehash'],
    }
    assert SLURMPlugin(plugin_args={})._pending == {}


def test_the_names_are_documented() -> None:
    text = deepreg_wf.engine.__doc__ or ''
    private = [
        part for names in NAMES.values() for name in names for part in name.split('.')
        if part.startswith('_')
    ]  # fmt: skip
    assert all(f'``{name}``' in text for name in (*private, '_pending'))
