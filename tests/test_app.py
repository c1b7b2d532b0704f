"""The whole app through the command line, on a tiny dataset with one bad image."""

from __future__ import annotations

import csv
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest
from nilearn.datasets import load_mni152_brain_mask, load_mni152_template
from safetensors import safe_open
from scipy import ndimage

from deepreg_wf.checkpoints.locate import SHIPPED
from deepreg_wf.spatial import load_image, load_transform, resample

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

pytestmark = pytest.mark.slow

STEM = 'sub-01/anat/sub-01'
SPACE = 'space-MNI152NLin2009aSym'
EXPECTED_FILES = """\
.bidsignore
README.md
dataset_description.json
descriptions.json
descriptions.tsv
failed.tsv
logs/CITATION.bib
logs/CITATION.md
sub-01.html
sub-01/anat/sub-01_desc-brain_mask.json
sub-01/anat/sub-01_desc-brain_mask.nii.gz
sub-01/anat/sub-01_desc-preproc_T1w.json
sub-01/anat/sub-01_desc-preproc_T1w.nii.gz
sub-01/anat/sub-01_from-MNI152NLin2009aSym_to-T1w_mode-image_xfm.h5
sub-01/anat/sub-01_from-MNI152NLin2009aSym_to-T1w_mode-image_xfm.json
sub-01/anat/sub-01_from-T1w_to-MNI152NLin2009aSym_mode-image_xfm.h5
sub-01/anat/sub-01_from-T1w_to-MNI152NLin2009aSym_mode-image_xfm.json
sub-01/anat/sub-01_space-MNI152NLin2009aSym_desc-brain_mask.json
sub-01/anat/sub-01_space-MNI152NLin2009aSym_desc-brain_mask.nii.gz
sub-01/anat/sub-01_space-MNI152NLin2009aSym_desc-logjacobian_T1w.json
sub-01/anat/sub-01_space-MNI152NLin2009aSym_desc-logjacobian_T1w.nii.gz
sub-01/anat/sub-01_space-MNI152NLin2009aSym_desc-momentum2_T1w.json
sub-01/anat/sub-01_space-MNI152NLin2009aSym_desc-momentum2_T1w.nii.gz
sub-01/anat/sub-01_space-MNI152NLin2009aSym_desc-momentum_T1w.json
sub-01/anat/sub-01_space-MNI152NLin2009aSym_desc-momentum_T1w.nii.gz
sub-01/anat/sub-01_space-MNI152NLin2009aSym_desc-preproc_T1w.json
sub-01/anat/sub-01_space-MNI152NLin2009aSym_desc-preproc_T1w.nii.gz
sub-01/anat/sub-01_space-MNI152NLin2009aSym_desc-registration_qc.json
sub-01/anat/sub-01_space-MNI152NLin2009aSym_desc-uncertainty_T1w.json
sub-01/anat/sub-01_space-MNI152NLin2009aSym_desc-uncertainty_T1w.nii.gz
sub-01/figures/sub-01_desc-brainmask_T1w.svg
sub-01/figures/sub-01_desc-summary_T1w.html
sub-01/figures/sub-01_space-MNI152NLin2009aSym_desc-affine_T1w.svg
sub-01/figures/sub-01_space-MNI152NLin2009aSym_desc-convergence_T1w.svg
sub-01/figures/sub-01_space-MNI152NLin2009aSym_desc-logjacobian_T1w.svg
sub-01/figures/sub-01_space-MNI152NLin2009aSym_desc-momentum_T1w.svg
sub-01/figures/sub-01_space-MNI152NLin2009aSym_desc-qc_T1w.html
sub-01/figures/sub-01_space-MNI152NLin2009aSym_desc-registration_T1w.svg
sub-01/figures/sub-01_space-MNI152NLin2009aSym_desc-uncertainty_T1w.svg
sub-01/log/RUN/computed.json
sub-01/log/RUN/deepreg_wf.toml
sub-01/log/RUN/usage.json
sub-02.html
sub-02/log/RUN/crash.json
sub-02/log/RUN/crash.txt
sub-02/log/RUN/deepreg_wf.toml
sub-02/log/RUN/usage.json
"""


