"""Lesion masks beside the raw images, under the names that fMRIPrep uses."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

_ENDINGS = ('_T1w_label-lesion_roi', '_label-lesion_roi')


def find_lesion_masks(images: Iterable[Path]) -> dict[Path, Path]:
    """Find the lesion masks of T1-weighted images.

    A mask has the entities of its image and is in the same folder, as
    ``sub-01_ses-a_label-lesion_roi.nii.gz`` or, as in the documentation of fMRIPrep,
    ``sub-01_ses-a_T1w_label-lesion_roi.nii.gz``.

    Parameters
    ----------
    images : iterable of Path
        Raw images.

    Returns
    -------
    dict of Path to Path
        Masks by their images; images without a mask are left out. The content of a mask may be
        missing, as in a DataLad clone.
    """
    masks = {image: _find_mask(image) for image in images}
    return {image: mask for image, mask in masks.items() if mask is not None}


def _find_mask(image: Path) -> Path | None:
    stem = image.name.partition('.')[0].removesuffix('_T1w')
    for ending in _ENDINGS:
        for extension in ('.nii.gz', '.nii'):
            path = image.with_name(f'{stem}{ending}{extension}')
            if os.path.lexists(path):  # also a link whose target is missing, which is an error
                return path
    return None
