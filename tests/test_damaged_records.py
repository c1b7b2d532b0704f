"""Records of earlier runs that are damaged: they are named, and the others are used."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from deepreg_wf.app.batch.state import Progress, cohort_states
from deepreg_wf.bids.dataset import write_dataset_files
from deepreg_wf.cli.main import main
from deepreg_wf.engine.crashes import read_crashes
from deepreg_wf.engine.failures import read_failures
from deepreg_wf.engine.usage import read_usages
from deepreg_wf.reports import write_subject_report

GOOD = {'jacobian_min': 0.3, 'correlation_affine': 0.6, 'correlation_final': 0.85}
RUN = '20250101-120000_test'
QC = 'space-Synthetic_desc-registration_qc.json'

ODD_JSON = {
    'empty': b'',
    'a string': b'"good"',
    'a list': b'[1, 2]',
    'null': b'null',
    'NaN alone': b'NaN',
    'an empty object': b'{}',
    'cut off': b'{"jacobian_min": 0.3, "jac',
    'a number of 400 digits': b'{"jacobian_min": ' + b'9' * 400 + b'}',
    'a number of 9000 digits': b'{"jacobian_min": ' + b'9' * 9000 + b'}',
    'an ungraded number of 400 digits': b'{"jacobian_min": 0.3, "x": ' + b'9' * 400 + b'}',
    'not a number': b'{"jacobian_min": NaN}',
    'infinite': b'{"jacobian_min": -Infinity}',
    'text for a number': b'{"jacobian_min": "0.3"}',
    'a list for a number': b'{"jacobian_min": [0.3]}',
    'true for a number': b'{"jacobian_min": true}',
    'deep nesting': b'[' * 100_000,
    'deep nesting in a measure': b'{"jacobian_min": ' + b'{"a": ' * 100_000,
    'Latin-1': '{"jacobian_min": 0.3, "é": 1}'.encode('latin-1'),
    'UTF-16': '{"jacobian_min": 0.3}'.encode('utf-16'),
    'null bytes': bytes(1000),
}


def write_qc(output: Path, label: str, content: bytes) -> Path:
    path = output / f'sub-{label}' / 'anat' / f'sub-{label}_{QC}'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def summarise(output: Path) -> int:
    return main([str(output), str(output), 'group'])


def images(output: Path) -> list[str]:
    with (output / 'group_desc-registration_qc.tsv').open(encoding='utf-8') as file:
        return [row['image'] for row in csv.DictReader(file, delimiter='\t')]


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Folder of derivatives with one good QC file."""
    write_qc(tmp_path, '01', json.dumps(GOOD).encode())
    return tmp_path


