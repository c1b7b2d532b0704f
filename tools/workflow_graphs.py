"""Draw the graph of each public workflow factory, from the example in its docstring.

    python tools/workflow_graphs.py

writes ``docs/images/workflows/init_*_wf.svg``; it needs graphviz.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import chdir
from inspect import getdoc
from pathlib import Path
from typing import Any

import deepreg_wf.workflows

FOLDER = Path(__file__).resolve().parents[1] / 'docs' / 'images' / 'workflows'


def factories() -> Iterator[Any]:
    """Yield the public workflow factories whose docstring has a graph."""
    for name in deepreg_wf.workflows.__all__:
        factory = getattr(deepreg_wf.workflows, name)
        if 'Workflow Graph' in (getdoc(factory) or ''):
            yield factory


def build(factory: Any) -> Any:
    """Run the example in the docstring of a factory and return the workflow.

    The files that the example names are made, empty, in the current folder.
    """
    block = re.search(
        r'\.\. workflow::\n(?:\s*:\w+:.*\n)*\s*\n((?:[ \t]+.*\n|\n)+)', getdoc(factory) or ''
    )
    assert block, f'{factory.__name__}: no example'
    for path in map(Path, re.findall(r"'([\w/.-]+\.nii\.gz)'", block[1])):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    names: dict[str, Any] = {}
    exec(textwrap.dedent(block[1]), names)
    return names['wf']


def write_dot(workflow: Any, folder: Path) -> Path:
    """Write the graph of a workflow, without connections by field, in the dot language."""
    workflow.base_dir = str(folder)
    path = workflow.write_graph(
        dotfilename='graph.dot', graph2use='colored', format='dot', simple_form=True
    )
    dot = Path(path).with_suffix('.dot')
    # One arrow between two nodes, however many fields it stands for.
    text = dot.read_text().splitlines()
    lines = [line for i, line in enumerate(text) if '->' not in line or line not in text[:i]]
    dot.write_text('\n'.join(lines) + '\n')
    return dot


def draw(factory: Any) -> Path:
    """Draw the graph of a factory as SVG."""
    target = FOLDER / f'{factory.__name__}.svg'
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        dot = write_dot(build(factory), Path(folder))
        svg = subprocess.run(
            ['dot', '-Tsvg', str(dot)], check=True, capture_output=True, text=True
        ).stdout
    # The version of graphviz would change each file.
    target.write_text(re.sub(r'<!--.*?-->\n?', '', svg, flags=re.S), encoding='utf-8')
    return target


if __name__ == '__main__':
    FOLDER.mkdir(parents=True, exist_ok=True)
    for each in factories():
        print(draw(each))
