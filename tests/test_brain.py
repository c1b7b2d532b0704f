"""Tests of brain detection, brain extraction, mask cleaning and bias correction."""

from __future__ import annotations

import os
import re

import nibabel as nb
import numpy as np
import pytest
import torch
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from nipype.interfaces.base import isdefined
from scipy import ndimage

from deepreg_wf.anatomical.bias import correct_bias
from deepreg_wf.anatomical.mask import check_field_of_view
from deepreg_wf.anatomical.skullstrip.detect import detect_extracted
from deepreg_wf.anatomical.skullstrip.extract import METHODS, Method, choose_methods, extract_brain
from deepreg_wf.errors import InputError
from deepreg_wf.interfaces.anatomical import BiasCorrect, SkullStrip
from deepreg_wf.settings import SKULL_STRIP_METHODS, Anatomical
from deepreg_wf.spatial import VoxelGrid, load_image, save_image
from deepreg_wf.spatial.masks import bounding_box, clean_mask, fill_holes, load_mask, volume_ml
from deepreg_wf.templates.locate import get_template
from deepreg_wf.templates.spaces import BUNDLED
from deepreg_wf.utils.itk_subprocess import call_isolated
from deepreg_wf.workflows import init_anat_preproc_wf


def arrays(image):
    return image.get_fdata(dtype=np.float32), VoxelGrid.from_image(image)


@pytest.fixture(scope='session')
def template(tmp_path_factory):
    """Return the bundled MNI152, an extracted brain at 1 mm."""
    return load_image(get_template(BUNDLED, cache_dir=tmp_path_factory.mktemp('cache')).t1w)


@pytest.fixture
def brain(make_brain):
    return arrays(make_brain())


@pytest.fixture
def head(make_brain):
    """Return a brain of 3 mm voxels in dark bone and bright scalp, in air of exactly zero."""
    data, grid = arrays(make_brain(shape=(60, 64, 60), spacing=(3.0, 3.0, 3.0)))
    inside = data > 0
    bone = ndimage.binary_dilation(inside, iterations=2)
    scalp = ndimage.binary_dilation(bone, iterations=2)
    return np.select([inside, bone, scalp], [data, 60, 850]).astype(np.float32), grid


def alter(data, how):
    """Change the intensities of a brain as scanners and other software do."""
    rng = np.random.default_rng(0)
    inside = data > 0
    ramp = np.linspace(-1, 1, data.shape[2], dtype=np.float32)
    return {
        'as it is': lambda: data,
        'noise': lambda: np.where(inside, data + 80 * rng.standard_normal(data.shape), 0),
        'bias': lambda: data * np.exp(0.5 * ramp),
        'negative background': lambda: np.where(inside, data, -1000),
        'standardised': lambda: np.where(inside, (data - data[inside].mean()) / 200, 0),
        'N4': lambda: data * np.exp(0.1 * ramp[::-1]),
    }[how]().astype(np.float32)


@pytest.mark.parametrize(
    'how', ['as it is', 'noise', 'bias', 'negative background', 'standardised', 'N4']
)
def test_extracted_brain_is_detected_after_changes_of_intensity(brain, template, how):
    for data, grid in (brain, template):
        data = data * (1000 / data.max())
        evidence = detect_extracted(alter(data, how), grid)
        assert evidence.extracted, evidence


@pytest.mark.parametrize('orientation', ['LPI', 'PSR', 'SAL'])
def test_extracted_brain_is_detected_in_any_orientation_and_on_an_oblique_grid(
    make_brain, orientation
):
    image = make_brain()
    turn = ornt_transform(io_orientation(image.affine), axcodes2ornt(orientation))
    turned = image.as_reoriented(turn)
    oblique = np.eye(4)
    oblique[1:3, 1:3] = [[0.94, -0.342], [0.342, 0.94]]
    for affine in (turned.affine, oblique @ turned.affine):
        data = turned.get_fdata(dtype=np.float32)
        assert detect_extracted(data, VoxelGrid(data.shape, affine)).extracted


def test_extracted_brain_is_detected_in_a_tight_field_of_view(template):
    data, grid = template
    box = bounding_box(data > 0)
    corner = grid.to_mm([part.start for part in box])
    affine = grid.affine.copy()
    affine[:3, 3] = corner
    assert detect_extracted(data[box], VoxelGrid(data[box].shape, affine)).extracted


@pytest.mark.parametrize('size', [1.0, 0.75])
def test_head_of_the_size_of_a_brain_is_not_detected_as_extracted(head, size):
    data, grid = head
    affine = grid.affine @ np.diag([size, size, size, 1])
    evidence = detect_extracted(data, VoxelGrid(grid.shape, affine))
    assert 'it has a dark layer under a bright one' in evidence.failed_criteria


