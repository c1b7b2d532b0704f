"""Evaluation of transforms: measures, files of other tools, and the command."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest
from scipy.io import savemat
from spatial_cases import AFFINE, OBLIQUE, make_grid, wave_on

from deepreg_wf.cli.evaluate import main
from deepreg_wf.evaluation import (
    TransformFile,
    inverse_error,
    jacobian_determinant,
    label_overlaps,
    load_map,
    maps,
    read_labels,
    tables,
)
from deepreg_wf.evaluation.maps import jacobian_measures
from deepreg_wf.spatial import (
    Transform,
    TransformChain,
    VoxelGrid,
    save_affine,
    save_composite,
    save_displacement,
    save_image,
)

GRID = make_grid(shape=(20, 24, 18))
SKEW = make_grid('LIA', shape=(24, 20, 22), spacing=(2.0, 1.5, 2.5), oblique=OBLIQUE)


def boxes(grid: VoxelGrid = GRID) -> np.ndarray:
    """Two boxes, of 8 x 6 x 4 voxels with the label 1 and of 4 x 4 x 4 with the label 7."""
    labels = np.zeros(grid.shape, dtype=np.int32)
    labels[4:12, 6:12, 5:9] = 1
    labels[12:16, 12:16, 9:13] = 7
    return labels


def shift(*voxels: float, grid: VoxelGrid = GRID) -> Transform:
    """Map by some voxels along the axes of a grid."""
    affine = np.eye(4)
    affine[:3, 3] = grid.affine[:3, :3] @ voxels
    return Transform(affine=affine)


def warped(grid: VoxelGrid, scale: float = 1.0) -> Transform:
    return Transform(warp=(scale * wave_on(grid)).astype(np.float32), grid=grid)


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding='utf-8') as file:
        return list(csv.DictReader(file, delimiter='\t'))


# Overlap


def test_identity_gives_a_dice_of_one() -> None:
    for overlap in label_overlaps(boxes(), GRID, boxes(), GRID, TransformChain()):
        assert overlap.dice == overlap.target_overlap == 1


@pytest.mark.parametrize('grid', [GRID, SKEW], ids=['upright', 'oblique'])
def test_shift_by_voxels_gives_the_overlap_computed_by_hand(grid: VoxelGrid) -> None:
    """Shifts by 2 of 8 and 1 of 6 voxels leave an overlap of 6 x 5 voxels."""
    mapping = TransformChain([shift(2, -1, 0, grid=grid)])
    first, second = label_overlaps(boxes(grid), grid, boxes(grid), grid, mapping)
    assert first.dice == first.target_overlap == pytest.approx(6 * 5 / (8 * 6))
    assert second.dice == second.target_overlap == pytest.approx(2 * 3 / (4 * 4))
    assert first.fixed_volume == pytest.approx(8 * 6 * 4 * np.prod(grid.spacing) / 1000)


def test_target_overlap_and_dice_differ_if_volumes_differ() -> None:
    """A has 96 voxels and B 48 of them: target overlap 1, Dice 2/3."""
    smaller = np.where(np.arange(20)[:, None, None] < 6, boxes(), 0)
    (whole, _) = label_overlaps(boxes(), GRID, smaller, GRID, TransformChain())
    assert whole.target_overlap == 1
    assert whole.dice == pytest.approx(2 * 48 / (192 + 48))
    (part, _) = label_overlaps(smaller, GRID, boxes(), GRID, TransformChain())
    assert part.target_overlap == pytest.approx(48 / 192)
    assert part.dice == whole.dice


def test_overlap_does_not_depend_on_the_storage() -> None:
    """The same labels are stored in another order, and at half the spacing."""
    fine = VoxelGrid([40, 48, 36], GRID.affine @ half_voxels())
    labels = boxes().repeat(2, 0).repeat(2, 1).repeat(2, 2)
    flipped = VoxelGrid(fine.shape, fine.affine @ flip_first(40))
    overlaps = label_overlaps(labels[::-1], flipped, boxes(), GRID, TransformChain())
    assert [overlap.dice for overlap in overlaps] == [1, 1]
    for overlap in overlaps:
        assert overlap.moving_volume == pytest.approx(overlap.fixed_volume)


def half_voxels() -> np.ndarray:
    affine = np.diag([0.5, 0.5, 0.5, 1.0])
    affine[:3, 3] = -0.25
    return affine


def flip_first(n: int) -> np.ndarray:
    affine = np.diag([-1.0, 1.0, 1.0, 1.0])
    affine[0, 3] = n - 1
    return affine


def test_label_outside_of_the_image_has_no_overlap() -> None:
    for overlap in label_overlaps(boxes(), GRID, boxes(), GRID, TransformChain([shift(20, 0, 0)])):
        assert overlap.dice == overlap.resampled_volume == 0


@pytest.mark.parametrize('dtype', [np.uint8, np.int16, np.float32, np.float64])
def test_labels_are_read_from_any_data_type(dtype: type, tmp_path: Path) -> None:
    nb.save(nb.Nifti1Image(boxes().astype(dtype), GRID.affine), tmp_path / 'x.nii.gz')
    labels, grid = read_labels(tmp_path / 'x.nii.gz')
    assert np.array_equal(labels, boxes())
    assert grid == GRID
    assert np.unique(read_labels(tmp_path / 'x.nii.gz', [7, 8])[0]).tolist() == [0, 7]


# Regularity and consistency


@pytest.mark.parametrize('grid', [GRID, SKEW], ids=['upright', 'oblique'])
def test_jacobian_of_an_affine_is_constant(
    grid: VoxelGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maps, '_SLAB_VOXELS', 1000)
    determinant = jacobian_determinant(TransformChain([Transform(affine=AFFINE)]), grid)
    assert determinant.shape == grid.shape
    assert np.allclose(determinant, np.linalg.det(AFFINE[:3, :3]), rtol=1e-12)


def test_jacobian_does_not_depend_on_the_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = jacobian_determinant(TransformChain([warped(SKEW)]), SKEW)
    monkeypatch.setattr(maps, '_SLAB_VOXELS', 1)
    in_slabs = jacobian_determinant(TransformChain([warped(SKEW)]), SKEW)
    assert np.allclose(in_slabs, whole, rtol=1e-12)


def test_jacobian_of_a_field_agrees_with_its_formula() -> None:
    """The map stretches one axis; the grid differs from that of the field."""
    warp = np.zeros((3, *SKEW.shape), dtype=np.float32)
    warp[1] = 0.25 * np.arange(SKEW.shape[1])[:, None]
    within = VoxelGrid([8, 8, 8], SKEW.affine @ inner_voxels())
    determinant = jacobian_determinant(TransformChain([Transform(warp=warp, grid=SKEW)]), within)
    assert np.allclose(determinant, 1.25, atol=1e-5)


def inner_voxels() -> np.ndarray:
    affine = np.diag([0.8, 0.7, 0.9, 1.0])
    affine[:3, 3] = 5
    return affine


def test_folds_are_counted() -> None:
    """The map runs backwards from voxel 8 to voxel 12 of the first axis."""
    along = np.arange(20.0)
    backwards = np.interp(along, [0, 8, 12, 19], [0, 8, 4, 19])
    warp = np.zeros((3, *GRID.shape))
    warp[0] = (backwards - along)[:, None, None]
    determinant = jacobian_determinant(TransformChain([Transform(warp=warp, grid=GRID)]), GRID)
    measures = jacobian_measures(determinant)
    expected = np.gradient(backwards)
    assert measures['folded'] == pytest.approx((expected <= 0).mean())
    assert measures['folded'] > 0.1
    assert measures['min'] == pytest.approx(expected.min())
    assert measures['max'] == pytest.approx(expected.max())
    assert measures['logsd'] == pytest.approx(np.log(expected[expected > 0]).std())


def test_measures_without_a_value_are_none_and_written_as_na() -> None:
    """No determinant is positive, hence there is no logarithm."""
    measures = jacobian_measures(-np.ones(3))
    assert measures['logsd'] is None
    columns = [column for column in tables.PAIR_COLUMNS if column.name == 'jacobian_logsd']
    assert tables.format_tsv([{'jacobian_logsd': measures['logsd']}], columns).endswith('n/a\n')


def test_inverse_error_is_the_error_of_interpolation() -> None:
    """The inverse field is exact at its voxels, and interpolated between them."""
    forward = warped(GRID)
    points = GRID.points()
    inverse = points.copy()
    for _ in range(30):
        inverse += points - forward.map_points(inverse)
    displacement = np.tensordot(
        GRID.inverse_affine[:3, :3], np.moveaxis(inverse - points, -1, 0), axes=1
    )
    backward = Transform(warp=displacement, grid=GRID)
    inner = GRID.to_mm(np.argwhere(boxes()))
    error = inverse_error(TransformChain([forward]), TransformChain([backward]), inner)
    assert error.max() < 0.05
    wrong = inverse_error(TransformChain([forward]), TransformChain([forward]), inner)
    assert np.median(wrong) > 1


def test_affine_and_its_inverse_cancel(tmp_path: Path) -> None:
    save_affine(tmp_path / 'x.txt', AFFINE)
    file = TransformFile(tmp_path / 'x.txt')
    points = SKEW.points().reshape(-1, 3)
    there, back = load_map([file]), load_map([TransformFile(file.path, inverted=True)])
    assert inverse_error(there, back, points).max() < 1e-9


# Transforms of other tools


def ants_files(folder: Path) -> list[str]:
    """An affine and a displacement field, as ANTs names and stores them."""
    flip = np.array([-1.0, -1.0, 1.0])
    centre = np.array([10.0, -20.0, 30.0])
    matrix = flip[:, None] * AFFINE[:3, :3] * flip
    translation = flip * AFFINE[:3, 3] - centre + matrix @ centre
    parameters = np.concatenate([matrix.ravel(), translation])[:, None]
    content = {'AffineTransform_double_3_3': parameters, 'fixed': centre[:, None]}
    savemat(folder / 'x0GenericAffine.mat', content, format='4')
    save_displacement(folder / 'x1Warp.nii.gz', wave_on(SKEW), SKEW)
    return ['x1Warp.nii.gz', 'x0GenericAffine.mat']


def test_chain_has_the_order_of_ants(tmp_path: Path) -> None:
    """The affine is applied to an image first, and the field to a point first."""
    mapping = load_map([TransformFile(tmp_path / name) for name in ants_files(tmp_path)])
    points = SKEW.points().reshape(-1, 3)[::7]
    expected = Transform(affine=AFFINE).map_points(warped(SKEW).map_points(points))
    assert np.abs(mapping.map_points(points) - expected).max() < 1e-4


@pytest.mark.parametrize('inverted', [False, True], ids=['affine', 'inverse-affine'])
@pytest.mark.parametrize('order', [1, -1], ids=['field-first', 'field-last'])
def test_labels_are_resampled_as_by_ants(order: int, inverted: bool, tmp_path: Path) -> None:
    ants = pytest.importorskip('ants')
    files = [
        TransformFile(tmp_path / name, inverted=inverted and name.endswith('.mat'))
        for name in ants_files(tmp_path)[::order]
    ]
    save_image(tmp_path / 'moving.nii.gz', boxes(), GRID, np.int16)
    save_image(tmp_path / 'fixed.nii.gz', boxes(SKEW), SKEW, np.int16)
    moving, fixed = (ants.image_read(str(tmp_path / f'{n}.nii.gz')) for n in ('moving', 'fixed'))
    theirs = ants.apply_transforms(
        fixed,
        moving,
        [str(file.path) for file in files],
        'nearestNeighbor',
        whichtoinvert=[file.inverted for file in files],
    ).numpy()
    ours = label_overlaps(boxes(), GRID, theirs.astype(np.int32), SKEW, load_map(files))
    assert len(ours) == 2
    assert min(overlap.dice for overlap in ours) > 0.99


def test_composite_of_several_transforms_is_read(tmp_path: Path) -> None:
    sitk = pytest.importorskip('SimpleITK')
    save_composite(tmp_path / 'a.h5', affine=AFFINE, warp=wave_on(SKEW), grid=SKEW)
    stack = sitk.CompositeTransform(sitk.ReadTransform(str(tmp_path / 'a.h5')))
    parts = [stack.GetNthTransform(n) for n in (0, 1, 0)]
    sitk.WriteTransform(sitk.CompositeTransform(parts), str(tmp_path / 'b.h5'))
    points = SKEW.points().reshape(-1, 3)[::7]
    affine = Transform(affine=AFFINE)
    expected = affine.map_points(warped(SKEW).map_points(affine.map_points(points)))
    assert (
        np.abs(load_map([TransformFile(tmp_path / 'b.h5')]).map_points(points) - expected).max()
        < 1e-3
    )


# The command


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Folder with labels and a shift by two voxels."""
    save_image(tmp_path / 'moving.nii.gz', boxes(), GRID, np.int16)
    save_image(tmp_path / 'fixed.nii.gz', boxes(), GRID, np.int16)
    save_affine(tmp_path / 'shift.txt', shift(2, 0, 0).affine)
    return tmp_path


