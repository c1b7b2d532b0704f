"""Files that describe a folder of derivatives: description, ignored files, labels, citation."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

from deepreg_wf import __version__
from deepreg_wf.errors import InputError
from deepreg_wf.templates.templateflow import TEMPLATEFLOW_URL
from deepreg_wf.utils.atomic import atomic_write, write_json, write_text
from deepreg_wf.utils.json_file import read_json_object
from deepreg_wf.utils.locks import locked

BIDS_VERSION = '1.10.0'

SHARED_LOCK = 'logs/.lock'
"""Lock of the files that all runs share, in the folder of the derivatives."""

_PROGRAM = 'deepreg_wf'

_CODE_LABELS = ('source', 'source code', 'repository', 'code', 'github', 'homepage')
"""Labels of the address of the source code in the metadata of a package; the best first."""

# The patterns are those of .gitignore. "figures" must not end in a slash: the validator would
# not ignore it.
_IGNORED = (
    '*.html',
    'figures',
    'log',
    'failed.tsv',
    'group',
    'group_*',
    '*_xfm.*',
    '*_qc.json',
    '*_desc-momentum_T1w.*',
    '*_desc-momentum2_T1w.*',
    '*_cohort-*',
)

DESCRIPTIONS = {
    'preproc': 'Corrected for intensity non-uniformity; not masked.',
    'brain': 'Brain mask.',
    'logjacobian': (
        'Natural logarithm of the Jacobian determinant of the deformable part of the map from '
        'the template to the subject; positive where the subject is larger.'
    ),
    'momentum': 'Initial momentum of the geodesic that registers the template and the subject, or '
    'of the first one of a chain.',
    'momentum2': 'Initial momentum of the second geodesic of the chain, which deforms what the '
    'first one has deformed.',
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
    and, unless there is one, a ``README.md``. Links and lines that another run or the user has
    added are kept. Several runs may write these files at the same time.

    Parameters
    ----------
    output_dir : Path
        Folder of the derivatives; it is made if it does not exist.
    bids_dir : Path
        Root of the raw dataset.
    environ : mapping of str to str
        Environment variables, which name the container; see `describe_dataset`.
    derivatives : mapping of str to Path, optional
        Folders of derivatives from which files were used, by name.

    Raises
    ------
    InputError
        If the description of the raw dataset is not JSON. An earlier one of the derivatives that
        is damaged is replaced.
    """
    description = describe_dataset(output_dir, bids_dir, environ)
    links = {name: _link(folder, output_dir) for name, folder in (derivatives or {}).items()}
    rows = (f'desc-{name}\t{meaning}' for name, meaning in DESCRIPTIONS.items())
    path = output_dir / 'dataset_description.json'
    with locked(output_dir / SHARED_LOCK):
        earlier = _read_earlier(path)
        known = earlier.get('DatasetLinks')
        known = known if isinstance(known, dict) else {}
        description['DatasetLinks'] = {**known, **description['DatasetLinks'], **links}
        # Files of earlier versions may still be in the folder.
        description['GeneratedBy'] += _other_versions(earlier, description['GeneratedBy'])
        write_json(path, description)
        _add_lines(output_dir / '.bidsignore', _IGNORED)
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
        Folder of the derivatives, and root of the raw dataset.
    environ : mapping of str to str
        Environment variables. ``DEEPREG_WF_DOCKER_TAG`` (set in the Docker image),
        ``APPTAINER_CONTAINER`` or ``SINGULARITY_CONTAINER`` (set by these programs) name the
        container.

    Returns
    -------
    dict
        Content of ``dataset_description.json``.

    Raises
    ------
    InputError
        If the description of the raw dataset is not JSON.
    """
    raw = _read_description(bids_dir / 'dataset_description.json')
    program: dict[str, Any] = {'Name': _PROGRAM, 'Version': __version__}
    if address := _code_url():
        program['CodeURL'] = address
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
        'DatasetLinks': {'raw': _link(bids_dir, output_dir), 'templateflow': TEMPLATEFLOW_URL},
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
        Description of the workflow (``workflow.visit_desc()``), in Markdown with citation keys.
        Each paragraph is written in one line. A paragraph that repeats, for example for several
        templates, is written once.
    """
    logs = output_dir / 'logs'
    paragraphs = dict.fromkeys(' '.join(part.split()) for part in text.split('\n\n'))
    with locked(output_dir / SHARED_LOCK):
        write_text(logs / 'CITATION.md', '\n\n'.join(filter(None, paragraphs)) + '\n')
        with atomic_write(logs / 'CITATION.bib') as temporary:
            shutil.copyfile(Path(__file__).parents[1] / 'data' / 'boilerplate.bib', temporary)


def _read_description(path: Path) -> dict[str, Any]:
    """Read a ``dataset_description.json``; empty if there is none."""
    if not path.is_file():
        return {}
    return read_json_object(path)


def _read_earlier(path: Path) -> dict[str, Any]:
    """Read the description that an earlier run has written; empty if it is damaged."""
    try:
        return _read_description(path)
    except InputError:
        return {}


def _other_versions(
    earlier: Mapping[str, Any], programs: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return the other versions of this program that have written to the folder."""
    known = earlier.get('GeneratedBy')
    known = known if isinstance(known, list) else []
    ours = (each for each in known if isinstance(each, dict) and each.get('Name') == _PROGRAM)
    return [each for each in ours if each not in programs]


def _code_url() -> str | None:
    """Return the address of the source code that the metadata of the package give.

    Returns
    -------
    str or None
        None if the package has no such address, or is not installed.
    """
    try:
        lines = metadata(_PROGRAM).get_all('Project-URL') or []
    except PackageNotFoundError:
        return None
    parts = [line.partition(',') for line in lines]
    urls = {label.strip().lower(): address.strip() for label, _, address in parts}
    return next((urls[label] for label in _CODE_LABELS if label in urls), None)


def _container(environ: Mapping[str, str]) -> dict[str, str]:
    """Describe the container; empty outside of one."""
    # Apptainer comes first, because images that are converted from Docker also have the tag.
    if image := environ.get('APPTAINER_CONTAINER') or environ.get('SINGULARITY_CONTAINER'):
        return {'Type': 'singularity', 'URI': Path(image).absolute().as_uri()}
    if tag := environ.get('DEEPREG_WF_DOCKER_TAG'):
        return {'Type': 'docker', 'Tag': f'deepreg_wf:{tag}'}
    return {}


def _source(raw: Mapping[str, Any], bids_dir: Path) -> dict[str, str]:
    """Describe the raw dataset, by its DOI if it has one."""
    doi = str(raw.get('DatasetDOI', '')).removeprefix('doi:')
    if doi.startswith('10.'):
        return {'DOI': doi, 'URL': f'https://doi.org/{doi}'}
    return {'URL': bids_dir.absolute().as_uri()}


def _link(bids_dir: Path, output_dir: Path) -> str:
    """Return the address of a dataset; relative if the derivatives are inside of it."""
    raw, output = bids_dir.resolve(), output_dir.resolve()
    return os.path.relpath(raw, output) if output.is_relative_to(raw) else raw.as_uri()


def _add_lines(path: Path, lines: tuple[str, ...]) -> None:
    """Add those lines to a text file that it lacks."""
    present = path.read_bytes().splitlines() if path.is_file() else []
    merged = dict.fromkeys([*present, *(line.encode() for line in lines)])
    with atomic_write(path) as temporary:
        temporary.write_bytes(b'\n'.join(merged) + b'\n')
