"""What a folder of derivatives says of itself: description, exceptions, vocabulary, citation."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deepreg_wf import __version__
from deepreg_wf.bids.entities import write_json, write_text
from deepreg_wf.errors import InputError
from deepreg_wf.templates.template import TEMPLATEFLOW_ROOT
from deepreg_wf.utils.atomic import atomic_write
from deepreg_wf.utils.locks import locked

BIDS_VERSION = '1.10.0'

LOCK = 'logs/.lock'
"""Held, in the folder of the derivatives, by whoever writes a file that all its jobs share."""

# Patterns of .gitignore; the validator passes over "figures" only without a slash at its end.
IGNORED = (
    '*.html',
    'figures',
    'log',
    'failed.tsv',
    'group',
    'group_*',
    '*_xfm.*',
    '*_qc.json',
    '*_desc-momentum_T1w.*',
    '*_cohort-*',
)

DESCRIPTIONS = {
    'preproc': 'Corrected for intensity non-uniformity; not masked.',
    'brain': 'Brain mask.',
    'logjacobian': (
        'Natural logarithm of the Jacobian determinant of the deformable part of the map from '
        'the template to the subject; positive where the subject is larger.'
    ),
    'momentum': 'Initial momentum of the geodesic that registers the template and the subject.',
    'uncertainty': (
        'Standard deviation, in mm, of the deformable part of the map from the template to the '
        'subject, over momenta drawn from a network with dropout.'
    ),
    'registration': 'Figures of merit of the registration.',
}


_COLUMNS = {
    'Description': 'Labels of the desc entity, and what they mean.',
    'desc_id': {'Description': 'Label of the desc entity in the names of files.'},
    'description': {'Description': 'What files with this label are.'},
}
_README = """\
# {name}

Open `sub-*.html`, the report of each participant, in a browser. `group.html`, if it is there, has
them all, worst first. `failed.tsv`, if it is there, names the images that failed, and why.

