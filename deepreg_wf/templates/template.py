"""The image that brains are registered to: bundled, of TemplateFlow, or a lab's own."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from deepreg_wf.errors import InputError
from deepreg_wf.templates.spaces import BUNDLED, SpaceSpec
from deepreg_wf.utils.atomic import atomic_write

if TYPE_CHECKING:
    import nibabel as nb
    import numpy as np

BUNDLED_RESOLUTIONS = ('1', '2')
TEMPLATEFLOW_ROOT = 'https://templateflow.s3.amazonaws.com'

_NIFTI = ('.nii.gz', '.nii')


@dataclass(frozen=True, kw_only=True)
class Template:
    """A template: where its images are and what it is called.

    Parameters
    ----------
    space
        Label of the ``space-``, ``from-`` and ``to-`` entities.
    t1w
        T1-weighted image; brain only where there is no ``mask``.
    mask
        Brain mask on the grid of ``t1w``.
    gm, wm
        Maps of grey and white matter, in [0, 1], on the grid of ``t1w``.
    cohort, resolution
        Labels that were asked for with ``:cohort-X`` and ``:res-Y``.
    uri
        Address of the template image, for ``SpatialReference``.
    others
        The same template at other resolutions: images are registered to this one, and written on
        the grids of those as well.

    """

    space: str
    t1w: Path
    mask: Path | None = None
    gm: Path | None = None
    wm: Path | None = None
    cohort: str | None = None
    resolution: str | None = None
    uri: str = ''
    others: tuple[Template, ...] = ()

    @property
    def name(self) -> str:
        """What was asked for, as one writes it: ``SPACE:cohort-X:res-Y:res-Z``."""
        labels = [f'cohort-{self.cohort}'] if self.cohort else []
        labels += [f'res-{one.resolution}' for one in (self, *self.others) if one.resolution]
        return ':'.join([self.space, *labels])


def get_template(
    spec: str | SpaceSpec,
    *,
    cache_dir: Path,
    home: Path | None = None,
    allow_download: bool = False,
) -> Template:
    """Find the template that an output space names.

    Parameters
    ----------
    spec
        ``SPACE[:cohort-X][:res-Y]``, or what was read of it.
    cache_dir
        Folder for images that are derived from the bundled template.
    home
        Folder of TemplateFlow; by default the one that TemplateFlow itself would take.
    allow_download
        Have TemplateFlow fetch what is not there.

    Returns
    -------
    Template
        Its files exist.

    Raises
    ------
    InputError
        If there is no such template, its files are not on this machine, or they cannot be had.

    """
    wanted = SpaceSpec.from_string(spec) if isinstance(spec, str) else spec
    if wanted.space == BUNDLED:
        return _bundled(wanted, cache_dir)
    home = templateflow_home() if home is None else home
    found = _look_up(wanted, home)
    if found is None and allow_download:
        _fetch(wanted, home)
        found = _look_up(wanted, home)
    if found is None:
        raise InputError(_not_there(wanted, home))
    return found


def merge_resolutions(templates: Iterable[Template]) -> tuple[Template, ...]:
    """Make one template of those that differ in nothing but their resolution.

    Parameters
    ----------
    templates
        In the order in which they were asked for.

    Returns
    -------
    tuple of Template
        Of each template the first that was asked for; it has the `others`.

    """
    groups: dict[tuple[str, str | None], list[Template]] = {}
    for template in templates:
        groups.setdefault((template.space, template.cohort), []).append(template)
    return tuple(replace(first, others=tuple(others)) for first, *others in groups.values())


def get_custom_template(path: Path) -> Template:
    """Take a lab's own image as the template.

    Parameters
    ----------
    path
        T1-weighted NIfTI image; a mask is taken from ``*_desc-brain_mask`` beside ``*_T1w``,
        and without it the image has to be of the brain only. The name comes from ``tpl-NAME``
        in the file name and is ``custom`` otherwise.

    Returns
    -------
    Template
        Without tissue maps, except where ``*_label-GM_probseg`` and so on lie beside it.

    Raises
    ------
    InputError
        If it is not a NIfTI image with three dimensions.

    """
    path = path.absolute()
    _check_image(path)
    name = re.match(r'tpl-([A-Za-z0-9]+)(?=[_.])', path.name)
    stem, beside = f'{path.name.split(".")[0]}_'.removesuffix('T1w_'), path.parent
    return Template(
        space=name.group(1) if name else 'custom',
        t1w=path,
        mask=_first_file(beside, [f'{stem}desc-brain_mask']),
        gm=_first_file(beside, [f'{stem}label-GM_probseg']),
        wm=_first_file(beside, [f'{stem}label-WM_probseg']),
        uri=path.as_uri(),
    )


def templateflow_home() -> Path:
    """Folder in which TemplateFlow keeps its files.

    Importing TemplateFlow would tell as well, but it also makes and fills that folder.

    Returns
    -------
    Path
        It need not exist.

    """
    if home := os.environ.get('TEMPLATEFLOW_HOME'):
        return Path(home)
    caches = '~/Library/Caches' if sys.platform == 'darwin' else '~/.cache'
    return Path(os.environ.get('XDG_CACHE_HOME') or caches).expanduser() / 'templateflow'


def _bundled(wanted: SpaceSpec, cache_dir: Path) -> Template:
    resolution = wanted.resolution or '1'
    step = resolution.lstrip('0')
    if step not in BUNDLED_RESOLUTIONS or wanted.cohort:
        raise InputError(
            f'{BUNDLED}: the bundled template has no cohorts and comes at 1 and 2 mm; '
            f'write {BUNDLED}:res-1 or {BUNDLED}:res-2.'
        )
    t1w = _bundled_file('t1')
    made = {
        name: cache_dir / f'tpl-{BUNDLED}_res-{step}_{name}.nii.gz'
        for name in ('T1w', 'desc-brain_mask', 'label-GM_probseg', 'label-WM_probseg')
    }
    if not all(path.is_file() for path in made.values()):
        _derive_bundled(made, int(step))
    return Template(
        space=BUNDLED,
        t1w=t1w if step == '1' else made['T1w'],
        mask=made['desc-brain_mask'],
        gm=made['label-GM_probseg'],
        wm=made['label-WM_probseg'],
        resolution=wanted.resolution,
        uri=f'{TEMPLATEFLOW_ROOT}/tpl-{BUNDLED}/tpl-{BUNDLED}_res-1_T1w.nii.gz',
    )


def _bundled_file(tissue: str) -> Path:
    """Image inside the nilearn package; importing nilearn.datasets would take seconds."""
    spec = find_spec('nilearn')
    folder = Path(next(iter(spec.submodule_search_locations or ['']))) if spec else Path()
    path = folder / 'datasets' / 'data' / f'mni_icbm152_{tissue}_tal_nlin_sym_09a_converted.nii.gz'
    if not path.is_file():
        raise InputError(
            f'{path}: the bundled template is missing; install nilearn again (0.10.3 or later).'
        )
    return path


def _derive_bundled(made: dict[str, Path], step: int) -> None:
    """Write what nilearn's files lack: the mask, maps in [0, 1], and the 2 mm grid."""
    import nibabel as nb
    import numpy as np

    t1w, gm, wm = (nb.load(_bundled_file(tissue)) for tissue in ('t1', 'gm', 'wm'))
    brain = np.asanyarray(t1w.dataobj)
    arrays = {
        'T1w': _coarsen(brain, step),
        'desc-brain_mask': (_coarsen(brain > 0, step) >= 0.5).astype('uint8'),
        'label-GM_probseg': _coarsen(np.asanyarray(gm.dataobj), step) / np.float32(255),
        'label-WM_probseg': _coarsen(np.asanyarray(wm.dataobj), step) / np.float32(255),
    }
    affine = t1w.affine @ np.diag([step, step, step, 1])
    for name, path in made.items():
        _write_image(nb.Nifti1Image(arrays[name], affine), path)