def table(folder: Path, *lines: str, header: str | None = None) -> str:
    header = header or 'moving_labels\tfixed_labels\ttransform\tinverse\tname\tmethod'
    (folder / 'pairs.tsv').write_text('\n'.join([header, *lines, '']))
    return str(folder / 'pairs.tsv')


GOOD = 'moving.nii.gz\tfixed.nii.gz\tidentity\t\tgood\tnothing'
SHIFTED = 'moving.nii.gz\tfixed.nii.gz\tshift.txt\t[shift.txt,1]\tgood\tshift'


def test_command_writes_tables(folder: Path, capsys: pytest.CaptureFixture) -> None:
    out = folder / 'new' / 'out'
    assert main([table(folder, GOOD, SHIFTED), str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        'evaluation.json',
        'overlap.tsv',
        'pairs.tsv',
        'summary.tsv',
    ]
    nothing, shifted = read_rows(out / 'pairs.tsv')
    assert (nothing['mean_dice'], nothing['labels'], nothing['jacobian_min']) == ('1', '2', '1')
    assert nothing['inverse_error_max'] == 'n/a'
    assert float(shifted['mean_dice']) == pytest.approx((6 / 8 + 2 / 4) / 2)
    assert float(shifted['inverse_error_max']) == pytest.approx(0, abs=1e-9)
    assert [row['dice'] for row in read_rows(out / 'overlap.tsv')] == ['1', '1', '0.75', '0.5']
    captured = capsys.readouterr()
    assert captured.out.startswith('figure')
    assert 'mean_dice' in captured.out
    assert captured.err == ''


def test_every_column_is_described(folder: Path) -> None:
    assert main([table(folder, SHIFTED), str(folder / 'out')]) == 0
    defined = json.loads((folder / 'out' / 'evaluation.json').read_text())
    for name in ('overlap', 'pairs', 'summary'):
        columns = read_rows(folder / 'out' / f'{name}.tsv')[0].keys()
        assert set(columns) <= set(defined)
    assert defined['inverse_error_p99']['Units'] == 'mm'
    assert defined['fixed_volume']['Units'] == 'mL'


def test_summary_has_the_worst_value_of_each_measure() -> None:
    rows = [
        {'method': 'a', 'mean_dice': dice, 'jacobian_folded': folded}
        for dice, folded in ((0.5, 0.0), (0.9, 0.1), (0.7, 0.05))
    ]
    dice, folded = tables.summarise(rows)
    assert (dice['mean'], dice['median'], dice['worst']) == pytest.approx((0.7, 0.7, 0.5))
    assert (folded['figure'], folded['worst'], folded['pairs']) == ('jacobian_folded', 0.1, 3)


def test_single_pair_needs_no_table(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    call = 'out --moving-labels moving.nii.gz --fixed-labels fixed.nii.gz '
    call += '--transform shift.txt identity [shift.txt,1] --inverse identity'
    assert main(call.split()) == 0
    (row,) = read_rows(folder / 'out' / 'pairs.tsv')
    assert (row['name'], row['method'], row['mean_dice']) == ('moving to fixed', 'n/a', '1')


def test_only_labels_of_interest_are_compared(folder: Path) -> None:
    call = [table(folder, SHIFTED), str(folder / 'out'), '--labels-of-interest', '7', '9']
    assert main(call) == 0
    (row,) = read_rows(folder / 'out' / 'overlap.tsv')
    assert (row['label'], row['dice']) == ('7', '0.5')


def test_label_of_only_one_image_is_reported(folder: Path) -> None:
    labels = np.where(boxes() == 7, 8, boxes())
    save_image(folder / 'fixed.nii.gz', labels, GRID, np.int16)
    assert main([table(folder, GOOD), str(folder / 'out')]) == 0
    (row,) = read_rows(folder / 'out' / 'pairs.tsv')
    assert (row['mean_dice'], row['labels'], row['labels_in_one_only']) == ('1', '1', '2')
    dices = [row['dice'] for row in read_rows(folder / 'out' / 'overlap.tsv')]
    assert dices == ['1', 'n/a', 'n/a']


def test_number_of_processes_does_not_change_the_tables(folder: Path) -> None:
    pairs = table(
        folder, GOOD, SHIFTED, SHIFTED.replace('moving.nii.gz', 'no').replace('good', 'b')
    )
    assert main([pairs, str(folder / 'one')]) == 1
    assert main([pairs, str(folder / 'two'), '--nprocs', '2']) == 1
    for path in (folder / 'one').iterdir():
        assert path.read_bytes() == (folder / 'two' / path.name).read_bytes()


def write(name: str, data: np.ndarray) -> Callable[[Path], None]:
    return lambda folder: nb.save(nb.Nifti1Image(data, GRID.affine), folder / name)


def spm_deformation(folder: Path) -> None:
    image = nb.Nifti1Image(np.zeros((*GRID.shape, 1, 3), np.float32), GRID.affine)
    image.header.set_intent('vector', name='Mapping')
    nb.save(image, folder / 'bad.nii.gz')


def with_nan(folder: Path) -> None:
    save_displacement(folder / 'bad.nii.gz', np.full((3, *GRID.shape), np.nan), GRID)


def field(folder: Path) -> None:
    save_displacement(folder / 'bad.nii.gz', wave_on(GRID), GRID)


def text(name: str, content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(content)


def nothing(folder: Path) -> None:
    pass


LABELS, TRANSFORM = 'bad.nii.gz\tfixed.nii.gz\tidentity', 'moving.nii.gz\tfixed.nii.gz\tbad'
FIXED = 'moving.nii.gz\tbad.nii.gz\tidentity'


@pytest.mark.parametrize(
    ('line', 'make', 'words'),
    [
        (LABELS, nothing, ['bad.nii.gz', 'no such file']),
        (LABELS, text('bad.nii.gz', 'no image'), ['bad.nii.gz', 'not compressed']),
        (LABELS, write('bad.nii.gz', np.full(GRID.shape, 0.5)), ['bad.nii.gz', 'whole numbers']),
        (LABELS, write('bad.nii.gz', np.full(GRID.shape, np.nan)), ['bad.nii.gz', 'whole']),
        (LABELS, write('bad.nii.gz', np.full(GRID.shape, 3e7)), ['bad.nii.gz', 'beyond']),
        (LABELS, write('bad.nii.gz', np.ones((4, 4, 4, 2))), ['bad.nii.gz', 'single volume']),
        (LABELS, write('bad.nii.gz', np.zeros(GRID.shape)), ['bad.nii.gz', 'no label']),
        (LABELS, write('bad.nii.gz', np.full(GRID.shape, 5.0)), ['bad.nii.gz', 'in common']),
        (FIXED, write('bad.nii.gz', np.ones((9, 9, 1))), ['bad.nii.gz', 'slice']),
        (f'{TRANSFORM}.h5', nothing, ['bad.h5', 'no such file']),
        (f'{TRANSFORM}.h5', text('bad.h5', 'no'), ['bad.h5', 'composite']),
        (f'{TRANSFORM}.mat', text('bad.mat', 'no'), ['bad.mat', 'affine']),
        (f'{TRANSFORM}.nii.gz', nothing, ['bad.nii.gz', 'no such file']),
        (f'{TRANSFORM}.nii.gz', write('bad.nii.gz', np.ones((4, 4, 4))), ['bad.nii.gz', 'field']),
        (
            f'{TRANSFORM}.nii.gz',
            write('bad.nii.gz', np.ones((4, 4, 4, 3))),
            ['bad.nii.gz', 'field'],
        ),
        (f'{TRANSFORM}.nii.gz', spm_deformation, ['bad.nii.gz', 'SPM']),
        (f'{TRANSFORM}.nii.gz', with_nan, ['bad.nii.gz', 'finite']),
        ('moving.nii.gz\tfixed.nii.gz\t[bad.nii.gz,1]', field, ['bad.nii.gz', 'inverse']),
        ('moving.nii.gz\tfixed.nii.gz\tidentity\tbad.h5', nothing, ['bad.h5', 'no such file']),
        ('moving.nii.gz\tfixed.nii.gz', nothing, ['no transform', 'moving to fixed']),
        ('moving.nii.gz\t\tidentity', nothing, ['no fixed_labels', 'line 3']),
    ],
)
def test_unusable_pair_is_named_and_the_others_are_evaluated(
    line: str,
    make: Callable[[Path], None],
    words: list[str],
    folder: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    make(folder)
    assert main([table(folder, GOOD, line, SHIFTED), str(folder / 'out')]) == 1
    message, *after = capsys.readouterr().err.splitlines()
    assert all(word in message for word in words)
    assert message.count('. ') == 0
    assert message.endswith('.')
    assert after == ['deepreg_wf-evaluate: 1 of 3 pairs are not in the tables.']
    methods = [row['method'] for row in read_rows(folder / 'out' / 'pairs.tsv')]
    assert methods == ['nothing', 'shift']


def test_methods_with_different_pairs_are_reported(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    other = SHIFTED.replace('good', 'other')
    assert main([table(folder, GOOD, SHIFTED, other), str(folder / 'out')]) == 0
    assert 'different pairs' in capsys.readouterr().err


def test_nothing_is_written_if_no_pair_is_usable(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main([table(folder, LABELS), str(folder / 'out')]) == 2
    assert 'bad.nii.gz' in capsys.readouterr().err
    assert list((folder / 'out').iterdir()) == []


@pytest.mark.parametrize(
    ('header', 'lines', 'words'),
    [
        (None, [], ['pairs.tsv', 'no line']),
        ('moving_labels\tfixed_labels', ['a\tb'], ['pairs.tsv', 'no column transform']),
        ('moving_labels,fixed_labels,transform', ['a,b,c'], ['pairs.tsv', 'tabs']),
        (None, [GOOD, GOOD], ['pairs.tsv', 'two lines', 'good']),
    ],
)
def test_unusable_table_is_refused(
    header: str | None,
    lines: list[str],
    words: list[str],
    folder: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    assert main([table(folder, *lines, header=header), str(folder / 'out')]) == 2
    message = capsys.readouterr().err
    assert message.count('\n') == 1
    assert all(word in message for word in words)


def test_missing_table_and_unusable_output_folder_are_named(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main([str(folder / 'absent.tsv'), str(folder / 'out')]) == 2
    assert 'absent.tsv' in capsys.readouterr().err
    assert main([table(folder, GOOD), str(folder / 'shift.txt')]) == 2
    assert 'shift.txt' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('call', 'word'),
    [
        ('', 'OUTPUT_DIR'),
        ('out', 'PAIRS.tsv'),
        ('pairs.tsv out --moving-labels a', 'both'),
        ('out --moving-labels a --fixed-labels b', '--transform'),
        ('out --inverse a', '--moving-labels'),
        ('pairs.tsv out --labels-of-interest 0', 'background'),
        ('pairs.tsv out --labels-of-interest x', "'x' is not a whole number"),
        ('pairs.tsv out --nprocs 0', "'0' is not a whole number of 1 or more"),
    ],
)
def test_unusable_call_gives_one_sentence(
    call: str, word: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(call.split())
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert word in message
    assert message.count('\n') == 1
