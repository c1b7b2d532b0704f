"""Seeded fuzzer of the files that users give: damage is harmless or refused in one sentence.

Each case damages a valid file and reads it. It must give the data of the undamaged file, or raise
an `InputError` of one line: no other exception, no warning of numpy, no hang. What differs without
an error is allowed only where the format carries no check:

- in a NIfTI header the fields of `UNCHECKED`, and the voxels of an uncompressed file;
- in JSON, TOML and tables any change that is valid again; the data must then be those that the
  file states.
"""

from __future__ import annotations

import gzip
import json
import random
import signal
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np

from deepreg_wf.errors import InputError

Damage = Callable[[bytes, random.Random], bytes]

UNCHECKED = (
    *('pixdim', 'qform_code', 'sform_code', 'quatern_b', 'quatern_c', 'quatern_d'),
    *('qoffset_x', 'qoffset_y', 'qoffset_z', 'srow_x', 'srow_y', 'srow_z'),
    *('scl_slope', 'scl_inter'),
)
"""Fields of a NIfTI header that change the result and that nothing can verify.

Two more, ``datatype`` and ``dim``, are verified by the size of the file, which depends on the
size of a voxel and on the product of the lengths of the axes alone.
"""

SECONDS = 10
"""Longest time of a case."""

_NUMBERS = (0, 1, -1, 2, 7, 127, 255, 256, 32767, -32768, 2**31 - 1, -(2**31))
_REALS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-40, 1e38, -1e38, np.inf, -np.inf, np.nan, 352.0, 1e6)
_TOKENS = (
    *('{', '}', '[', ']', '"', ':', ',', '=', '\\', '\n', '\t', '\x00', '\ufeff', '\\ud800', ''),
    *(
        'null',
        'true',
        'NaN',
        '-Infinity',
        '1e999',
        '9' * 400,
        '9' * 5000,
        '[' * 3000,
        '{"a":' * 3000,
    ),
    *('²', '٣', '-', '*', '../..', '{}', '[]', '""', '0', '-1', "'", '#', '[[x]]', '\U0001f9e0'),
)


@dataclass(frozen=True)
class Target:
    """Kind of file.

    Attributes
    ----------
    name : str
        Name of the file.
    make : callable
        Makes the valid content from a random generator.
    damage : callable
        Damages the content.
    read : callable
        Reads the file, as the program does; returns values that can be compared.
    may_differ : callable
        Whether damaged content may give another value without an error: called with the valid and
        the damaged content, and the value.
    """

    name: str
    make: Callable[[random.Random], bytes]
    damage: Damage
    read: Callable[[Path], Any]
    may_differ: Callable[[bytes, bytes, Any], bool] = lambda valid, damaged, value: False


def find_fault(target: Target, seed: int, folder: Path) -> str | None:
    """Run one case.

    Parameters
    ----------
    target : Target
        Kind of file.
    seed : int
        Seed of the content and of the damage.
    folder : Path
        Folder for the file.

    Returns
    -------
    str or None
        What is wrong, None if nothing is.
    """
    rng = random.Random(f'{target.name} {seed}')
    path = folder / target.name
    valid = target.make(rng)
    path.write_bytes(valid)
    expected = target.read(path)
    damaged = target.damage(valid, rng)
    path.write_bytes(damaged)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        fault = _fault_of(target, path, expected, valid, damaged)
    raised = [each for each in caught if issubclass(each.category, RuntimeWarning)]
    if fault is None and raised:
        fault = f'warning: {raised[0].message}'
    return fault and f'{target.name}, seed {seed}: {fault}'


def _fault_of(
    target: Target, path: Path, expected: Any, valid: bytes, damaged: bytes
) -> str | None:
    try:
        with _limited_time():
            value = target.read(path)
    except InputError as error:
        text = str(error)
        return None if '\n' not in text and text.endswith('.') else f'not a sentence: {text!r}'
    except Exception as error:
        return f'{type(error).__name__}: {error}'[:300]
    if value == expected or target.may_differ(valid, damaged, value):
        return None
    return 'other data without an error'


@contextmanager
def _limited_time() -> Iterator[None]:
    def end(*_: object) -> None:
        raise TimeoutError(f'more than {SECONDS} s')

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# Damage -----------------------------------------------------------------------------------------


