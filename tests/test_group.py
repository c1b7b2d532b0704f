"""Group level: exact statistics, principal modes, table, report and average images."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest
import torch
from browser import CHROMIUM, Browser

from deepreg_wf.cli.main import main
from deepreg_wf.group import find_records, worst_first, write_table
from deepreg_wf.group.averages import RunningMoments
from deepreg_wf.group.incremental_pca import BATCH_SIZE, IncrementalPCA
from deepreg_wf.group.modes import MomentumStatistics
from deepreg_wf.lddmm import DEFAULT_METRIC, Metric
from deepreg_wf.qc.criteria import CRITERIA
from deepreg_wf.reports.distributions import distribution_figure
from deepreg_wf.spatial import VoxelGrid, load_image, load_vector, save_image, save_vector

SHAPE, SPACING = (20, 24, 20), 8.0
GRID = VoxelGrid(SHAPE, np.diag([SPACING, SPACING, SPACING, 1.0]))
METRIC = Metric(SHAPE, [SPACING] * 3)
SPACE = 'Synthetic'
GOOD = {
    'jacobian_min': 0.3,
    'jacobian_max': 3.2,
    'nonpositive_jacobian_fraction': 0.0,
    'inverse_error_median_mm': 0.01,
    'inverse_error_p99_mm': 0.1,
    'energy_drift': 0.00005,
    'correlation_affine': 0.62,
    'correlation_final': 0.85,
    'mask_dice_affine': 0.94,
    'mask_dice_final': 0.97,
    'affine_determinant': 0.8,
    'displacement_median_mm': 2.0,
    'displacement_max_mm': 9.0,
}


@pytest.fixture(scope='module')
def directions() -> torch.Tensor:
    """Three momenta of unit energy, at right angles in the metric; (3, 3, X, Y, Z)."""
    generator = torch.Generator().manual_seed(0)
    found: list[torch.Tensor] = []
    for _ in range(3):
        noise = torch.randn(3, *SHAPE, generator=generator) * _ball(0.5)
        momentum = METRIC.momentum(METRIC.square_root.velocity(METRIC.square_root.velocity(noise)))
        momentum = METRIC.square_root.velocity(momentum)
        for other in found:
            momentum = momentum - _inner(momentum, other) * other
        found.append(momentum / _inner(momentum, momentum) ** 0.5)
    return torch.stack(found)


def _ball(radius: float) -> torch.Tensor:
    axes = [torch.linspace(-1, 1, n) for n in SHAPE]
    x, y, z = torch.meshgrid(*axes, indexing='ij')
    return (x**2 + y**2 + z**2 < radius**2).float()


def _inner(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a * METRIC.velocity(b)).sum(dtype=torch.float64)) * METRIC.voxel_volume


def test_running_moments_equal_those_of_all_images() -> None:
    """Some voxels of some images are NaN."""
    rng = np.random.default_rng(0)
    images = rng.normal(5, 2, (7, *SHAPE)).astype(np.float32)
    images[rng.random(images.shape) < 0.1] = np.nan
    moments = RunningMoments(GRID)
    for image in images:
        moments.add(image)
    np.testing.assert_allclose(moments.mean, np.nanmean(images, axis=0), rtol=1e-5)
    np.testing.assert_allclose(moments.std, np.nanstd(images, axis=0, ddof=1), rtol=1e-4)


@pytest.mark.parametrize('count', [4, 3 * BATCH_SIZE + 1])
def test_modes_are_those_of_the_metric(directions: torch.Tensor, count: int) -> None:
    """Momenta that vary along two directions have these as modes, in one batch or several."""
    rng = np.random.default_rng(1)
    places = rng.normal(size=(count, 2)) * (30.0, 10.0)
    statistics = MomentumStatistics(METRIC)
    for a, b in places:
        statistics.add(a * directions[0] + b * directions[1] + 5 * directions[2])
    expected = np.linalg.eigh(np.cov(places.T))
    largest = expected.eigenvectors[:, 1] * expected.eigenvalues[1] ** 0.5
    modes = statistics.modes()
    found = [_inner(modes[0].momentum, directions[i]) for i in (0, 1)]
    # What lies beyond the lattice of the momenta is lost: a few percent of rough ones like these.
    assert np.abs(found) == pytest.approx(np.abs(largest), abs=0.1 * np.abs(largest).max())
    assert sum(mode.explained_variance_ratio for mode in modes[:2]) == pytest.approx(1, abs=1e-3)
    middle = [_inner(statistics.mean, direction) for direction in directions]
    assert middle == pytest.approx([*places.mean(axis=0), 5], abs=0.5)


def test_scores_have_zero_mean_and_unit_standard_deviation(directions: torch.Tensor) -> None:
    rng = np.random.default_rng(2)
    all_momenta = [
        a * directions[0] + b * directions[1] for a, b in rng.normal(size=(12, 2)) * (20, 10)
    ]
    statistics = MomentumStatistics(METRIC)
    for momentum in all_momenta:
        statistics.add(momentum)
    statistics.modes()
    scores = np.array([statistics.scores(momentum)[:2] for momentum in all_momenta])
    np.testing.assert_allclose(scores.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(scores.std(axis=0, ddof=1), 1, atol=1e-3)


def test_incremental_components_equal_those_of_all_vectors() -> None:
    """Many batches with a large mean: all results agree with a singular value decomposition."""
    rng = np.random.default_rng(3)
    count, size = 4 * BATCH_SIZE + 7, 200
    spread = np.diag(3.0 ** -np.arange(5)) @ rng.normal(size=(5, size))
    vectors = rng.normal(size=(count, 5)) @ spread + rng.normal(0, 1e-3, (count, size)) + 10
    components = IncrementalPCA(4, size)
    for vector in vectors.astype(np.float32):
        components.add(vector)
    components.update()
    _, sizes, axes = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(components.mean, vectors.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(
        components.explained_variance_ratio, sizes[:4] ** 2 / (sizes**2).sum(), rtol=1e-4
    )
    for number in range(4):
        deviation = axes[number] * sizes[number] / (count - 1) ** 0.5
        found = components.scaled_component(number)
        assert abs(found @ deviation) == pytest.approx(deviation @ deviation, rel=1e-4)
        place = (vectors[0] - vectors.mean(axis=0)) @ deviation / (deviation @ deviation)
        sign = np.sign(found @ deviation)
        assert components.scores(vectors[0].astype(np.float32), 4)[number] == pytest.approx(
            sign * place, abs=0.01
        )


def test_one_momentum_has_a_mean_and_no_modes(directions: torch.Tensor) -> None:
    statistics = MomentumStatistics(METRIC)
    statistics.add(directions[0])
    assert statistics.modes() == []
    assert statistics.scores(directions[0]) == []
    assert _inner(statistics.mean, directions[0]) == pytest.approx(1, abs=0.1)


def make_registration(
    folder: Path, image: str, momentum: torch.Tensor, *, space: str = SPACE, **figures: float
) -> Path:
    """Write the derivatives of one image, on one small grid; return their stem."""
    label = image.split('_')[0]
    anat = folder / label / 'anat'
    anat.mkdir(parents=True, exist_ok=True)
    stem = anat / f'{image}_space-{space}'
    rng = np.random.default_rng(len(image))
    brain = _ball(0.7).numpy()
    head = (_ball(0.95).numpy() * 20 + brain * (80 + rng.normal(0, 5, SHAPE))) * (1 + len(image))
    save_image(f'{stem}_desc-preproc_T1w.nii.gz', head, GRID)
    save_image(f'{stem}_desc-brain_mask.nii.gz', brain, GRID, np.uint8)
    save_image(f'{stem}_desc-logjacobian_T1w.nii.gz', rng.normal(0, 0.1, SHAPE), GRID)
    save_vector(f'{stem}_desc-momentum_T1w.nii.gz', momentum.numpy(), GRID)
    facts = {'Metric': DEFAULT_METRIC, 'Direction': 'template-to-subject'}
    Path(f'{stem}_desc-momentum_T1w.json').write_text(json.dumps(facts))
    Path(f'{stem}_desc-registration_qc.json').write_text(json.dumps(GOOD | figures))
    (folder / f'{label}.html').write_text('<!DOCTYPE html><title>report</title>')
    return stem


@pytest.fixture
def output(tmp_path: Path, directions: torch.Tensor) -> Path:
    """Four images of three participants, one of them bad; a fourth participant has none."""
    return make_output(tmp_path / 'out', directions)


@pytest.fixture(scope='module')
def done(tmp_path_factory, directions: torch.Tensor) -> Path:
    """The same folder after a run of the group level."""
    out = make_output(tmp_path_factory.mktemp('group') / 'out', directions)
    assert group(out) == 0
    return out


def make_output(out: Path, directions: torch.Tensor) -> Path:
    for number, image in enumerate(['sub-01_ses-a', 'sub-01_ses-b', 'sub-02']):
        make_registration(out, image, (10.0 * number - 5) * directions[number])
    make_registration(out, 'sub-03', 2 * directions[0], jacobian_min=-0.2, mask_dice_final=0.5)
    (out / 'sub-04').mkdir()
    (out / 'failed.tsv').write_text(
        'participant_id\timage\tstep\tnode\treason\tcrash_file\n'
        'sub-04\tsub-04\tskull stripping\tn/a\tthe image is constant\tn/a\n'
    )
    return out


def group(out: Path, *options: str) -> int:
    return main([str(out.parent / 'no-dataset'), str(out), 'group', *options])


def read_table(out: Path) -> list[dict[str, str]]:
    with (out / 'group_desc-registration_qc.tsv').open() as file:
        return list(csv.DictReader(file, delimiter='\t'))


def test_group_level_needs_only_the_output_folder(done: Path) -> None:
    rows = read_table(done)
    assert [row['image'] for row in rows] == ['sub-03', 'sub-01_ses-a', 'sub-01_ses-b', 'sub-02']
    assert rows[0]['verdict'] == 'bad'
    assert float(rows[0]['jacobian_min']) == -0.2
    described = json.loads((done / 'group_desc-registration_qc.json').read_text())
    assert set(rows[0]) == set(described)
    assert all(column['Description'] for column in described.values())
    made = {path.name.split('_desc-')[1] for path in (done / 'group').glob('*.nii.gz')}
    modes = {f'mode{n}{end}_T1w.nii.gz' for n in (1, 2, 3) for end in ('', 'minus', 'plus')}
    means = ('mean', 'mask', 'meanlogjacobian', 'sdlogjacobian', 'meanmomentum', 'average')
    assert made == modes | {f'{name}_T1w.nii.gz' for name in means}
    with (done / 'group' / f'group_space-{SPACE}_desc-modes_scores.tsv').open() as file:
        scores = list(csv.DictReader(file, delimiter='\t'))
    assert {row['image'] for row in scores} == {row['image'] for row in rows}


def test_verdict_words_of_the_table_are_stable(tmp_path: Path, directions: torch.Tensor) -> None:
    make_registration(tmp_path, 'sub-01', directions[0])
    make_registration(tmp_path, 'sub-02', directions[0], jacobian_min=0.05)
    make_registration(tmp_path, 'sub-03', directions[0], jacobian_min=-1.0)
    (records,) = find_records(tmp_path).by_space.values()
    write_table(tmp_path, records)
    assert [row['verdict'] for row in read_table(tmp_path)] == ['bad', 'look', 'good']
    described = json.loads((tmp_path / 'group_desc-registration_qc.json').read_text())
    assert list(described['verdict']['Levels']) == ['good', 'look', 'bad', 'none']


def test_page_links_to_each_report_and_lists_missing_images(done: Path) -> None:
    page = (done / 'group.html').read_text()
    links = re.findall(r'(?:href|data)="([^"#]+)"', page)
    local = [link for link in links if not link.startswith('data:')]
    assert {'sub-01.html', 'sub-02.html', 'sub-03.html'} <= set(local)
    assert all((done / link).is_file() for link in local)
    assert 'skull stripping: the image is constant' in page
    assert page.index('>sub-03<') < page.index('>sub-01_ses-a<')


def test_brightness_does_not_weight_the_mean(done: Path) -> None:
    """The images differ in brightness, which follows the length of their names."""
    mean, _ = load_image(done / 'group' / f'group_space-{SPACE}_desc-mean_T1w.nii.gz')
    assert np.median(mean[_ball(0.7).numpy() > 0]) == pytest.approx(1, abs=0.02)


def test_average_of_opposite_momenta_is_the_mean_image(
    tmp_path: Path, directions: torch.Tensor
) -> None:
    for image, sign in (('sub-01', 20.0), ('sub-02', -20.0)):
        make_registration(tmp_path, image, sign * directions[0])
    assert group(tmp_path) == 0
    mean, average = (
        load_image(tmp_path / 'group' / f'group_space-{SPACE}_desc-{name}_T1w.nii.gz')[0]
        for name in ('mean', 'average')
    )
    np.testing.assert_allclose(average, mean, atol=1e-3)
    momentum, _ = load_vector(
        tmp_path / 'group' / f'group_space-{SPACE}_desc-meanmomentum_T1w.nii.gz'
    )
    assert np.abs(momentum).max() < 1e-3 * float(directions[0].abs().max()) * 20


def test_damaged_image_is_left_out_and_named(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = output / 'sub-02' / 'anat' / f'sub-02_space-{SPACE}_desc-logjacobian_T1w.nii.gz'
    damaged.write_bytes(damaged.read_bytes()[:200])
    assert group(output) == 1
    assert damaged.name in capsys.readouterr().err
    sidecar = output / 'group' / f'group_space-{SPACE}_desc-mean_T1w.json'
    assert json.loads(sidecar.read_text())['Images'] == 3
    assert len(read_table(output)) == 4


@pytest.mark.parametrize('metric', ['{"beta": 7}', '[' * 9999])
def test_damaged_metric_is_named_and_its_momentum_left_out(
    output: Path, capsys: pytest.CaptureFixture[str], metric: str
) -> None:
    sidecar = output / 'sub-01' / 'anat' / f'sub-01_ses-a_space-{SPACE}_desc-momentum_T1w.json'
    sidecar.write_text(f'{{"Direction": "template-to-subject", "Metric": {metric}}}')
    assert group(output) == 1
    (sentence,) = capsys.readouterr().err.splitlines()
    assert sentence.startswith('[sub-01_ses-a] ')
    scores = (output / 'group' / f'group_space-{SPACE}_desc-modes_scores.tsv').read_text()
    assert len(scores.splitlines()) == 1 + 3


def test_damaged_first_momentum_does_not_end_the_group(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = output / 'sub-01' / 'anat' / f'sub-01_ses-a_space-{SPACE}_desc-momentum_T1w.nii.gz'
    damaged.write_bytes(damaged.read_bytes()[:200])
    assert group(output) == 1
    assert damaged.name in capsys.readouterr().err


def test_image_on_another_grid_is_left_out(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = output / 'sub-02' / 'anat' / f'sub-02_space-{SPACE}_desc-logjacobian_T1w.nii.gz'
    save_image(odd, np.zeros((5, 5, 5)), VoxelGrid((5, 5, 5), np.eye(4)))
    assert group(output) == 1
    assert 'another grid' in capsys.readouterr().err


def test_minimal_level_gives_a_table_and_no_averages(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in output.glob(f'sub-*/anat/*_space-{SPACE}_desc-*'):
        if not path.name.endswith(('_qc.json', '_desc-momentum_T1w.nii.gz')):
            path.unlink()
    assert group(output) == 0
    printed = capsys.readouterr()
    assert printed.err == ''
    assert 'no images in template space' in printed.out
    assert len(read_table(output)) == 4
    assert (output / 'group.html').is_file()
    assert not (output / 'group').exists()


def test_spaces_are_summarised_separately(output: Path, directions: torch.Tensor) -> None:
    make_registration(output, 'sub-02', directions[0], space='Other_cohort-2')
    assert group(output) == 0
    assert {row['space'] for row in read_table(output)} == {SPACE, 'Other+2'}
    images = [path.name for path in (output / 'group').glob('*_desc-mean_T1w.nii.gz')]
    assert sorted(images) == [
        'group_space-Other_cohort-2_desc-mean_T1w.nii.gz',
        f'group_space-{SPACE}_desc-mean_T1w.nii.gz',
    ]


@pytest.mark.skipif(not Path('/proc/self/status').is_file(), reason='no /proc to ask')
def test_memory_does_not_grow_with_the_group(output: Path, directions: torch.Tensor) -> None:
    """The growth of the memory is less than the size of the added momenta."""
    stem, few, many = make_registration(output, 'sub-100', directions[0]), 40, 200
    for number in range(101, many + 100):
        anat = output / f'sub-{number}' / 'anat'
        anat.mkdir(parents=True)
        for path in stem.parent.iterdir():
            (anat / path.name.replace('sub-100', f'sub-{number}')).hardlink_to(path)
    done = subprocess.run(
        [sys.executable, '-c', _PEAKS, output, SPACE, *map(str, (few, few, many))],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    _, before, after = map(int, done.stdout.split())  # the first run warms up
    assert after - before < (many - few) * directions[0].nbytes / 1024


_PEAKS = """
import sys
from pathlib import Path
from deepreg_wf.group import build_atlas, find_records

