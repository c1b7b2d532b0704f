"""Masks of lesions that lie beside the raw images, under the names that fMRIPrep looks for."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

_ENDINGS = ('_T1w_label-lesion_roi', '_label-lesion_roi')


def find_lesions(images: Iterable[Path]) -> dict[Path, Path]:
    """Find the masks of lesions that were drawn on T1-weighted images.

    A mask has the entities of its image, and lies beside it:
    ``sub-01_ses-a_label-lesion_roi.nii.gz``, or ``..._T1w_label-lesion_roi.nii.gz`` as fMRIPrep's
    documentation spells it.

    Parameters
    ----------
    images
        Raw images.

    Returns
    -------
    dict
        Masks, by their image; images without one are left out.

    """
    found = {image: _beside(image) for image in images}
    return {image: lesion for image, lesion in found.items() if lesion is not None}


def _beside(image: Path) -> Path | None:
    stem = image.name.partition('.')[0].removesuffix('_T1w')
    for ending in _ENDINGS:
        for extension in ('.nii.gz', '.nii'):
            path = image.with_name(f'{stem}{ending}{extension}')
            if path.is_file():
                return path
    return None
