"""Measures of an image and of its mask in their own space, and their way into the QC file."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest
from scipy import ndimage

from deepreg_wf.anatomical.validate import read_t1w
from deepreg_wf.interfaces.anatomical import ValidateT1w
from deepreg_wf.interfaces.qc import InputQC
from deepreg_wf.qc.criteria import CRITERIA, Grade
from deepreg_wf.qc.input_measures import mask_edge, slice_order

SPACING = (2.5, 2.5, 2.5)


@pytest.fixture(scope='module')
def brain(make_brain) -> nb.Nifti1Image:
    return make_brain((64, 76, 64), SPACING)


@pytest.fixture(scope='module')
def head(brain) -> tuple[np.ndarray, np.ndarray]:
    """A brain within dark fluid, dark bone and a bright scalp, with noise; and its mask."""
    data = brain.get_fdata(dtype=np.float32)
    mask = data > 0
    distance = ndimage.distance_transform_edt(~mask, sampling=SPACING)
    rest = np.select([distance <= 6, distance <= 11], [150.0, 800.0], default=20.0)
    noise = np.random.default_rng(0).normal(0, 20, data.shape)
    return (np.where(mask, data, rest) + noise).astype(np.float32), mask


def grade(key: str, value: float | None) -> Grade:
    return next(each for each in CRITERIA if each.key == key).grade({key: value})


def exchange(data: np.ndarray, axis: int) -> np.ndarray:
    """Exchange odd and even slices."""
    order = np.arange(data.shape[axis])
    return np.take(data, order.reshape(-1, 2)[:, ::-1].ravel(), axis)


def test_a_mask_of_the_whole_brain_ends_at_an_edge(head, brain) -> None:
    image, mask = head
    assert grade('mask_edge', mask_edge(image, mask, SPACING)) is Grade.GOOD
    wider = ndimage.binary_dilation(mask)  # with fluid, as some tools have it
    assert grade('mask_edge', mask_edge(image, wider, SPACING)) is Grade.GOOD
    extracted = brain.get_fdata(dtype=np.float32)
    assert mask_edge(extracted, mask, SPACING) == 0


@pytest.mark.parametrize('lacking_mm', [5.1, 8.0])
def test_a_mask_that_ends_within_the_brain_has_no_edge(head, brain, lacking_mm) -> None:
    image, mask = head
    smaller = ndimage.distance_transform_edt(mask, sampling=SPACING) > lacking_mm
    for each in (image, brain.get_fdata(dtype=np.float32)):
        assert grade('mask_edge', mask_edge(each, smaller, SPACING)) is not Grade.GOOD


def test_the_edge_does_not_depend_on_brightness_background_or_hot_voxels(head) -> None:
    image, mask = head
    edge = mask_edge(image, mask, SPACING)
    assert mask_edge(0.1 * image + 500, mask, SPACING) == pytest.approx(edge, rel=1e-3)
    hot = image.copy()
    hot[tuple(np.argwhere(mask)[::5000].T)] = 1e7
    assert mask_edge(hot, mask, SPACING) == pytest.approx(edge, rel=0.01)


def test_an_edge_that_cannot_be_seen_is_not_measured(head) -> None:
    image, mask = head
    assert mask_edge(image, np.ones_like(mask), SPACING) is None
    assert mask_edge(np.zeros_like(image), mask, SPACING) is None


@pytest.mark.parametrize('axis', range(3))
def test_exchanged_slices_are_noticed_along_each_axis(head, axis) -> None:
    image, mask = head
    assert grade('slice_order', slice_order(image, mask)) is Grade.GOOD
    assert grade('slice_order', slice_order(exchange(image, axis), mask)) is not Grade.GOOD


def test_hot_voxels_do_not_change_the_order_of_the_slices(head) -> None:
    image, mask = head
    hot = image.copy()
    hot[tuple(np.argwhere(mask)[::5000].T)] = 1e7
    assert grade('slice_order', slice_order(hot, mask)) is Grade.GOOD
    assert grade('slice_order', slice_order(exchange(hot, 2), mask)) is not Grade.GOOD


def test_the_order_of_few_slices_is_not_measured(head) -> None:
    image, mask = head
    assert slice_order(image[:4, :4, :4], np.ones((4, 4, 4), dtype=bool)) is None


def test_what_was_done_to_the_image_is_counted(brain, tmp_path) -> None:
    data = brain.get_fdata(dtype=np.float32).copy()
    data[0, 0, :5] = np.nan
    image = nb.Nifti1Image(data, brain.affine)
    moved = brain.affine.copy()
    moved[0, 3] += 59
    image.set_sform(brain.affine, 1)
    image.set_qform(moved, 1)
    nb.save(image, tmp_path / 'T1w.nii.gz')
    t1w = read_t1w(tmp_path / 'T1w.nii.gz')
    assert t1w.nonfinite_voxels == 5
    assert t1w.form_distance_mm == pytest.approx(59, abs=1e-3)
    image.set_qform(None, 0)
    nb.save(image, tmp_path / 'T1w.nii.gz')
    assert read_t1w(tmp_path / 'T1w.nii.gz').form_distance_mm is None


def test_the_qc_file_of_the_input_has_all_its_measures(brain, tmp_path) -> None:
    data = brain.get_fdata(dtype=np.float32).copy()
    mask = nb.Nifti1Image((data > 0).astype(np.uint8), brain.affine)
    data[0, 0, 0] = np.inf
    image = nb.Nifti1Image(data, brain.affine)
    image.set_sform(brain.affine, 1)
    image.set_qform(brain.affine, 1)
    nb.save(image, tmp_path / 'T1w.nii.gz')
    nb.save(mask, tmp_path / 'mask.nii.gz')
    valid = ValidateT1w(in_file=str(tmp_path / 'T1w.nii.gz')).run(cwd=tmp_path).outputs
    done = InputQC(
        in_file=valid.out_file,
        in_mask=str(tmp_path / 'mask.nii.gz'),
        nonfinite_voxels=valid.nonfinite_voxels,
        form_distance_mm=valid.form_distance_mm,
    ).run(cwd=tmp_path)
    measures = json.loads(Path(done.outputs.out_file).read_text())
    assert measures['nonfinite_voxels'] == 1
    assert measures['form_distance_mm'] == pytest.approx(0, abs=1e-3)
    assert measures['mask_edge'] == 0
    assert measures['slice_order'] < 1.3
