"""Templates: specifications, the bundled template, TemplateFlow, and custom images."""

from __future__ import annotations

from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import nibabel as nb
import numpy as np
import pytest
from nibabel.affines import apply_affine, voxel_sizes

from deepreg_wf.errors import InputError
from deepreg_wf.templates.locate import get_custom_template, get_template
from deepreg_wf.templates.spaces import SpaceSpec
from deepreg_wf.templates.templateflow import templateflow_home

BUNDLED = 'MNI152NLin2009aSym'


@pytest.fixture(scope='module')
def cache_dir(tmp_path_factory):
    return tmp_path_factory.mktemp('templates')


def write_image(path, shape=(4, 5, 6)):
    path.parent.mkdir(parents=True, exist_ok=True)
    nb.save(nb.Nifti1Image(np.ones(shape, 'uint8'), np.eye(4)), path)
    return path


@pytest.mark.parametrize(
    ('spec', 'expected'),
    [
        ('A', SpaceSpec(space='A')),
        ('A1:res-2', SpaceSpec(space='A1', resolution='2')),
        ('A:cohort-3', SpaceSpec(space='A', cohort='3')),
        ('A:cohort-3:res-02', SpaceSpec(space='A', cohort='3', resolution='02')),
    ],
)
def test_space_is_parsed_as_in_fmriprep(spec, expected):
    assert SpaceSpec.from_string(spec) == expected


def test_space_may_have_several_cohorts_and_resolutions():
    found = SpaceSpec.all_from_string('A:res-1:cohort-3:res-2:cohort-4')
    assert [(spec.cohort, spec.resolution) for spec in found] == [
        ('3', '1'),
        ('3', '2'),
        ('4', '1'),
        ('4', '2'),
    ]


@pytest.mark.parametrize('spec', ['T1w', 'anat'])
def test_native_space_is_refused(spec):
    with pytest.raises(InputError, match='leave it out'):
        SpaceSpec.from_string(spec)


@pytest.mark.parametrize(
    'spec',
    ['fsaverage', 'fsaverage5', 'fsaverage:den-10k', 'fsnative', 'fsLR', 'fsLR:den-32k', 'onavg'],
)
def test_surface_is_refused_without_advice_to_download_it(spec, tmp_path):
    with pytest.raises(InputError, match='surface spaces are not supported') as caught:
        get_template(spec, cache_dir=tmp_path, home=tmp_path, allow_download=True)
    assert 'download' not in str(caught.value)


@pytest.mark.parametrize('spec', ['func', 'boldref', 'func:res-2'])
def test_native_space_of_another_image_is_refused(spec):
    with pytest.raises(InputError, match='only T1-weighted images'):
        SpaceSpec.from_string(spec)


@pytest.mark.parametrize('spec', ['', 'A B', 'A:', 'A:res-', 'A:den-2', 'A:b', 'a/b', 'A\n'])
def test_other_spelling_is_refused(spec):
    with pytest.raises(InputError, match='not an output space; write SPACE'):
        SpaceSpec.from_string(spec)


@pytest.mark.parametrize(('resolution', 'size'), [(None, 1), ('1', 1), ('2', 2), ('02', 2)])
def test_images_of_the_bundled_template_are_consistent(cache_dir, resolution, size):
    spec = BUNDLED if resolution is None else f'{BUNDLED}:res-{resolution}'
    template = get_template(spec, cache_dir=cache_dir)
    assert (template.space, template.resolution) == (BUNDLED, resolution)
    files = (template.t1w, template.mask, template.gm, template.wm)
    t1w, mask, gm, wm = (nb.load(file) for file in files)
    for image in (mask, gm, wm):
        assert image.shape == t1w.shape
        np.testing.assert_array_equal(image.affine, t1w.affine)
    assert voxel_sizes(t1w.affine).tolist() == [size] * 3
    brain = np.asanyarray(mask.dataobj) > 0
    litres = brain.sum() * size**3 / 1e6
    assert litres == pytest.approx(1.8865, rel=2e-3), 'the same brain at any resolution'
    assert brain[tuple(np.round(apply_affine(np.linalg.inv(t1w.affine), [0, 0, 0])).astype(int))]
    for image in (gm, wm):
        data = image.get_fdata()
        assert data.min() == 0
        assert 0.9 < data.max() <= 1
        assert not data[~brain].max() > 0.5


