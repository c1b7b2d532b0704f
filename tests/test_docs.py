"""What the documentation shows works, and what it names exists."""

from __future__ import annotations

import re
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]
PICTURES = sorted((ROOT / 'docs' / 'images' / 'workflows').glob('*.svg'))
EXAMPLES = [
    pytest.param(code, id=f'{page.stem}-{number}')
    for page in PAGES
    for number, code in enumerate(
        re.findall(r'```python\n(.*?)```', page.read_text('utf-8'), re.S)
    )
]

OF_CONTAINERS = set(
    re.findall(
        r'--[\w-]+',
        '--bind --cleanenv --containall --cpus --entrypoint --format --gpus --memory --network '
        '--nv --pwd --read-only --rm --tmpfs --user --userns',
    )
)
"""Options of Docker, Podman and Apptainer."""


@pytest.mark.parametrize('code', EXAMPLES)
def test_examples_run(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(code, 'example', 'exec'), {})


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.stem)
def test_options_exist(page: Path) -> None:
    from deepreg_wf.cli import batch, convert, evaluate, parser, register, train

    foreign = {'--build-arg', '--index-url', '--help', '--partition'}
    if page.stem in ('README', 'container'):
        foreign |= OF_CONTAINERS
    named = set(re.findall(r'(?<![\w-])--[a-z][a-z-]+', page.read_text('utf-8')))
    known = {
        option
        for command in (parser, batch, evaluate, register, train, convert)
        for option in command.build_parser()._option_string_actions
    }
    assert named - foreign <= known


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r'\]\(([^)#:]+)\)', page.read_text('utf-8')):
        assert (page.parent / target).exists()


@pytest.mark.parametrize('room', ['interfaces', 'workflows'])
def test_every_name_for_nipype_is_documented(room: str) -> None:
    package = import_module(f'deepreg_wf.{room}')
    documented = set(
        re.findall(r'^\| `(\w+)` \|', (ROOT / 'docs/nipype.md').read_text('utf-8'), re.M)
    )
    assert set(package.__all__) - {'DerivativesDataSink', 'single_subject_name'} <= documented
    assert all(hasattr(package, name) for name in package.__all__)


def test_limits_of_the_figures_are_those_of_the_report() -> None:
    from deepreg_wf.qc.criteria import CRITERIA

    page = (ROOT / 'docs' / 'report.md').read_text('utf-8')
    rows = [line for line in page.splitlines() if line.startswith('|')][2:]
    assert rows == [
        f'| {c.label} | {c.format_interval(c.good)} '
        f'| {c.format_interval(c.acceptable)} | {c.reason} |'
        for c in CRITERIA
    ]


def test_every_page_is_in_the_table_of_contents() -> None:
    names = {page.name for page in PAGES[1:]}
    menu = re.findall(r': ([\w-]+\.md)$', (ROOT / 'mkdocs.yml').read_text('utf-8'), re.M)
    assert set(menu) == names
    linked = re.findall(r'\]\(([\w-]+\.md)\)', (ROOT / 'docs' / 'index.md').read_text('utf-8'))
    assert set(linked) == names - {'index.md'}


@pytest.fixture(scope='module')
def graphs() -> ModuleType:
    """Return the module that draws the graphs of the workflows."""
    path = ROOT / 'tools' / 'workflow_graphs.py'
    spec = spec_from_file_location('workflow_graphs', path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize('picture', PICTURES, ids=lambda path: path.stem)
def test_a_picture_shows_the_nodes_of_its_workflow(
    picture: Path, graphs: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    factory = getattr(import_module('deepreg_wf.workflows'), picture.stem)
    dot = graphs.write_dot(graphs.build(factory), tmp_path).read_text()
    shown = re.findall(r'<g id="node\d+" class="node">\n<title>(\w+)', picture.read_text('utf-8'))
    assert set(shown) == set(re.findall(r'^\s*(\w+)\[label', dot, re.M))


def test_every_workflow_with_a_graph_has_a_picture(graphs: ModuleType) -> None:
    drawn = {factory.__name__ for factory in graphs.factories()}
    assert {picture.stem for picture in PICTURES} == drawn
