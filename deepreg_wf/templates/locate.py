"""Search for the files of a template: bundled, from TemplateFlow, or custom."""

from __future__ import annotations

import re
from pathlib import Path

from deepreg_wf.errors import InputError
from deepreg_wf.templates.bundled import get_bundled_template
from deepreg_wf.templates.spaces import BUNDLED, SpaceSpec
from deepreg_wf.templates.template import Template
from deepreg_wf.templates.templateflow import find_image, find_in_templateflow, templateflow_home


def get_template(
    spec: str | SpaceSpec,
    *,
    cache_dir: Path,
    home: Path | None = None,
    allow_download: bool = False,
) -> Template:
    """Find the files of the template that an output space names.

    Parameters
    ----------
    spec : str or SpaceSpec
        ``SPACE[:cohort-X][:res-Y]``, or the parsed specification.
    cache_dir : Path
        Folder of images that are derived from the bundled template.
    home : Path, optional
        Folder of TemplateFlow; by default the one that TemplateFlow itself uses.
    allow_download : bool
        If true, TemplateFlow may download missing files.

    Returns
    -------
    Template
        Its files exist.

    Raises
    ------
    InputError
        If there is no such template, or its files do not exist and cannot be downloaded.
    """
    wanted = SpaceSpec.from_string(spec) if isinstance(spec, str) else spec
    if wanted.space == BUNDLED:
        return get_bundled_template(wanted, cache_dir)
    home = templateflow_home() if home is None else home
    return find_in_templateflow(wanted, home, allow_download=allow_download)


def get_custom_template(path: Path) -> Template:
    """Use an image of the user as the template.

    Parameters
    ----------
    path : Path
        T1-weighted NIfTI image ``*_T1w``. The mask is ``*_desc-brain_mask`` beside it; without a
        mask the image must be of the extracted brain. The name of the template comes from
        ``tpl-NAME`` in the file name and is ``custom`` otherwise. Tissue maps are
        ``*_label-GM_probseg`` and ``*_label-WM_probseg`` beside the image.

    Returns
    -------
    Template

    Raises
    ------
    InputError
        If it is not a NIfTI image with three dimensions.
    """
    path = path.absolute()
    _check_image(path)
    name = re.match(r'tpl-([A-Za-z0-9]+)(?=[_.])', path.name)
    stem, folder = f'{path.name.split(".")[0]}_'.removesuffix('T1w_'), path.parent
    return Template(
        space=name.group(1) if name else 'custom',
        t1w=path,
        mask=find_image(folder, [f'{stem}desc-brain_mask']),
        gm=find_image(folder, [f'{stem}label-GM_probseg']),
        wm=find_image(folder, [f'{stem}label-WM_probseg']),
        uri=path.as_uri(),
    )


def _check_image(path: Path) -> None:
    """Check that a file is a NIfTI image with three dimensions."""
    import nibabel as nb

    if not path.is_file():
        raise InputError('no such file', advice='give the template as a NIfTI image', path=path)
    try:
        shape = nb.Nifti1Image.from_filename(path).shape
    except Exception as error:
        raise InputError(
            'not a readable NIfTI image',
            advice='give a T1-weighted .nii or .nii.gz file',
            path=path,
        ) from error
    if len(shape) != 3:
        raise InputError(
            f'the template has {len(shape)} dimensions',
            advice='give an image with three',
            path=path,
        )