`descriptions.tsv` says what the images are, and the JSON file beside each how it was made.
`logs/CITATION.md` is the methods text for a paper.
"""


def write_dataset_files(
    output_dir: Path,
    bids_dir: Path,
    environ: Mapping[str, str] = os.environ,
    *,
    derivatives: Mapping[str, Path] | None = None,
) -> None:
    """Write the files that make a folder a BIDS derivative.

    These are ``dataset_description.json``, ``.bidsignore``, ``descriptions.tsv`` with its sidecar
    and, where there is none, a ``README.md``. Links and lines that another run or a person has
    added are kept, and jobs that share the folder may write them at the same time.

    Parameters
    ----------
    output_dir : Path
        Folder of the derivatives; made if missing.
    bids_dir : Path
        The raw dataset.
    environ : mapping of str to str
        Tells whether a container is running; see `describe_dataset`.
    derivatives : mapping of str to Path, optional
        Folders of derivatives that files were taken from, by name.

    Raises
    ------
    InputError
        If the description of the raw dataset, or the one that is there, is not JSON.
    """
    description = describe_dataset(output_dir, bids_dir, environ)
    taken = {name: _link(folder, output_dir) for name, folder in (derivatives or {}).items()}
    rows = (f'desc-{name}\t{meaning}' for name, meaning in DESCRIPTIONS.items())
    path = output_dir / 'dataset_description.json'
    with locked(output_dir / LOCK):
        known = _read_description(path).get('DatasetLinks', {})
        description['DatasetLinks'] = {**known, **description['DatasetLinks'], **taken}
        write_json(path, description)
        _add_lines(output_dir / '.bidsignore', IGNORED)
        _add_lines(output_dir / 'descriptions.tsv', ('desc_id\tdescription', *rows))
        write_json(output_dir / 'descriptions.json', _COLUMNS)
        if not any(output_dir.glob('README*')):
            write_text(output_dir / 'README.md', _README.format(name=description['Name']))


def describe_dataset(
    output_dir: Path, bids_dir: Path, environ: Mapping[str, str] = os.environ
) -> dict[str, Any]:
    """Describe the folder of the derivatives.

    Parameters
    ----------
    output_dir, bids_dir : Path
        Of the derivatives and of the raw dataset.
    environ : mapping of str to str
        ``DEEPREG_WF_DOCKER_TAG`` (set in our image), or ``APPTAINER_CONTAINER`` or
        ``SINGULARITY_CONTAINER`` (set by those programs), names the container.

    Returns
    -------
    dict
        The content of ``dataset_description.json``.

    Raises
    ------
    InputError
        If the description of the raw dataset is not JSON.
    """
    raw = _read_description(bids_dir / 'dataset_description.json')
    program: dict[str, Any] = {'Name': 'deepreg_wf', 'Version': __version__}
    if container := _container(environ):
        program['Container'] = container
    description = {
        'Name': f'deepreg_wf: registration of {raw.get("Name", bids_dir.absolute().name)}',
        'BIDSVersion': BIDS_VERSION,
        'DatasetType': 'derivative',
        'License': raw.get('License'),
        'Authors': raw['Authors'] if isinstance(raw.get('Authors'), list) else None,
        'GeneratedBy': [program],
        'SourceDatasets': [_source(raw, bids_dir)],
        'DatasetLinks': {'raw': _link(bids_dir, output_dir), 'templateflow': TEMPLATEFLOW_ROOT},
        'HowToAcknowledge': 'Please include the text of logs/CITATION.md and its references.',
    }
    return {key: value for key, value in description.items() if value}


def write_citation(output_dir: Path, text: str) -> None:
    """Write the methods text, ``logs/CITATION.md``, and its references, ``logs/CITATION.bib``.

    Parameters
    ----------
    output_dir : Path
        Folder of the derivatives.
    text : str
        What the workflow says of itself (``workflow.visit_desc()``), in Markdown with keys of
        the bibliography. A paragraph that repeats, as for each of several templates, is written
        once, and each in one line.
    """
    logs = output_dir / 'logs'
    paragraphs = dict.fromkeys(' '.join(part.split()) for part in text.split('\n\n'))
    with locked(output_dir / LOCK):
        write_text(logs / 'CITATION.md', '\n\n'.join(filter(None, paragraphs)) + '\n')
        with atomic_write(logs / 'CITATION.bib') as temporary:
            shutil.copyfile(Path(__file__).parents[1] / 'data' / 'boilerplate.bib', temporary)


def _read_description(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        description = json.loads(path.read_text(encoding='utf-8'))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f'{path}: not valid JSON ({error}); correct the file.') from error
    return description if isinstance(description, dict) else {}


def _container(environ: Mapping[str, str]) -> dict[str, str]:
    # Apptainer first: what it makes of our image has the tag as well.
    if image := environ.get('APPTAINER_CONTAINER') or environ.get('SINGULARITY_CONTAINER'):
        return {'Type': 'singularity', 'URI': Path(image).absolute().as_uri()}
    if tag := environ.get('DEEPREG_WF_DOCKER_TAG'):
        return {'Type': 'docker', 'Tag': f'deepreg_wf:{tag}'}
    return {}


def _source(raw: Mapping[str, Any], bids_dir: Path) -> dict[str, str]:
    doi = str(raw.get('DatasetDOI', '')).removeprefix('doi:')
    if doi.startswith('10.'):
        return {'DOI': doi, 'URL': f'https://doi.org/{doi}'}
    return {'URL': bids_dir.absolute().as_uri()}


def _link(bids_dir: Path, output_dir: Path) -> str:
    """Address of the raw dataset; relative where the derivatives lie in it and move with it."""
    raw, output = bids_dir.resolve(), output_dir.resolve()
    return os.path.relpath(raw, output) if output.is_relative_to(raw) else raw.as_uri()


def _add_lines(path: Path, lines: tuple[str, ...]) -> None:
    present = path.read_text(encoding='utf-8').splitlines() if path.is_file() else []
    write_text(path, '\n'.join(dict.fromkeys([*present, *lines])) + '\n')
