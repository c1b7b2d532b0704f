"""Fixtures that all tests share, and an environment in which tests run side by side."""

from __future__ import annotations

import os

# Set before numpy, torch, ITK and nipype are imported, because they read these only once.
os.environ['NIPYPE_NO_ET'] = '1'
os.environ.setdefault('MPLBACKEND', 'agg')
os.environ.setdefault('GOMP_SPINCOUNT', '10000')  # waiting threads leave the processor
for _variable in (
    'OMP_NUM_THREADS',
    'OPENBLAS_NUM_THREADS',
    'MKL_NUM_THREADS',
    'ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS',
):
    os.environ.setdefault(_variable, '1')

import subprocess  # noqa: E402
from collections.abc import Callable, Iterator, Sequence  # noqa: E402
from pathlib import Path  # noqa: E402

import nibabel as nb  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from scipy import ndimage  # noqa: E402

SHARED = Path(__file__).resolve().parents[1].parent / 'shared'

BrainMaker = Callable[..., nb.Nifti1Image]


LONGEST_FIRST = (
    'test_demo',
    'test_app',
    'test_usage',
    'test_slurm',
    'test_survival',
    'test_training',
    'test_full_disk',
    'test_brain',
    'test_template_match',
    'test_provenance',
    'test_smriprep',
    'test_group',
)
"""Modules that take a minute or more. Side by side, short ones fill the time that is left."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the modules that take longest."""
    rank = {name: number for number, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


@pytest.fixture(scope='session')
def shared_data() -> Path:
    """Return the folder of the real datasets, which are not part of the repository."""
    data = SHARED / 'data'
    if not data.is_dir():
        pytest.skip('the real datasets are not beside the repository')
    return data


@pytest.fixture(scope='session')
def make_brain() -> BrainMaker:
    """Return `synthetic_brain`."""
    return synthetic_brain


@pytest.fixture(scope='module', autouse=True)
def _nipype_configuration() -> Iterator[None]:
    """Undo what a module configures in Nipype, whose configuration belongs to the process."""
    from nipype import config

    parser = config._config
    before = {name: dict(parser.items(name, raw=True)) for name in parser.sections()}
    yield
    for name, options in before.items():
        parser[name] = options


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 300 kB."""
    folder = tmp_path / 'disk'
    folder.mkdir()
    mount = ['mount', '-t', 'tmpfs', '-o', 'size=300k', 'tmpfs', str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip('only root may mount a file system, and not everywhere')
    yield folder
    subprocess.run(['umount', '-l', str(folder)], check=True)


def synthetic_brain(
    shape: Sequence[int] = (40, 48, 40),
    spacing: Sequence[float] = (4.0, 4.0, 4.0),
    *,
    affine: np.ndarray | None = None,
    seed: int = 0,
) -> nb.Nifti1Image:
    """Make an extracted brain in the middle of a grid, float32 in [0, 1000].

    White matter lies in a wavy ribbon of grey matter, whose shape depends on `seed`; the
    background is zero.
    """
    if affine is None:
        affine = np.diag([*spacing, 1.0])
        affine[:3, 3] = -np.asarray(spacing) * (np.asarray(shape) - 1) / 2
    rng = np.random.default_rng(seed)
    centred = [np.linspace(-1, 1, n) for n in shape]
    x, y, z = np.meshgrid(*centred, indexing='ij')
    radius = np.sqrt((x / 0.70) ** 2 + (y / 0.75) ** 2 + (z / 0.70) ** 2)
    waves = ndimage.gaussian_filter(rng.standard_normal(tuple(shape)), 2.0)
    folds = radius + 0.06 * waves / waves.std()
    ventricle = ((x / 0.18) ** 2 + ((y - 0.05) / 0.3) ** 2 + (z / 0.15) ** 2) < 1
    data = np.select([ventricle, folds < 0.8, radius < 1.0], [250.0, 900.0, 600.0], default=0.0)
    smooth = ndimage.gaussian_filter(data, 0.5)
    return nb.Nifti1Image(np.where(radius < 1.0, smooth, 0).astype(np.float32), affine)
