"""Tests of unusual geometry, which is processed, and of images without a brain, which are refused.

Files that are refused on reading are in test_validate.
"""

from __future__ import annotations

from functools import partial

import nibabel as nb
import numpy as np
import pytest
from nibabel.affines import apply_affine
from scipy.spatial.transform import Rotation

from deepreg_wf.affine.align import align
from deepreg_wf.affine.brain import Brain
from deepreg_wf.affine.plausibility import check_alignment, check_brain
from deepreg_wf.anatomical.skullstrip.extract import extract_brain
from deepreg_wf.anatomical.validate import read_t1w
from deepreg_wf.errors import InputError
from deepreg_wf.spatial import VoxelGrid, load_image, resample
from deepreg_wf.templates.locate import get_template
from deepreg_wf.templates.spaces import BUNDLED


def world(*, rotation=(0, 0, 0), scale=1.0, shear=0.0, shift=(0, 0, 0)):
    """Make an affine of world coordinates, from degrees, a factor and mm."""
    move = np.eye(4)
    move[:3, :3] = scale * Rotation.from_euler('xyz', rotation, degrees=True).as_matrix()
    move[:3, :3] = move[:3, :3] @ [[1, shear, 0], [0, 1, 0], [0, 0, 1]]
    move[:3, 3] = shift
    return move


def scan(brain, *, spacing=(3, 3, 3), low=(-85, -85, -85), high=(85, 85, 85), codes='RAS'):
    """Resample the brain to another grid and store it in another orientation."""
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = low
    shape = np.ceil(np.subtract(high, low) / spacing).astype(int).tolist()
    grid = VoxelGrid(shape, affine)
    inside = resample(*brain, grid, interpolation='nearest') > 0
    data = np.where(inside, resample(*brain, grid), 0)
    orientation = nb.orientations.axcodes2ornt(codes)
    return nb.Nifti1Image(data, affine).as_reoriented(orientation)


def with_header(brain, move):
    """Store the same voxels with another affine in the header."""
    data, grid = brain
    return nb.Nifti1Image(data, move @ grid.affine)


def changed(brain, change):
    """Change the intensities of the same voxels."""
    data, grid = brain
    return nb.Nifti1Image(change(data), grid.affine)


def forms(brain, *, sform, qform):
    """Set the codes of sform and qform; if both are set, the qform is shifted."""
    data, grid = brain
    image = nb.Nifti1Image(data, grid.affine)
    shift = world(shift=(20, 0, 0)) if sform and qform else np.eye(4)
    image.set_sform(grid.affine if sform else None, sform)
    image.set_qform(shift @ grid.affine, qform)
    return image


def whole_numbers(data):
    return (10 * data - 3000).astype(np.int16)


def with_invalid_voxels(data):
    invalid = data.copy()
    invalid[:2, 0, 0] = np.nan, np.inf
    invalid[20, 24, 20] = np.nan
    return invalid


ROTATED = world(rotation=(150, 40, -75), scale=0.85, shift=(60, -40, 30))

ACCEPTED = {
    'unchanged': partial(scan),
    'LAS': partial(scan, codes='LAS'),
    'PSR': partial(scan, codes='PSR'),
    'SLP': partial(scan, codes='SLP'),
    '1 x 1 x 5 mm': partial(scan, spacing=(1, 1, 5)),
    '0.4 mm in one direction': partial(scan, spacing=(0.4, 4, 4)),
    '4 mm': partial(scan, spacing=(4, 4, 4), low=(-86, -90, -86), high=(86, 90, 86)),
    'a huge field of view': partial(scan, low=(-150, -150, -300), high=(150, 150, 150)),
    'a field of view that ends at the brain': partial(
        scan, low=(-60, -79, -60), high=(60, 79, 60)
    ),
    'oblique': partial(with_header, move=world(rotation=(12, -8, 20))),
    'sheared': partial(with_header, move=world(shear=0.15)),
    'small, rotated and shifted': partial(with_header, move=ROTATED),
    'sform and qform that disagree': partial(forms, sform=1, qform=1),
    'sform code 0': partial(forms, sform=0, qform=1),
    'qform code 0': partial(forms, sform=2, qform=0),
    'int16 with slope and intercept': partial(changed, change=whole_numbers),
    'negative': partial(changed, change=lambda data: data - 5000),
    'NaN and Inf': partial(changed, change=with_invalid_voxels),
    'a fourth axis of one': partial(changed, change=lambda data: data[..., np.newaxis]),
    'float64 of 10^12': partial(changed, change=lambda data: data.astype(float) * 1e9),
}
MOVES = {
    'oblique': world(rotation=(12, -8, 20)),
    'sheared': world(shear=0.15),
    'small, rotated and shifted': ROTATED,
}


