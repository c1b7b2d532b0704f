"""Derivatives: names, sidecars, dataset files and atomic writes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from email.message import Message
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest

from deepreg_wf.bids.dataset import DESCRIPTIONS, write_citation, write_dataset_files
from deepreg_wf.bids.entities import derivative_path, parse_entities
from deepreg_wf.errors import InputError
from deepreg_wf.settings import Registration
from deepreg_wf.templates.template import Template
from deepreg_wf.utils.atomic import atomic_write, write_text

# It is in the environment of the tests, which need not be activated.
VALIDATOR = shutil.which('bids-validator-deno', path=Path(sys.executable).parent)
MAPS = (
    't1w_preproc',
    't1w_mask',
    't1w_std',
    'mask_std',
    'log_jacobian',
    'momentum',
    'uncertainty',
)
ONE_SESSION = """\
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
"""
TWO_SESSIONS = """\
sub-02/ses-a/anat/sub-02_ses-a_run-01_desc-brain_mask.json
sub-02/ses-a/anat/sub-02_ses-a_run-01_desc-brain_mask.nii.gz
sub-02/ses-a/anat/sub-02_ses-a_run-01_desc-preproc_T1w.json
sub-02/ses-a/anat/sub-02_ses-a_run-01_desc-preproc_T1w.nii.gz
sub-02/ses-a/anat/sub-02_ses-a_run-01_from-MNI152NLin2009aSym_to-T1w_mode-image_xfm.h5
sub-02/ses-a/anat/sub-02_ses-a_run-01_from-MNI152NLin2009aSym_to-T1w_mode-image_xfm.json
sub-02/ses-a/anat/sub-02_ses-a_run-01_from-T1w_to-MNI152NLin2009aSym_mode-image_xfm.h5
sub-02/ses-a/anat/sub-02_ses-a_run-01_from-T1w_to-MNI152NLin2009aSym_mode-image_xfm.json
sub-02/ses-a/anat/sub-02_ses-a_run-01_space-MNI152NLin2009aSym_desc-momentum2_T1w.json
sub-02/ses-a/anat/sub-02_ses-a_run-01_space-MNI152NLin2009aSym_desc-momentum2_T1w.nii.gz
sub-02/ses-a/anat/sub-02_ses-a_run-01_space-MNI152NLin2009aSym_desc-momentum_T1w.json
sub-02/ses-a/anat/sub-02_ses-a_run-01_space-MNI152NLin2009aSym_desc-momentum_T1w.nii.gz
sub-02/ses-a/anat/sub-02_ses-a_run-01_space-MNI152NLin2009aSym_desc-registration_qc.json
sub-02/ses-b/anat/sub-02_ses-b_acq-mprage_desc-brain_mask.json
sub-02/ses-b/anat/sub-02_ses-b_acq-mprage_desc-brain_mask.nii.gz
sub-02/ses-b/anat/sub-02_ses-b_acq-mprage_desc-preproc_T1w.json
sub-02/ses-b/anat/sub-02_ses-b_acq-mprage_desc-preproc_T1w.nii.gz
sub-02/ses-b/anat/sub-02_ses-b_acq-mprage_from-MNI152NLin2009aSym_to-T1w_mode-image_xfm.h5
sub-02/ses-b/anat/sub-02_ses-b_acq-mprage_from-MNI152NLin2009aSym_to-T1w_mode-image_xfm.json
sub-02/ses-b/anat/sub-02_ses-b_acq-mprage_from-T1w_to-MNI152NLin2009aSym_mode-image_xfm.h5
sub-02/ses-b/anat/sub-02_ses-b_acq-mprage_from-T1w_to-MNI152NLin2009aSym_mode-image_xfm.json
sub-02/ses-b/anat/sub-02_ses-b_acq-mprage_space-MNI152NLin2009aSym_desc-momentum2_T1w.json
sub-02/ses-b/anat/sub-02_ses-b_acq-mprage_space-MNI152NLin2009aSym_desc-momentum2_T1w.nii.gz
sub-02/ses-b/anat/sub-02_ses-b_acq-mprage_space-MNI152NLin2009aSym_desc-momentum_T1w.json
sub-02/ses-b/anat/sub-02_ses-b_acq-mprage_space-MNI152NLin2009aSym_desc-momentum_T1w.nii.gz
sub-02/ses-b/anat/sub-02_ses-b_acq-mprage_space-MNI152NLin2009aSym_desc-registration_qc.json
"""
TEMPLATES = {
    'standard': Template(
        space='MNI152NLin2009aSym',
        t1w=Path('template.nii.gz'),
        uri='https://templateflow.s3.amazonaws.com/tpl-MNI152NLin2009aSym_res-1_T1w.nii.gz',
    ),
    'at two resolutions': Template(
        space='MNI152NLin2009aSym',
        t1w=Path('template.nii.gz'),
        other_resolutions=(
            Template(space='MNI152NLin2009aSym', resolution='2', t1w=Path('t.nii.gz')),
        ),
    ),
    'cohort at 2 mm': Template(
        space='MNIPediatricAsym',
        cohort='3',
        resolution='2',
        t1w=Path('template.nii.gz'),
        uri='https://templateflow.s3.amazonaws.com/tpl-MNIPediatricAsym_cohort-3_T1w.nii.gz',
    ),
    'custom': Template(
        space='custom', t1w=Path('template.nii.gz'), uri='file:///data/template.nii.gz'
    ),
}


def write_image(path, shape, dtype='float32', affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([2.0, 2, 2, 1]) if affine is None else affine
    values = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    nb.Nifti1Image(values, affine).to_filename(path)
    return path


@pytest.fixture
def bids_dir(tmp_path):
    root = tmp_path / 'raw'
    for name in (
        'sub-01/anat/sub-01_T1w',
        'sub-02/ses-a/anat/sub-02_ses-a_run-01_T1w',
        'sub-02/ses-a/anat/sub-02_ses-a_run-02_T1w',
        'sub-02/ses-b/anat/sub-02_ses-b_acq-mprage_T1w',
    ):
        write_image(root / f'{name}.nii.gz', (6, 7, 8))
    description = {
        'Name': 'Test',
        'BIDSVersion': '1.10.0',
        'License': 'CC0',
        'DatasetDOI': 'doi:10.18112/openneuro.ds002748.v1.0.5',
    }
    (root / 'dataset_description.json').write_text(json.dumps(description))
    return root


@pytest.fixture
def store(tmp_path, bids_dir):
    """Function that runs the workflow that stores the derivatives of an image."""
    from deepreg_wf.workflows import init_outputs_wf

    results = tmp_path / 'results'
    files = {name: write_image(results / f'{name}.nii.gz', (6, 7, 8)) for name in MAPS}
    files['t1w_mask'] = write_image(results / 'mask.nii', (6, 7, 8), 'uint8')
    files |= {f'{name}_res2': files[name] for name in ('t1w_std', 'mask_std')}
    for name in ('momentum', 'momentum2'):
        files[name] = write_image(results / f'{name}.nii.gz', (6, 7, 8, 1, 3))
    for name in ('anat2std_xfm', 'std2anat_xfm'):
        files[name] = results / f'{name}.h5'
        files[name].write_bytes(name.encode())
    files['qc'] = results / 'qc.json'
    files['qc'].write_text('{"jacobian_min": 0.5}')
    files['trace'] = results / 'shooting.json'
    later = {'metric': {'alpha': 0.02}, 'steps': 4}
    trace = {'metric': {'alpha': 0.01}, 'steps': 10, 'later': [later], 'energy': [1.0]}
    files['trace'].write_text(json.dumps(trace))

    def run(image, template='standard', method='deepbet', **options):
        workflow = init_outputs_wf(
            t1w_file=bids_dir / image,
            bids_dir=bids_dir,
            output_dir=tmp_path / 'out',
            template=TEMPLATES[template],
            **options,
        )
        workflow.base_dir = tmp_path / 'work'
        inputs = workflow.inputs.inputnode
        known = {name: str(path) for name, path in files.items() if hasattr(inputs, name)}
        inputs.trait_set(skull_strip_method=method, **known)
        workflow.run()
        return tmp_path / 'out'

    return run


def listing(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob('*') if p.is_file())


def sidecars(folder):
    return {p.name: json.loads(p.read_text()) for p in folder.rglob('*.json') if 'anat' in p.parts}


def test_one_image_has_exactly_these_derivatives(store):
    assert listing(store('sub-01/anat/sub-01_T1w.nii.gz')) == ONE_SESSION.split()


def test_minimal_level_omits_what_can_be_computed_again(store):
    left_out = ('_space-MNI152NLin2009aSym_desc-preproc', '_desc-logjacobian')
    left_out += ('_space-MNI152NLin2009aSym_desc-brain',)
    kept = [name for name in ONE_SESSION.split() if not any(part in name for part in left_out)]
    assert listing(store('sub-01/anat/sub-01_T1w.nii.gz', level='minimal')) == kept
    assert len(kept) == len(ONE_SESSION.split()) - 6


def test_uncertainty_is_stored_in_millimetres_if_requested(store):
    out = store('sub-01/anat/sub-01_T1w.nii.gz', registration=Registration(uncertainty=2))
    name = 'sub-01_space-MNI152NLin2009aSym_desc-uncertainty_T1w'
    new = [f'sub-01/anat/{name}.json', f'sub-01/anat/{name}.nii.gz']
    assert listing(out) == sorted([*ONE_SESSION.split(), *new])
    content = sidecars(out)[f'{name}.json']
    assert (content['Units'], content['Direction']) == ('mm', 'template-to-subject')


def test_two_sessions_have_exactly_these_derivatives(store):
    store('sub-02/ses-a/anat/sub-02_ses-a_run-01_T1w.nii.gz', level='minimal')
    out = store('sub-02/ses-b/anat/sub-02_ses-b_acq-mprage_T1w.nii.gz', level='minimal')
    assert listing(out) == TWO_SESSIONS.split()


def test_sessions_and_runs_have_different_names(store, bids_dir):
    images = sorted(bids_dir.glob('sub-02/*/anat/*'))
    for image in images:
        out = store(image.relative_to(bids_dir))
    names = listing(out)
    assert len(names) == len(images) * len(ONE_SESSION.split())
    assert 'sub-02/ses-a/anat/sub-02_ses-a_run-02_desc-preproc_T1w.nii.gz' in names
    assert 'sub-02/ses-b/anat/sub-02_ses-b_acq-mprage_desc-brain_mask.nii.gz' in names


def test_resolution_is_in_the_name_only_if_requested(store):
    names = listing(store('sub-01/anat/sub-01_T1w.nii.gz', 'cohort at 2 mm'))
    space = 'sub-01_space-MNIPediatricAsym_cohort-3'
    assert f'sub-01/anat/{space}_res-2_desc-preproc_T1w.nii.gz' in names
    assert f'sub-01/anat/{space}_desc-momentum_T1w.nii.gz' in names
    assert 'sub-01/anat/sub-01_from-T1w_to-MNIPediatricAsym+3_mode-image_xfm.h5' in names


def test_resolutions_of_a_template_share_one_registration(store):
    stem = 'sub-01/anat/sub-01_space-MNI152NLin2009aSym_res-2_desc'
    names = (f'{stem}-preproc_T1w', f'{stem}-brain_mask')
    more = [f'{name}.{extension}' for name in names for extension in ('json', 'nii.gz')]
    out = store('sub-01/anat/sub-01_T1w.nii.gz', 'at two resolutions')
    assert listing(out) == sorted(ONE_SESSION.split() + more)
    content = sidecars(out)[f'{Path(names[0]).name}.json']
    assert content['Resolution'] == 'Grid of MNI152NLin2009aSym, res-2.'
    assert content['SkullStripped'] is False


def test_sidecars_have_the_metadata_that_bids_requires(store):
    for name, content in sidecars(store('sub-01/anat/sub-01_T1w.nii.gz', 'custom')).items():
        if name.endswith('_qc.json'):
            continue
        native = name in ('sub-01_desc-preproc_T1w.json', 'sub-01_desc-brain_mask.json')
        assert content['NativeSources' if native else 'Sources'], name
        assert ('SkullStripped' in content) == name.endswith('_T1w.json')
        assert ('Type' in content) == name.endswith('_mask.json')
        if '_space-' in name:
            assert content['SpatialReference'] == 'file:///data/template.nii.gz'
        if 'momentum' in name or 'logjacobian' in name:
            assert content['Units']
            assert content['Direction'] == 'template-to-subject'
            assert '2 mm' in content['Resolution']


@pytest.mark.parametrize(('method', 'stripped'), [('deepbet', False), ('already-extracted', True)])
def test_skull_stripped_follows_the_method(store, method, stripped):
    content = sidecars(store('sub-01/anat/sub-01_T1w.nii.gz', method=method))
    assert content['sub-01_desc-preproc_T1w.json']['SkullStripped'] is stripped
    space = 'space-MNI152NLin2009aSym'
    assert content[f'sub-01_{space}_desc-preproc_T1w.json']['SkullStripped'] is stripped
    assert content[f'sub-01_{space}_desc-momentum_T1w.json']['SkullStripped'] is True


def test_sidecar_of_each_momentum_has_its_metric_and_time_steps(store):
    content = sidecars(store('sub-01/anat/sub-01_T1w.nii.gz'))
    momentum = content['sub-01_space-MNI152NLin2009aSym_desc-momentum_T1w.json']
    assert (momentum['Metric'], momentum['TimeSteps']) == ({'alpha': 0.01}, 10)
    later = content['sub-01_space-MNI152NLin2009aSym_desc-momentum2_T1w.json']
    assert (later['Metric'], later['TimeSteps'], later['ChainPosition']) == ({'alpha': 0.02}, 4, 2)


def test_every_source_exists(store, bids_dir):
    out = store('sub-02/ses-a/anat/sub-02_ses-a_run-02_T1w.nii.gz')
    roots = {'raw': bids_dir, '': out}
    for content in sidecars(out).values():
        for uri in [*content.get('Sources', []), *content.get('NativeSources', [])]:
            scheme, dataset, path = uri.split(':', 2)
            assert scheme == 'bids'
            assert (roots[dataset] / path).is_file(), uri


@pytest.mark.parametrize('template', TEMPLATES)
def test_pybids_gives_each_file_the_metadata_of_its_own_sidecar(store, bids_dir, template):
    """A sidecar also applies to files that have more entities, as the native ones do."""
    from bids import BIDSLayout

    store('sub-01/anat/sub-01_T1w.nii.gz')
    store('sub-01/anat/sub-01_T1w.nii.gz', template)
    out = store('sub-02/ses-a/anat/sub-02_ses-a_run-01_T1w.nii.gz', template)
    write_dataset_files(out, bids_dir)
    layout = BIDSLayout(out, validate=False, config=['bids', 'derivatives'], is_derivative=True)
    own = sidecars(out)
    checked = 0
    for path in out.rglob('anat/*'):
        if path.suffix != '.json':
            found = layout.get_metadata(path)
            expected = own[f'{path.name.split(".")[0]}.json']
            assert {key: found[key] for key in expected} == expected, path
            assert set(found) - set(expected) <= {'NativeSources'}, path
            checked += bool(expected)
    assert checked >= 16
    native = layout.get_metadata(out / 'sub-01/anat/sub-01_desc-preproc_T1w.nii.gz')
    assert set(native) == {'NativeSources', 'SkullStripped'}


def test_second_run_restores_a_deleted_file_and_changes_no_other(store):
    out = store('sub-01/anat/sub-01_T1w.nii.gz')
    before = {name: (out / name).stat().st_mtime_ns for name in listing(out)}
    lost = out / 'sub-01/anat/sub-01_desc-brain_mask.nii.gz'
    lost.unlink()
    store('sub-01/anat/sub-01_T1w.nii.gz')
    after = {name: (out / name).stat().st_mtime_ns for name in listing(out)}
    assert {name for name in before if before[name] != after[name]} == {
        lost.relative_to(out).as_posix()
    }


def test_stored_images_keep_values_and_get_the_code_of_their_space(tmp_path):
    from deepreg_wf.interfaces import DerivativesDataSink

    angle = np.cos(0.3), np.sin(0.3)
    oblique = np.diag([-1.0, 1.1, 0.9, 1])
    oblique[:2, :2] = np.array([[angle[0], -angle[1]], [angle[1], angle[0]]]) @ oblique[:2, :2]
    sheared = oblique.copy()
    sheared[0, 2] = 0.2
    cases = ((oblique, '', 1, 1), (oblique, 'MNI152NLin2009aSym', 4, 4), (sheared, 'other', 2, 0))
    for number, (affine, space, sform, qform) in enumerate(cases):
        image = write_image(tmp_path / f'{number}.nii', (4, 5, 6), 'uint8', affine)
        sink = DerivativesDataSink(
            base_directory=str(tmp_path / 'out'),
            in_file=str(image),
            source_file=f'sub-{number}_T1w.nii.gz',
            desc='brain',
            suffix='mask',
        )
        if space:
            sink.inputs.space = space
        stored = nb.load(sink.run().outputs.out_file)
        assert (stored.header['sform_code'], stored.header['qform_code']) == (sform, qform)
        np.testing.assert_allclose(stored.affine, affine, atol=1e-6)
        np.testing.assert_array_equal(stored.dataobj, nb.load(image).dataobj)
        assert stored.get_data_dtype() == np.uint8
        assert stored.header.get_xyzt_units()[0] == 'mm'


def test_figure_is_in_the_folder_of_its_participant(tmp_path):
    from deepreg_wf.interfaces import DerivativesDataSink

    figure = tmp_path / 'figure.svg'
    figure.write_text('<svg/>')
    sink = DerivativesDataSink(
        base_directory=str(tmp_path / 'out'),
        in_file=str(figure),
        source_file='sub-01_ses-a_run-1_T1w.nii.gz',
        datatype='figures',
        desc='outline',
    )
    expected = 'out/sub-01/figures/sub-01_ses-a_run-1_desc-outline_T1w.svg'
    assert sink.run().outputs.out_file == str(tmp_path / expected)


def test_interrupted_write_does_not_change_the_file(tmp_path):
    path = tmp_path / 'sub-01' / 'file.txt'
    write_text(path, 'whole')

    def cut_off():
        with atomic_write(path) as temporary:
            temporary.write_text('ha')
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut_off()
    assert listing(tmp_path) == ['sub-01/file.txt']
    assert path.read_text() == 'whole'


@pytest.mark.parametrize('name', ['sub-01_foo-1_T1w.nii.gz', 'sub-01_T1w_copy_T1w.nii.gz'])
def test_unknown_entity_is_refused(name):
    with pytest.raises(InputError, match='rename the file'):
        parse_entities(name)


def test_derivative_cannot_have_the_name_of_a_raw_image():
    with pytest.raises(ValueError, match='no pattern'):
        derivative_path('sub-01_T1w.nii.gz')


def test_dataset_files_are_complete(tmp_path, bids_dir):
    for _ in range(2):
        write_dataset_files(tmp_path / 'out', bids_dir, {})
    description = json.loads((tmp_path / 'out/dataset_description.json').read_text())
    assert description['DatasetType'] == 'derivative'
    assert description['DatasetLinks']['raw'] == bids_dir.as_uri()
    assert description['SourceDatasets'][0]['DOI'] == '10.18112/openneuro.ds002748.v1.0.5'
    assert description['License'] == 'CC0'
    rows = (tmp_path / 'out/descriptions.tsv').read_text().splitlines()
    assert rows[0] == 'desc_id\tdescription'
    assert len(rows) == 1 + len(DESCRIPTIONS)


def test_link_is_relative_if_derivatives_are_inside_the_dataset(bids_dir):
    out = bids_dir / 'derivatives' / 'deepreg_wf'
    write_dataset_files(out, bids_dir, {})
    description = json.loads((out / 'dataset_description.json').read_text())
    assert description['DatasetLinks']['raw'] == '../..'


@pytest.mark.parametrize(
    ('environ', 'container'),
    [
        ({}, None),
        ({'DEEPREG_WF_DOCKER_TAG': '1.0'}, {'Type': 'docker', 'Tag': 'deepreg_wf:1.0'}),
        ({'APPTAINER_CONTAINER': '/a.sif'}, {'Type': 'singularity', 'URI': 'file:///a.sif'}),
        (
            {'DEEPREG_WF_DOCKER_TAG': '1.0', 'APPTAINER_CONTAINER': '/a.sif'},
            {'Type': 'singularity', 'URI': 'file:///a.sif'},
        ),
    ],
)
def test_container_is_described(tmp_path, bids_dir, environ, container):
    write_dataset_files(tmp_path, bids_dir, environ)
    description = json.loads((tmp_path / 'dataset_description.json').read_text())
    assert description['GeneratedBy'][0].get('Container') == container


@pytest.mark.parametrize(
    ('lines', 'address'),
    [
        ([], None),
        (['Documentation, https://docs.example'], None),
        (
            ['Homepage, https://home.example', 'Source, https://code.example'],
            'https://code.example',
        ),
        (['homepage,https://home.example'], 'https://home.example'),
    ],
)
def test_address_of_the_code_is_that_of_the_package(
    tmp_path, bids_dir, monkeypatch, lines, address
):
    package = Message()
    for line in lines:
        package['Project-URL'] = line
    monkeypatch.setattr('deepreg_wf.bids.dataset.metadata', lambda name: package)
    write_dataset_files(tmp_path, bids_dir, {})
    description = json.loads((tmp_path / 'dataset_description.json').read_text())
    assert description['GeneratedBy'][0].get('CodeURL') == address


def test_earlier_versions_stay_among_the_programs(tmp_path, bids_dir, monkeypatch):
    for version in ('1.0', '2.0', '2.0'):
        monkeypatch.setattr('deepreg_wf.bids.dataset.__version__', version)
        write_dataset_files(tmp_path, bids_dir, {})
    description = json.loads((tmp_path / 'dataset_description.json').read_text())
    assert [program['Version'] for program in description['GeneratedBy']] == ['2.0', '1.0']


def test_invalid_description_of_the_raw_dataset_is_refused(tmp_path, bids_dir):
    (bids_dir / 'dataset_description.json').write_text('{')
    with pytest.raises(InputError, match='not valid JSON'):
        write_dataset_files(tmp_path, bids_dir)


def test_every_desc_label_is_explained(store):
    used = {parse_entities(name).get('desc') for name in map(Path, ONE_SESSION.split())}
    assert used - {None} | {'uncertainty'} == set(DESCRIPTIONS)


def test_lines_of_the_user_are_kept_in_shared_files(tmp_path, bids_dir):
    (tmp_path / '.bidsignore').write_text('mine\n')
    write_dataset_files(tmp_path, bids_dir)
    assert (tmp_path / '.bidsignore').read_text().splitlines()[0] == 'mine'


def test_readme_is_written_if_there_is_none(tmp_path, bids_dir):
    write_dataset_files(tmp_path / 'new', bids_dir)
    assert 'registration of Test' in (tmp_path / 'new' / 'README.md').read_text()
    (tmp_path / 'README').write_text('mine')
    write_dataset_files(tmp_path, bids_dir)
    assert not (tmp_path / 'README.md').exists()


def test_repeated_paragraphs_of_the_citation_are_written_once(tmp_path):
    write_citation(tmp_path, 'Both.\n\nOnto A.\n\nBoth.\n\nOnto B.\n\n')
    assert (tmp_path / 'logs/CITATION.md').read_text() == 'Both.\n\nOnto A.\n\nOnto B.\n'


def test_citation_is_written_with_its_references(tmp_path):
    write_citation(tmp_path, '\nText [@key].\n\n')
    assert (tmp_path / 'logs/CITATION.md').read_text() == 'Text [@key].\n'
    assert '@' in (tmp_path / 'logs/CITATION.bib').read_text()


def test_smriprep_and_fmriprep_collect_the_derivatives(store, bids_dir):
    """The queries are those of `fmriprep --derivatives deepreg=OUT`."""
    from smriprep.utils.bids import collect_derivatives

    for image in sorted(bids_dir.glob('sub-*/**/*_T1w.nii.gz')):
        for template in ('standard', 'cohort at 2 mm'):
            out = store(image.relative_to(bids_dir), template)
    write_dataset_files(out, bids_dir)
    spaces = {'MNI152NLin2009aSym': 'MNI152NLin2009aSym'}
    spaces['MNIPediatricAsym:cohort-3'] = 'MNIPediatricAsym+3'
    for subject, session, stem in (
        ('01', None, 'sub-01/anat/sub-01'),
        ('02', 'b', 'sub-02/ses-b/anat/sub-02_ses-b_acq-mprage'),
    ):
        assert collect_derivatives(out, subject, list(spaces), session_id=session) == {
            't1w_preproc': f'{out}/{stem}_desc-preproc_T1w.nii.gz',
            't1w_mask': f'{out}/{stem}_desc-brain_mask.nii.gz',
            'transforms': {
                space: {
                    'forward': f'{out}/{stem}_from-T1w_to-{label}_mode-image_xfm.h5',
                    'reverse': f'{out}/{stem}_from-{label}_to-T1w_mode-image_xfm.h5',
                }
                for space, label in spaces.items()
            },
        }


@pytest.mark.skipif(VALIDATOR is None, reason='no BIDS validator')
def test_validator_finds_no_error(store, bids_dir, tmp_path):
    for template in TEMPLATES:
        for image in sorted(bids_dir.glob('sub-*/**/*_T1w.nii.gz')):
            out = store(image.relative_to(bids_dir), template)
    write_dataset_files(out, bids_dir)
    write_citation(out, 'Text.')
    for name in ('sub-01.html', 'sub-01/figures/a.svg', 'sub-01/log/1/crash.txt', 'failed.tsv'):
        write_text(out / name, 'text')
    call = subprocess.run(
        [VALIDATOR, out, '--format', 'json'],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, 'NO_COLOR': '1'},
    )
    issues = json.loads(call.stdout)['issues']['issues']
    assert [issue for issue in issues if issue['severity'] == 'error'] == []
    assert call.returncode == 0
