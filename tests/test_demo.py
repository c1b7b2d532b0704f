"""Demonstration: the synthetic subjects, and the recovery of their transforms."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest
from nibabel.affines import apply_affine
from scipy import ndimage

from deepreg_wf.cli.demo import main
from deepreg_wf.demo import (
    SUBJECTS,
    SyntheticSubject,
    TrueTransform,
    draw_true_transform,
    registration_errors,
)
from deepreg_wf.demo.dataset import (
    bias_field,
    native_grid,
    simulate_scan,
    write_true_transform,
)
from deepreg_wf.demo.true_transform import MIN_JACOBIAN
from deepreg_wf.spatial import VoxelGrid

SUBJECT = SyntheticSubject(
    label='x',
    rotation=(5, -2, 4),
    translation=(4, -7, 9),
    scale=(1.04, 0.97, 1.02),
    displacement=2.0,
)


@pytest.fixture(scope='module')
def brain(make_brain) -> nb.Nifti1Image:
    return make_brain(spacing=(4.0, 4.0, 4.0))


@pytest.fixture(scope='module')
def small_brain(make_brain) -> nb.Nifti1Image:
    return make_brain(spacing=(2.0, 2.0, 2.0))


@pytest.fixture(scope='module')
def truth(brain: nb.Nifti1Image) -> TrueTransform:
    return draw(brain)


@pytest.fixture(scope='module')
def points(brain: nb.Nifti1Image) -> np.ndarray:
    return apply_affine(brain.affine, np.argwhere(brain.get_fdata() > 0)[::5])


def draw(brain: nb.Nifti1Image, seed: int = 3, mean_displacement: float = 2.0) -> TrueTransform:
    return draw_true_transform(
        brain.get_fdata() > 0,
        brain.affine,
        subject_affine=SUBJECT.affine,
        mean_displacement=mean_displacement,
        seed=seed,
    )


def identity(brain: nb.Nifti1Image) -> TrueTransform:
    """Identity transform."""
    zero = np.zeros((3, *brain.shape))
    grid = VoxelGrid(brain.shape, brain.affine)
    return TrueTransform(grid, zero, zero, np.eye(4), mean_displacement=0.0, max_displacement=0.0)


def centre_of_mass(image: nb.Nifti1Image) -> np.ndarray:
    return apply_affine(image.affine, ndimage.center_of_mass(image.get_fdata()))


def test_transform_and_its_inverse_cancel(truth: TrueTransform, points: np.ndarray) -> None:
    """The remaining error is that of trilinear interpolation at 4 mm."""
    there_and_back = truth.to_template(truth.to_subject(points))
    assert np.linalg.norm(there_and_back - points, axis=1).mean() < 0.1


def test_transform_has_the_requested_size_and_does_not_fold(truth: TrueTransform) -> None:
    assert truth.mean_displacement == pytest.approx(2.0, rel=0.1)
    jacobian = np.moveaxis([np.gradient(u) for u in truth.warp], (0, 1), (-2, -1)) + np.eye(3)
    assert np.linalg.det(jacobian).min() > MIN_JACOBIAN


def test_displacement_vanishes_at_the_border_of_its_grid(truth: TrueTransform) -> None:
    """Outside of the grid the displacement is zero, so that it is continuous there."""
    border = [np.moveaxis(truth.warp, axis, 0)[[0, -1]] for axis in (1, 2, 3)]
    assert max(np.abs(face).max() for face in border) < 0.05


def test_transform_is_reproduced_by_its_seed(brain: nb.Nifti1Image, truth: TrueTransform) -> None:
    assert np.array_equal(draw(brain).warp, truth.warp)
    assert not np.allclose(draw(brain, seed=4).warp, truth.warp, atol=0.1)


def test_transform_that_folds_is_refused(brain: nb.Nifti1Image) -> None:
    with pytest.raises(ValueError, match='Jacobian'):
        draw(brain, mean_displacement=6.0)


@pytest.mark.parametrize('subject', SUBJECTS, ids=lambda subject: subject.label)
def test_scan_has_the_geometry_of_its_subject(
    subject: SyntheticSubject, small_brain: nb.Nifti1Image
) -> None:
    image = simulate_scan(small_brain, identity(small_brain), subject)
    assert ''.join(nb.aff2axcodes(image.affine)) == subject.orientation
    assert np.allclose(image.header.get_zooms(), subject.spacing)
    assert image.get_data_dtype() == np.int16
    oblique = bool(nb.affines.obliquity(image.affine).max() > 1e-3)
    assert oblique == any(subject.oblique)


@pytest.mark.parametrize('subject', SUBJECTS, ids=lambda subject: subject.label)
def test_scan_without_a_transform_is_aligned_with_the_template(
    subject: SyntheticSubject, small_brain: nb.Nifti1Image
) -> None:
    clean = SyntheticSubject(
        label='x',
        orientation=subject.orientation,
        spacing=subject.spacing,
        oblique=subject.oblique,
        bias=0.0,
        noise=0.0,
    )
    image = simulate_scan(small_brain, identity(small_brain), clean)
    assert np.abs(centre_of_mass(image) - centre_of_mass(small_brain)).max() < 0.05


def test_scan_is_the_transformed_template(
    brain: nb.Nifti1Image, truth: TrueTransform, points: np.ndarray
) -> None:
    """The intensity at a point of the template is found at its transformed position."""
    image = simulate_scan(
        brain, truth, SyntheticSubject(label='x', spacing=(2.0, 2.0, 2.0), bias=0.0, noise=0.0)
    )
    smooth = ndimage.gaussian_filter(brain.get_fdata(), 1.0)
    moved = ndimage.gaussian_filter(image.get_fdata(), 2.0)
    here = sample(smooth, brain.affine, points)
    there = sample(moved, image.affine, truth.to_subject(points))
    assert np.corrcoef(here, there)[0, 1] > 0.98
    assert np.corrcoef(here, sample(moved, image.affine, points))[0, 1] < 0.9


def sample(data: np.ndarray, affine: np.ndarray, points: np.ndarray) -> np.ndarray:
    voxels = apply_affine(np.linalg.inv(affine), points).T
    return ndimage.map_coordinates(data, voxels, order=1)


def test_native_grid_covers_its_points(points: np.ndarray) -> None:
    for subject in SUBJECTS:
        grid = native_grid(points, subject)
        voxels = apply_affine(np.linalg.inv(grid.affine), points)
        assert voxels.min() > 0
        assert (voxels < np.asarray(grid.shape) - 1).all()


def test_bias_has_the_requested_strength() -> None:
    log_bias = np.log(bias_field((20, 30, 25), 0.2, np.random.default_rng(0)))
    assert np.abs(log_bias).max() == pytest.approx(0.2)
    assert np.abs(np.diff(log_bias, axis=0)).max() < 0.1


def test_file_of_a_true_transform_is_read_by_itk(
    truth: TrueTransform, points: np.ndarray, tmp_path: Path
) -> None:
    """ITK maps points in left-posterior-superior mm."""
    sitk = pytest.importorskip('SimpleITK')
    transform = sitk.ReadTransform(str(write_true_transform(tmp_path, SUBJECT, truth)))
    flip = np.array([-1.0, -1.0, 1.0])
    there = [transform.TransformPoint((flip * point).tolist()) for point in points[:200]]
    assert np.allclose(flip * there, truth.to_subject(points[:200]), atol=1e-3)


def test_true_transform_has_no_error(
    truth: TrueTransform, points: np.ndarray, tmp_path: Path
) -> None:
    errors = registration_errors(write_true_transform(tmp_path, SUBJECT, truth), truth, points)
    moved = np.linalg.norm(truth.to_subject(points) - points, axis=1)
    assert errors['registration'].p95 < 1e-3
    assert errors['header'].mean == pytest.approx(moved.mean())
    assert 1.0 < errors['affine'].mean < 3.0


def test_file_in_place_of_the_folder_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'out').touch()
    assert main([str(tmp_path / 'out')]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_folder_with_other_files_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'thesis.tex').touch()
    assert main([str(tmp_path)]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ['thesis.tex']
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_unknown_option_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path / 'out'), '--nproc', '2'])
    assert stop.value.code == 2
    assert not (tmp_path / 'out').exists()
    assert '--nproc' in capsys.readouterr().err


@pytest.fixture(scope='module')
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Folder and standard output of the command."""
    out = tmp_path_factory.mktemp('demo') / 'out'
    command = [
        sys.executable,
        '-c',
        'import sys; from deepreg_wf.cli.demo import main; sys.exit(main())',
    ]
    done = subprocess.run([*command, str(out)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return out, done.stdout


@pytest.mark.slow
def test_each_stage_reduces_the_error(demo: tuple[Path, str]) -> None:
    """The mean and the 95th percentile decrease from header to affine to registration."""
    lines = [line.split() for line in demo[1].splitlines() if line.startswith('sub-')]
    assert len(lines) == len(SUBJECTS)
    for _, *cells in lines:
        errors = np.array([float(cell) for cell in ' '.join(cells).replace('/', ' ').split()])
        for stage in (errors[0::2], errors[1::2]):
            assert all(later < earlier for earlier, later in pairwise(stage))
        assert errors[4] < 1.5


@pytest.mark.slow
def test_demo_prints_the_paths_of_the_reports(demo: tuple[Path, str]) -> None:
    reports = [line.removeprefix('Report: ') for line in demo[1].splitlines()[-len(SUBJECTS) :]]
    assert [Path(report).name for report in reports] == ['sub-01.html', 'sub-02.html']
    assert all((demo[0] / 'derivatives' / Path(report).name).is_file() for report in reports)


@pytest.mark.slow
@pytest.mark.parametrize('dataset', ['bids', 'derivatives'])
def test_demo_datasets_are_valid(demo: tuple[Path, str], dataset: str) -> None:
    from shutil import which

    validator = which('bids-validator-deno', path=Path(sys.executable).parent)
    if validator is None:
        pytest.skip('bids-validator-deno is not installed')
    done = subprocess.run(
        [validator, demo[0] / dataset, '--format', 'json'],
        capture_output=True,
        text=True,
        check=False,
    )
    issues = json.loads(done.stdout)['issues']['issues']
    assert [issue for issue in issues if issue['severity'] == 'error'] == []
