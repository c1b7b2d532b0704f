"""Extension of the API reference: the sections of workflow docstrings that numpydoc lacks.

Workflow factories follow sMRIPrep's docstrings, with the sections "Workflow Graph", "Inputs" and
"Outputs". The first becomes the picture that ``tools/workflow_graphs.py`` draws, the others lists.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_GRAPH = re.compile(r'Workflow Graph\n(?:[ \t]+.*\n|\n)+')
_FIELDS = re.compile(r'^(Inputs|Outputs)\n-+\n((?:(?!\S.*\n-+\n).*\n?)*)', re.MULTILINE)


class WorkflowSections(griffe.Extension):
    """Rewrite the docstrings of workflow factories as Markdown."""

    def on_function(self, *, func: griffe.Function, **kwargs: Any) -> None:
        """Replace the sections of one factory, ahead of those of numpydoc."""
        if func.docstring and func.name.startswith('init_'):
            picture = f'![Graph of {func.name}](../images/workflows/{func.name}.svg)\n\n'
            text = _GRAPH.sub(picture, func.docstring.value) + '\n'
            fields = ''.join(_as_list(section) for section in _FIELDS.finditer(text))
            head, parameters, rest = _FIELDS.sub('', text).partition('Parameters\n---')
            func.docstring.value = f'{head}{fields}{parameters}{rest}'


def _as_list(section: re.Match[str]) -> str:
    """Write a section of names and their descriptions as a list."""
    entries = re.findall(r'^(\S.*)\n((?:[ \t]+\S.*\n?)*)', section[2], re.MULTILINE)
    lines = [f'- `{names}`: {" ".join(text.split())}' for names, text in entries]
    return '\n'.join([f'**{section[1]}**', '', *lines, '', ''])