def test_resolutions_of_the_bundled_template_are_aligned(cache_dir):
    fine, coarse = (
        nb.load(get_template(f'{BUNDLED}:res-{size}', cache_dir=cache_dir).t1w) for size in (1, 2)
    )
    at_coarse_points = np.asanyarray(fine.dataobj).astype(float)[::2, ::2, ::2]
    assert np.corrcoef(at_coarse_points.ravel(), coarse.get_fdata().ravel())[0, 1] > 0.99
    np.testing.assert_array_equal(fine.affine[:3, 3], coarse.affine[:3, 3])


def test_derived_images_are_used_again(cache_dir):
    first = get_template(f'{BUNDLED}:res-2', cache_dir=cache_dir)
    before = first.mask.stat().st_mtime_ns
    assert get_template(f'{BUNDLED}:res-2', cache_dir=cache_dir) == first
    assert first.mask.stat().st_mtime_ns == before


@pytest.mark.parametrize('spec', [f'{BUNDLED}:res-3', f'{BUNDLED}:cohort-1'])
def test_bundled_template_has_only_two_resolutions(cache_dir, spec):
    with pytest.raises(InputError, match='comes at 1 and 2 mm'):
        get_template(spec, cache_dir=cache_dir)


@pytest.mark.parametrize(
    ('spec', 'stem'),
    [
        ('Toy:res-1', 'tpl-Toy/tpl-Toy_res-01'),
        ('Toy:res-01', 'tpl-Toy/tpl-Toy_res-01'),
        ('Toy:res-2', 'tpl-Toy/tpl-Toy_res-2'),
        ('Toy', 'tpl-Toy/tpl-Toy'),
        ('Toy', 'tpl-Toy/tpl-Toy_res-02'),
        ('Toy:cohort-4:res-1', 'tpl-Toy/cohort-4/tpl-Toy_cohort-4_res-1'),
    ],
)
def test_templates_of_templateflow_are_found_by_their_names(tmp_path, spec, stem):
    t1w = write_image(tmp_path / f'{stem}_T1w.nii.gz')
    mask = write_image(tmp_path / f'{stem}_desc-brain_mask.nii.gz')
    wm = write_image(tmp_path / f'{stem}_label-WM_probseg.nii.gz')
    template = get_template(spec, cache_dir=tmp_path, home=tmp_path)
    assert (template.t1w, template.mask, template.gm, template.wm) == (t1w, mask, None, wm)
    assert template.space == 'Toy'
    assert template.uri == t1w.as_uri(), 'unless TemplateFlow itself has described it'
    (tmp_path / 'tpl-Toy' / 'template_description.json').write_text('{}')
    template = get_template(spec, cache_dir=tmp_path, home=tmp_path)
    assert template.uri == f'https://templateflow.s3.amazonaws.com/{stem}_T1w.nii.gz'
    wanted = SpaceSpec.from_string(spec)
    assert (template.cohort, template.resolution) == (wanted.cohort, wanted.resolution)


def test_template_without_a_mask_must_be_an_extracted_brain(tmp_path):
    write_image(tmp_path / 'tpl-Toy' / 'tpl-Toy_res-1_T1w.nii.gz')
    with pytest.raises(InputError, match='no T1w image with a brain mask'):
        get_template('Toy', cache_dir=tmp_path, home=tmp_path)
    brain = write_image(tmp_path / 'tpl-Toy' / 'tpl-Toy_res-1_desc-brain_T1w.nii.gz')
    template = get_template('Toy', cache_dir=tmp_path, home=tmp_path)
    assert (template.t1w, template.mask) == (brain, None)


