"""Rendering of the methods text: Markdown with citation keys to HTML with references."""

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
class BibEntry:
    """An entry of the bibliography.

    Parameters
    ----------
    key : str
        Citation key.
    fields : mapping of str to str
        Values of the BibTeX fields by their names, as plain text.
    """

    key: str
    fields: Mapping[str, str]

    @property
    def authors(self) -> list[str]:
        """Authors, each as ``Family, Given`` or as the name of a group."""
        return self.fields.get('author', '').split(' and ')

    @property
    def citation(self) -> str:
        """Authors and year, as in a citation within the text."""
        families = [author.split(',')[0] for author in self.authors]
        names = ' and '.join(families) if len(families) < 3 else f'{families[0]} et al.'
        year = self.fields.get('year')
        return f'{names}, {year}' if year else names

    @property
    def reference(self) -> str:
        """Entry in the list of references, as HTML."""
        fields = {name: escape(value) for name, value in self.fields.items()}
        venue = fields.get('journal') or fields.get('booktitle') or fields.get('howpublished', '')
        if venue.startswith('https://'):
            venue = f'<a href="{venue}">{venue.removeprefix("https://")}</a>'
        details = (f'<em>{venue}</em>', fields.get('volume'), fields.get('pages'))
        source = ', '.join(filter(None, details)).replace('--', '–')
        year = f' ({fields["year"]})' if 'year' in fields else ''
        title = fields.get('title', '').replace(' -- ', ' – ')
        text = f'{_format_authors(self.authors)}{year}. {title}. {source}.'
        if doi := fields.get('doi'):
            text += f' <a href="https://doi.org/{doi}">doi:{doi}</a>'
        return text


def read_bibliography(path: Path) -> dict[str, BibEntry]:
    """Read a BibTeX file.

    Parameters
    ----------
    path : Path
        File with one field in braces on each line, like ``data/boilerplate.bib``.

    Returns
    -------
    dict of str to BibEntry
        Entries by their keys.
    """
    text = path.read_text(encoding='utf-8')
    entries = {}
    for entry in _ENTRY.finditer(text):
        fields = {m['name']: _plain_text(m['value']) for m in _FIELD.finditer(entry['fields'])}
        entries[entry['key']] = BibEntry(entry['key'], fields)
    return entries


def render_methods(markdown: str, bibliography: Mapping[str, BibEntry]) -> str:
    """Convert the methods text to HTML with a list of references.

    Parameters
    ----------
    markdown : str
        Text with citations such as ``[@n4]``, ``[@n4; @ants]`` or ``[N4, @n4]``.
    bibliography : mapping of str to BibEntry
        Entries by their keys. A citation with an unknown key is left as it is.

    Returns
    -------
    str
        HTML in which each citation links to its reference. HTML in the text itself is escaped.
    """
    from markdown_it import MarkdownIt

    cited: dict[str, BibEntry] = {}

    def cite(match: re.Match[str]) -> str:
        keys = [key.strip().removeprefix('@') for key in match['keys'].split(';')]
        if any(key not in bibliography for key in keys):
            return match[0]
        cited.update((key, bibliography[key]) for key in keys)
        links = (f'<a href="#ref-{key}">{escape(bibliography[key].citation)}</a>' for key in keys)
        prefix = f'{match["prefix"]}, ' if match['prefix'] else ''
        return f'({prefix}{"; ".join(links)})'

    # Links are inserted last, because the conversion escapes all HTML in the text.
    body = MarkdownIt('commonmark', {'html': False}).render(markdown)
    return _CITED.sub(cite, body) + _references(list(cited.values()))


def _references(entries: Sequence[BibEntry]) -> str:
    if not entries:
        return ''
    ordered = sorted(entries, key=lambda entry: (entry.citation.casefold(), entry.key))
    items = ''.join(f'<li id="ref-{entry.key}">{entry.reference}</li>' for entry in ordered)
    return f'<h4>References</h4>\n<ul class="references">{items}</ul>'


def _format_authors(authors: Sequence[str]) -> str:
    """Names of up to seven authors, or of the first six of more."""
    names = [_abbreviate(author) for author in authors]
    if len(names) > 7:
        return f'{", ".join(names[:6])} et al.'
    return ' and '.join([', '.join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]


def _abbreviate(author: str) -> str:
    """Family name and initials of an author."""
    family, _, given = author.partition(', ')
    initials = ' '.join(
        '-'.join(f'{part[0]}.' for part in name.split('-') if part) for name in given.split()
    )
    return escape(f'{family} {initials}'.strip())


def _plain_text(text: str) -> str:
    """BibTeX text without braces and with accented letters."""
    from unicodedata import normalize

    accented = _ACCENTED.sub(lambda m: m[2] + _COMBINING[m[1]], text)
    return normalize('NFC', accented.replace('{', '').replace('}', ''))
