"""Ghosts and double images are noticed, and good images are not taken for them."""

from __future__ import annotations

import numpy as np
import pytest

from deepreg_wf.qc.criteria import CRITERIA, Grade
from deepreg_wf.qc.ghosts import ghost_measures
from deepreg_wf.spatial import load_image

SPACING = (2.0, 2.0, 2.0)


@pytest.fixture(scope='module')
def head(make_brain) -> np.ndarray:
    data = make_brain((96, 112, 96), SPACING).get_fdata(dtype=np.float32)
    noise = np.random.default_rng(0).normal(0, 10, (2, *data.shape))
    return np.hypot(data + noise[0], noise[1]).astype(np.float32)


def grades(image: np.ndarray, spacing=SPACING) -> dict[str, Grade]:
    measures = ghost_measures(image, spacing)
    return {each.key: each.grade(measures) for each in CRITERIA if each.key in measures}


def with_copy(image: np.ndarray, voxels: int, axis: int, *, strength=0.3, wraps=True):
    copy = np.roll(image, voxels, axis)
    if not wraps:
        np.moveaxis(copy, axis, 0)[:voxels] = 0
    return image + np.float32(strength) * copy


def with_phase_errors(image: np.ndarray, axis: int, radians: float) -> np.ndarray:
    """Give every other line of k-space a phase, as an error of timing does."""
    spectrum = np.moveaxis(np.fft.fft(image, axis=axis), axis, 0)
    spectrum[::2] *= np.exp(1j * radians)
    return np.abs(np.fft.ifft(np.moveaxis(spectrum, 0, axis), axis=axis)).astype(np.float32)


def test_an_image_without_a_ghost_is_good(head) -> None:
    assert set(grades(head).values()) == {Grade.GOOD}


@pytest.mark.parametrize('axis', range(3))
@pytest.mark.parametrize(('mm', 'wraps'), [(14, True), (30, False), (50, True), (96, True)])
def test_a_ghost_is_bad_along_each_axis(head, axis, mm, wraps) -> None:
    ghosted = with_copy(head, mm // 2, axis, wraps=wraps)
    assert grades(ghosted)['ghost_strength'] is Grade.BAD


@pytest.mark.parametrize('strength', [0.25, 0.3, 0.5])
def test_the_measure_is_the_strength_of_the_copy(head, strength) -> None:
    ghosted = with_copy(head, 20, 1, strength=strength)
    assert ghost_measures(ghosted, SPACING)['ghost_strength'] == pytest.approx(strength, abs=0.05)


@pytest.mark.parametrize('axis', range(3))
def test_a_double_image_is_not_good(head, axis) -> None:
    assert grades(with_copy(head, 4, axis))['doubling_strength'] is not Grade.GOOD


@pytest.mark.parametrize('axis', range(3))
def test_phase_errors_between_lines_are_not_good(head, axis) -> None:
    assert grades(with_phase_errors(head, axis, 0.8))['ghost_strength'] is not Grade.GOOD


def test_brightness_and_hot_voxels_do_not_change_the_measures(head) -> None:
    expected = ghost_measures(head, SPACING)
    hot = 0.01 * head
    hot[tuple(np.argwhere(head > 300)[::20000].T)] = 1e7
    measures = ghost_measures(hot, SPACING)
    assert measures == pytest.approx(expected, abs=0.02)


def test_what_cannot_be_told_is_not_measured(head) -> None:
    nothing = {'ghost_strength': None, 'doubling_strength': None}
    assert ghost_measures(head[::2, ::2, ::2], (4.0, 4.0, 4.0)) == nothing
    assert ghost_measures(head[:, :, :10], SPACING) == nothing
    assert ghost_measures(np.ones_like(head), SPACING) == nothing


@pytest.mark.parametrize('path', ['ixi2mm/sub-IXI132', 'ixi2mm/sub-IXI260', 'ds002748-1mm/sub-64'])
def test_real_images_are_good_and_their_ghosts_are_not(shared_data, path) -> None:
    file = next((shared_data / path).rglob('*_T1w.nii.gz'))
    image, grid = load_image(file)
    assert set(grades(image, grid.spacing).values()) == {Grade.GOOD}
    for axis in range(3):
        voxels = image.shape[axis] // 4
        ghosted = with_copy(image, voxels, axis)
        assert grades(ghosted, grid.spacing)['ghost_strength'] is Grade.BAD


def test_a_ghost_of_which_the_extraction_left_the_brain_alone_is_not_good(shared_data) -> None:
    file = next((shared_data / 'ds002748-1mm/sub-64').rglob('*_T1w.nii.gz'))
    image, grid = load_image(file)
    for axis in range(3):
        ghosted = with_copy(image, 30, axis) * (image > 0)
        assert grades(ghosted, grid.spacing)['ghost_strength'] is not Grade.GOOD
