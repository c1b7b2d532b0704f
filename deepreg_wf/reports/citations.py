"""The methods text as a person reads it: Markdown with keys of the bibliography, rendered."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

_CITED = re.compile(r'\[(?:(?P<prefix>[\w ]+), )?(?P<keys>@[\w:.-]+(?:\s*;\s*@[\w:.-]+)*)\]')
_ENTRY = re.compile(r'^@\w+\{(?P<key>[^,\s]+),\n(?P<fields>.*?)^\}', re.MULTILINE | re.DOTALL)
_FIELD = re.compile(r'^\s*(?P<name>\w+) = \{(?P<value>.*)\},?$', re.MULTILINE)
_ACCENTED = re.compile(r"\{?\\([\"'`^~u])\{?([a-zA-Z])\}?\}?")
_COMBINING = dict(zip('"\'`^~u', '\u0308\u0301\u0300\u0302\u0303\u0306', strict=True))


@dataclass(frozen=True)
class Work:
    """A work of the literature.

    Parameters
    ----------
    key : str
        What a text cites it by.
    fields : mapping of str to str
        Of its BibTeX entry, by name, in plain text.
    """

    key: str
    fields: Mapping[str, str]

    @property
    def authors(self) -> list[str]:
        """Authors, each ``Family, Given``, or the one name of a group."""
        return self.fields.get('author', '').split(' and ')

    @property
    def label(self) -> str:
        """Authors and year, as they stand in a text."""
        families = [author.split(',')[0] for author in self.authors]
        names = ' and '.join(families) if len(families) < 3 else f'{families[0]} et al.'
        year = self.fields.get('year')
        return f'{names}, {year}' if year else names

    @property
    def html(self) -> str:
        """The entry of the list of references."""
        fields = {name: escape(value) for name, value in self.fields.items()}
        where = fields.get('journal') or fields.get('booktitle') or fields.get('howpublished', '')
        if where.startswith('https://'):
            where = f'<a href="{where}">{where.removeprefix("https://")}</a>'
        details = (f'<em>{where}</em>', fields.get('volume'), fields.get('pages'))
        place = ', '.join(filter(None, details)).replace('--', '–')
        year = f' ({fields["year"]})' if 'year' in fields else ''
        title = fields.get('title', '').replace(' -- ', ' – ')
        text = f'{_names(self.authors)}{year}. {title}. {place}.'
        if doi := fields.get('doi'):
            text += f' <a href="https://doi.org/{doi}">doi:{doi}</a>'
        return text


def read_bibliography(path: Path) -> dict[str, Work]:
    """Read a BibTeX file.

    Parameters
    ----------
    path : Path
        With one field per line in braces, as this package writes them.

    Returns
    -------
    dict of str to Work
        By key.
    """
    text = path.read_text(encoding='utf-8')
    works = {}
    for entry in _ENTRY.finditer(text):
        fields = {m['name']: _plain(m['value']) for m in _FIELD.finditer(entry['fields'])}
        works[entry['key']] = Work(entry['key'], fields)
    return works


def render_methods(markdown: str, bibliography: Mapping[str, Work]) -> str:
    """Turn the methods text into HTML with a list of references.

    Parameters
    ----------
    markdown : str
        With citations such as ``[@n4]``, ``[@n4; @ants]`` or ``[N4, @n4]``.
    bibliography : mapping of str to Work
        What may be cited; an unknown key stays as it is.

    Returns
    -------
    str
        HTML; each citation links to its reference. Other markup of the text is escaped.
    """
    from markdown_it import MarkdownIt

    cited: dict[str, Work] = {}

    def cite(match: re.Match[str]) -> str:
        keys = [key.strip().removeprefix('@') for key in match['keys'].split(';')]
        if any(key not in bibliography for key in keys):
            return match[0]
        cited.update((key, bibliography[key]) for key in keys)
        links = (f'<a href="#ref-{key}">{escape(bibliography[key].label)}</a>' for key in keys)
        prefix = f'{match["prefix"]}, ' if match['prefix'] else ''
        return f'({prefix}{"; ".join(links)})'

    # Links are put in last: the text itself may not bring any HTML.
    body = MarkdownIt('commonmark', {'html': False}).render(markdown)
    return _CITED.sub(cite, body) + _references(list(cited.values()))


def _references(works: Sequence[Work]) -> str:
    if not works:
        return ''
    ordered = sorted(works, key=lambda work: (work.label.casefold(), work.key))
    items = ''.join(f'<li id="ref-{work.key}">{work.html}</li>' for work in ordered)
    return f'<h4>References</h4>\n<ul class="references">{items}</ul>'


def _names(authors: Sequence[str]) -> str:
    """All authors of a small group, the first six of a large one."""
    names = [_initials(author) for author in authors]
    if len(names) > 7:
        return f'{", ".join(names[:6])} et al.'
    return ' and '.join([', '.join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]


def _initials(author: str) -> str:
    family, _, given = author.partition(', ')
    initials = ' '.join(
        '-'.join(f'{part[0]}.' for part in name.split('-') if part) for name in given.split()
    )
    return escape(f'{family} {initials}'.strip())


def _plain(text: str) -> str:
    """BibTeX text without braces, its accents as letters."""
    from unicodedata import normalize

    accented = _ACCENTED.sub(lambda m: m[2] + _COMBINING[m[1]], text)
    return normalize('NFC', accented.replace('{', '').replace('}', ''))
