"""The Boutiques descriptor of the command line."""

from __future__ import annotations

import json
import random
import runpy
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest

from deepreg_wf import __version__
from deepreg_wf.cli.parser import build_parser, parse_settings

ROOT = Path(__file__).resolve().parents[1]
DESCRIPTOR = ROOT / 'boutiques.json'
NOT_INPUTS = {'--help', '--version'}


@pytest.fixture(scope='module')
def bosh() -> SimpleNamespace:
    """The commands of Boutiques."""
    return pytest.importorskip('boutiques.bosh', reason='boutiques is not installed')


def test_the_descriptor_follows_the_parser() -> None:
    tool = runpy.run_path(str(ROOT / 'tools' / 'descriptor.py'))
    assert DESCRIPTOR.read_text(encoding='utf-8') == tool['render'](), (
        'boutiques.json is out of date; run: python tools/descriptor.py'
    )


def test_the_descriptor_is_valid(bosh: SimpleNamespace) -> None:
    bosh.validate(str(DESCRIPTOR))
    assert json.loads(DESCRIPTOR.read_text(encoding='utf-8'))['tool-version'] == __version__


def test_every_argument_that_boutiques_generates_is_parsed(bosh: SimpleNamespace) -> None:
    """All inputs are given at once, with random values in their ranges."""
    random.seed(0)
    whole = json.loads(bosh.example('--complete', str(DESCRIPTOR)))
    other = {**whole, 'template': 'template.nii.gz'}
    del other['output_spaces']
    given: set[str] = set()
    for invocation in (whole, other):
        words = simulate(bosh, invocation)
        build_parser().parse_args(words)
        given |= {word for word in words if word.startswith('-')}
    options = (action.option_strings for action in build_parser()._actions)
    assert given == {first_long(names) for names in options if names} - NOT_INPUTS


def test_an_invocation_gives_the_settings(bosh: SimpleNamespace, tmp_path: Path) -> None:
    invocation = {
        'bids_dir': str(tmp_path / 'a dataset'),
        'output_dir': str(tmp_path / 'out'),
        'analysis_level': 'participant',
        'participant_label': ['01', '02'],
        'output_spaces': ['MNI152NLin2009aSym:res-2'],
        'no_affine_polish': True,
        'refine': 0,
        'registration_resolution': 2.5,
        'verbose': True,
    }
    settings = parse_settings(simulate(bosh, invocation))
    assert settings.selection.bids_dir == tmp_path / 'a dataset'
    assert settings.output.output_dir == tmp_path / 'out'
    assert settings.selection.participant_label == ('01', '02')
    assert settings.output.output_spaces == ('MNI152NLin2009aSym:res-2',)
    assert not settings.registration.affine_polish
    assert settings.registration.refine == 0
    assert settings.registration.registration_resolution == 2.5
    assert settings.execution.verbose == 1


def test_boutiques_rejects_values_out_of_range(bosh: SimpleNamespace) -> None:
    from boutiques.invocationSchemaHandler import InvocationValidationError

    invocation = {'bids_dir': '/data', 'output_dir': '/out', 'analysis_level': 'participant'}
    with pytest.raises(InvocationValidationError, match='refine'):
        simulate(bosh, {**invocation, 'refine': -1})


def first_long(names: list[str]) -> str:
    return next(name for name in names if name.startswith('--'))


def simulate(bosh: SimpleNamespace, invocation: dict[str, object]) -> list[str]:
    """Return the arguments that Boutiques makes of an invocation."""
    done = bosh.execute('simulate', str(DESCRIPTOR), '-i', json.dumps(invocation))
    program, *words = shlex.split(str(done.shell_command))
    assert program == 'deepreg_wf'
    return words
