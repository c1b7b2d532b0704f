"""Figures of a registration: functions from images to one self-contained SVG."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from deepreg_wf.reports import svg
from deepreg_wf.reports.annotations import (
    PADDING,
    Tick,
    colour_bar,
    colour_swatch,
    contour_legend,
    draw_contours,
    format_signed,
    heading,
    mosaic_document,
    mosaic_raster,
    name_label,
)
from deepreg_wf.reports.colours import (
    DARK_GREY,
    ORANGE,
    SKY_BLUE,
    YELLOW,
    blend,
    colour_map,
    to_grey,
    to_rgb,
)
from deepreg_wf.reports.contours import Contour
from deepreg_wf.reports.images import ScalarImage
from deepreg_wf.reports.mosaic import make_mosaic
from deepreg_wf.reports.reference import Reference

LOG_JACOBIAN_LIMIT = float(np.log(2))
"""End of the scale of the log-Jacobian: half and twice the volume, the same in every report."""

_VOLUME_RATIOS = (0.5, 0.7, 1, 1.4, 2)  # ticks of that scale

# Ends of a scale that can be divided by four without many digits, up to a power of ten.
_SCALE_ENDS = (1, 1.2, 1.6, 2, 2.4, 3, 4, 6, 8, 10)

_FLICKER = """
.front{animation:flicker 3s linear infinite}
@keyframes flicker{0%,44%{opacity:1}50%,94%{opacity:0}100%{opacity:1}}
svg:active .front{animation-play-state:paused}
@media (prefers-reduced-motion:reduce){.front{animation:none}svg:hover .front{opacity:0}}
@media print{.front{animation:none}}
"""


def brain_mask_figure(t1w: ScalarImage, mask: ScalarImage) -> str:
    """Draw the contour of the brain mask on the image from which the mask was made.

    Parameters
    ----------
    t1w, mask : ScalarImage
        Images in the space of the subject, in any orientation, oblique or not.

    Returns
    -------
    str
        SVG document.
    """
    mosaic = make_mosaic(mask)
    inside = mosaic.sample(mask) > 0.5
    contours = [Contour(mask, 0.5, 'brain mask', ORANGE)]
    body = [
        mosaic_raster(to_grey(mosaic.sample(t1w), inside)),
        *draw_contours(mosaic, contours),
        *contour_legend(contours),
    ]
    return mosaic_document(mosaic, 'Outline of the brain mask on the T1-weighted image', body)


def alignment_figure(
    reference: Reference,
    subject: ScalarImage,
    subject_mask: ScalarImage | None = None,
    *,
    names: tuple[str, str] = ('template', 'subject'),
) -> str:
    """Show the template and the aligned subject alternately, under contours of the template.

    Parameters
    ----------
    reference : Reference
        The template.
    subject : ScalarImage
        T1-weighted image of the subject, in the space of the template.
    subject_mask : ScalarImage, optional
        Brain mask of the subject in that space; voxels outside are not shown. By default, voxels
        above zero are inside.
    names : tuple of (str, str)
        Names of the two images.

    Returns
    -------
    str
        SVG document with an animation, which pauses while a mouse button is pressed on it.
    """
    mosaic = make_mosaic(reference.mask)
    brain = mosaic.sample(reference.mask) > 0.5
    template = mosaic.sample(reference.t1w) * brain
    aligned = mosaic.sample(subject)
    inside = aligned > 0 if subject_mask is None else mosaic.sample(subject_mask) > 0.5
    aligned = np.where(inside, aligned, 0)
    front = [mosaic_raster(to_grey(template, brain)), *name_label(names[0], SKY_BLUE)]
    body = [
        mosaic_raster(to_grey(aligned, inside)),
        *name_label(names[1], ORANGE),
        svg.group(front, 'front'),
        *draw_contours(mosaic, reference.contours),
        *contour_legend(reference.contours, PADDING + 118),
    ]
    title = f'{names[0]} and {names[1]} in turn, with outlines of the tissues'
    return mosaic_document(mosaic, title, body, _FLICKER)


def log_jacobian_figure(
    reference: Reference, log_jacobian: ScalarImage, *, subject_name: str = 'subject'
) -> str:
    """Show the regions in which the subject is larger or smaller than the template.

    Parameters
    ----------
    reference : Reference
        The template.
    log_jacobian : ScalarImage
        Natural logarithm of the Jacobian determinant; not finite where the map folds.
    subject_name : str
        Name of the subject in the legend.

    Returns
    -------
    str
        SVG document. The scale is the same in every figure.
    """
    limit = LOG_JACOBIAN_LIMIT
    finite = np.isfinite(log_jacobian.data)
    values = ScalarImage(np.where(finite, log_jacobian.data, 0), log_jacobian.affine)
    folds = ScalarImage((~finite).astype(np.float32), log_jacobian.affine)
    mosaic = make_mosaic(reference.mask)
    brain = mosaic.sample(reference.mask) > 0.5
    colours = colour_map((mosaic.sample(values) + limit) / (2 * limit), 'RdBu_r')
    grey = to_grey(mosaic.sample(reference.t1w) * brain, brain)
    picture = blend(grey, colours, brain * 0.8)
    folded = mosaic.sample(folds) > 0
    picture[folded] = to_rgb(YELLOW)
    logarithms = {ratio: float(np.log(ratio)) for ratio in _VOLUME_RATIOS}
    ticks = [
        Tick((value / limit + 1) / 2, format_signed(value, '.2f'), f'×{ratio:g}')
        for ratio, value in logarithms.items()
    ]
    white_matter = replace(reference.contours[0], colour=DARK_GREY)
    body = [
        mosaic_raster(picture),
        *draw_contours(mosaic, [white_matter]),
        *heading('log |Dφ|', f'red: larger in the {subject_name}; blue: smaller'),
        *(colour_swatch('folded', YELLOW, 640) if folded.any() else []),
        *colour_bar(mosaic, 'RdBu_r', ticks),
    ]
    return mosaic_document(mosaic, 'Log-Jacobian determinant of the deformation', body)


def magnitude_figure(
    reference: Reference, magnitude: ScalarImage, *, symbol: str, description: str, unit: str
) -> str:
    """Show a magnitude, such as the length of a vector, as colours on the template.

    Parameters
    ----------
    reference : Reference
        The template.
    magnitude : ScalarImage
        Values that are not negative.
    symbol, description, unit : str
        Quantity in the legend, and its unit on the scale.

    Returns
    -------
    str
        SVG document. The scale ends near the 99th percentile in the brain.
    """
    mosaic = make_mosaic(reference.mask)
    brain = mosaic.sample(reference.mask) > 0.5
    values = mosaic.sample(magnitude)
    top = _scale_end(float(np.percentile(values[brain], 99))) if brain.any() else 1.0
    fraction = np.clip(values / top, 0, 1)
    grey = to_grey(mosaic.sample(reference.t1w) * brain, brain)
    picture = blend(grey, colour_map(fraction, 'inferno'), brain * (0.35 + 0.6 * fraction))
    ticks = [Tick(i / 4, f'{top * i / 4:.3g}') for i in range(4)]
    ticks.append(Tick(1, f'{top:.3g} {unit}'))
    body = [
        mosaic_raster(picture),
        *heading(symbol, description),
        *colour_bar(mosaic, 'inferno', ticks),
    ]
    return mosaic_document(mosaic, description, body)


def _scale_end(value: float) -> float:
    """Smallest end of a scale that is not below a value; 1 for values that are not positive."""
    if not value > 0:
        return 1.0
    unit = 10.0 ** np.floor(np.log10(value))
    return float(unit * next(end for end in _SCALE_ENDS if end * unit >= value * (1 - 1e-9)))
