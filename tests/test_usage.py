"""The commands of the page on usage, run line by line on a tiny dataset."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest
from nilearn.datasets import load_mni152_brain_mask, load_mni152_template

pytestmark = pytest.mark.slow

VALIDATOR = shutil.which('bids-validator-deno', path=Path(sys.executable).parent)
PAGE = Path(__file__).resolve().parents[1] / 'docs' / 'usage.md'
BUNDLED = 'MNI152NLin2009aSym'
OTHER = 'MNI152NLin2009cAsym'
OURS = (
    'desc-preproc_T1w.nii.gz',
    'desc-brain_mask.nii.gz',
    'from-T1w_to-{}_mode-image_xfm.h5',
    'from-{}_to-T1w_mode-image_xfm.h5',
)
ON_TEMPLATE = ('desc-preproc_T1w.nii.gz', 'desc-brain_mask.nii.gz')
MAPS = (
    'desc-logjacobian_T1w.nii.gz',
    'desc-momentum_T1w.nii.gz',
    'desc-momentum2_T1w.nii.gz',
    'desc-registration_qc.json',
)


def make_dataset(root: Path) -> None:
    """Write two sessions of one brain, the second with an image that the filter excludes."""
    template = load_mni152_template(resolution=4)
    brain = nb.Nifti1Image(1000 * template.get_fdata(dtype=np.float32), template.affine)
    for session, middle in (('pre', ''), ('post', ''), ('post', 'acq-fast_')):
        folder = root / 'sub-01' / f'ses-{session}' / 'anat'
        folder.mkdir(parents=True, exist_ok=True)
        brain.to_filename(folder / f'sub-01_ses-{session}_{middle}T1w.nii.gz')
    lesion = np.zeros(brain.shape, np.uint8)
    lesion[16:21, 30:35, 20:25] = 1
    drawn = nb.Nifti1Image(lesion, brain.affine)
    drawn.to_filename(root / 'sub-01/ses-post/anat/sub-01_ses-post_label-lesion_roi.nii.gz')
    description = {'Name': 'tiny', 'BIDSVersion': '1.10.0', 'Authors': ['A. One', 'B. Two']}
    (root / 'dataset_description.json').write_text(json.dumps(description))


def make_masks(root: Path) -> None:
    """Write a brain mask of the first session, as derivative of another program."""
    folder = root / 'sub-01' / 'ses-pre' / 'anat'
    folder.mkdir(parents=True)
    mask = load_mni152_brain_mask(resolution=4)
    mask.to_filename(folder / 'sub-01_ses-pre_desc-brain_mask.nii.gz')


def make_templateflow(home: Path) -> None:
    """Write one template beside the bundled one."""
    stem = home / f'tpl-{OTHER}' / f'tpl-{OTHER}_res-01'
    stem.parent.mkdir(parents=True)
    load_mni152_template(resolution=4).to_filename(f'{stem}_T1w.nii.gz')
    load_mni152_brain_mask(resolution=4).to_filename(f'{stem}_desc-brain_mask.nii.gz')


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    """Folder in which the commands of the page were run, coarsely, with few iterations."""
    folder = tmp_path_factory.mktemp('usage')
    make_dataset(folder / 'bids')
    make_masks(folder / 'prep')
    make_templateflow(folder / 'templateflow')
    commands = ''.join(re.findall(r'```sh\n(.*?)```', PAGE.read_text('utf-8'), re.S))
    quick = ' participant --registration-resolution 4 --refine 1 --sloppy'
    coarse = commands.replace(' participant', quick)
    places = [str(Path(sys.executable).parent), os.environ['PATH']]
    environment = os.environ | {
        'PATH': os.pathsep.join(places),
        'TEMPLATEFLOW_HOME': str(folder / 'templateflow'),
    }
    done = subprocess.run(
        ['sh', '-euxc', coarse], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_image_and_template_has_its_derivatives(folder: Path) -> None:
    def stored(stem: str, space: str, resolution: str = '') -> set[str]:
        native = {name.format(space) for name in OURS}
        images = {f'space-{space}{resolution}_{name}' for name in ON_TEMPLATE}
        maps = {f'space-{space}_{name}' for name in MAPS}
        return {f'{stem}_{name}' for name in native | images | maps}

    found = {path.name for path in (folder / 'out').rglob('anat/*') if path.suffix != '.json'}
    found |= {path.name for path in (folder / 'out').rglob('anat/*_qc.json')}
    expected = set[str]()
    for stem in ('sub-01_ses-pre', 'sub-01_ses-post', 'sub-01_ses-post_acq-fast'):
        for resolution in ('', '_res-1', '_res-2'):
            expected |= stored(stem, BUNDLED, resolution)
        expected |= stored(stem, OTHER)
    assert found == expected


def test_the_lesion_mask_is_in_the_sources_and_in_the_report(folder: Path) -> None:
    with_lesion = {
        path.name.partition('_from')[0]
        for path in (folder / 'out').rglob('*_xfm.json')
        if any('lesion' in source for source in json.loads(path.read_text())['Sources'])
    }
    assert with_lesion == {'sub-01_ses-post'}
    page = (folder / 'out' / 'sub-01.html').read_text('utf-8')
    assert page.count('sub-01_ses-post_label-lesion_roi.nii.gz') == 1


@pytest.mark.skipif(VALIDATOR is None, reason='no BIDS validator')
def test_the_bids_validator_finds_no_issue_but_one_made_on_purpose(folder: Path) -> None:
    """Images in native space lack keys that those on a template would inherit from them."""
    words = [VALIDATOR, folder / 'out', '--format', 'json']
    environment = os.environ | {'NO_COLOR': '1'}
    call = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    for issue in json.loads(call.stdout)['issues']['issues']:
        assert issue['code'] == 'SIDECAR_KEY_RECOMMENDED', issue
        assert issue['subCode'] in {'Description', 'Sources', 'SpatialReference'}, issue
        assert '_space-' not in issue['location'], issue


def test_the_group_has_its_page_and_both_templates(folder: Path) -> None:
    out = folder / 'out'
    assert (out / 'group.html').is_file()
    for space in (BUNDLED, OTHER):
        assert (out / 'group' / f'group_space-{space}_desc-average_T1w.nii.gz').is_file()


def test_every_run_has_its_settings_and_there_is_one_page(folder: Path) -> None:
    out = folder / 'out'
    assert [page.name for page in out.glob('sub-*.html')] == ['sub-01.html']
    runs = sorted((out / 'sub-01' / 'log').iterdir())
    commands = PAGE.read_text('utf-8').count('\ndeepreg_wf ')
    alone = 3  # the group, the pages and the text do not register
    assert len(runs) == commands - alone
    assert all((run / 'deepreg_wf.toml').is_file() for run in runs)
