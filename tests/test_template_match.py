"""Tests of the brain extraction by the bundled template."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from deepreg_wf.anatomical.skullstrip import template_match, template_search
from deepreg_wf.anatomical.validate import read_t1w
from deepreg_wf.errors import InputError
from deepreg_wf.spatial import VoxelGrid, load_image


def dice(one, other):
    return 2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other))


@pytest.fixture(scope='module')
def head(shared_data):
    """Real head on voxels of 2 mm, and its mask: all labels, with the gaps between them."""
    folder = shared_data / 'ixi2mm'
    image = read_t1w(next((folder / 'sub-IXI162' / 'anat').glob('*_T1w.nii.gz')))
    labels = next((folder / 'derivatives' / 'dlmuse').rglob('sub-IXI162*.nii.gz'))
    values, grid = load_image(labels)
    assert grid.shape == image.grid.shape
    # Labels stop at the cortex; sulci belong to the brain.
    closed = ndimage.binary_closing(np.pad(values > 0, 5), iterations=4)[5:-5, 5:-5, 5:-5]
    return image.data, image.grid, ndimage.binary_fill_holes(closed)


@pytest.fixture(scope='module')
def mask(head):
    data, grid, _ = head
    return template_match.extract(data, grid)


def test_extraction_of_a_real_head(head, mask):
    # Half a voxel (1 mm) all around a brain of 1.5 L, whose surface is about 800 cm^2, is a
    # Dice coefficient of 0.97; two masks may differ by twice that.
    assert mask.dtype == bool
    assert mask.shape == head[0].shape
    assert dice(mask, head[2]) > 0.93


@pytest.mark.parametrize('degrees', [15, 160])
def test_rotation_in_the_header_changes_the_mask_by_interpolation_only(head, mask, degrees):
    data, grid, _ = head
    world = np.eye(4)
    rotation = np.array([1.0, 0.5, -0.3])
    rotation *= np.deg2rad(degrees) / np.linalg.norm(rotation)
    world[:3, :3] = Rotation.from_rotvec(rotation).as_matrix()
    world[:3, 3] = [40.0, -25.0, 60.0]
    rotated = template_match.extract(data, VoxelGrid(grid.shape, world @ grid.affine))
    # A quarter of a voxel (0.5 mm), by the estimate above.
    assert dice(rotated, mask) > 0.97


@pytest.mark.parametrize('content', ['zeros', 'noise', 'ball'])
def test_an_image_without_a_head_is_refused(content, monkeypatch):
    # The rotations over all orientations take most of the time and find no brain either.
    monkeypatch.setattr(template_search, 'rotated_placements', lambda search: [])
    grid = VoxelGrid((60, 60, 60), np.diag([4.0, 4.0, 4.0, 1.0]))
    noise = np.random.default_rng(0).random(grid.shape, dtype=np.float32)
    radius = np.linalg.norm(grid.points() - grid.to_mm([29.5] * 3), axis=-1)
    data = {'zeros': 0 * noise, 'noise': noise, 'ball': (radius < 80) + noise / 20}[content]
    with pytest.raises(InputError, match='brain'):
        template_match.extract(data.astype(np.float32), grid)