def damage_bytes(content: bytes, rng: random.Random) -> bytes:
    """Flip bits, or cut, insert, repeat or blank a part."""
    changed = bytearray(content)
    start = rng.randrange(len(changed))
    end = min(len(changed), start + rng.choice([1, 2, 4, 16, 100]))
    kind = rng.choice(
        ['flip', 'flip', 'flip', 'cut', 'insert', 'repeat', 'blank', 'end', 'append']
    )
    if kind == 'flip':
        for _ in range(rng.choice([1, 1, 2, 3, 8])):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    elif kind == 'cut':
        del changed[start:end]
    elif kind == 'insert':
        changed[start:start] = rng.randbytes(end - start)
    elif kind == 'repeat':
        changed[start:start] = changed[start:end]
    elif kind == 'blank':
        changed[start:end] = bytes(end - start)
    elif kind == 'end':
        del changed[start:]
    else:
        changed += rng.choice([bytes(3), rng.randbytes(40), content, b'\n'])
    return bytes(changed)


def damage_text(content: bytes, rng: random.Random) -> bytes:
    """Damage bytes, or insert tokens, replace values or change the encoding."""
    text = content.decode()
    kind = rng.choice(['bytes', 'insert', 'insert', 'replace', 'replace', 'encode'])
    if kind == 'bytes':
        return damage_bytes(content, rng)
    if kind == 'encode':
        return text.encode(rng.choice(['utf-16', 'utf-8-sig', 'utf-32', 'utf-16-le']))
    for _ in range(rng.choice([1, 1, 2, 3])):
        start = rng.randrange(len(text) + 1)
        end = start if kind == 'insert' else start + rng.choice([1, 2, 5, 20])
        text = text[:start] + rng.choice(_TOKENS) + text[end:]
    return text.encode()


def damage_header(content: bytes, rng: random.Random) -> bytes:
    """Change a field of an uncompressed NIfTI file, or bytes before its voxels."""
    header = _header_of(content)
    begin = int(header['vox_offset'])
    if rng.random() < 0.3:
        changed = damage_bytes(content[:begin], rng)
        # Only damage that keeps the position of the voxels, so that they are not exchanged.
        return changed + content[begin:] if len(changed) == begin else changed
    changed = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        name = rng.choice(header.template_dtype.names)
        dtype, offset = header.structarr.dtype.fields[name][:2]
        item = dtype.base
        place = offset + item.itemsize * rng.randrange(int(np.prod(dtype.shape, dtype=int)) or 1)
        if item.kind == 'f':
            value = np.array(rng.choice([*_REALS, rng.uniform(-300, 300)])).astype(item)
        elif item.kind in 'iu':
            number = rng.choice([*_NUMBERS, rng.randrange(-40, 2000)])
            value = np.array(number).astype(np.int64).astype(item)
        else:
            value = np.frombuffer(rng.randbytes(item.itemsize), item)
        raw = value.tobytes()
        changed[place : place + len(raw)] = raw
    return bytes(changed)


# NIfTI ------------------------------------------------------------------------------------------


def make_nifti(rng: random.Random) -> bytes:
    """Make an image of 9 voxels of 10 mm along each axis, of a random type and header."""
    numbers = np.random.default_rng(rng.randrange(2**32))
    dtype = np.dtype(rng.choice(['u1', 'i2', 'u2', 'i4', 'f4', 'f8']))
    data = numbers.integers(1, 100, (9, 9, 9)).astype(dtype)
    affine = nb.affines.from_matvec(np.diag([-10.0, 10, 10]), [40, -40, -40])
    order = rng.choice('<>')
    image_class = rng.choice([nb.Nifti1Image, nb.Nifti2Image])
    header = image_class.header_class(endianness=order)
    header.set_data_dtype(dtype.newbyteorder(order))
    image = image_class(data, affine, header)
    image.set_sform(affine, rng.choice([0, 1, 4]))
    image.set_qform(affine, 1 if image.header['sform_code'] == 0 else rng.choice([0, 1]))
    if dtype.kind == 'i' and rng.random() < 0.5:
        image.header.set_slope_inter(2.0, -3.0)
    if rng.random() < 0.3:
        comment = nb.nifti1.Nifti1Extension('comment', b'about this image')
        image.header.extensions.append(comment)
    return image.to_bytes()


def may_image_differ(valid: bytes, damaged: bytes, value: Any) -> bool:
    """Return whether fields have changed that nothing can verify."""
    before, after = _header_of(valid), _header_of(damaged)
    if before.structarr.dtype != after.structarr.dtype:
        return False
    changed = {n for n in before.template_dtype.names if before[n].tobytes() != after[n].tobytes()}
    same_size = np.prod(before.get_data_shape()) == np.prod(after.get_data_shape())
    same_size &= before.get_data_dtype().itemsize == after.get_data_dtype().itemsize
    return bool(changed.intersection(UNCHECKED)) or (
        bool(changed.intersection(('dim', 'datatype'))) and bool(same_size)
    )