def test_odd_qc_files_are_listed_and_the_others_summarised(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [
        write_qc(output, f'odd{number}', content)
        for number, content in enumerate(ODD_JSON.values())
    ]
    assert summarise(output) == 1
    assert images(output) == ['sub-01']
    sentences = capsys.readouterr().err.splitlines()
    page = (output / 'group.html').read_text(encoding='utf-8')
    for path, name in zip(paths, ODD_JSON, strict=True):
        (sentence,) = (line for line in sentences if line.startswith(f'{path}: '))
        assert sentence.endswith('; run this image again.'), name
        assert path.name in page, name
    assert len(sentences) == len(paths)


def test_what_is_no_file_is_listed(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder, a link that leads nowhere, a pipe, and a file of terabytes that has no content."""
    import os

    folder, link, pipe, huge = (write_qc(output, label, b'') for label in ('a', 'b', 'c', 'd'))
    for path in (folder, link, pipe):
        path.unlink()
    folder.mkdir()
    link.symlink_to(output / 'nowhere')
    os.mkfifo(pipe)
    os.truncate(huge, 2**36)
    assert summarise(output) == 1
    assert images(output) == ['sub-01']
    printed = capsys.readouterr().err
    assert all(printed.count(f'{path}: ') == 1 for path in (folder, link, pipe, huge))


def test_odd_names_of_qc_files_are_listed(output: Path) -> None:
    anat = output / 'sub-01' / 'anat'
    for name in (b'sub-01_\xff_', b'sub-01 <b>_'):
        path = str(anat).encode() + b'/' + name + QC.encode()
        with open(path, 'wb') as file:
            file.write(json.dumps(GOOD).encode())
    assert summarise(output) == 1
    assert images(output) == ['sub-01']
    page = (output / 'group.html').read_text(encoding='utf-8')
    assert r'sub-01_\udcff_' in page
    assert '<b>_' not in page


def test_measures_of_no_criterion_do_not_change_the_other_columns(output: Path) -> None:
    more = {
        'verdict': 7,
        'image': 8,
        'tab\tin name': 9,
        'extra': 10,
        'remarks': ['a'],
        'none': None,
    }
    write_qc(output, '02', json.dumps(GOOD | more).encode())
    assert summarise(output) == 0
    with (output / 'group_desc-registration_qc.tsv').open() as file:
        row = next(row for row in csv.DictReader(file, delimiter='\t') if row['extra'] == '10')
    assert (row['image'], row['verdict']) == ('sub-02', 'good')
    described = json.loads((output / 'group_desc-registration_qc.json').read_text())
    assert set(described) == set(row)


ODD_TABLES = {
    'Latin-1': 'participant_id\timage\treason\nsub-02\tsub-02\té\n'.encode('latin-1'),
    'other columns': b'a\tb\n1\t2\n',
    'too many values': b'participant_id\timage\nsub-02\tsub-02\t3\t4\n',
    'too few values': b'participant_id\timage\tstep\nsub-02\n',
    'null bytes': bytes(1000),
    'a field of a megabyte': b'participant_id\timage\nsub-02\t' + b'x' * 2**20,
    'a byte order mark': b'\xef\xbb\xbfparticipant_id\timage\nsub-02\tsub-02\n',
    'empty': b'',
}


@pytest.mark.parametrize('content', ODD_TABLES.values(), ids=ODD_TABLES)
def test_an_odd_table_of_failures_does_not_end_the_group(output: Path, content: bytes) -> None:
    (output / 'failed.tsv').write_bytes(content)
    (output / 'sub-02').mkdir()
    assert summarise(output) == 0
    assert images(output) == ['sub-01']
    assert 'sub-02' in (output / 'group.html').read_text(encoding='utf-8')
    for row in read_failures(output / 'failed.tsv'):
        assert row['participant_id'] == 'sub-02'


def test_a_folder_in_place_of_the_table_of_failures_does_not_end_the_group(output: Path) -> None:
    (output / 'failed.tsv').mkdir()
    assert summarise(output) == 0


@pytest.mark.parametrize(
    'name', ['a list', 'an empty object', 'not a number', 'deep nesting', 'UTF-16']
)
def test_odd_logs_of_a_participant_are_left_out(output: Path, name: str) -> None:
    """Usage, facts of a crash and settings; the report and the state of the cohort are made."""
    content = ODD_JSON[name]
    write_qc(output, '01', content)
    log = output / 'sub-01' / 'log' / RUN
    log.mkdir(parents=True)
    for file in ('usage.json', 'crash-1.json', 'deepreg_wf.toml', 'computed.json'):
        (log / file).write_bytes(content)
    (log / 'crash-1.txt').write_bytes(b'Node: a.b\nTraceback (most recent call last):\nE: \xff\n')
    (output / 'logs').mkdir()
    (output / 'logs' / 'CITATION.md').write_bytes(b'\xff')
    assert read_usages(output, '01') == []
    (crash,) = read_crashes(log)
    assert crash.reason.startswith('E: ')
    page = write_subject_report(output, '01', RUN).read_text(encoding='utf-8')
    assert '1 step failed' in page
    assert f'sub-01_{QC}' in page
    assert cohort_states(output, ['01'])['01'].progress is Progress.TO_DO


@pytest.mark.parametrize(
    'content', [*ODD_JSON.values(), b'{"DatasetLinks": 7, "GeneratedBy": {"Name": 1}}']
)
def test_an_odd_description_of_the_derivatives_is_replaced(tmp_path: Path, content: bytes) -> None:
    raw, output = tmp_path / 'raw', tmp_path / 'out'
    raw.mkdir()
    output.mkdir()
    (raw / 'dataset_description.json').write_text('{"Name": "Test"}')
    for name in ('dataset_description.json', '.bidsignore', 'descriptions.tsv'):
        (output / name).write_bytes(content)
    write_dataset_files(output, raw, {})
    description = json.loads((output / 'dataset_description.json').read_text())
    assert description['DatasetLinks']['raw'] == raw.as_uri()
    assert description['GeneratedBy'][0]['Name'] == 'deepreg_wf'
    assert b'\nfailed.tsv\n' in (output / '.bidsignore').read_bytes()