@pytest.fixture(scope='module')
def run(make_brain, tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Run the app on two participants, an oblique brain and a truncated file."""
    folder = tmp_path_factory.mktemp('app')
    bids = folder / 'bids'
    for label in ('01', '02'):
        (bids / f'sub-{label}' / 'anat').mkdir(parents=True)
    description = {'Name': 'tiny', 'BIDSVersion': '1.10.0'}
    (bids / 'dataset_description.json').write_text(json.dumps(description))
    template = load_mni152_template(resolution=3)
    tilt = nb.eulerangles.euler2mat(z=0.1)
    affine = np.eye(4)
    affine[:3, :3] = tilt @ template.affine[:3, :3]
    affine[:3, 3] = tilt @ template.affine[:3, 3] + [5, -8, 3]
    brain = nb.Nifti1Image(1000 * template.get_fdata(dtype=np.float32), affine)
    brain.to_filename(bids / 'sub-01/anat/sub-01_T1w.nii.gz')
    whole = (bids / 'sub-01/anat/sub-01_T1w.nii.gz').read_bytes()
    (bids / 'sub-02/anat/sub-02_T1w.nii.gz').write_bytes(whole[: len(whole) // 2])
    options = ['-w', folder / 'work', '--registration-resolution', 4, '--nprocs', 1]
    done = call(bids, folder / 'out', *options, *EXACT)
    return folder / 'out', done


EXACT = ('--refine', 2, '--uncertainty', 2, '--deterministic')


def call(bids: Path, out: Path, *options: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, '-m', 'deepreg_wf', bids, out, 'participant', *options]
    return subprocess.run([str(word) for word in words], capture_output=True, text=True)


def test_the_good_image_is_processed_and_the_bad_one_reported(run) -> None:
    out, done = run
    assert done.returncode == 1, done.stderr
    with (out / 'failed.tsv').open() as table:
        rows = list(csv.DictReader(table, delimiter='\t'))
    assert len(rows) == 1
    sentences = [line for line in (done.stdout + done.stderr).splitlines() if 'truncated' in line]
    assert sentences
    assert all('sub-02_T1w.nii.gz' in line for line in sentences)
    assert 'Traceback' not in done.stdout + done.stderr


def test_the_output_folder_has_the_documented_files_and_no_others(run) -> None:
    """Names of runs and crash files differ each time. No temporary file or lock remains."""
    files = [path for path in run[0].rglob('*') if path.is_file()]
    names = [path.relative_to(run[0]).as_posix() for path in files]
    plain = [re.sub(r'/log/[^/]+/', '/log/RUN/', name) for name in names]
    assert sorted(re.sub(r'/crash-[^/]+(\.\w+)$', r'/crash\1', name) for name in plain) == (
        EXPECTED_FILES.split()
    )
    assert all(path.stat().st_size for path in files)


def test_the_transform_gives_the_resampled_image(run) -> None:
    out, _ = run
    native, grid = load_image(out / f'{STEM}_desc-preproc_T1w.nii.gz')
    written, target = load_image(out / f'{STEM}_{SPACE}_desc-preproc_T1w.nii.gz')
    transform = load_transform(out / f'{STEM}_from-T1w_to-MNI152NLin2009aSym_mode-image_xfm.h5')
    again = resample(native, grid, target, transform)
    assert np.abs(again - written).max() < 1e-3 * written.max()


def test_a_moved_template_is_registered_to_its_place(run) -> None:
    """The subject is the template, tilted and shifted: the transform must undo exactly that."""
    out, _ = run
    transform = load_transform(out / f'{STEM}_from-T1w_to-MNI152NLin2009aSym_mode-image_xfm.h5')
    tilt = nb.eulerangles.euler2mat(z=0.1)
    x, y, z = np.meshgrid([-50, 0, 50], [-70, -20, 30], [0, 30, 55])
    points = np.stack([x, y, z], axis=-1).reshape(-1, 3).astype(float)
    error = np.linalg.norm(transform.map_points(points) - (points @ tilt.T + [5, -8, 3]), axis=1)
    assert error.mean() < 1.0  # a third of a voxel of the image
    qc = json.loads((out / f'{STEM}_{SPACE}_desc-registration_qc.json').read_text())
    assert qc['nonpositive_jacobian_fraction'] == 0
    # Networks and refinement do not spoil the affine alignment.
    assert qc['correlation_final'] >= qc['correlation_affine'] > 0.9
    # Measures of the input are in the same file; a symmetric template cannot tell left from right.
    assert qc['nonfinite_voxels'] == 0
    assert abs(qc['mask_edge']) < 1e-3
    assert qc['slice_order'] < 1.5
    assert qc['mirror_gain'] is None


def test_deterministic_results_do_not_depend_on_the_processors(run) -> None:
    """The work folder also holds the results of a run that is not deterministic."""
    out, _ = run
    other, work = out.parent / 'other', out.parent / 'work'
    options = ['-w', work, '--registration-resolution', 4, '--participant-label', '01']
    options += ['--nprocs', 2, '--omp-nthreads', 2, '--batch-size', 1]
    (work / 'deepreg_wf_deterministic').rename(work / 'deepreg_wf')
    done = call(out.parent / 'bids', other, *options, *EXACT)
    assert done.returncode == 0, done.stderr
    assert 'kept from an earlier run' not in done.stdout
    files = [path for path in (out / 'sub-01' / 'anat').iterdir() if path.suffix != '.json']
    assert len(files) == 10
    for path in files:
        assert path.read_bytes() == (other / path.relative_to(out)).read_bytes(), path.name


def test_software_hardware_and_networks_are_recorded(run) -> None:
    out, _ = run
    (record,) = (out / 'sub-01' / 'log').glob('*/deepreg_wf.toml')
    facts = tomllib.loads(record.read_text())['run']
    assert facts['software']['numpy'] == np.__version__
    assert facts['software']['python'] == platform.python_version()
    assert (facts['device'], facts['threads']) == ('cpu', 1)
    assert facts['hardware']['cpus'] == os.cpu_count()
    sidecar = json.loads((out / f'{STEM}_{SPACE}_desc-momentum_T1w.json').read_text())
    for name in ('prediction', 'correction', 'probabilistic'):
        with safe_open(SHIPPED / f'{name}.safetensors', framework='np') as file:
            checksum = file.metadata()['sha256']
        assert facts['networks_sha256'][name] == sidecar['NetworksSHA256'][name] == checksum


@pytest.fixture(scope='module')
def again(run) -> tuple[Path, np.ndarray]:
    """Register the good image with a precomputed mask to two templates; return also the mask."""
    out, _ = run
    folder = out.parent / 'prep'
    (folder / 'sub-01' / 'anat').mkdir(parents=True)
    mask = nb.load(out / f'{STEM}_desc-brain_mask.nii.gz')
    smaller = ndimage.binary_erosion(np.asanyarray(mask.dataobj) > 0)
    given = nb.Nifti1Image(smaller.astype(np.uint8), mask.affine)
    given.to_filename(folder / f'{STEM}_desc-brain_mask.nii.gz')
    home = out.parent / 'templateflow' / 'tpl-Other'
    home.mkdir(parents=True)
    load_mni152_template(resolution=3).to_filename(home / 'tpl-Other_res-1_T1w.nii.gz')
    brain = load_mni152_brain_mask(resolution=3)
    brain.to_filename(home / 'tpl-Other_res-1_desc-brain_mask.nii.gz')
    made = out.parent / 'out-prep'
    words = [sys.executable, '-m', 'deepreg_wf', out.parent / 'bids', made, 'participant']
    words += ['--participant-label', '01', '-d', f'prep={folder}', '-w', out.parent / 'work2']
    words += ['--registration-resolution', 4, '--momentum', 'predict', '--refine', 0]
    words += ['--output-spaces', 'MNI152NLin2009aSym:res-2', 'Other', '--nprocs', 1]
    done = subprocess.run(
        [str(word) for word in words],
        capture_output=True,
        text=True,
        env=os.environ | {'TEMPLATEFLOW_HOME': str(home.parent)},
    )
    assert (done.returncode, done.stderr) == (0, '')
    return made, smaller


def test_a_precomputed_mask_is_used(again) -> None:
    """The mask is in the results, and is named as their source."""
    made, smaller = again
    taken = np.asanyarray(nb.load(made / f'{STEM}_desc-brain_mask.nii.gz').dataobj)
    assert np.array_equal(taken > 0, smaller)
    sidecar = json.loads((made / f'{STEM}_desc-brain_mask.json').read_text())
    assert f'bids:prep:{STEM}_desc-brain_mask.nii.gz' in sidecar['NativeSources']
    description = json.loads((made / 'dataset_description.json').read_text())
    assert description['DatasetLinks']['prep'] == (made.parent / 'prep').as_uri()
    assert 'computed beforehand by another program' in (made / 'sub-01.html').read_text()


def test_each_template_has_its_derivatives(again) -> None:
    """Both registrations of an image are in one folder and in one report."""
    made, _ = again
    page = (made / 'sub-01.html').read_text()
    for space in ('MNI152NLin2009aSym', 'Other'):
        assert (made / f'{STEM}_from-T1w_to-{space}_mode-image_xfm.h5').is_file()
        assert (made / f'{STEM}_space-{space}_desc-registration_qc.json').is_file()
        assert f'_space-{space}_desc-registration_T1w.svg' in page
    assert len(list(made.glob(f'{STEM}_space-*_desc-momentum_T1w.nii.gz'))) == 2
    assert len(list(made.glob(f'{STEM}_desc-preproc_T1w.nii.gz'))) == 1


def test_both_participants_have_a_report(run) -> None:
    good, bad = ((run[0] / f'sub-{label}.html').read_text() for label in ('01', '02'))
    assert 'desc-registration_T1w.svg' in good
    assert 'desc-uncertainty_T1w.svg' in good
    assert 'truncated' in bad