@pytest.mark.parametrize(
    ('spec', 'words'),
    [
        ('Other', 'Other: no such template in'),
        ('Toy', 'let TemplateFlow fetch it'),
        ('Toy:res-2', 'brain mask at res-2 is in'),
        ('Toy:cohort-1', 'Toy: no such template'),
    ],
)
def test_stubs_of_templateflow_are_not_images(tmp_path, spec, words):
    folder = tmp_path / 'tpl-Toy'
    folder.mkdir()
    for name in ('T1w', 'desc-brain_mask'):
        (folder / f'tpl-Toy_res-1_{name}.nii.gz').touch()
    with pytest.raises(InputError, match=r'^[^\n]+\.$') as caught:
        get_template(spec, cache_dir=tmp_path, home=tmp_path)
    assert words in str(caught.value)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Folder of a local server that stands in for that of TemplateFlow."""
    import templateflow.client

    folder = tmp_path / 'server'
    folder.mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(('127.0.0.1', 0), handler) as running:
        Thread(target=running.serve_forever, daemon=True).start()
        root = f'http://127.0.0.1:{running.server_port}'
        config = partial(templateflow.client.CacheConfig, s3_root=root)
        monkeypatch.setattr(templateflow.client, 'CacheConfig', config)
        yield folder
        running.shutdown()


def test_template_is_downloaded_only_if_allowed(server, tmp_path):
    home = tmp_path / 'home'
    stem = 'tpl-Toy/cohort-2/tpl-Toy_cohort-2_res-01'
    for name in ('T1w', 'desc-brain_mask', 'label-GM_probseg'):
        write_image(server / f'{stem}_{name}.nii.gz')
        (home / stem).parent.mkdir(parents=True, exist_ok=True)
        (home / f'{stem}_{name}.nii.gz').touch()
    write_image(home / f'{stem}_label-WM_probseg.nii.gz')
    with pytest.raises(InputError, match='--allow-download'):
        get_template('Toy:cohort-2', cache_dir=tmp_path, home=home)
    template = get_template('Toy:cohort-2', cache_dir=tmp_path, home=home, allow_download=True)
    for path in (template.t1w, template.mask, template.gm):
        assert path.read_bytes() == (server / path.relative_to(home)).read_bytes()
    assert template.wm == home / f'{stem}_label-WM_probseg.nii.gz'
    assert get_template('Toy:cohort-2', cache_dir=tmp_path, home=home) == template


def test_download_is_not_advised_where_it_was_allowed(server, tmp_path):
    with pytest.raises(InputError, match='check the spelling') as caught:
        get_template('Tyo', cache_dir=tmp_path, home=tmp_path / 'home', allow_download=True)
    assert '--allow-download' not in str(caught.value)


def test_failed_download_does_not_change_the_folder(server, tmp_path):
    home = tmp_path / 'home'
    t1w = 'tpl-MNI152NLin2009cAsym/tpl-MNI152NLin2009cAsym_res-01_T1w.nii.gz'
    write_image(server / t1w)  # and no mask
    with pytest.raises(InputError, match='MNI152NLin2009cAsym: cannot be downloaded .* 404') as e:
        get_template('MNI152NLin2009cAsym', cache_dir=tmp_path, home=home, allow_download=True)
    assert str(e.value).count('\n') == 0
    assert (home / t1w).stat().st_size == 0  # a stub, as TemplateFlow itself would have put there
    assert not list(home.glob('.*'))


def test_templateflow_home_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv('TEMPLATEFLOW_HOME', str(tmp_path))
    assert templateflow_home() == tmp_path
    monkeypatch.delenv('TEMPLATEFLOW_HOME')
    assert templateflow_home().name == 'templateflow'


@pytest.mark.parametrize(
    ('name', 'space', 'mask'),
    [
        ('tpl-Lab_res-1_T1w.nii.gz', 'Lab', 'tpl-Lab_res-1_desc-brain_mask.nii.gz'),
        ('tpl-Lab.nii', 'Lab', None),
        ('average.nii.gz', 'custom', None),
        ('lab_T1w.nii', 'custom', 'lab_desc-brain_mask.nii.gz'),
    ],
)
def test_custom_template_is_named_by_its_file(tmp_path, name, space, mask):
    path = write_image(tmp_path / name)
    if mask is not None:
        write_image(tmp_path / mask)
    template = get_custom_template(path)
    assert (template.space, template.t1w) == (space, path)
    assert template.mask == (None if mask is None else tmp_path / mask)
    assert template.uri == path.as_uri()


def test_custom_template_must_have_three_dimensions(tmp_path):
    with pytest.raises(InputError, match='has 4 dimensions'):
        get_custom_template(write_image(tmp_path / 'four.nii', (3, 3, 3, 2)))
    with pytest.raises(InputError, match='no such file'):
        get_custom_template(tmp_path / 'absent.nii')
    (tmp_path / 'text.nii').write_text('no image')
    with pytest.raises(InputError, match='not a readable NIfTI image'):
        get_custom_template(tmp_path / 'text.nii')