def test_head_in_noisy_air_is_not_detected_as_extracted(head):
    data, grid = head
    noise = np.abs(np.random.default_rng(0).standard_normal(data.shape)).astype(np.float32)
    assert 'it has no constant background' in detect_extracted(data + noise, grid).failed_criteria
    margin = np.zeros(grid.shape, dtype=bool)
    margin[3:-3, 3:-3, 3:-3] = True
    evidence = detect_extracted(np.where(margin, data + noise, 0).astype(np.float32), grid)
    assert 'there is air around it' in evidence.failed_criteria


def test_half_a_head_is_not_detected_as_extracted(head):
    data, grid = head
    data = data.copy()
    data[:, :, : grid.shape[2] // 2] = 0
    assert 'it is cut off at a plane' in detect_extracted(data, grid).failed_criteria


@pytest.mark.parametrize('name', ['ds002748/sub-01', 'ds002748/sub-16', 'malf-val/sub-1012'])
def test_real_extracted_brains_are_detected(shared_data, name):
    assert detect_extracted(*load_image(real_image(shared_data, name))).extracted


@pytest.mark.parametrize(
    'name', ['heads/sub-aomic0001', 'heads/sub-S1', 'heads/sub-colin27', 'ixi2mm/sub-IXI255']
)
def test_real_heads_are_not_detected_as_extracted(shared_data, name):
    evidence = detect_extracted(*load_image(real_image(shared_data, name)))
    assert len(evidence.failed_criteria) >= 2


@pytest.mark.slow
def test_all_real_images_are_classified(shared_data):
    for dataset, extracted in (
        ('ds002748', True),
        ('malf-val', True),
        ('heads', False),
        ('ixi2mm', False),
    ):
        images = sorted(shared_data.glob(f'{dataset}/sub-*/anat/*_T1w.nii.gz'))
        assert images
        for image in images:
            assert detect_extracted(*load_image(image)).extracted == extracted, image


def real_image(shared_data, name):
    dataset, subject = name.split('/')
    return shared_data / dataset / subject / 'anat' / f'{subject}_T1w.nii.gz'


def test_cleaning_keeps_the_largest_component_and_fills_its_holes():
    mask = np.zeros((20, 20, 20), dtype=bool)
    mask[2:12, 2:12, 2:12] = True
    whole = mask.copy()
    mask[5:8, 5:8, 5:8] = False
    mask[15:18, 15:18, 15:18] = True
    cleaned = clean_mask(mask)
    np.testing.assert_array_equal(cleaned, whole)
    np.testing.assert_array_equal(clean_mask(cleaned), cleaned)


def test_cleaning_does_not_erode_a_mask_at_the_border():
    mask = np.ones((9, 10, 11), dtype=bool)
    assert clean_mask(mask).all()
    assert not clean_mask(~mask).any()


def test_hole_that_opens_to_the_border_is_not_filled():
    mask = np.ones((7, 7, 7), dtype=bool)
    mask[3, 3, 3:] = False
    np.testing.assert_array_equal(fill_holes(mask), mask)
    mask[3, 3, 6] = True
    assert fill_holes(mask).all()


def test_extracted_brain_is_kept(brain):
    data, grid = brain
    found = extract_brain(data, grid)
    assert found.method == 'already-extracted'
    assert found.mask[data > 0].all()
    assert volume_ml(found.mask, grid) < 1.05 * volume_ml(data > 0, grid)


@pytest.fixture
def own_method(monkeypatch):
    """Register a method that erodes the foreground."""

    def extract(data, grid, *, num_threads, device, model):
        return ndimage.binary_erosion(data > 0, iterations=4)

    monkeypatch.setitem(METHODS, 'erosion', Method(extract=extract, citation='*erosion*'))
    setting = Anatomical.__dataclass_fields__['skull_strip_method']
    monkeypatch.setattr(setting, 'metadata', {'choices': (*SKULL_STRIP_METHODS, 'erosion')})
    return 'erosion'


def test_settings_list_the_skull_strip_methods():
    assert ('auto', *METHODS) == SKULL_STRIP_METHODS


def test_small_image_is_taken_as_it_is_down_to_a_volume(head):
    data, grid = head
    assert extract_brain(data, grid, mode='skip').error is None
    tiny = VoxelGrid(grid.shape, grid.affine @ np.diag([0.2, 0.2, 0.2, 1]))
    error = extract_brain(data, tiny, mode='skip').error
    assert re.fullmatch(r'the brain mask has \d+ mL, less than 100 mL', error.problem)


def test_new_entry_adds_a_method(head, own_method):
    data, grid = head
    found = extract_brain(data, grid, method=own_method)
    assert found.method == own_method
    assert 'dark layer under a bright one' in found.remark
    assert not found.mask[data == 60].any()
    workflow = init_anat_preproc_wf(anatomical=Anatomical(skull_strip_method=own_method))
    assert METHODS[own_method].citation in workflow.visit_desc()


def test_padding_far_below_all_intensities_is_replaced_before_extraction(head, monkeypatch):
    data, grid = head
    seen = []

    def extract(data, grid, **_):
        seen.append(float(data.min()))
        return ndimage.binary_erosion(data > 50, iterations=4)

    monkeypatch.setitem(METHODS, 'deepbet', Method(extract=extract, citation=''))
    for air in (-32768.0, 0.0, -5.0):
        padded = np.where(data > 0, data, np.float32(air))
        extract_brain(padded, grid, mode='force', method='deepbet')
    assert seen[0] > 0
    assert seen[1:] == [0, -5]


def test_extraction_is_forced_or_skipped_on_request(head, own_method):
    data, grid = head
    forced = extract_brain(data, grid, mode='force', method=own_method)
    skipped = extract_brain(data, grid, mode='skip', method=own_method)
    assert (forced.method, skipped.method) == (own_method, 'none')
    assert forced.mask.sum() < skipped.mask.sum()


@pytest.mark.parametrize('size', [0.5, 2.0])
def test_mask_of_an_implausible_volume_is_reported(head, own_method, size):
    data, grid = head
    small = VoxelGrid(grid.shape, grid.affine @ np.diag([size, size, size, 1]))
    found = extract_brain(data, small, method=own_method)
    assert re.search(r'mask has \d+ mL, outside the 600 to 2200 mL', found.error.problem)
    assert found.mask.any()


@pytest.mark.parametrize('axis', [0, 1, 2])
def test_brain_cut_by_the_field_of_view_is_refused(brain, axis):
    data, grid = brain
    grid = VoxelGrid(grid.shape, grid.affine @ np.diag([1.25, 1.25, 1.25, 1]))
    mask = np.moveaxis(data > 0, axis, 0)
    end = np.flatnonzero(mask.any(axis=(1, 2)))[-1] + 1
    check_field_of_view(np.moveaxis(mask[:end], 0, axis), grid)
    with pytest.raises(InputError, match=r'cuts through the brain, on 1\d\d cm'):
        check_field_of_view(np.moveaxis(mask[: end - 10], 0, axis), grid)


@pytest.fixture
def failing_methods(monkeypatch, own_method):
    """Register methods that fail in different ways, and one that works as the last."""

    def pieces(data, grid, **_):
        mask = np.zeros(grid.shape, dtype=bool)
        mask[:12, ::2] = True
        return mask

    def no_brain(data, grid, **_):
        raise InputError('there is no brain', advice='look for one')

    def crashes(data, grid, **_):
        raise RuntimeError('out of memory')

    steps = {'pieces': pieces, 'no_brain': no_brain, 'crashes': crashes}
    methods = {name: Method(extract=step, citation=name) for name, step in steps.items()}
    last = METHODS[own_method]
    for name in list(METHODS):
        monkeypatch.delitem(METHODS, name)
    for name, method in (methods | {own_method: last}).items():
        monkeypatch.setitem(METHODS, name, method)
    return [*methods, own_method]


def test_next_method_is_tried_if_one_fails(head, failing_methods):
    found = extract_brain(*head, mode='force')
    assert (found.method, found.error) == (failing_methods[-1], None)
    for word in ('pieces failed: the brain mask is in pieces', 'there is no brain', 'memory'):
        assert word in found.remark


def test_head_with_a_wrong_orientation_is_extracted_again_in_the_right_one(head, monkeypatch):
    data, grid = head
    seen = []

    def extract(data, grid, **_):
        seen.append(grid.orientation)
        return ndimage.binary_erosion(data > 50, iterations=4)

    monkeypatch.setitem(METHODS, 'deepbet', Method(extract=extract, citation=''))
    rotation = np.diag([1.0, -1, -1, 1])
    upside_down = VoxelGrid(grid.shape, rotation @ grid.affine)
    found = extract_brain(data, upside_down, method='deepbet', check=lambda mask: rotation)
    assert seen == ['RPI', 'RAS']
    assert 'the orientation is RPI in the header and RAS in the image' in found.remark
    seen.clear()
    extract_brain(data, grid, method='deepbet', check=lambda mask: np.eye(4))
    assert seen == ['RAS']


def test_one_error_combines_the_failures_of_all_methods(head, failing_methods):
    def check(mask):
        raise InputError('it is not like the template', advice='check the image')

    found = extract_brain(*head, mode='force', check=check)
    assert found.error.problem.startswith('no method found a brain in it (pieces: ')
    assert found.error.problem.endswith('erosion: it is not like the template)')
    assert found.error.advice.startswith('check that it is a T1-weighted image')
    assert found.mask.any()


def test_extraction_is_tried_if_an_extracted_brain_is_implausible(brain, monkeypatch):
    data, grid = brain
    monkeypatch.setitem(METHODS, 'deepbet', Method(extract=lambda *_, **__: data > 0, citation=''))
    errors = iter([InputError('it is not like the template', advice='check the image')])

    def check(mask):
        for error in errors:
            raise error

    found = extract_brain(data, grid, check=check)
    assert 'already-extracted failed: it is not like the template' in found.remark
    assert found.method == 'deepbet'


@pytest.mark.parametrize(('method', 'words'), [('synthstrip', 'has no weights|not installed')])
def test_method_that_cannot_run_raises_an_error(head, method, words):
    with pytest.raises(InputError, match=words):
        extract_brain(*head, method=method)
    assert method not in choose_methods('auto')


def test_synthstrip_reads_its_weights_and_its_mask_is_checked(head, tmp_path):
    """Use the real network without training: everything but the mask is as in use."""
    model = pytest.importorskip('nipreps.synthstrip.model')
    torch.manual_seed(0)
    path = tmp_path / 'synthstrip.1.pt'
    torch.save({'model_state_dict': model.StripModel().state_dict()}, path)
    found = extract_brain(*head, mode='force', method='synthstrip', model=path)
    assert found.method == 'synthstrip'
    assert found.error is not None
    path.write_bytes(b'no weights')
    found = extract_brain(*head, mode='force', method='synthstrip', model=path)
    assert 'does not hold weights of SynthStrip' in found.error.problem
    with pytest.raises(InputError, match='no such file'):
        extract_brain(*head, method='synthstrip', model=tmp_path / 'elsewhere.pt')


@pytest.mark.parametrize('wrong', [{'mode': 'maybe'}, {'method': 'magic'}])
def test_unknown_mode_or_method_raises_an_error(brain, wrong):
    with pytest.raises(ValueError, match='must be'):
        extract_brain(*brain, **wrong)


def test_deepbet_extracts_a_brain_in_any_storage_order(shared_data, tmp_path):
    path = real_image(shared_data, 'ixi2mm/sub-IXI132')
    labels = next((shared_data / 'ixi2mm/derivatives/dlmuse/sub-IXI132').rglob('*.nii.gz'))
    image = nb.load(path)
    found = extract_brain(*load_image(path), mode='force')
    truth = fill_holes(ndimage.binary_closing(np.asanyarray(nb.load(labels).dataobj) > 0))
    assert found.method == 'deepbet'
    assert 2 * (found.mask & truth).sum() / (found.mask.sum() + truth.sum()) > 0.97
    turn = ornt_transform(io_orientation(image.affine), axcodes2ornt('LIP'))
    turned = image.as_reoriented(turn)
    again = extract_brain(*arrays(turned), mode='force').mask
    back = ornt_transform(io_orientation(turned.affine), io_orientation(image.affine))
    np.testing.assert_array_equal(nb.apply_orientation(again, back), found.mask)


def test_deepbet_reports_an_image_without_a_brain(tmp_path):
    shape = (64, 64, 64)
    noise = np.random.default_rng(0).random(shape).astype(np.float32)
    save_image(tmp_path / 'sub-01_T1w.nii.gz', noise, VoxelGrid(shape, np.diag([3, 3, 3, 1])))
    strip = SkullStrip(in_file=str(tmp_path / 'sub-01_T1w.nii.gz'))
    strip.inputs.method = 'deepbet'
    problem = strip.run(cwd=tmp_path).outputs.problem
    assert re.match(r'deepbet finds no|the brain mask', problem)


def smooth_bias(grid, size):
    """Return a factor that varies over the whole field of view."""
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in grid.shape], indexing='ij')
    return np.exp(size * (x - 0.7 * y**2 + 0.5 * y * z)).astype(np.float32)