@pytest.fixture(scope='module')
def brain(make_brain):
    image = make_brain(shape=(44, 50, 42))
    return image.get_fdata(dtype=np.float32), VoxelGrid.from_image(image)


@pytest.mark.parametrize('kind', ACCEPTED)
def test_brain_of_unusual_geometry_is_aligned(brain, kind, tmp_path):
    image = ACCEPTED[kind](brain)
    if kind.startswith('int16'):
        image.header.set_slope_inter(0.1, 300)
    nb.save(image, tmp_path / 'T1w.nii')
    t1w = read_t1w(tmp_path / 'T1w.nii')
    found = extract_brain(t1w.data, t1w.grid)
    assert (found.method, found.error) == ('already-extracted', None)
    data, grid = brain
    result = align((t1w.data, found.mask, t1w.grid), (data, data > 0, grid), sloppy=True)
    check_alignment(result)
    points = grid.to_mm(np.argwhere(data > 0)[::50])
    expected = apply_affine(MOVES.get(kind, np.eye(4)), points)
    # Half a voxel: the edge can move that far on another grid.
    assert np.linalg.norm(apply_affine(result.affine, points) - expected, axis=1).mean() < 2


@pytest.fixture(scope='module')
def template(tmp_path_factory):
    """Return the bundled MNI152 on voxels of 6 mm, and their positions about its centre."""
    data, grid = load_image(get_template(BUNDLED, cache_dir=tmp_path_factory.mktemp('cache')).t1w)
    small = Brain.from_image(data, data > 0, grid, 6.0)
    centred = np.moveaxis(small.grid.points() - small.centre, -1, 0)
    return small, centred


def noise(like):
    return np.random.default_rng(0).random(like.shape)


REFUSED = {
    'the lower half of a brain': lambda data, at: (data, at[2] < 0),
    'the upper half of a brain': lambda data, at: (data, at[2] > 0),
    'the left half of a brain': lambda data, at: (data, at[0] < 0),
    'a phantom': lambda data, at: (
        1 + 0.05 * noise(data),
        np.linalg.norm(at, axis=0) < 65,
    ),
    'a leg': lambda data, at: (
        np.select([np.hypot(*at[:2]) < 12, np.hypot(*at[:2]) < 17], [1, 0.1], 0.5),
        np.hypot(*at[:2]) < 60,
    ),
    'noise': lambda data, at: (noise(data), data > 0),
    'an inverted contrast': lambda data, at: (1.1 - data, data > 0),
    'a T2w': lambda data, at: (np.where(data > 0.3, 1.2 - data, 1.0), data > 0),
    'a mask': lambda data, at: (np.ones_like(data), data > 0),
}


@pytest.mark.parametrize('kind', REFUSED)
def test_image_without_a_whole_brain_is_refused(template, kind):
    small, centred = template
    data, mask = REFUSED[kind](small.data, centred)
    if 'brain' in kind:
        mask = mask & small.mask
    fixed = small.data, small.mask, small.grid
    with pytest.raises(InputError, match='not like the template'):
        check_brain((data.astype(np.float32), mask, small.grid), fixed)


@pytest.mark.parametrize(
    'move', [world(), world(shift=(200, -300, 100)), world(rotation=(180, 0, 0)), world(scale=0.8)]
)
def test_brain_is_accepted_at_any_position_of_the_header(template, move):
    small, _ = template
    moved = small.data, small.mask, VoxelGrid(small.grid.shape, move @ small.grid.affine)
    check_brain(moved, (small.data, small.mask, small.grid))
