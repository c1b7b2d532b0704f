"""The registration workflow in place of that of sMRIPrep."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import h5py
import nibabel as nb
import numpy as np
import pytest
from nilearn.datasets import load_mni152_brain_mask, load_mni152_template

from deepreg_wf.interfaces import FillLesion, SelectTemplate
from deepreg_wf.settings import Registration
from deepreg_wf.spatial import VoxelGrid, load_image, load_transform, save_affine, save_image
from deepreg_wf.workflows import init_register_template_wf

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE = 'MNI152NLin2009cAsym'

SPLICE = """
import json, sys
from pathlib import Path

import nibabel as nb
import numpy as np
import templateflow.api  # fills its home with stubs, which sMRIPrep would download when it builds

home, bids, readme = map(Path, sys.argv[1:])
stub = nb.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4))
for template in ('OASIS30ANTs', 'MNI152NLin2009cAsym'):
    for path in (home / f'tpl-{template}').rglob('*.nii.gz'):
        stub.to_filename(path)
t1w = bids / 'sub-01' / 'anat' / 'sub-01_T1w.nii.gz'
t1w.parent.mkdir(parents=True)
stub.to_filename(t1w)

from niworkflows.utils.spaces import Reference, SpatialReferences
from nipype.interfaces.base import isdefined
from nipype.pipeline.engine.utils import generate_expanded_graph
from smriprep.workflows.anatomical import init_anat_fit_wf

spaces = SpatialReferences([Reference('MNI152NLin2009cAsym')])
spaces.checkpoint()
workflow = init_anat_fit_wf(
    bids_root=str(bids), output_dir=str(home / 'out'), t1w=[str(t1w)], t2w=[], freesurfer=False,
    hires=False, longitudinal=False, msm_sulc=False, skull_strip_mode='force',
    skull_strip_template=Reference('OASIS30ANTs'), spaces=spaces, precomputed={},
    omp_nthreads=1, sloppy=True,
)
code = next(c for c in readme.read_text('utf-8').split('```') if 'splice_workflow' in c)
names = {}
exec(code.removeprefix('python'), names)
names['with_deepreg'](workflow, ['MNI152NLin2009cAsym'])
graph = generate_expanded_graph(workflow._create_flat_graph())
lacking = []
for node in graph:
    given = [target for *_, d in graph.in_edges(node, data=True) for _, target in d['connect']]
    for name, trait in node.interface.inputs.traits(mandatory=True).items():
        if name not in given and not isdefined(getattr(node.interface.inputs, name)):
            lacking.append(f'{node.fullname}.{name}')