def test_known_bias_is_removed(template):
    data, grid = template
    data, grid = data[::2, ::2, ::2], VoxelGrid((99, 117, 95), grid.affine @ np.diag([2, 2, 2, 1]))
    mask = clean_mask(data > 0)
    bias = smooth_bias(grid, 0.6)
    corrected = correct_bias(data * bias, mask, grid)
    inside = ndimage.binary_erosion(mask, iterations=2) & (data > 0)
    left = np.log(corrected[inside] / data[inside])
    # N4 finds a bias of 5 % in the template itself.
    assert left.std() < 0.3 * np.log(bias[inside]).std()


def test_bias_correction_is_not_negative_and_independent_of_the_storage_order(make_brain):
    image = make_brain(spacing=(4.0, 4.0, 3.0), shape=(40, 48, 50))
    data, grid = arrays(image)
    data = np.where(data > 0, data - 300, -500).astype(np.float32)
    mask = clean_mask(data > -500)
    corrected = correct_bias(data, mask, grid, sloppy=True)
    assert corrected.min() >= 0
    assert corrected.shape == grid.shape
    turned = np.ascontiguousarray(data[::-1].transpose(2, 0, 1))
    flip = np.array([[0, -1, 0, 39], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])
    again = correct_bias(
        turned,
        np.ascontiguousarray(mask[::-1].transpose(2, 0, 1)),
        VoxelGrid(turned.shape, grid.affine @ flip),
        sloppy=True,
    )
    back = again.transpose(1, 2, 0)[::-1]
    np.testing.assert_allclose(back, corrected, rtol=1e-3, atol=0.1)