def _header_of(content: bytes) -> nb.Nifti1Header:
    kinds = {348: nb.Nifti1Header, 540: nb.Nifti2Header}
    for order in '<>':
        size = struct.unpack(f'{order}i', content[:4])[0]
        if size in kinds:
            return kinds[size](content[:size], endianness=order, check=False)
    raise ValueError('not a header')


def read_image(path: Path) -> Any:
    """Read an image as all steps do, and as the first step does."""
    from deepreg_wf.anatomical.validate import read_t1w
    from deepreg_wf.spatial import load_image

    data, grid = load_image(path)
    try:
        read_t1w(path)
    except InputError as error:
        assert '\n' not in str(error)  # noqa: PT017
    return data.shape, data.tobytes(), grid.shape, grid.affine.tobytes()


# JSON, TOML and tables --------------------------------------------------------------------------


def _json(content: Any) -> Callable[[random.Random], bytes]:
    return lambda rng: json.dumps(content, indent=rng.choice([None, 2])).encode()


def is_stated_json(valid: bytes, damaged: bytes, value: Any) -> bool:
    """Return whether a value is what the file states, by another reader."""
    stated = json.loads(damaged.decode('utf-8-sig'))
    return repr(stated) == repr(value)


def read_sidecar(path: Path) -> Any:
    """Read a sidecar."""
    from deepreg_wf.utils.json_file import read_json_object

    return read_json_object(path)


def read_description(path: Path) -> Any:
    """Check the description of a dataset and write that of its derivatives."""
    from deepreg_wf.app.folders import check_folders
    from deepreg_wf.bids.dataset import write_dataset_files
    from deepreg_wf.settings import Settings

    out = path.parent / 'derivatives' / 'out'
    options = {'bids_dir': path.parent, 'output_dir': out, 'work_dir': path.parents[1] / 'work'}
    check_folders(Settings.from_options(options))
    write_dataset_files(out, path.parent, {})
    return json.loads((out / 'dataset_description.json').read_bytes())['Name']


def read_settings(path: Path) -> Any:
    """Read a settings file, and write it again."""
    from deepreg_wf.cli.parser import parse_settings
    from deepreg_wf.settings import Settings

    settings = parse_settings(['--config-file', str(path)])
    assert Settings.from_toml(settings.to_toml()) == settings
    return settings


def make_settings(rng: random.Random) -> bytes:
    """Write the settings of a run."""
    from deepreg_wf.settings import Settings

    options = {'bids_dir': '/b', 'output_dir': '/o', 'participant_label': ('01', '02')}
    return Settings.from_options(options).to_toml(command_line='deepreg_wf "a"').encode()


def read_filters(path: Path) -> Any:
    """Find images with a filter file."""
    from deepreg_wf.app.inputs import find_inputs
    from deepreg_wf.settings import Selection

    root = path.parent / 'bids'
    anat = root / 'sub-01' / 'anat'
    if not anat.is_dir():
        anat.mkdir(parents=True)
        (anat / 'sub-01_acq-a_T1w.nii.gz').touch()
    return find_inputs(
        Selection(bids_dir=root, skip_bids_validation=True, bids_filter_file=path)
    ).images


def read_participants(path: Path) -> Any:
    """Find images beside a table of participants."""
    from deepreg_wf.app.inputs import find_inputs
    from deepreg_wf.settings import Selection

    anat = path.parent / 'sub-01' / 'anat'
    if not anat.is_dir():
        anat.mkdir(parents=True)
        (anat / 'sub-01_T1w.nii.gz').touch()
    return find_inputs(Selection(bids_dir=path.parent, skip_bids_validation=True)).images


def read_quality(path: Path) -> Any:
    """Read a QC file, as the group level does."""
    from deepreg_wf.qc.measures import read_measures

    measures = read_measures(path)
    assert all(value is None or np.isfinite(value) for value in measures.values())
    return measures


def is_stated_quality(valid: bytes, damaged: bytes, value: Any) -> bool:
    """Return whether all measures are numbers of the file."""
    stated = json.loads(damaged.decode('utf-8-sig'))
    return all(stated[name] == number for name, number in value.items())


def read_failed(path: Path) -> Any:
    """Read the table of failures of earlier runs."""
    from deepreg_wf.engine.failures import read_failures

    rows = read_failures(path)
    assert all(isinstance(cell, str) for row in rows for cell in row.values())
    return rows


def read_table_of_pairs(path: Path) -> Any:
    """Read the table of `deepreg_wf-evaluate`."""
    from deepreg_wf.evaluation import read_pairs

    return read_pairs(path)


