"""Template that needs no download: the ICBM 152 template in the nilearn package."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from deepreg_wf.errors import InputError
from deepreg_wf.templates.spaces import BUNDLED, SpaceSpec
from deepreg_wf.templates.template import Template
from deepreg_wf.templates.templateflow import TEMPLATEFLOW_URL
from deepreg_wf.utils.atomic import atomic_write

if TYPE_CHECKING:
    import nibabel as nb
    import numpy as np
    from numpy.typing import NDArray

RESOLUTIONS = ('1', '2')
"""Voxel sizes of the bundled template in mm."""


def get_bundled_template(spec: SpaceSpec, cache_dir: Path) -> Template:
    """Get the bundled template; missing images are derived from it.

    Parameters
    ----------
    spec : SpaceSpec
        Resolution of the template; without one, it is 1 mm.
    cache_dir : Path
        Folder of the derived images.

    Returns
    -------
    Template

    Raises
    ------
    InputError
        If there is no such resolution or cohort, or the image is missing.
    """
    size = (spec.resolution or '1').lstrip('0')
    if size not in RESOLUTIONS or spec.cohort:
        raise InputError(
            f'{BUNDLED}: the bundled template has no cohorts and comes at 1 and 2 mm',
            advice=f'write {BUNDLED}:res-1 or {BUNDLED}:res-2',
        )
    t1w = _nilearn_file('t1')
    derived = {
        name: cache_dir / f'tpl-{BUNDLED}_res-{size}_{name}.nii.gz'
        for name in ('T1w', 'desc-brain_mask', 'label-GM_probseg', 'label-WM_probseg')
    }
    if not all(path.is_file() for path in derived.values()):
        _derive_images(derived, int(size))
    return Template(
        space=BUNDLED,
        t1w=t1w if size == '1' else derived['T1w'],
        mask=derived['desc-brain_mask'],
        gm=derived['label-GM_probseg'],
        wm=derived['label-WM_probseg'],
        resolution=spec.resolution,
        uri=f'{TEMPLATEFLOW_URL}/tpl-{BUNDLED}/tpl-{BUNDLED}_res-1_T1w.nii.gz',
    )


def _nilearn_file(tissue: str) -> Path:
    """Find an image in the nilearn package, without importing it, which takes seconds."""
    spec = find_spec('nilearn')
    folder = Path(next(iter(spec.submodule_search_locations or ['']))) if spec else Path()
    path = folder / 'datasets' / 'data' / f'mni_icbm152_{tissue}_tal_nlin_sym_09a_converted.nii.gz'
    if not path.is_file():
        raise InputError(
            'the bundled template is missing',
            advice='install nilearn again (0.10.3 or later)',
            path=path,
        )
    return path


def _derive_images(paths: dict[str, Path], factor: int) -> None:
    """Write the images that nilearn lacks: the mask, maps in [0, 1], and the 2 mm grid.

    Parameters
    ----------
    paths : dict of str to Path
        Files to write, by the ends of their names.
    factor : int
        Voxel size in mm, a multiple of that of the bundled images.
    """
    import nibabel as nb
    import numpy as np

    t1w, gm, wm = (
        nb.Nifti1Image.from_filename(_nilearn_file(tissue)) for tissue in ('t1', 'gm', 'wm')
    )
    brain = np.asanyarray(t1w.dataobj)
    arrays = {
        'T1w': _downsample(brain, factor),
        'desc-brain_mask': (_downsample(brain > 0, factor) >= 0.5).astype('uint8'),
        'label-GM_probseg': _downsample(np.asanyarray(gm.dataobj), factor) / np.float32(255),
        'label-WM_probseg': _downsample(np.asanyarray(wm.dataobj), factor) / np.float32(255),
    }
    affine = t1w.affine @ np.diag([factor, factor, factor, 1])
    for name, path in paths.items():
        _write_image(nb.Nifti1Image(arrays[name], affine), path)


def _downsample(data: NDArray[np.generic], factor: int) -> NDArray[np.float32]:
    """Take every ``factor``-th voxel along each axis, after a low-pass filter."""
    import numpy as np
    from scipy.ndimage import convolve1d

    coarse = data.astype(np.float32)
    if factor == 1:
        return coarse
    for axis in range(3):
        coarse = convolve1d(coarse, [0.25, 0.5, 0.25], axis=axis, mode='constant')
        coarse = coarse.take(range(0, coarse.shape[axis], factor), axis=axis)
    return coarse


def _write_image(image: nb.Nifti1Image, path: Path) -> None:
    import nibabel as nb

    image.header.set_xyzt_units('mm')
    with atomic_write(path) as temporary:
        nb.save(image, temporary)