def test_bias_correction_on_a_sheared_grid(make_brain, tmp_path):
    data, grid = arrays(make_brain())
    shear = np.eye(4)
    shear[0, 2] = 0.15
    sheared = VoxelGrid(grid.shape, shear @ grid.affine)
    save_image(tmp_path / 'T1w.nii.gz', data, sheared)
    save_image(tmp_path / 'mask.nii.gz', data > 0, sheared, np.uint8)
    correct = BiasCorrect(
        in_file=str(tmp_path / 'T1w.nii.gz'), in_mask=str(tmp_path / 'mask.nii.gz'), sloppy=True
    )
    (tmp_path / 'node').mkdir()
    outputs = correct.run(cwd=tmp_path / 'node').outputs
    corrected, written = load_image(outputs.out_file)
    np.testing.assert_allclose(written.affine, sheared.affine, atol=1e-5)
    assert (corrected[data > 0] > 0).all()
    only_brain, _ = load_image(outputs.out_brain)
    np.testing.assert_array_equal(only_brain, np.where(data > 0, corrected, 0))


def test_skull_strip_writes_mask_and_brain_on_the_grid_of_the_image(make_brain, tmp_path):
    data, grid = arrays(make_brain())
    save_image(tmp_path / 'T1w.nii.gz', data, grid)
    (tmp_path / 'node').mkdir()
    outputs = SkullStrip(in_file=str(tmp_path / 'T1w.nii.gz')).run(cwd=tmp_path / 'node').outputs
    assert outputs.method == 'already-extracted'
    assert not isdefined(outputs.problem)
    assert nb.load(outputs.out_mask).get_data_dtype() == np.uint8
    mask = load_mask(outputs.out_mask, grid)
    only_brain, own_grid = load_image(outputs.out_file)
    np.testing.assert_array_equal(own_grid.affine, grid.affine)
    np.testing.assert_array_equal(only_brain, np.where(mask, data, 0))


@pytest.mark.parametrize('fault', ['elsewhere', 'empty'])
def test_mask_on_another_grid_or_empty_is_refused(make_brain, tmp_path, fault):
    data, grid = arrays(make_brain())
    moved = grid.affine.copy()
    moved[0, 3] += 1 if fault == 'elsewhere' else 0
    mask = data > (0 if fault == 'elsewhere' else 1e6)
    save_image(tmp_path / 'mask.nii.gz', mask, VoxelGrid(grid.shape, moved), np.uint8)
    with pytest.raises(InputError, match=r'mask\.nii\.gz: the mask is '):
        load_mask(tmp_path / 'mask.nii.gz', grid)


def test_isolated_call_sets_the_threads_of_itk():
    name = 'ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS'
    assert call_isolated(os.getenv, name, threads=3) == '3'


@pytest.mark.parametrize(
    ('function', 'arguments', 'words'),
    [(int, ['x'], 'invalid literal'), (os.abort, [], 'ended with status')],
)
def test_failure_of_an_isolated_call_raises_an_error(function, arguments, words):
    with pytest.raises(RuntimeError, match=words):
        call_isolated(function, *arguments)