output, space = Path(sys.argv[1]), sys.argv[2]
records = find_records(output).by_space[space]
for count in map(int, sys.argv[3:]):
    build_atlas(output, space, records[:count], lambda record, reason: sys.exit(reason))
    print(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])
"""
"""Build atlases of some images, then of more; print the peak memory after each, in KiB."""


def test_participant_label_selects_registrations(output: Path) -> None:
    assert group(output, '--participant-label', '01') == 0
    assert {row['participant_id'] for row in read_table(output)} == {'sub-01'}


def test_momenta_that_start_at_subjects_are_not_averaged(output: Path) -> None:
    for path in output.glob('**/*_desc-momentum_T1w.json'):
        path.write_text(json.dumps({'Metric': DEFAULT_METRIC, 'Direction': 'subject-to-template'}))
    assert group(output) == 0
    assert not list((output / 'group').glob('*average*'))
    assert list((output / 'group').glob('*_desc-mean_T1w.nii.gz'))


def test_empty_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), str(tmp_path / 'out'), 'group']) == 2
    assert 'run the participant level first' in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_worst_registrations_come_first(tmp_path: Path, directions: torch.Tensor) -> None:
    """Order: overall grade, number of measures that are not good, correlation."""
    make_registration(tmp_path, 'sub-01', directions[0])
    make_registration(tmp_path, 'sub-02', directions[0], correlation_final=0.8)
    make_registration(tmp_path, 'sub-03', directions[0], mask_dice_final=0.92)
    make_registration(
        tmp_path, 'sub-04', directions[0], mask_dice_final=0.92, mask_dice_affine=0.85
    )
    make_registration(tmp_path, 'sub-05', directions[0], jacobian_min=-1.0)
    (records,) = find_records(tmp_path).by_space.values()
    assert [record.participant for record in worst_first(records)] == [
        '05',
        '04',
        '03',
        '02',
        '01',
    ]


def test_dots_are_placed_on_a_linear_scale() -> None:
    criterion = next(c for c in CRITERIA if c.key == 'correlation_final')
    values = [('low', 0.3), ('middle', 0.7), ('high', 0.9)]
    figure = distribution_figure(criterion, values)
    places = [
        float(re.search(rf'cx="([\d.]+)"[^>]*><title>{name}', figure)[1]) for name, _ in values
    ]
    assert places == sorted(places)
    assert places[1] - places[0] == pytest.approx(2 * (places[2] - places[1]), abs=0.5)


@pytest.mark.skipif(CHROMIUM is None, reason='no Chromium is installed')
def test_browser_opens_the_page(done: Path) -> None:
    with Browser() as browser:
        browser.open(done / 'group.html')
        assert browser.errors == []
        assert all(url.startswith(('file:', 'data:')) for url in browser.requests)
        assert sum(url.endswith('.svg') for url in browser.requests) == 7


def test_second_run_changes_nothing(output: Path) -> None:
    assert group(output) == 0
    first = {p: p.read_bytes() for p in output.glob('group/*.tsv')}
    images = {p: nb.load(p).get_fdata() for p in output.glob('group/*.nii.gz')}
    assert group(output) == 0
    assert first == {p: p.read_bytes() for p in output.glob('group/*.tsv')}
    assert all(np.array_equal(nb.load(p).get_fdata(), data) for p, data in images.items())