def _always(valid: bytes, damaged: bytes, value: Any) -> bool:
    return True


# Weights ----------------------------------------------------------------------------------------


def make_weights(rng: random.Random) -> bytes:
    """Make the smallest network with its metadata."""
    import torch

    from deepreg_wf.quicksilver import Checkpoint, NetworkSpec, save_checkpoint

    spec = NetworkSpec(features=1, patch_size=7, spacing=4.0)
    torch.manual_seed(rng.randrange(100))
    folder = Path(make_weights.folder)  # type: ignore[attr-defined]
    save_checkpoint(Checkpoint(spec.new_network().eval(), spec), folder / 'valid.safetensors')
    return (folder / 'valid.safetensors').read_bytes()


def damage_weights(content: bytes, rng: random.Random) -> bytes:
    """Damage bytes, or the JSON header alone, with its length corrected."""
    if rng.random() < 0.4:
        return damage_bytes(content, rng)
    size = int.from_bytes(content[:8], 'little')
    header = content[8 : 8 + size]
    changed = damage_text(header, rng) if rng.random() < 0.5 else _other_values(header, rng)
    return len(changed).to_bytes(8, 'little') + changed + content[8 + size :]


def _other_values(header: bytes, rng: random.Random) -> bytes:
    """Replace a value of the specification, or a shape, type or position of a tensor."""
    content = json.loads(header)
    odd = [0, -1, None, [], {}, 'a', 1e400, float('nan'), 2**70, 10**9, True, [10**6] * 3, -0.5]
    value = rng.choice(odd)
    if rng.random() < 0.6:
        spec = json.loads(content['__metadata__']['spec'])
        spec[rng.choice([*spec, 'taste'])] = value
        content['__metadata__']['spec'] = json.dumps(spec)
    else:
        tensor = content[rng.choice([name for name in content if name != '__metadata__'])]
        tensor[rng.choice(['shape', 'dtype', 'data_offsets'])] = value
    return json.dumps(content).encode()


def read_weights(path: Path) -> Any:
    """Find and read a network, as a run does."""
    from deepreg_wf.checkpoints.locate import find_weights
    from deepreg_wf.quicksilver import load_checkpoint

    weights = find_weights(momentum='predict', folder=path.parent)
    weights.checksums()
    checkpoint = load_checkpoint(path)
    state = checkpoint.network.state_dict()
    return repr(checkpoint.spec), {
        name: tensor.numpy().tobytes() for name, tensor in state.items()
    }


_QUALITY = {
    'correlation': 0.97, 'correlation_affine': 0.91, 'folded_fraction': 0.0, 'note': 'x',
    'jacobian_min': None,
}  # fmt: skip
_FAILED = (
    'participant_id\timage\tstep\treason\tcrash_file\n'
    'sub-01\tsub-01\tresampling\tthe disk is full\tn/a\n'
)
_PAIRS = 'moving_labels\tfixed_labels\ttransform\nm.nii\tf.nii\t[a.mat,1];b.nii\n'

TARGETS = (
    Target('image.nii', make_nifti, damage_header, read_image, may_image_differ),
    Target(
        'image.nii.gz',
        lambda rng: gzip.compress(make_nifti(rng), rng.choice([1, 9]), mtime=0),
        damage_bytes,
        read_image,
    ),
    Target(
        'sidecar.json',
        _json({'a': [1.5, 'x'], 'b': {}}),
        damage_text,
        read_sidecar,
        is_stated_json,
    ),
    Target(
        'dataset_description.json',
        _json({'Name': 'n', 'BIDSVersion': '1.10.0', 'DatasetDOI': 'doi:10.1', 'Authors': ['A']}),
        damage_text,
        read_description,
        _always,
    ),
    Target('settings.toml', make_settings, damage_text, read_settings, _always),
    Target(
        'filters.json',
        _json({'t1w': {'acquisition': '[ab]', 'regex_search': True, 'run': None}}),
        damage_text,
        read_filters,
        _always,
    ),
    Target(
        'participants.tsv',
        lambda rng: b'participant_id\tage\nsub-01\t3\n',
        damage_text,
        read_participants,
    ),
    Target('quality.json', _json(_QUALITY), damage_text, read_quality, is_stated_quality),
    Target('failed.tsv', lambda rng: _FAILED.encode(), damage_text, read_failed, _always),
    Target('pairs.tsv', lambda rng: _PAIRS.encode(), damage_text, read_table_of_pairs, _always),
    Target('prediction.safetensors', make_weights, damage_weights, read_weights),
)
"""All kinds of files."""
