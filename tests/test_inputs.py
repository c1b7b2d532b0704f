"""Selection of images, and rejection of unusable calls before anything runs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from deepreg_wf.app.folders import check_folders, make_writable
from deepreg_wf.app.inputs import find_inputs
from deepreg_wf.errors import InputError
from deepreg_wf.settings import Selection, Settings

SENTENCE = '^[^\n]+\\.$'
TWO_SESSIONS = (
    'sub-01/ses-pre/anat/sub-01_ses-pre_T1w.nii.gz',
    'sub-01/ses-post/anat/sub-01_ses-post_acq-fast_run-1_T1w.nii.gz',
    'sub-01/ses-post/anat/sub-01_ses-post_acq-fast_run-2_T1w.nii.gz',
    'sub-02/ses-pre/anat/sub-02_ses-pre_T1w.nii',
)


def make_dataset(root, *images, description=None):
    root.mkdir(parents=True, exist_ok=True)
    content = {'Name': 'test', 'BIDSVersion': '1.10.0'} if description is None else description
    (root / 'dataset_description.json').write_text(json.dumps(content))
    for image in images:
        path = root / image
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def select(root, **options):
    return Selection(bids_dir=root, **options)


def names(inputs):
    return {label: [path.name for path in paths] for label, paths in inputs.subjects.items()}


def settings_of(root, output_dir, **options):
    places = {'bids_dir': root, 'output_dir': output_dir, 'work_dir': root.parent / 'work'}
    return Settings.from_options(places | options)


def test_all_images_of_all_participants_are_found(tmp_path):
    root = make_dataset(
        tmp_path / 'bids',
        *TWO_SESSIONS,
        'sub-01/ses-pre/anat/sub-01_ses-pre_T2w.nii.gz',
        'sub-01/ses-pre/anat/sub-01_ses-pre_T1w.json',
        'sub-01/ses-pre/func/sub-01_ses-pre_task-rest_bold.nii.gz',
        'derivatives/other/sub-01/ses-pre/anat/sub-01_ses-pre_desc-preproc_T1w.nii.gz',
        'sourcedata/sub-03/anat/sub-03_T1w.nii.gz',
    )
    inputs = find_inputs(select(root))
    assert sorted(path.relative_to(root).as_posix() for path in inputs.images) == sorted(
        TWO_SESSIONS
    )
    assert list(inputs.subjects) == ['01', '02']
    assert inputs.without_t1w == ()


@pytest.mark.parametrize(
    ('options', 'expected'),
    [
        ({'participant_label': ('02',)}, {'02': ['sub-02_ses-pre_T1w.nii']}),
        ({'participant_label': ('02', '02'), 'session_label': ('pre',)}, {'02': 1}),
        ({'session_label': ('pre',)}, {'01': 1, '02': 1}),
        ({'session_label': ('post',)}, {'01': 2}),
        ({'session_label': ('pre', 'post')}, {'01': 3, '02': 1}),
    ],
)
def test_labels_select_images(tmp_path, options, expected):
    root = make_dataset(tmp_path / 'bids', *TWO_SESSIONS)
    found = names(find_inputs(select(root, **options)))
    for label, wanted in expected.items():
        assert (found[label] if isinstance(wanted, list) else len(found[label])) == wanted
    assert found.keys() == expected.keys()


@pytest.mark.parametrize(
    ('filters', 'count'),
    [
        ({'t1w': {'session': 'post'}}, 2),
        ({'t1w': {'acquisition': 'fast', 'run': 2}}, 1),
        ({'t1w': {'run': [1, 2]}}, 2),
        ({'t1w': {'acquisition': None}}, 2),
        ({'t1w': {'acquisition': '*'}}, 2),
        ({'t1w': {'run': [None, 2]}}, 3),
        ({'t1w': {'extension': '.nii'}}, 1),
        ({'bold': {'task': 'rest'}}, 4),
    ],
)
def test_filters_work_as_in_fmriprep(tmp_path, filters, count):
    root = make_dataset(tmp_path / 'bids', *TWO_SESSIONS)
    file = tmp_path / 'filters.json'
    file.write_text(json.dumps(filters))
    assert len(find_inputs(select(root, bids_filter_file=file)).images) == count


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('{"t1w": {},\n}', 'line 2, column 1'),
        ('[1]', 'not a filter file'),
        ('{"t1w": 3}', 'not a filter file'),
        ('{"t1w": {"acquisition": "(", "regex_search": true}}', "'(' is not a regular expression"),
        ('{"t1w": {"session": ["a", "*["], "regex_search": true}}', "'*[' is not a regular"),
        ('{"t1w": {"run": 1e400}}', 'filters.json'),
        ('{"t1w": {"run": 99999999999999999999}}', 'the filters cannot be used'),
        ('{"t1w": {"session": {"a": []}}}', 'filters.json'),
        ('{"t1w": {"scope": "moon"}}', 'filters.json'),
        ('{"T1w": {"session": "post"}}', 'the key is "t1w", not "T1w"'),
        ('{"t1w": {"flavour": "x"}}', 'the filters cannot be used'),
        ('{"t1w": {"session": "none"}}', 'under the filters of filters.json'),
    ],
)
def test_invalid_filters_are_rejected(tmp_path, text, words):
    root = make_dataset(tmp_path / 'bids', *TWO_SESSIONS)
    file = tmp_path / 'filters.json'
    file.write_text(text)
    with pytest.raises(InputError, match=SENTENCE) as caught:
        find_inputs(select(root, bids_filter_file=file))
    assert words in str(caught.value)


def test_participants_without_an_image_are_listed(tmp_path):
    root = make_dataset(tmp_path / 'bids', *TWO_SESSIONS)
    (root / 'sub-03' / 'anat').mkdir(parents=True)
    assert find_inputs(select(root)).without_t1w == ('03',)
    assert find_inputs(select(root, session_label=('post',))).without_t1w == ('02', '03')
    with pytest.raises(InputError, match='no T1-weighted image .* for sub-03; choose others'):
        find_inputs(select(root, participant_label=('03',)))


def test_the_error_for_an_unknown_participant_lists_the_known_ones(tmp_path):
    root = make_dataset(tmp_path / 'bids', *TWO_SESSIONS)
    with pytest.raises(InputError, match='no participant 99, 98 in .* it has 01, 02') as caught:
        find_inputs(select(root, participant_label=('99', '01', '98')))
    assert '\n' not in str(caught.value)


def test_the_list_of_participants_is_shortened(tmp_path):
    root = make_dataset(tmp_path / 'bids', 'sub-x/anat/sub-x_T1w.nii')
    for number in range(200):
        (root / f'sub-{number:03d}').mkdir()
    with pytest.raises(InputError) as caught:
        find_inputs(select(root, participant_label=('nobody',)))
    assert len(str(caught.value)) < 400 + len(str(root))


@pytest.mark.parametrize(
    'twins',
    [
        ('sub-01/anat/sub-01_T1w.nii', 'sub-01/anat/sub-01_T1w.nii.gz'),
        ('sub-01/ses-a/anat/sub-01_ses-a_T1w.nii', 'sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz'),
    ],
)
def test_two_images_with_derivatives_of_the_same_name_are_rejected(tmp_path, twins):
    root = make_dataset(tmp_path / 'bids', *twins)
    with pytest.raises(InputError, match='rename or leave out one') as caught:
        find_inputs(select(root))
    assert all(Path(twin).name in str(caught.value) for twin in twins)


@pytest.mark.parametrize('ending', ['_label-lesion_roi.nii.gz', '_T1w_label-lesion_roi.nii'])
def test_a_lesion_mask_belongs_to_the_image_with_the_same_entities(tmp_path, ending):
    images = ('sub-01/anat/sub-01_acq-a', 'sub-01/anat/sub-01_acq-b')
    root = make_dataset(tmp_path, *(f'{image}_T1w.nii.gz' for image in images))
    (root / f'{images[1]}{ending}').touch()
    (root / f'sub-01/anat/sub-01{ending}').touch()
    found = find_inputs(select(root))
    assert len(found.images) == 2
    assert found.lesions == {root / f'{images[1]}_T1w.nii.gz': root / f'{images[1]}{ending}'}


def test_names_are_validated_unless_validation_is_skipped(tmp_path):
    root = make_dataset(tmp_path / 'bids', 'sub-01/anat/sub-01_run-1_acq-fast_T1w.nii.gz')
    inputs = find_inputs(select(root))
    assert not inputs.images
    assert 'not a name that BIDS allows' in str(*inputs.rejected.values())
    assert find_inputs(select(root, skip_bids_validation=True)).images


def test_a_database_is_made_and_used_for_its_own_dataset_only(tmp_path):
    root = make_dataset(tmp_path / 'bids', *TWO_SESSIONS)
    database = tmp_path / 'db'
    first = find_inputs(select(root, participant_label=('02',), bids_database_dir=database))
    assert database.exists()
    again = find_inputs(select(root, bids_database_dir=database))
    assert len(first.images) == 1
    assert len(again.images) == 4, 'the database has all participants'
    other = make_dataset(tmp_path / 'other', *TWO_SESSIONS)
    with pytest.raises(InputError, match='a database of another dataset'):
        find_inputs(select(other, bids_database_dir=database))


def test_a_database_older_than_the_dataset_is_renewed(tmp_path):
    root = make_dataset(tmp_path / 'bids', *TWO_SESSIONS)
    options = {'bids_database_dir': tmp_path / 'db'}
    find_inputs(select(root, **options))
    anat = root / 'sub-01' / 'ses-pre' / 'anat'
    (anat / 'sub-01_ses-pre_T1w.nii.gz').rename(anat / 'sub-01_ses-pre_acq-new_T1w.nii.gz')
    make_dataset(root, 'sub-03/anat/sub-03_T1w.nii.gz')
    assert find_inputs(select(root, **options)).images == find_inputs(select(root)).images


@pytest.mark.parametrize('label', ['acq-t1_mprage', 'foo-1', 'acq-a-b'])
@pytest.mark.parametrize('skip', [False, True])
def test_an_invalid_name_rejects_its_own_image_alone(tmp_path, label, skip):
    bad = f'sub-03/anat/sub-03_{label}_T1w.nii.gz'
    root = make_dataset(tmp_path / 'bids', 'sub-01/anat/sub-01_T1w.nii.gz', bad)
    inputs = find_inputs(select(root, skip_bids_validation=skip))
    assert list(inputs.subjects) == ['01']
    assert list(inputs.rejected) == [root / bad]
    assert 'rename' in str(inputs.rejected[root / bad])


def make_datalad_clone(root, image):
    """Make a dataset in which one file is a link to content that was not fetched."""
    make_dataset(root, 'sub-01/anat/sub-01_T1w.nii.gz')
    path = root / image
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to('../../.git/annex/objects/aa/bb/MD5E-s1--x.nii.gz/MD5E-s1--x.nii.gz')
    return path


@pytest.mark.parametrize(
    'image', ['sub-01/anat/sub-01_run-2_T1w.nii.gz', 'sub-02/anat/sub-02_T1w.nii.gz']
)
def test_an_image_that_was_not_fetched_is_rejected_alone(tmp_path, image):
    path = make_datalad_clone(tmp_path / 'bids', image)
    inputs = find_inputs(select(tmp_path / 'bids'))
    assert [found.name for found in inputs.images] == ['sub-01_T1w.nii.gz']
    assert f'datalad get {path}' in str(inputs.rejected[path])
    assert not inputs.without_t1w


def test_a_lesion_mask_that_was_not_fetched_is_not_ignored(tmp_path):
    mask = make_datalad_clone(tmp_path / 'bids', 'sub-01/anat/sub-01_label-lesion_roi.nii.gz')
    inputs = find_inputs(select(tmp_path / 'bids'))
    assert not inputs.images
    assert f'datalad get {mask}' in str(*inputs.rejected.values())


def test_a_named_pipe_is_rejected_without_opening_it(tmp_path):
    root = make_dataset(tmp_path / 'bids', 'sub-01/anat/sub-01_T1w.nii.gz')
    pipe = root / 'sub-01' / 'anat' / 'sub-01_run-2_T1w.nii.gz'
    os.mkfifo(pipe)
    inputs = find_inputs(select(root))
    assert len(inputs.images) == 1
    assert not inputs.rejected or 'special file' in str(inputs.rejected[pipe])


def test_of_a_complex_image_the_magnitude_is_selected(tmp_path):
    parts = ('mag', 'phase', 'real', 'imag')
    root = make_dataset(
        tmp_path / 'bids', *(f'sub-01/anat/sub-01_part-{part}_T1w.nii.gz' for part in parts)
    )
    assert names(find_inputs(select(root))) == {'01': ['sub-01_part-mag_T1w.nii.gz']}
    filters = tmp_path / 'filters.json'
    filters.write_text('{"t1w": {"part": "real"}}')
    chosen = find_inputs(select(root, bids_filter_file=filters))
    assert names(chosen) == {'01': ['sub-01_part-real_T1w.nii.gz']}


def test_json_with_a_byte_order_mark_is_read(tmp_path):
    root = make_dataset(tmp_path / 'bids', *TWO_SESSIONS)
    description = root / 'dataset_description.json'
    description.write_text(description.read_text(), encoding='utf-8-sig')
    filters = tmp_path / 'filters.json'
    filters.write_text('{"t1w": {"session": "pre"}}', encoding='utf-8-sig')
    check_folders(settings_of(root, tmp_path / 'out'))
    assert len(find_inputs(select(root, bids_filter_file=filters)).images) == 2


def test_invalid_json_is_reported_with_line_and_column(tmp_path):
    root = make_dataset(tmp_path / 'bids', *TWO_SESSIONS)
    (root / 'dataset_description.json').write_text('{"Name": "x",\n "BIDSVersion": }')
    with pytest.raises(InputError, match=r'json: it is not valid JSON \(line 2, column 17'):
        check_folders(settings_of(root, tmp_path / 'out'))


def test_images_of_a_linked_dataset_keep_the_path_of_the_link(tmp_path):
    root = make_dataset(tmp_path / 'store' / 'bids', *TWO_SESSIONS)
    link = tmp_path / 'link'
    link.symlink_to(root)
    assert all(link in path.parents for path in find_inputs(select(link)).images)


@pytest.mark.parametrize(
    ('description', 'words'),
    [
        ({'Name': 'x'}, 'has no BIDSVersion'),
        ({}, 'has no Name and no BIDSVersion'),
        (3, 'not a JSON object'),
    ],
)
def test_the_description_is_validated_unless_validation_is_skipped(tmp_path, description, words):
    root = make_dataset(tmp_path / 'bids', *TWO_SESSIONS, description=description)
    with pytest.raises(InputError, match=SENTENCE) as caught:
        check_folders(settings_of(root, tmp_path / 'out'))
    assert words in str(caught.value)
    check_folders(settings_of(root, tmp_path / 'out', skip_bids_validation=True))


def test_a_folder_without_a_description_is_rejected(tmp_path):
    root = make_dataset(tmp_path / 'bids', *TWO_SESSIONS)
    (root / 'dataset_description.json').unlink()
    with pytest.raises(InputError, match='not a BIDS dataset'):
        check_folders(settings_of(root, tmp_path / 'out'))


@pytest.mark.parametrize(
    ('output', 'words'),
    [
        ('bids', 'is the input folder'),
        ('bids/../bids', 'is the input folder'),
        ('link', 'is the input folder'),
        ('.', 'contains the input folder'),
        ('bids/out', 'outside of its derivatives'),
        ('bids/derivatives', 'outside of its derivatives'),
        ('bids/sub-01/derivatives/x', 'outside of its derivatives'),
    ],
)
def test_output_folders_that_overlap_the_dataset_are_rejected(tmp_path, output, words):
    root = make_dataset(tmp_path / 'bids', *TWO_SESSIONS)
    (tmp_path / 'link').symlink_to(root)
    before = sorted(tmp_path.rglob('*'))
    with pytest.raises(InputError, match=SENTENCE) as caught:
        check_folders(settings_of(root, tmp_path / output))
    assert words in str(caught.value)
    assert sorted(tmp_path.rglob('*')) == before


@pytest.mark.parametrize('output', ['out', 'bids/derivatives/ours', 'bids-out', 'bids2/sub-01'])
def test_output_folders_elsewhere_or_in_the_derivatives_are_accepted(tmp_path, output):
    root = make_dataset(tmp_path / 'bids', *TWO_SESSIONS)
    check_folders(settings_of(root, tmp_path / output))


def test_a_work_folder_in_the_dataset_is_rejected(tmp_path):
    root = make_dataset(tmp_path / 'bids', *TWO_SESSIONS)
    with pytest.raises(InputError, match='the work folder lies in the input folder'):
        check_folders(settings_of(root, tmp_path / 'out', work_dir=root / 'work'))
    check_folders(settings_of(root, tmp_path / 'out', work_dir=root / 'derivatives' / 'x' / 'w'))


@pytest.mark.parametrize('option', ['bids_filter_file', 'use_plugin'])
def test_missing_files_are_rejected(tmp_path, option):
    root = make_dataset(tmp_path / 'bids', *TWO_SESSIONS)
    with pytest.raises(InputError, match='absent: no such file'):
        check_folders(settings_of(root, tmp_path / 'out', **{option: tmp_path / 'absent'}))


def test_a_folder_that_cannot_be_written_is_rejected(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(InputError, match='cannot be written'):
        make_writable(tmp_path / 'file' / 'out')
    make_writable(tmp_path / 'new' / 'out')
    assert list((tmp_path / 'new' / 'out').iterdir()) == []


def test_images_of_real_datasets_are_found(shared_data):
    inputs = find_inputs(select(shared_data / 'ds002748', participant_label=('01', '02')))
    assert names(inputs) == {'01': ['sub-01_T1w.nii.gz'], '02': ['sub-02_T1w.nii.gz']}
    assert len(find_inputs(select(shared_data / 'heads')).images) == 3
