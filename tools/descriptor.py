"""Write boutiques.json, the description of the command line for Boutiques platforms.

python tools/descriptor.py
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from deepreg_wf import __version__
from deepreg_wf.app.exit_status import INTERRUPTED, SOME_FAILED, UNUSABLE
from deepreg_wf.cli.parser import build_parser
from deepreg_wf.cli.values import nonempty_path, number, whole_number
from deepreg_wf.settings import limits_of

TARGET = Path(__file__).resolve().parents[1] / 'boutiques.json'
CREATED_FOLDERS = {'output_dir', 'work_dir', 'bids_database_dir'}
"""Folders that need not exist; Boutiques requires that a File exists."""

MEMORY = 'mem_mb'
"""Number that the command line also accepts with a unit."""

ERROR_CODES = {
    SOME_FAILED: 'Some subjects failed; failed.tsv says which and why, the others are complete.',
    UNUSABLE: 'The call, or all of its input, cannot be used.',
    INTERRUPTED: 'Interrupted; the same call continues from there.',
}


def describe(parser: argparse.ArgumentParser) -> dict[str, Any]:
    """Describe a command line.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Parser of the command line.

    Returns
    -------
    dict
        Descriptor in version 0.5 of the schema of Boutiques.
    """
    inputs = [
        describe_input(action)
        for action in parser._actions
        if not isinstance(action, (argparse._HelpAction, argparse._VersionAction))
    ]
    return {
        'name': parser.prog,
        'description': parser.description,
        'author': 'The deepreg_wf developers',
        'tool-version': __version__,
        'schema-version': '0.5',
        'command-line': ' '.join([parser.prog, *(item['value-key'] for item in inputs)]),
        'container-image': {
            'type': 'docker',
            'image': f'{parser.prog}:{__version__}',
            'entrypoint': True,
        },
        'inputs': inputs,
        'groups': [describe_exclusive_group(group) for group in parser._mutually_exclusive_groups],
        'output-files': [
            {
                'id': 'output',
                'name': 'Derivatives',
                'description': 'Folder of the derivatives and of the reports',
                'path-template': '[OUTPUT_DIR]',
            }
        ],
        'error-codes': [
            {'code': code, 'description': text} for code, text in sorted(ERROR_CODES.items())
        ],
        'tags': {'domain': ['neuroimaging', 'MRI', 'image registration', 'BIDS-App']},
    }


def describe_input(action: argparse.Action) -> dict[str, Any]:
    """Describe one argument.

    Parameters
    ----------
    action : argparse.Action
        Argument of the parser.

    Returns
    -------
    dict
        An item of the ``inputs``.
    """
    name = name_of(action)
    item: dict[str, Any] = {
        'id': name,
        'name': name.replace('_', ' '),
        'description': argparse.HelpFormatter('')._expand_help(action),
        'value-key': f'[{name.upper()}]',
        'optional': bool(action.option_strings),
        **describe_value(action),
    }
    if action.option_strings:
        item['command-line-flag'] = flag_of(action)
    if action.nargs == '+':
        item |= {'list': True, 'min-list-entries': 1}
    if action.choices:
        item['value-choices'] = list(action.choices)
    return item


def name_of(action: argparse.Action) -> str:
    """Return the name of an argument as typed: ``no_affine_polish`` for ``affine_polish``."""
    option = flag_of(action)
    return option[2:].replace('-', '_') if option.startswith('--') else action.dest


def flag_of(action: argparse.Action) -> str:
    """Return the first long name of an option, without its aliases."""
    names = action.option_strings
    return next((name for name in names if name.startswith('--')), *names[:1] or [''])


def describe_value(action: argparse.Action) -> dict[str, Any]:
    """Describe the type and the range of the value of an argument."""
    if action.nargs == 0:
        return {'type': 'Flag'}
    if action.type in (whole_number, number) or action.dest == MEMORY:
        low, high = limits_of(action.dest)
        return {
            'type': 'Number',
            'integer': action.type is not number,
            'minimum': low,
            **({} if high == float('inf') else {'maximum': high}),
        }
    must_exist = action.type is nonempty_path and action.dest not in CREATED_FOLDERS
    return {'type': 'File' if must_exist else 'String'}


def describe_exclusive_group(group: argparse._MutuallyExclusiveGroup) -> dict[str, Any]:
    """Describe mutually exclusive arguments."""
    members = [name_of(action) for action in group._group_actions]
    return {
        'id': '_or_'.join(members),
        'name': ' or '.join(name.replace('_', ' ') for name in members),
        'members': members,
        'mutually-exclusive': True,
    }


def render() -> str:
    """Return the text of ``boutiques.json``."""
    return json.dumps(describe(build_parser()), indent=2, ensure_ascii=False) + '\n'


if __name__ == '__main__':
    TARGET.write_text(render(), encoding='utf-8')
