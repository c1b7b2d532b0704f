"""The reference image of a figure: the template, with contours of its tissues."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deepreg_wf.reports.colours import SKY_BLUE, VERMILION
from deepreg_wf.reports.contours import Contour
from deepreg_wf.reports.images import ScalarImage

_BINS = 96


@dataclass(frozen=True)
class Reference:
    """The template, or another image in its place, as the figures show it.

    Parameters
    ----------
    t1w, mask : ScalarImage
        T1-weighted image and brain mask.
    contours : tuple of Contour
        Contours of white matter and of grey matter, in this order.
    """

    t1w: ScalarImage
    mask: ScalarImage
    contours: tuple[Contour, ...]

    @classmethod
    def load(
        cls,
        t1w: str | Path,
        mask: str | Path | None = None,
        gm: str | Path | None = None,
        wm: str | Path | None = None,
        *,
        name: str = 'template',
    ) -> Reference:
        """Read the images of a template.

        Parameters
        ----------
        t1w : str or Path
            T1-weighted image. Without `mask` it must show the brain only.
        mask : str or Path, optional
            Brain mask; by default, all voxels of `t1w` above zero.
        gm, wm : str or Path, optional
            Probability maps of grey and white matter. If one is missing, the tissues are
            separated by their brightness in `t1w`.
        name : str
            Name of the image in the legend.

        Returns
        -------
        Reference
        """
        image = ScalarImage.load(t1w)
        if mask is None:
            brain = ScalarImage((image.data > 0).astype(np.float32), image.affine)
        else:
            brain = ScalarImage.load(mask)
        if gm is None or wm is None:
            return cls(image, brain, _contours_from_brightness(image, brain, name))
        grey, white = ScalarImage.load(gm), ScalarImage.load(wm)
        return cls(image, brain, _contours_from_maps(grey, white, name))


def tissue_thresholds(t1w: ScalarImage, mask: ScalarImage) -> tuple[float, float]:
    """Compute the thresholds that split a T1-weighted brain into three classes of brightness.

    Otsu's criterion for two thresholds [1]_: the variance between the classes is greatest. With
    ``n_k`` voxels and the sum of intensities ``S_k`` in class k, the greatest variance is where
    ``sum_k S_k^2 / n_k`` is greatest, since the overall mean is the same for all thresholds.

    Parameters
    ----------
    t1w, mask : ScalarImage
        Image and brain mask on the same grid.

    Returns
    -------
    tuple of (float, float)
        Thresholds between cerebrospinal fluid and grey matter, and between grey and white matter.

    References
    ----------
    .. [1] Otsu, IEEE Transactions on Systems, Man, and Cybernetics 9 (1979) 62-66.
    """
    brain = t1w.data[mask.data > 0.5]
    counts, edges = np.histogram(brain, bins=_BINS, range=(0, float(np.percentile(brain, 99.5))))
    centres = (edges[1:] + edges[:-1]) / 2
    number = np.concatenate([[0], counts.cumsum()])
    total = np.concatenate([[0], (counts * centres).cumsum()])
    i, j = np.meshgrid(range(1, _BINS - 1), range(2, _BINS), indexing='ij')

    def term(start: np.ndarray | int, stop: np.ndarray | int) -> np.ndarray:
        """``S^2 / n`` of the class that holds the bins from `start` to `stop`."""
        squared = np.square(total[stop] - total[start])
        return np.asarray(squared / np.maximum(number[stop] - number[start], 1))

    variance = np.where(i < j, term(0, i) + term(i, j) + term(j, _BINS), -np.inf)
    best = np.unravel_index(variance.argmax(), variance.shape)
    return float(edges[i[best]]), float(edges[j[best]])


def _contours_from_brightness(
    image: ScalarImage, brain: ScalarImage, name: str
) -> tuple[Contour, ...]:
    fluid, white = tissue_thresholds(image, brain)
    masked = ScalarImage(image.data * (brain.data > 0.5), image.affine)
    return _contours((masked, white), (masked, fluid), name)


def _contours_from_maps(grey: ScalarImage, white: ScalarImage, name: str) -> tuple[Contour, ...]:
    tissue = ScalarImage(grey.data + white.data, grey.affine)
    return _contours((white, 0.5), (tissue, 0.5), name)


def _contours(
    white: tuple[ScalarImage, float], tissue: tuple[ScalarImage, float], name: str
) -> tuple[Contour, ...]:
    return (
        Contour(*white, f'white matter of the {name}', VERMILION),
        Contour(*tissue, f'grey matter of the {name}, outer edge', SKY_BLUE),
    )