def _coarsen(data: np.ndarray, step: int) -> np.ndarray:
    """Every ``step``-th voxel along each axis, after the smoothing that keeps it from aliasing."""
    import numpy as np
    from scipy.ndimage import convolve1d

    coarse = data.astype(np.float32)
    if step == 1:
        return coarse
    for axis in range(3):
        coarse = convolve1d(coarse, [0.25, 0.5, 0.25], axis=axis, mode='constant')
        coarse = coarse.take(range(0, coarse.shape[axis], step), axis=axis)
    return coarse


def _write_image(image: nb.Nifti1Image, path: Path) -> None:
    import nibabel as nb

    image.header.set_xyzt_units('mm')
    with atomic_write(path) as temporary:
        nb.save(image, temporary)


def _look_up(wanted: SpaceSpec, home: Path, *, stubs: bool = False) -> Template | None:
    """Look among the files that are there, by the names that TemplateFlow gives them.

    What was never fetched is an empty file, a stub.
    """
    folder, stem = _place(wanted, home)
    for tag in _resolution_tags(wanted.resolution):
        prefix = f'{stem}{tag}_'
        mask = _first_file(folder, [f'{prefix}desc-brain_mask'], stubs=stubs)
        kinds = ['T1w', 'desc-brain_T1w'] if mask else ['desc-brain_T1w']
        if t1w := _first_file(folder, [prefix + kind for kind in kinds], stubs=stubs):
            return Template(
                space=wanted.space,
                t1w=t1w,
                mask=mask,
                gm=_first_file(folder, [f'{prefix}label-GM_probseg'], stubs=stubs),
                wm=_first_file(folder, [f'{prefix}label-WM_probseg'], stubs=stubs),
                cohort=wanted.cohort,
                resolution=wanted.resolution,
                uri=_address(t1w, home),
            )
    return None


