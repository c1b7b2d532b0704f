"""Colours of the figures, and conversion of values into colours."""

from __future__ import annotations

import numpy as np

# Colours of Okabe and Ito, which can be distinguished with any kind of colour vision.
SKY_BLUE, ORANGE, VERMILION, YELLOW = '#56b4e9', '#e69f00', '#d55e00', '#f0e442'
DARK_GREY = '#333333'

_GREY_RANGE = (20, 225)  # of 255, from the 1st to the 99th percentile of the brain


def to_grey(canvas: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Scale intensities to 8 bits so that every brain has the same range of greys.

    Parameters
    ----------
    canvas : numpy.ndarray, shape (height, width)
        Intensities; values that are not above zero become black.
    inside : numpy.ndarray of bool, shape (height, width)
        Pixels in the brain.

    Returns
    -------
    numpy.ndarray of uint8, shape (height, width)
    """
    brain = canvas[inside & (canvas > 0)]
    ends = np.percentile(brain, (1, 99)) if brain.size else np.array([0.0, 1.0])
    # The smallest number avoids a division by zero if all voxels of the brain are equal.
    width = max(float(ends[1] - ends[0]), float(np.finfo(np.float32).tiny))
    fraction = (canvas - ends[0]) / width
    darkest, brightest = _GREY_RANGE
    grey = np.clip(darkest + (brightest - darkest) * fraction, 0, 255)
    return np.where(canvas > 0, grey, 0).astype(np.uint8)


def colour_map(fraction: np.ndarray, name: str) -> np.ndarray:
    """Map fractions to colours.

    Parameters
    ----------
    fraction : numpy.ndarray, shape (height, width)
        Position along the colour map; clipped to [0, 1].
    name : str
        Name of a colour map of matplotlib.

    Returns
    -------
    numpy.ndarray, shape (height, width, 3)
        RGB in [0, 1].
    """
    from matplotlib import colormaps

    return np.asarray(colormaps[name](np.clip(fraction, 0, 1)))[..., :3]


def blend(grey: np.ndarray, colours: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    """Lay colours over a grey picture.

    Parameters
    ----------
    grey : numpy.ndarray of uint8, shape (height, width)
        Grey values.
    colours : numpy.ndarray, shape (height, width, 3)
        RGB in [0, 1].
    opacity : numpy.ndarray, shape (height, width)
        Opacity of the colours, in [0, 1].

    Returns
    -------
    numpy.ndarray of uint8, shape (height, width, 3)
    """
    alpha = opacity[..., None]
    mixed = grey[..., None] * (1 - alpha) + 255 * colours * alpha
    return np.asarray(mixed.round().astype(np.uint8))


def to_rgb(colour: str) -> tuple[int, ...]:
    """Convert ``#rrggbb`` into three numbers from 0 to 255."""
    return tuple(bytes.fromhex(colour[1:]))
