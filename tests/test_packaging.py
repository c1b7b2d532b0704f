"""The files around the package agree with each other."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deepreg_wf import __version__

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text(encoding='utf-8'))['project']
PINS = [
    Requirement(line)
    for line in (ROOT / 'constraints.txt').read_text(encoding='utf-8').splitlines()
    if not line.startswith('#')
]
NEEDED = [
    Requirement(line)
    for line in [*PROJECT['dependencies'], *sum(PROJECT['optional-dependencies'].values(), [])]
    if not line.startswith(PROJECT['name'])
]


@pytest.mark.parametrize('python', ['3.10', '3.11', '3.12', '3.13'])
@pytest.mark.parametrize('needed', NEEDED, ids=lambda needed: needed.name)
def test_dependencies_are_pinned_once(needed: Requirement, python: str) -> None:
    """Each dependency has one pinned version, which the package allows, on each Python."""
    environment = {'python_version': python}
    if needed.marker and not needed.marker.evaluate(environment):
        return
    pins = [
        pin
        for pin in PINS
        if canonicalize_name(pin.name) == canonicalize_name(needed.name)
        and (pin.marker is None or pin.marker.evaluate(environment))
    ]
    assert len(pins) == 1
    (pin,) = pins[0].specifier
    assert pin.operator == '=='
    assert needed.specifier.contains(pin.version)


def test_all_files_give_the_same_version() -> None:
    citation = (ROOT / 'CITATION.cff').read_text(encoding='utf-8')
    assert re.search(r'^version: (.+)$', citation, re.M).group(1) == __version__
    assert f'## {__version__}' in (ROOT / 'CHANGES.md').read_text(encoding='utf-8')
    assert f'ARG VERSION={__version__}' in (ROOT / 'Dockerfile').read_text(encoding='utf-8')


@pytest.mark.parametrize('script', PROJECT['scripts'].values())
def test_the_commands_exist(script: str) -> None:
    from importlib import import_module

    module, function = script.split(':')
    assert callable(getattr(import_module(module), function))
