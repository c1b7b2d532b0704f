"""NIfTI files: damage, false claims and invalid headers are refused by name, never read."""

from __future__ import annotations

import gzip
import os
import random
import resource
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest

from deepreg_wf.errors import InputError
from deepreg_wf.spatial import load_image, load_vector
from deepreg_wf.utils.memory import MEMORY_VARIABLE

AFFINE = np.array([[-1.0, 0, 0, 80], [0, -1, 0, 110], [0, 0, 1, -90], [0, 0, 0, 1]])
OFFSETS = {
    'vox_offset': 108,
    'scl_slope': 112,
    'scl_inter': 116,
    'quatern_b': 256,
    'dim': 40,
    'pixdim': 76,
}
"""Positions of fields of a NIfTI-1 header, in bytes (nifti1.h)."""


@pytest.fixture
def raw() -> bytearray:
    """Bytes of a valid image, uncompressed, with a qform alone."""
    data = np.random.default_rng(0).integers(0, 1000, (20, 24, 28), np.int16)
    image = nb.Nifti1Image(data, AFFINE)
    image.set_qform(AFFINE, 1)
    image.set_sform(None, 0)
    return bytearray(image.to_bytes())


def with_field(raw: bytearray, name: str, *values: float, kind: str = 'f') -> bytearray:
    changed = bytearray(raw)
    struct.pack_into(f'<{len(values)}{kind}', changed, OFFSETS[name], *values)
    return changed


def with_extension(raw: bytearray, claimed: int) -> bytearray:
    """Insert an extension of 16 bytes that claims another size."""
    changed = with_field(raw, 'vox_offset', 368.0)
    changed[348] = 1
    changed[352:352] = struct.pack('<2i8x', claimed, 6)
    return changed


@pytest.mark.parametrize('seed', range(40))
def test_flipped_bits_in_a_compressed_stream_are_refused(
    seed: int, raw: bytearray, tmp_path: Path
) -> None:
    rng = random.Random(seed)
    damaged = bytearray(gzip.compress(bytes(raw)))
    for _ in range(rng.randint(1, 3)):
        damaged[rng.randrange(10, len(damaged))] ^= 1 << rng.randrange(8)
    path = tmp_path / 'x.nii.gz'
    path.write_bytes(damaged)
    try:
        intact = gzip.decompress(damaged) == raw
    except Exception:
        intact = False
    if intact:  # bits that inflate ignores
        return
    with pytest.raises(InputError, match=r'x\.nii\.gz: '):
        load_image(path)


@pytest.mark.parametrize('cut', [1, 4, 9, 200])
def test_a_truncated_vector_field_is_refused(cut: int, tmp_path: Path) -> None:
    path = tmp_path / 'warp.nii.gz'
    noise = np.random.default_rng(0).normal(size=(8, 8, 8, 1, 3)).astype(np.float32)
    nb.save(nb.Nifti1Image(noise, np.eye(4)), path)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(InputError, match=r'warp\.nii\.gz.*(damaged|truncated)'):
        load_vector(path)


CHANGES: dict[str, tuple[Callable[[bytearray], bytearray], str]] = {
    'slope without intercept': (
        lambda raw: with_field(raw, 'scl_slope', 2.0, np.nan),
        'scales intensities by 2 and adds nan',
    ),
    'infinite slope': (lambda raw: with_field(raw, 'scl_slope', np.inf, 0.0), 'by inf'),
    'voxels within the header': (lambda raw: with_field(raw, 'vox_offset', 0.0), 'byte 0, not'),
    'voxels beyond the end': (
        lambda raw: with_field(raw, 'vox_offset', 1e6),
        'more than there|beyond',
    ),
    'no position': (lambda raw: with_field(raw, 'vox_offset', np.nan), 'byte nan'),
    'too many voxels': (
        lambda raw: with_field(raw, 'dim', 3, 1000, 1000, 1000, kind='h'),
        'claims 2000000352 bytes, more than there are',
    ),
    'fewer voxels than there are': (
        lambda raw: with_field(raw, 'dim', 3, 20, 24, 20, kind='h'),
        'claims 19552 bytes, fewer than there are',
    ),
    'announced extension': (
        lambda raw: raw[:348] + b'\x01' + raw[349:],
        'announces an extension, which is not there',
    ),
    'infinite voxel': (lambda raw: with_field(raw, 'pixdim', -1, np.inf, 1, 1), 'inf x 1 x 1 mm'),
    'negative axis': (lambda raw: with_field(raw, 'dim', 3, -20, 24, 28, kind='h'), 'x.nii'),
    'long extension': (lambda raw: with_extension(raw, 4096), 'an extension claims 4096 bytes'),
    'empty extension': (lambda raw: with_extension(raw, 0), 'an extension claims 0 bytes'),
    'no NIfTI file': (lambda raw: bytearray(b'text' * 200), 'not a NIfTI file'),
    'header alone': (lambda raw: raw[:300], 'not a NIfTI file'),
    'quaternion far too long': (
        lambda raw: with_field(raw, 'quatern_b', 0.0, 0.5, 1.0),
        'invalid',
    ),
}


