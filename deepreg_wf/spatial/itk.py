"""Transform files of ITK, which ANTs, SimpleITK and nitransforms read, too.

In the files, points and displacements are in LPS mm. The transforms of a composite are a stack:
the last one of the file is applied to a point first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from deepreg_wf.errors import InputError
from deepreg_wf.spatial.grid import VoxelGrid
from deepreg_wf.spatial.nifti import (
    RAS_TO_LPS,
    check_orthogonal,
    load_displacement,
    open_image,
)
from deepreg_wf.spatial.transform import Transform, TransformChain
from deepreg_wf.utils.atomic import atomic_write
from deepreg_wf.utils.memory import check_memory
from deepreg_wf.utils.regular_file import check_regular_file

Array = NDArray[np.float64]

_RAS_TO_LPS_AFFINE = np.diag([*RAS_TO_LPS, 1.0])
_LINEAR = ('AffineTransform', 'MatrixOffsetTransformBase')
_FIELD = 'DisplacementFieldTransform'
_COMPOSITES = ('.h5', '.hdf5')
_OTHER_TOOLS = {'Mapping': 'SPM', 'NREG_TRANS': 'NiftyReg'}
"""Tools whose fields have the shape of those of ITK, by the intent name in their headers."""


def save_affine(path: str | Path, affine_ras: ArrayLike) -> None:
    """Write an affine as a text file of ITK.

    Parameters
    ----------
    path : str or Path
        Name of the file, usually ``.txt`` or ``.tfm``.
    affine_ras : array_like, shape (4, 4)
        Map of points in RAS+ mm.
    """
    parameters = ' '.join(repr(float(p)) for p in _parameters(np.asarray(affine_ras)))
    with atomic_write(path) as temporary:
        temporary.write_text(
            '#Insight Transform File V1.0\n'
            '#Transform 0\n'
            'Transform: AffineTransform_double_3_3\n'
            f'Parameters: {parameters}\n'
            'FixedParameters: 0 0 0\n',
            encoding='ascii',
        )


def load_affine(path: str | Path) -> Array:
    """Read an affine from a text file of ITK or a ``.mat`` file of ANTs.

    Parameters
    ----------
    path : str or Path
        Name of the file.

    Returns
    -------
    ndarray, shape (4, 4)
        Map of points in RAS+ mm.

    Raises
    ------
    InputError
        If there is no such file, or it does not contain exactly one affine in three dimensions.
    """
    file = Path(path)
    check_regular_file(file)
    try:
        kind, parameters, centre = (_read_mat if file.suffix == '.mat' else _read_text)(file)
        if not kind.startswith(_LINEAR):
            raise ValueError(kind)
        return _matrix(parameters, centre)
    except (OSError, ValueError, KeyError, TypeError, NotImplementedError, MatReadError):
        raise InputError(
            'it does not contain one affine transform of ITK in three dimensions',
            advice='give a file that does',
            path=path,
        ) from None


def save_composite(
    path: str | Path,
    *,
    affine: ArrayLike,
    warp: ArrayLike,
    grid: VoxelGrid,
    affine_first: bool = False,
) -> None:
    """Write an affine and a displacement field as an ITK composite.

    Parameters
    ----------
    path : str or Path
        Name of the ``.h5`` file.
    affine : array_like, shape (4, 4)
        Map of points in RAS+ mm.
    warp : array_like, shape (3, X, Y, Z)
        Displacement in voxels along the axes of the grid, stored to single precision.
    grid : VoxelGrid
        Grid of the field.
    affine_first : bool
        Apply the affine to a point first and the field then; by default the other way round.

    Raises
    ------
    InputError
        If the grid is sheared, which ITK cannot represent.
    ValueError
        If the field does not have the shape of the grid.
    """
    check_orthogonal(grid, path)
    displacement = np.asarray(warp)
    if displacement.shape != (3, *grid.shape):
        raise ValueError(f'a field of shape {displacement.shape} on a grid of shape {grid.shape}')
    linear = ('AffineTransform', _parameters(np.asarray(affine)), np.zeros(3))
    field = (_FIELD, *_field_parameters(displacement, grid))
    with atomic_write(path) as temporary, h5py.File(temporary, 'w') as file:
        group = file.create_group('TransformGroup')
        _write_kind(group.create_group('0'), 'CompositeTransform')
        for number, content in enumerate((field, linear) if affine_first else (linear, field), 1):
            _write_transform(group.create_group(str(number)), *content)


def load_composite(path: str | Path) -> Transform:
    """Read an ITK composite of at most one affine and one displacement field, in any order.

    Parameters
    ----------
    path : str or Path
        Name of the ``.h5`` file.

    Returns
    -------
    Transform
        The transform.

    Raises
    ------
    InputError
        If there is no such file, it is damaged, or it has other contents.
    """
    with _open_composite(path, 'one affine and one displacement field') as group:
        return _assemble(list(_read_transforms(group)))


def load_transform(path: str | Path) -> Transform:
    """Read a composite (``.h5``), a field (``.nii``) or an affine (``.txt``, ``.tfm``, ``.mat``).

    A field, whose name may end in ``.gz``, is in LPS mm and of shape (X, Y, Z, 1, 3).

    Parameters
    ----------
    path : str or Path
        Name of the file.

    Returns
    -------
    Transform
        The transform.

    Raises
    ------
    InputError
        If there is no such file, it is damaged, or it has other contents.
    """
    name = Path(path).name
    if name.endswith(_COMPOSITES):
        return load_composite(path)
    if name.endswith(('.nii', '.nii.gz')):
        _check_field(path)
        warp, grid = load_displacement(path)
        return Transform(warp=warp, grid=grid)
    return Transform(affine=load_affine(path))


def load_chain(path: str | Path) -> TransformChain:
    """Read a file that `load_transform` reads, or a composite of any number of transforms.

    Parameters
    ----------
    path : str or Path
        Name of the file.

    Returns
    -------
    TransformChain
        The transforms, in the order of the file.

    Raises
    ------
    InputError
        If there is no such file, it is damaged, or it has other contents.
    """
    if not Path(path).name.endswith(_COMPOSITES):
        return TransformChain([load_transform(path)])
    with _open_composite(path, 'affines and displacement fields') as group:
        return TransformChain([_assemble([content]) for content in _read_transforms(group)])


@contextmanager
def _open_composite(path: str | Path, content: str) -> Iterator[Any]:
    """Open a composite for a block, in which reading errors become an `InputError`.

    Parameters
    ----------
    path : str or Path
        Name of the ``.h5`` file.
    content : str
        Expected contents, for the message.

    Yields
    ------
    h5py.Group
        The transforms.
    """
    check_regular_file(path)
    try:
        with h5py.File(path) as file:
            yield file['TransformGroup']
    except InputError:
        raise
    except (OSError, KeyError, ValueError, IndexError, AttributeError, TypeError):
        raise InputError(
            f'it is not an ITK composite of {content}', advice='give a file that is', path=path
        ) from None


def _check_field(path: str | Path) -> None:
    """Refuse fields of other tools, whose vectors have another meaning."""
    image, _ = open_image(path)
    header: Any = image.header
    tool = _OTHER_TOOLS.get(header.get_intent()[2])
    if tool or image.shape[3:] != (1, 3):
        kind = f'a deformation of {tool}' if tool else f'of shape {image.shape}'
        raise InputError(
            f'it is {kind}, not a displacement field of ITK (X, Y, Z, 1, 3) in LPS mm',
            advice='convert it',
            path=path,
        )


def _parameters(affine_ras: Array) -> Array:
    """Return the parameters of an affine in ITK: the matrix row by row, then the translation."""
    affine = _RAS_TO_LPS_AFFINE @ affine_ras @ _RAS_TO_LPS_AFFINE
    return np.concatenate([affine[:3, :3].ravel(), affine[:3, 3]])


def _matrix(parameters: Array, centre: Array) -> Array:
    """Return the affine in RAS for parameters of ITK.

    ITK applies the matrix A about a centre c: ``x -> A (x - c) + c + t``.
    """
    affine = np.eye(4)
    affine[:3, :3] = parameters[:9].reshape(3, 3)
    affine[:3, 3] = parameters[9:].reshape(3) + centre - affine[:3, :3] @ centre.reshape(3)
    ras: Array = _RAS_TO_LPS_AFFINE @ affine @ _RAS_TO_LPS_AFFINE
    return ras


def _read_text(path: Path) -> tuple[str, Array, Array]:
    """Read kind, parameters and centre of a linear transform from a text file of ITK."""
    lines = [line.split(':', 1) for line in path.read_text(encoding='utf-8').splitlines()]
    fields = [(line[0].strip(), line[1].strip()) for line in lines if len(line) == 2]
    content = dict(fields)
    if len(content) != len(fields):
        raise ValueError('more than one transform')
    numbers = (content[name].split() for name in ('Parameters', 'FixedParameters'))
    parameters, centre = (np.array(values, dtype=np.float64) for values in numbers)
    return content['Transform'], parameters, centre


def _read_mat(path: Path) -> tuple[str, Array, Array]:
    """Read kind, parameters and centre of a linear transform from a ``.mat`` file of ANTs."""
    content: Mapping[str, Any] = loadmat(path)
    centre = np.asarray(content['fixed'], dtype=np.float64).ravel()
    [(kind, parameters)] = [
        (name, values) for name, values in content.items() if name.startswith(_LINEAR)
    ]
    return kind, np.asarray(parameters, dtype=np.float64).ravel(), centre


def _field_parameters(warp: NDArray[Any], grid: VoxelGrid) -> tuple[Array, Array]:
    """Return parameters and fixed parameters of a displacement field in ITK.

    The parameters are displacements in LPS mm, of which the component varies fastest. The fixed
    parameters are shape, origin, spacing and direction matrix of the grid.
    """
    to_lps = RAS_TO_LPS[:, np.newaxis] * grid.affine[:3, :3]
    # Values of single precision take half the space once compressed.
    vectors = np.tensordot(to_lps, warp, axes=1).astype(np.float32)
    axes = RAS_TO_LPS[:, np.newaxis] * grid.axes
    fixed = [*grid.shape, *(RAS_TO_LPS * grid.affine[:3, 3]), *grid.spacing, *axes.ravel()]
    return vectors.T.ravel().astype(np.float64), np.array(fixed, dtype=np.float64)


def _write_kind(group: Any, kind: str) -> None:
    text = h5py.string_dtype('ascii')
    group.create_dataset('TransformType', data=[f'{kind}_double_3_3'], dtype=text)


def _write_transform(group: Any, kind: str, parameters: Array, fixed: Array) -> None:
    _write_kind(group, kind)
    packing = {'compression': 'gzip', 'shuffle': True} if kind == _FIELD else {}
    values = group.create_dataset('TranformParameters', data=parameters, **packing)
    fixed_values = group.create_dataset('TranformFixedParameters', data=fixed)
    # ITK 4 reads only the misspelt names, other programs only these: links to the same data.
    group['TransformParameters'] = values
    group['TransformFixedParameters'] = fixed_values


def _read_transforms(group: Any) -> Iterator[tuple[str, Array, Array]]:
    """Yield kind, parameters and fixed parameters of each transform, in the order of the file."""
    for number in sorted((name for name in group if name != '0'), key=int):
        member = group[number]
        spelling = 'Transform' if 'TransformParameters' in member else 'Tranform'
        kind = member['TransformType'][0].decode('ascii')
        names = (f'{spelling}Parameters', f'{spelling}FixedParameters')
        check_memory(2 * sum(8 * member[name].size for name in names), group.file.filename)
        parameters, fixed = (np.asarray(member[name], dtype=np.float64) for name in names)
        yield kind, parameters, fixed


def _assemble(stack: list[tuple[str, Array, Array]]) -> Transform:
    """Return the transform of at most one affine and one field, in the order of the file."""
    kinds = ['field' if kind.startswith(_FIELD) else 'affine' for kind, _, _ in stack]
    if len(set(kinds)) != len(kinds) or not kinds:
        raise ValueError('not one affine and one displacement field')
    found: dict[str, Any] = {'affine_first': kinds[-1] == 'affine'}
    for kind, parameters, fixed in stack:
        if kind.startswith(_FIELD):
            found['warp'], found['grid'] = _field(parameters, fixed)
        elif kind.startswith(_LINEAR):
            found['affine'] = _matrix(parameters, fixed)
        else:
            raise ValueError(kind)
    return Transform(**found)


def _field(parameters: Array, fixed: Array) -> tuple[Array, VoxelGrid]:
    """Return the displacement in voxels and its grid for parameters of ITK."""
    shape = fixed[:3].astype(int).tolist()
    affine = np.eye(4)
    affine[:3, :3] = RAS_TO_LPS[:, np.newaxis] * fixed[9:].reshape(3, 3) * fixed[6:9]
    affine[:3, 3] = RAS_TO_LPS * fixed[3:6]
    grid = VoxelGrid(shape, affine)
    vectors = parameters.reshape(*shape[::-1], 3).T
    return np.tensordot(grid.inverse_affine[:3, :3] * RAS_TO_LPS, vectors, axes=1), grid