names = {node.fullname: type(node.interface).__name__ for node in graph}
edges = [
    [source.fullname, out if isinstance(out, str) else out[0], target.fullname, into]
    for source, target, data in graph.edges(data=True)
    for out, into in data['connect']
]
print(json.dumps({'lacking': lacking, 'nodes': names, 'edges': edges}))
"""


@pytest.fixture(scope='module')
def spliced(tmp_path_factory) -> dict:
    """The graph of sMRIPrep's anatomical workflow after the splice shown in the README."""
    if importlib.util.find_spec('smriprep') is None:
        pytest.skip('sMRIPrep is not installed')
    folder = tmp_path_factory.mktemp('smriprep')
    environment = os.environ | {'TEMPLATEFLOW_HOME': str(folder / 'home')}
    # sMRIPrep's own stages ask for the format that FSL would write.
    environment |= {'FSLOUTPUTTYPE': 'NIFTI_GZ'}
    places = [folder / 'home', folder / 'bids', ROOT / 'README.md']
    done = subprocess.run(
        [sys.executable, '-c', SPLICE, *map(str, places)],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_spliced_graph_contains_this_registration_instead_of_ants(spliced: dict) -> None:
    ours = {name: kind for name, kind in spliced['nodes'].items() if 'register_template' in name}
    assert 'PredictMomentum' in ours.values()
    assert 'SpatialNormalization' not in spliced['nodes'].values()


def test_the_spliced_workflow_is_fully_connected(spliced: dict) -> None:
    assert [name for name in spliced['lacking'] if 'register_template' in name] == []
    into = {(target, field) for _, _, target, field in spliced['edges'] if 'register' in target}
    stem = 'anat_fit_wf.register_template_wf'
    assert {(f'{stem}.brain', 'in_file'), (f'{stem}.brain', 'in_mask')} <= into
    joined = {
        re.sub(r'J\d+$', '', f)
        for _, _, target, f in spliced['edges']
        if target == f'{stem}.outputnode'
    }
    assert joined == {'anat2std_xfm', 'std2anat_xfm', 'template', 'template_spec'}
    # Its results are stored by sMRIPrep, under its names.
    out = {
        (field, target)
        for source, field, target, _ in spliced['edges']
        if source == f'{stem}.outputnode'
    }
    stored = {field for field, target in out if 'ds_template_registration_wf' in target}
    assert stored == {'anat2std_xfm', 'std2anat_xfm', 'template'}


@pytest.fixture(scope='module')
def home(tmp_path_factory) -> Path:
    """A TemplateFlow home that holds one template: the bundled brain under another name."""
    folder = tmp_path_factory.mktemp('templateflow') / f'tpl-{TEMPLATE}'
    folder.mkdir()
    stem = folder / f'tpl-{TEMPLATE}_res-02'
    load_mni152_template(resolution=3).to_filename(f'{stem}_T1w.nii.gz')
    mask = load_mni152_brain_mask(resolution=3)
    mask.to_filename(f'{stem}_desc-brain_mask.nii.gz')
    return folder.parent


@pytest.mark.slow
def test_a_transformed_head_is_registered_to_each_template(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head is the template under a rigid transform, which both transforms recover."""
    monkeypatch.setenv('TEMPLATEFLOW_HOME', str(home))
    brain, mask = load_mni152_template(resolution=3), load_mni152_brain_mask(resolution=3)
    moved = np.eye(4)
    moved[:3, :3] = nb.eulerangles.euler2mat(x=0.1, z=0.15)
    moved[:3, 3] = [6, -9, 4]
    image, inside = tmp_path / 'T1w.nii.gz', tmp_path / 'mask.nii.gz'
    data = 1000 * brain.get_fdata(dtype=np.float32)
    nb.Nifti1Image(data, moved @ brain.affine).to_filename(image)
    marked = np.asanyarray(mask.dataobj).astype(np.uint8)
    nb.Nifti1Image(marked, moved @ mask.affine).to_filename(inside)
    workflow = init_register_template_wf(
        sloppy=True,
        omp_nthreads=1,
        templates=[TEMPLATE, 'MNI152NLin2009aSym:res-2'],
        registration=Registration(momentum='predict', refine=0, registration_resolution=4.0),
    )
    workflow.base_dir = str(tmp_path / 'work')
    workflow.inputs.inputnode.trait_set(moving_image=str(image), moving_mask=str(inside))
    graph = workflow.run()
    (outputs,) = (node.result.outputs for node in graph if node.name == 'outputnode')
    assert outputs.template == [TEMPLATE, 'MNI152NLin2009aSym']
    assert outputs.template_spec == [{}, {'resolution': '2'}]
    points = np.random.default_rng(0).uniform([-50, -70, -20], [50, 40, 50], (200, 3))
    there = points @ moved[:3, :3].T + moved[:3, 3]
    for forward, back in zip(outputs.anat2std_xfm, outputs.std2anat_xfm, strict=True):
        with h5py.File(forward) as file:
            fixed = file['TransformGroup/2/TransformFixedParameters'][:]
        assert fixed[6:].tolist() == [1, 1, 1, -1, 0, 0, 0, -1, 0, 0, 0, 1]  # as for fMRIPrep
        # A voxel of the registration grid is 4 mm, and the search was a quick one.
        assert np.abs(load_transform(forward).map_points(points) - there).max() < 2
        assert np.abs(load_transform(back).map_points(there) - points).max() < 2


def test_other_contrasts_are_refused() -> None:
    with pytest.raises(ValueError, match='T1-weighted images only'):
        init_register_template_wf(
            sloppy=True, omp_nthreads=1, templates=[TEMPLATE], image_type='T2w'
        )


def test_a_template_is_selected_from_the_templateflow_home(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('TEMPLATEFLOW_HOME', str(home))
    found = SelectTemplate(template=TEMPLATE, resolution=2).run(cwd=str(tmp_path)).outputs
    assert (found.name, found.spec) == (TEMPLATE, {})
    assert found.t1w == str(home / f'tpl-{TEMPLATE}' / f'tpl-{TEMPLATE}_res-02_T1w.nii.gz')
    assert found.mask.endswith('_desc-brain_mask.nii.gz')


def test_a_lesion_is_filled_with_the_scaled_template(
    tmp_path: Path,
) -> None:
    grid = VoxelGrid((20, 20, 20), np.diag([2.0, 2.0, 2.0, 1.0]))
    rng = np.random.default_rng(0)
    template = rng.uniform(0.5, 1, grid.shape).astype(np.float32)
    brain = 300 * template
    brain[5:9, 5:9, 5:9] = 20
    # The lesion lies in the space of the image, which the affine leads to from the template.
    shift = np.eye(4)
    shift[:3, 3] = 4
    lesion = np.zeros(grid.shape, np.uint8)
    lesion[7:11, 7:11, 7:11] = 1
    save_image(tmp_path / 'brain.nii.gz', brain, grid)
    save_image(tmp_path / 'template.nii.gz', template, grid)
    save_image(tmp_path / 'lesion.nii.gz', lesion, grid, np.uint8)
    save_affine(tmp_path / 'affine.txt', shift)
    files = {name: str(tmp_path / f'{name}.nii.gz') for name in ('template',)}
    fill = FillLesion(
        in_file=str(tmp_path / 'brain.nii.gz'), affine=str(tmp_path / 'affine.txt'), **files
    )
    assert fill.run(cwd=str(tmp_path)).outputs.out_file == str(tmp_path / 'brain.nii.gz')
    fill.inputs.lesion_mask = str(tmp_path / 'lesion.nii.gz')
    filled, _ = load_image(fill.run(cwd=str(tmp_path)).outputs.out_file)
    np.testing.assert_allclose(filled, 300 * template, rtol=1e-5)