@pytest.mark.parametrize('extension', ['nii', 'nii.gz'])
@pytest.mark.parametrize(('change', 'words'), CHANGES.values(), ids=CHANGES)
def test_an_invalid_header_is_refused_with_its_fault(
    change: Callable[[bytearray], bytearray],
    words: str,
    extension: str,
    raw: bytearray,
    tmp_path: Path,
) -> None:
    path = tmp_path / f'x.{extension}'
    content = bytes(change(raw))
    path.write_bytes(gzip.compress(content) if extension == 'nii.gz' else content)
    with pytest.raises(InputError, match=words) as caught:
        load_image(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize('excess', [4e-7, 1e-6, 1e-5])
def test_a_quaternion_too_long_by_rounding_is_normalised(
    excess: float, raw: bytearray, tmp_path: Path
) -> None:
    path = tmp_path / 'x.nii.gz'
    path.write_bytes(gzip.compress(bytes(with_field(raw, 'quatern_b', 0.0, 0.0, 1.0 + excess))))
    data, grid = load_image(path)
    assert data.shape == (20, 24, 28)
    assert np.allclose(grid.affine, AFFINE, atol=1e-3)


@pytest.mark.parametrize('extension', ['nii', 'nii.gz'])
def test_zeros_after_the_voxels_are_skipped(
    extension: str, raw: bytearray, tmp_path: Path
) -> None:
    path = tmp_path / f'x.{extension}'
    content = bytes(raw) + bytes(160)
    path.write_bytes(gzip.compress(content) if extension == 'nii.gz' else content)
    assert load_image(path)[0].shape == (20, 24, 28)


def test_an_extension_within_its_bounds_is_skipped(raw: bytearray, tmp_path: Path) -> None:
    (tmp_path / 'x.nii').write_bytes(with_extension(raw, 16))
    (tmp_path / 'plain.nii').write_bytes(raw)
    assert np.array_equal(load_image(tmp_path / 'x.nii')[0], load_image(tmp_path / 'plain.nii')[0])


@pytest.mark.parametrize(
    ('name', 'compressed', 'words'),
    [('x.nii.gz', False, 'not compressed'), ('x.nii', True, 'is compressed')],
)
def test_compression_unlike_the_name_is_reported(
    name: str, compressed: bool, words: str, raw: bytearray, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(gzip.compress(bytes(raw)) if compressed else raw)
    with pytest.raises(InputError, match=words):
        load_image(tmp_path / name)


def test_missing_content_of_a_datalad_clone_is_reported(tmp_path: Path) -> None:
    link, pointer = tmp_path / 'link.nii.gz', tmp_path / 'pointer.nii.gz'
    os.symlink('../.git/annex/objects/aa/bb/MD5E-s1--x.nii.gz/MD5E-s1--x.nii.gz', link)
    pointer.write_text('/annex/objects/MD5E-s1--x.nii.gz\n')
    for path in (link, pointer):
        with pytest.raises(InputError, match=f'datalad get {path}'):
            load_image(path)


def test_what_is_not_a_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / 'pipe.nii.gz')
    (tmp_path / 'folder.nii.gz').mkdir()
    (tmp_path / 'empty.nii.gz').touch()
    os.symlink('nowhere', tmp_path / 'link.nii.gz')
    for name, words in {
        'pipe': 'special file',
        'folder': 'folder',
        'empty': 'empty',
        'link': 'link to a file that does not exist',
    }.items():
        with pytest.raises(InputError, match=words):
            load_image(tmp_path / f'{name}.nii.gz')


@pytest.mark.parametrize('extension', ['nii', 'nii.gz'])
@pytest.mark.parametrize('load', [load_image, load_vector])
def test_an_image_beyond_the_memory_of_the_run_is_refused_before_it_is_read(
    load: Callable, extension: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f'x.{extension}'
    components = (1, 3) if load is load_vector else ()
    zeros = np.zeros((160, 160, 160, *components), np.int16)
    nb.Nifti1Image(zeros, np.eye(4)).to_filename(path)
    monkeypatch.setenv(MEMORY_VARIABLE, '50')
    tracemalloc.start()
    try:
        with pytest.raises(
            InputError, match=r'^\S+: reading it takes \d+ MiB .* may take 50; .*\.$'
        ):
            load(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 0.6 * zeros.nbytes
    monkeypatch.setenv(MEMORY_VARIABLE, '500')
    load(path)


def test_a_false_claim_takes_no_memory(tmp_path: Path) -> None:
    """A file of kilobytes that claims 4 GB is refused below 1.5 GB of address space."""
    header = nb.Nifti1Header()
    header.set_data_dtype('f4')
    header.set_data_shape((1000, 1000, 1000))
    header['vox_offset'], header['magic'] = 352, b'n+1'
    path = tmp_path / 'x.nii.gz'
    noise = np.random.default_rng(0).bytes(5_000_000)  # so that deflate could expand to 4 GB
    path.write_bytes(gzip.compress(header.binaryblock + bytes(4) + noise, 1))
    code = (
        'import sys\n'
        'from deepreg_wf.errors import InputError\n'
        'from deepreg_wf.spatial import load_image\n'
        'try:\n    load_image(sys.argv[1])\n'
        'except InputError as error:\n    print(error)\n'
    )
    limit = 1_500_000_000
    done = subprocess.run(
        [sys.executable, '-c', code, str(path)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, 'OPENBLAS_NUM_THREADS': '1'},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    assert 'more than there are' in done.stdout
