"""Precomputed masks and preprocessed images of other programs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deepreg_wf.bids.precomputed import find_precomputed, parse_derivatives_folders
from deepreg_wf.errors import InputError
from deepreg_wf.interfaces import SkullStrip
from deepreg_wf.spatial import VoxelGrid, load_image, save_image

RAW = Path('/data/sub-01/anat/sub-01_T1w.nii.gz')


@pytest.fixture
def make(tmp_path: Path):
    """Function that makes empty files in a folder of derivatives."""

    def write(*names: str) -> dict[str, Path]:
        for name in names:
            path = tmp_path / 'prep' / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return {'prep': tmp_path / 'prep'}

    return write


def found(images: list[str], folders: dict[str, Path]) -> dict[str, list[str]]:
    raw = [Path('/data', image) for image in images]
    return {
        image.name: [path.name for path in (made.mask, made.t1w) if path is not None]
        for image, made in find_precomputed(raw, folders).items()
    }


def test_mask_and_image_of_fmriprep_are_found(make) -> None:
    folders = make(
        'sub-01/anat/sub-01_desc-brain_mask.nii.gz',
        'sub-01/anat/sub-01_desc-preproc_T1w.nii.gz',
        'sub-01/anat/sub-01_space-MNI152NLin2009cAsym_desc-brain_mask.nii.gz',
        'sub-01/anat/sub-01_space-MNI152NLin2009cAsym_desc-preproc_T1w.nii.gz',
        'sub-01/anat/sub-01_desc-aseg_dseg.nii.gz',
    )
    (made,) = find_precomputed([RAW], folders).values()
    assert made.mask == folders['prep'] / 'sub-01/anat/sub-01_desc-brain_mask.nii.gz'
    assert made.t1w == folders['prep'] / 'sub-01/anat/sub-01_desc-preproc_T1w.nii.gz'
    assert made.sources == (
        'bids:prep:sub-01/anat/sub-01_desc-brain_mask.nii.gz',
        'bids:prep:sub-01/anat/sub-01_desc-preproc_T1w.nii.gz',
    )


def test_file_of_the_only_image_may_lack_an_entity(make) -> None:
    folders = make('sub-01/anat/sub-01_desc-brain_mask.nii.gz')
    names = ['sub-01/anat/sub-01_acq-sag_run-1_T1w.nii.gz']
    assert found(names, folders) == {
        'sub-01_acq-sag_run-1_T1w.nii.gz': ['sub-01_desc-brain_mask.nii.gz']
    }


def test_file_merged_from_several_images_belongs_to_none(make) -> None:
    folders = make(
        'sub-01/anat/sub-01_desc-brain_mask.nii.gz',
        'sub-01/anat/sub-01_run-2_desc-brain_mask.nii.gz',
    )
    names = [f'sub-01/anat/sub-01_run-{n}_T1w.nii.gz' for n in (1, 2)]
    assert found(names, folders) == {
        'sub-01_run-2_T1w.nii.gz': ['sub-01_run-2_desc-brain_mask.nii.gz']
    }


def test_files_of_other_sessions_are_not_used(make) -> None:
    folders = make(
        'sub-01/anat/sub-01_desc-brain_mask.nii.gz',
        'sub-01/ses-a/anat/sub-01_ses-a_desc-brain_mask.nii.gz',
    )
    names = [f'sub-01/ses-{s}/anat/sub-01_ses-{s}_T1w.nii.gz' for s in 'ab']
    assert found(names, folders) == {
        'sub-01_ses-a_T1w.nii.gz': ['sub-01_ses-a_desc-brain_mask.nii.gz']
    }


def test_folder_without_matching_files_is_refused(make) -> None:
    folders = make('sub-02/anat/sub-02_desc-brain_mask.nii.gz')
    with pytest.raises(InputError, match='has no desc-brain_mask'):
        find_precomputed([RAW], folders)


def test_folders_have_unique_names(tmp_path: Path) -> None:
    (tmp_path / 'smriprep').mkdir()
    folder = tmp_path / 'smriprep'
    assert parse_derivatives_folders([str(folder)]) == {'smriprep': folder}
    assert parse_derivatives_folders([f'mine={folder}']) == {'mine': folder}
    with pytest.raises(InputError, match='no such folder'):
        parse_derivatives_folders(['mine=/nowhere'])
    with pytest.raises(InputError, match="'raw' is taken"):
        parse_derivatives_folders([f'raw={folder}'])
    with pytest.raises(InputError, match="'a' is taken"):
        parse_derivatives_folders([f'a={folder}', f'a={folder}'])


@pytest.fixture
def head(tmp_path: Path) -> tuple[Path, np.ndarray, VoxelGrid]:
    """Image, brain and grid; the brain is an ellipsoid of a litre off the centre of the grid."""
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    affine[:3, 3] = -90
    grid = VoxelGrid((60, 64, 60), affine)
    x, y, z = np.indices(grid.shape)
    brain = ((x - 28) / 19) ** 2 + ((y - 33) / 24) ** 2 + ((z - 31) / 19) ** 2 < 1
    save_image(tmp_path / 'head.nii.gz', 100.0 + 50 * brain, grid)
    return tmp_path / 'head.nii.gz', brain, grid


def test_mask_may_have_another_orientation_than_the_image(head, tmp_path: Path) -> None:
    """Programs that conform images store masks in another orientation."""
    image, brain, grid = head
    turned = grid.affine.copy()
    turned[:, :3] = grid.affine[:, [2, 0, 1]]
    turned[:3, 0] *= -1
    turned[:3, 3] = grid.affine[:3, 3] + grid.affine[:3, 2] * (grid.shape[2] - 1)
    other = VoxelGrid((60, 60, 64), turned)
    stored = np.moveaxis(brain, [2, 0, 1], [0, 1, 2])[::-1]
    save_image(tmp_path / 'mask.nii.gz', stored, other, np.uint8)
    strip = SkullStrip(in_file=str(image), in_mask=str(tmp_path / 'mask.nii.gz'))
    result = strip.run(cwd=str(tmp_path)).outputs
    assert result.method == 'precomputed'
    taken, own = load_image(result.out_mask)
    assert own.shape == grid.shape
    assert np.array_equal(taken > 0, brain)
    assert np.array_equal(load_image(result.out_file)[0] > 0, brain)


def test_mask_outside_of_the_image_is_refused(head, tmp_path: Path) -> None:
    image, brain, grid = head
    far = grid.affine.copy()
    far[:3, 3] += 400
    save_image(tmp_path / 'mask.nii.gz', brain, VoxelGrid(grid.shape, far), np.uint8)
    strip = SkullStrip(in_file=str(image), in_mask=str(tmp_path / 'mask.nii.gz'))
    with pytest.raises(InputError, match='mask.nii.gz: the brain mask has 0 mL'):
        strip.run(cwd=str(tmp_path))