def _address(t1w: Path, home: Path) -> str:
    """Where a template comes from; what a lab has put beside those of TemplateFlow is a file."""
    name = t1w.relative_to(home)
    if (home / name.parts[0] / 'template_description.json').is_file():
        return f'{TEMPLATEFLOW_ROOT}/{name.as_posix()}'
    return t1w.absolute().as_uri()


def _place(wanted: SpaceSpec, home: Path) -> tuple[Path, str]:
    """Folder of a template, and what the names of its files begin with."""
    folder, stem = home / f'tpl-{wanted.space}', f'tpl-{wanted.space}'
    if wanted.cohort is None:
        return folder, stem
    return folder / f'cohort-{wanted.cohort}', f'{stem}_cohort-{wanted.cohort}'


def _fetch(wanted: SpaceSpec, home: Path) -> None:
    """Have TemplateFlow download a template that it knows."""
    from deepreg_wf.templates.download import fetch, list_templates

    list_templates(home)
    if known := _look_up(wanted, home, stubs=True):
        files = [file for file in (known.t1w, known.mask, known.gm, known.wm) if file is not None]
        fetch(wanted.space, [file for file in files if not file.stat().st_size], home)


def _resolution_tags(resolution: str | None) -> list[str]:
    """Spellings of the ``res`` entity, in the order of preference."""
    if resolution is None:
        return ['_res-1', '_res-01', '', '_res-2', '_res-02']
    bare = resolution.lstrip('0') or resolution
    return [f'_res-{resolution}', f'_res-{bare}', f'_res-{bare:0>2}']


def _first_file(folder: Path, names: Sequence[str], *, stubs: bool = False) -> Path | None:
    """First of these images that is there; without ``stubs``, with something in it."""
    for name in names:
        for extension in _NIFTI:
            path = folder / f'{name}{extension}'
            if path.is_file() and (stubs or path.stat().st_size):
                return path
    return None


def _not_there(wanted: SpaceSpec, home: Path) -> str:
    folder, _ = _place(wanted, home)
    if not folder.is_dir():
        return (
            f'{wanted.space}: no such template in {home}; use {BUNDLED}, which needs no download, '
            'pass an image with --template, or let TemplateFlow fetch it with --allow-download.'
        )
    resolution = f' at res-{wanted.resolution}' if wanted.resolution else ''
    return (
        f'{wanted.space}: no T1w image with a brain mask{resolution} is in {folder}; let '
        f'TemplateFlow fetch it with --allow-download, or use {BUNDLED}.'
    )


def _check_image(path: Path) -> None:
    import nibabel as nb

    if not path.is_file():
        raise InputError(f'{path}: no such file; give the template as a NIfTI image.')
    try:
        shape = nb.Nifti1Image.from_filename(path).shape
    except Exception as error:
        raise InputError(
            f'{path}: not a readable NIfTI image; give a T1-weighted .nii or .nii.gz file.'
        ) from error
    if len(shape) != 3:
        raise InputError(
            f'{path}: the template has {len(shape)} dimensions; give an image with three.'
        )
