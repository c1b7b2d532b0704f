"""Templates of TemplateFlow, found by the names of their files."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from deepreg_wf.errors import InputError
from deepreg_wf.templates.download import download_files, write_stubs
from deepreg_wf.templates.spaces import BUNDLED, SpaceSpec
from deepreg_wf.templates.template import Template

TEMPLATEFLOW_URL = 'https://templateflow.s3.amazonaws.com'

_NIFTI = ('.nii.gz', '.nii')


def templateflow_home() -> Path:
    """Return the folder in which TemplateFlow keeps its files; it need not exist.

    TemplateFlow is not imported, because its import makes and fills that folder.
    """
    if home := os.environ.get('TEMPLATEFLOW_HOME'):
        return Path(home)
    caches = '~/Library/Caches' if sys.platform == 'darwin' else '~/.cache'
    return Path(os.environ.get('XDG_CACHE_HOME') or caches).expanduser() / 'templateflow'


def find_in_templateflow(spec: SpaceSpec, home: Path, *, allow_download: bool = False) -> Template:
    """Find a template in the folder of TemplateFlow.

    Parameters
    ----------
    spec : SpaceSpec
    home : Path
        Folder of TemplateFlow.
    allow_download : bool
        If true, TemplateFlow may download missing files.

    Returns
    -------
    Template

    Raises
    ------
    InputError
        If there is no such template, or its files do not exist and cannot be downloaded.
    """
    found = _find(spec, home)
    if found is None and allow_download:
        _download(spec, home)
        found = _find(spec, home)
    if found is None:
        raise _missing(spec, home, allow_download)
    return found


def _find(spec: SpaceSpec, home: Path, *, stubs: bool = False) -> Template | None:
    """Find the files of a template by their names.

    TemplateFlow keeps an empty file, a stub, for each file that was not downloaded. With `stubs`,
    these count as well.
    """
    folder, stem = _location(spec, home)
    for tag in _resolution_tags(spec.resolution):
        prefix = f'{stem}{tag}_'
        mask = find_image(folder, [f'{prefix}desc-brain_mask'], stubs=stubs)
        kinds = ['T1w', 'desc-brain_T1w'] if mask else ['desc-brain_T1w']
        if t1w := find_image(folder, [prefix + kind for kind in kinds], stubs=stubs):
            return Template(
                space=spec.space,
                t1w=t1w,
                mask=mask,
                gm=find_image(folder, [f'{prefix}label-GM_probseg'], stubs=stubs),
                wm=find_image(folder, [f'{prefix}label-WM_probseg'], stubs=stubs),
                cohort=spec.cohort,
                resolution=spec.resolution,
                uri=_uri(t1w, home),
            )
    return None


def find_image(folder: Path, names: Sequence[str], *, stubs: bool = False) -> Path | None:
    """Find the first of several images, given without extensions, that exists.

    Parameters
    ----------
    folder : Path
    names : sequence of str
        Names of the images without their extensions, in the order of preference.
    stubs : bool
        If true, empty files count as well.

    Returns
    -------
    Path or None
    """
    for name in names:
        for extension in _NIFTI:
            path = folder / f'{name}{extension}'
            if path.is_file() and (stubs or path.stat().st_size):
                return path
    return None


def _uri(t1w: Path, home: Path) -> str:
    """Return the address of an image: of TemplateFlow, or of the file if the user added it."""
    name = t1w.relative_to(home)
    if (home / name.parts[0] / 'template_description.json').is_file():
        return f'{TEMPLATEFLOW_URL}/{name.as_posix()}'
    return t1w.absolute().as_uri()


def _location(spec: SpaceSpec, home: Path) -> tuple[Path, str]:
    """Return the folder of a template, and the beginning of the names of its files."""
    folder, stem = home / f'tpl-{spec.space}', f'tpl-{spec.space}'
    if spec.cohort is None:
        return folder, stem
    return folder / f'cohort-{spec.cohort}', f'{stem}_cohort-{spec.cohort}'


def _download(spec: SpaceSpec, home: Path) -> None:
    """Download the files of a template, if TemplateFlow has it."""
    write_stubs(home)
    if known := _find(spec, home, stubs=True):
        files = [file for file in (known.t1w, known.mask, known.gm, known.wm) if file is not None]
        download_files(spec.space, [file for file in files if not file.stat().st_size], home)


def _resolution_tags(resolution: str | None) -> list[str]:
    """Return the spellings of the ``res`` entity, in the order of preference."""
    if resolution is None:
        return ['_res-1', '_res-01', '', '_res-2', '_res-02']
    bare = resolution.lstrip('0') or resolution
    return [f'_res-{resolution}', f'_res-{bare}', f'_res-{bare:0>2}']


def _missing(spec: SpaceSpec, home: Path, allow_download: bool) -> InputError:
    """Make the error for a template that was not found, and not downloaded if that is allowed."""
    folder, _ = _location(spec, home)
    if allow_download:
        return InputError(
            f'{spec.space}: no T1w image with a brain mask is in {home} or in TemplateFlow',
            advice=f'check the spelling, use {BUNDLED}, or pass an image with --template',
        )
    if not folder.is_dir():
        return InputError(
            f'{spec.space}: no such template in {home}',
            advice=f'use {BUNDLED}, which needs no download, pass an image with --template, or '
            'let TemplateFlow fetch it with --allow-download',
        )
    resolution = f' at res-{spec.resolution}' if spec.resolution else ''
    return InputError(
        f'{spec.space}: no T1w image with a brain mask{resolution} is in {folder}',
        advice=f'let TemplateFlow fetch it with --allow-download, or use {BUNDLED}',
    )
