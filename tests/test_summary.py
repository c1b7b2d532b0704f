"""The table of failures, the summary and the exit status of a run."""

from __future__ import annotations

import csv
import io

import pytest

from deepreg_wf.app.summary import print_failures, write_summary
from deepreg_wf.engine.failures import COLUMNS, Failure, first_per_image, update_failures
from deepreg_wf.engine.logs import Streams


def failure(label, **fields):
    """Make a failure of an unusable image."""
    values = {'image': f'sub-{label}', 'step': 'x', 'reason': 'why.', 'is_input_error': True}
    return Failure(participant=label, **(values | fields))


def test_the_first_failure_of_each_image_is_printed():
    failures = [
        failure('01'),
        failure('01', step='y'),
        failure('02'),
        failure('02', image='other'),
    ]
    assert first_per_image(failures) == [failures[0], *failures[2:]]


def read_table(path):
    with path.open(newline='') as file:
        return list(csv.DictReader(file, delimiter='\t'))


def test_the_table_keeps_the_failures_of_other_runs(tmp_path):
    table = tmp_path / 'failed.tsv'
    update_failures(table, [failure('02'), failure('01', reason='a\tb\nc.')], ['01', '02', '03'])
    rows = read_table(table)
    assert [row['participant_id'] for row in rows] == ['sub-01', 'sub-02']
    assert tuple(rows[0]) == COLUMNS
    assert rows[0]['reason'] == 'a b c.'
    update_failures(table, [failure('03')], ['01', '03'])
    assert [row['participant_id'] for row in read_table(table)] == ['sub-02', 'sub-03']
    update_failures(table, [failure('all', image='all')], ['03'])
    assert [row['participant_id'] for row in read_table(table)] == ['all', 'sub-02']
    update_failures(table, [], ['02'])
    assert not table.exists()
    update_failures(table, [], ['02'])


@pytest.mark.parametrize(
    ('failures', 'status', 'summary'),
    [
        ([], 0, '2 done, 0 failed, in 1.0 s.'),
        ([failure('01')], 1, '1 done, 1 failed, in 1.0 s.'),
        ([failure('01'), failure('02')], 2, '0 done, 2 failed, in 1.0 s.'),
        ([failure('01'), failure('02', is_input_error=False)], 1, '0 done, 2 failed, in 1.0 s.'),
        ([failure('all', is_input_error=False)], 1, '0 done, 2 failed, in 1.0 s.'),
        ([failure('all')], 2, '0 done, 2 failed, in 1.0 s.'),
    ],
)
def test_the_exit_status_and_the_summary_tell_how_a_run_ended(tmp_path, failures, status, summary):
    streams = Streams(io.StringIO(), io.StringIO())
    (tmp_path / 'sub-01.html').touch()
    images = ['sub-01', 'sub-02']
    ended = write_summary(failures, images=images, output_dir=tmp_path, seconds=1, streams=streams)
    assert ended == status
    assert streams.out.getvalue().startswith(f'{summary}\n')
    assert f'Report: {tmp_path / "sub-01.html"}\n' in streams.out.getvalue()
    assert streams.err.getvalue().count('\n') == len(failures)
    assert (tmp_path / 'failed.tsv').exists() == bool(failures)
    assert print_failures(failures, images=images, streams=streams) == status


@pytest.mark.parametrize(
    ('images', 'failed', 'status', 'summary'),
    [
        (['sub-01_ses-1', 'sub-01_ses-2'], 'sub-01_ses-2', 1, '1 done, 1 failed'),
        (['sub-01_ses-1', 'sub-01_ses-2'], 'sub-01', 2, '0 done, 2 failed'),
        (['sub-1_run-1', 'sub-1_run-2', 'sub-12'], 'sub-1', 1, '1 done, 2 failed'),
    ],
)
def test_images_are_counted_and_not_participants(tmp_path, images, failed, status, summary):
    streams = Streams(io.StringIO(), io.StringIO())
    failures = [failure(failed.partition('_')[0].removeprefix('sub-'), image=failed)]
    ended = write_summary(failures, images=images, output_dir=tmp_path, seconds=1, streams=streams)
    assert ended == status
    assert streams.out.getvalue().startswith(summary)
