"""The pictures of a registration: each a function from images to one self-contained SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deepreg_wf.reports import svg
from deepreg_wf.reports.contours import Outline, tissue_levels, trace
from deepreg_wf.reports.mosaic import Mosaic, Panel, lay_out
from deepreg_wf.reports.volumes import Volume

# Okabe and Ito's colours, told apart with any kind of colour vision.
SKY, ORANGE, VERMILION, YELLOW = '#56b4e9', '#e69f00', '#d55e00', '#f0e442'

LOG_JACOBIAN_LIMIT = float(np.log(2))
"""Ends of the scale of the log-Jacobian: half and twice the volume, the same for every subject."""

_PAD = 16  # pixels around the mosaic
_HEADER = 62  # pixels above it, for the legend
_SIZE = 19  # of letters, in pixels
_STROKE = 1.1  # of outlines, in pixels of the screen

_FLICKER = """
.front{animation:flicker 3s linear infinite}
@keyframes flicker{0%,44%{opacity:1}50%,94%{opacity:0}100%{opacity:1}}
svg:active .front{animation-play-state:paused}
@media (prefers-reduced-motion:reduce){.front{animation:none}svg:hover .front{opacity:0}}
@media print{.front{animation:none}}
"""


@dataclass(frozen=True)
class Reference:
    """The template, as the figures need it.

    Parameters
    ----------
    t1w, mask : Volume
        Image and brain mask.
    outlines : tuple of Outline
        Of its tissues.
    """

    t1w: Volume
    mask: Volume
    outlines: tuple[Outline, ...]

    @classmethod
    def load(
        cls,
        t1w: str | Path,
        mask: str | Path | None = None,
        gm: str | Path | None = None,
        wm: str | Path | None = None,
    ) -> Reference:
        """Read the images of a template.

        Parameters
        ----------
        t1w : path
            T1-weighted image; of the brain only if there is no mask.
        mask, gm, wm : path, optional
            Brain mask, and maps of grey and white matter in [0, 1]. Without the maps, the
            brightness of `t1w` tells the tissues apart.

        Returns
        -------
        Reference
        """
        image = Volume.load(t1w)
        brain = Volume((image.data > 0).astype(np.float32), image.affine)
        if mask is not None:
            brain = Volume.load(mask)
        if gm is None or wm is None:
            return cls(image, brain, _outlines_of_levels(image, brain))
        grey, white = Volume.load(gm), Volume.load(wm)
        return cls(image, brain, _outlines_of_maps(grey, white))


def brain_mask_figure(t1w: Volume, mask: Volume) -> str:
    """Show the outline of the brain mask on the image that it was made from.

    Parameters
    ----------
    t1w, mask : Volume
        In the space of the subject; any orientation, oblique or not.

    Returns
    -------
    str
        SVG.
    """
    mosaic = lay_out(mask)
    inside = mosaic.draw(mask) > 0.5
    outline = Outline(mask, 0.5, 'brain mask', ORANGE)
    body = [
        svg.raster(_grey(mosaic.draw(t1w), inside), _PAD, _HEADER),
        *_draw_outlines(mosaic, [outline]),
        *_legend([outline], _PAD),
    ]
    return _document(mosaic, 'Outline of the brain mask on the T1-weighted image', body)


def alignment_figure(
    reference: Reference,
    subject: Volume,
    subject_mask: Volume | None = None,
    *,
    names: tuple[str, str] = ('template', 'subject'),
) -> str:
    """Let the template and the aligned subject take turns, under outlines of the template.

    Parameters
    ----------
    reference : Reference
        The template.
    subject : Volume
        T1-weighted image of the subject, in the space of the template.
    subject_mask : Volume, optional
        Brain of the subject in that space; what lies outside is not shown. Zeros lie outside
        if it is not given.
    names : tuple of str
        Of the two.

    Returns
    -------
    str
        SVG that animates itself and holds still while a mouse button is pressed on it.
    """
    mosaic = lay_out(reference.mask)
    brain = mosaic.draw(reference.mask) > 0.5
    template = mosaic.draw(reference.t1w) * brain
    moved = mosaic.draw(subject)
    inside = moved > 0 if subject_mask is None else mosaic.draw(subject_mask) > 0.5
    moved = np.where(inside, moved, 0)
    x = _PAD + 118
    body = [
        svg.raster(_grey(moved, inside), _PAD, _HEADER),
        *_chip(names[1], ORANGE),
        svg.group(
            [svg.raster(_grey(template, brain), _PAD, _HEADER), *_chip(names[0], SKY)], 'front'
        ),
        *_draw_outlines(mosaic, reference.outlines),
        *_legend(reference.outlines, x),
    ]
    title = f'{names[0]} and {names[1]} in turn, with outlines of the tissues'
    return _document(mosaic, title, body, _FLICKER)


def log_jacobian_figure(
    reference: Reference, log_jacobian: Volume, *, whose: str = 'subject'
) -> str:
    """Show where the subject is larger or smaller than the template.

    Parameters
    ----------
    reference : Reference
        The template.
    log_jacobian : Volume
        Natural logarithm of the Jacobian determinant; not finite where the map folds.
    whose : str
        What is larger or smaller, for the legend.

    Returns
    -------
    str
        SVG with a scale that is the same for every subject.
    """
    limit = LOG_JACOBIAN_LIMIT
    finite = np.isfinite(log_jacobian.data)
    values = Volume(np.where(finite, log_jacobian.data, 0), log_jacobian.affine)
    folds = Volume((~finite).astype(np.float32), log_jacobian.affine)
    mosaic = lay_out(reference.mask)
    brain = mosaic.draw(reference.mask) > 0.5
    colours = _colours((mosaic.draw(values) + limit) / (2 * limit), 'RdBu_r')
    picture = _blend(_grey(mosaic.draw(reference.t1w) * brain, brain), colours, brain * 0.8)
    folded = mosaic.draw(folds) > 0
    picture[folded] = _rgb(YELLOW)
    ratios = (0.5, 0.7, 1, 1.4, 2)
    ticks = [
        ((np.log(ratio) / limit + 1) / 2, _signed(np.log(ratio), '.2f'), f'×{ratio:g}')
        for ratio in ratios
    ]
    body = [
        svg.raster(picture, _PAD, _HEADER),
        *_draw_outlines(mosaic, [_dark(outline) for outline in reference.outlines[:1]]),
        *_statement('log |Dφ|', f'red: larger in the {whose}; blue: smaller'),
        *([] if not folded.any() else _swatch('folded', YELLOW, 640)),
        *_colour_bar(mosaic, 'RdBu_r', ticks),
    ]
    return _document(mosaic, 'Log-Jacobian determinant of the deformation', body)


def magnitude_figure(
    reference: Reference, magnitude: Volume, *, symbol: str, meaning: str, unit: str
) -> str:
    """Show how large a vector or an uncertainty is, on top of the template.

    Parameters
    ----------
    reference : Reference
        The template.
    magnitude : Volume
        Not negative.
    symbol, meaning, unit : str
        For the legend and the scale.

    Returns
    -------
    str
        SVG whose scale ends at the 99th percentile in the brain.
    """
    mosaic = lay_out(reference.mask)
    brain = mosaic.draw(reference.mask) > 0.5
    values = mosaic.draw(magnitude)
    top = _round_up(float(np.percentile(values[brain], 99)) if brain.any() else 1.0)
    share = np.clip(values / top, 0, 1)
    colours = _colours(share, 'inferno')
    grey = _grey(mosaic.draw(reference.t1w) * brain, brain)
    picture = _blend(grey, colours, brain * (0.35 + 0.6 * share))
    ticks = [(i / 4, f'{top * i / 4:.3g}', '') for i in range(5)]
    ticks[-1] = (1, f'{top:.3g} {unit}', '')
    body = [
        svg.raster(picture, _PAD, _HEADER),
        *_statement(symbol, meaning),
        *_colour_bar(mosaic, 'inferno', ticks),
    ]
    return _document(mosaic, meaning, body)


def _outlines_of_levels(image: Volume, brain: Volume) -> tuple[Outline, ...]:
    fluid, white = tissue_levels(image, brain)
    masked = Volume(image.data * (brain.data > 0.5), image.affine)
    return _outlines((masked, white), (masked, fluid))


def _outlines_of_maps(grey: Volume, white: Volume) -> tuple[Outline, ...]:
    return _outlines((white, 0.5), (Volume(grey.data + white.data, grey.affine), 0.5))


def _outlines(white: tuple[Volume, float], brain: tuple[Volume, float]) -> tuple[Outline, ...]:
    return (
        Outline(*white, 'white matter of the template', VERMILION),
        Outline(*brain, 'grey matter of the template, outer edge', SKY),
    )


def _document(mosaic: Mosaic, title: str, body: Sequence[str], style: str = '') -> str:
    width, height = mosaic.width + 2 * _PAD, mosaic.height + _HEADER + 6
    back = svg.rectangle(0, 0, width, height, '#000', radius=10)
    return svg.document(width, height, title, [back, *body, *_coordinates(mosaic)], style)


def _grey(canvas: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Scale to 8 bits so that the brain has the same range of greys in every image."""
    brain = canvas[inside & (canvas > 0)]
    low, high = np.percentile(brain, (1, 99)) if brain.size else (0.0, 1.0)
    share = (canvas - low) / max(float(high - low), np.finfo(np.float32).tiny)
    return np.where(canvas > 0, np.clip(20 + 205 * share, 0, 255), 0).astype(np.uint8)


def _colours(share: np.ndarray, name: str) -> np.ndarray:
    from matplotlib import colormaps

    return colormaps[name](np.clip(share, 0, 1))[..., :3]


def _blend(grey: np.ndarray, colours: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    alpha = opacity[..., None]
    mixed = grey[..., None] * (1 - alpha) + 255 * colours * alpha
    return mixed.round().astype(np.uint8)


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour[1:]))


def _dark(outline: Outline) -> Outline:
    return Outline(outline.volume, outline.level, outline.label, '#333333')


_ROUND = (1, 1.2, 1.6, 2, 2.4, 3, 4, 6, 8, 10)
"""Ends of a scale, but for a power of ten, whose quarters are short numbers."""


def _round_up(value: float) -> float:
    """Smallest end of a scale that is not below."""
    if not value > 0:
        return 1.0
    unit = 10.0 ** np.floor(np.log10(value))
    return float(unit * next(end for end in _ROUND if end * unit >= value * (1 - 1e-9)))


def _draw_outlines(mosaic: Mosaic, outlines: Sequence[Outline]) -> list[str]:
    return [
        svg.path(
            trace(mosaic, outline.volume, outline.level),
            outline.colour,
            _STROKE,
            shift=(_PAD, _HEADER),
        )
        for outline in outlines
    ]


def _chip(label: str, colour: str) -> list[str]:
    return [
        svg.rectangle(_PAD, 16, 102, 30, colour, radius=15),
        svg.text(_PAD + 51, 37, label, size=_SIZE, colour='#000', anchor='middle', weight=600),
    ]


def _legend(outlines: Sequence[Outline], x: float) -> list[str]:
    elements = []
    for outline in outlines:
        elements += [
            svg.rectangle(x, 29, 30, 4, outline.colour, radius=2),
            svg.text(x + 40, 37, outline.label, size=_SIZE, colour='#ddd'),
        ]
        x += 68 + 8.6 * len(outline.label)
    return elements


def _swatch(label: str, colour: str, x: float) -> list[str]:
    return [
        svg.rectangle(x, 22, 18, 18, colour, radius=3),
        svg.text(x + 26, 37, label, size=_SIZE, colour='#ddd'),
    ]


def _statement(symbol: str, meaning: str) -> list[str]:
    return [
        svg.text(_PAD, 37, symbol, size=_SIZE + 2, weight=600),
        svg.text(_PAD + 30 + 11 * len(symbol), 37, meaning, size=_SIZE, colour='#ddd'),
    ]


def _colour_bar(mosaic: Mosaic, name: str, ticks: Sequence[tuple[float, str, str]]) -> list[str]:
    """Draw the scale at the right of the header; a tick has its place, its value, its meaning."""
    width, left = 420, mosaic.width + _PAD - 420 - 40
    strip = (255 * _colours(np.tile(np.linspace(0, 1, width), (12, 1)), name)).astype(np.uint8)
    elements = [svg.raster(strip, left, 26)]
    for place, value, meaning in ticks:
        x = left + place * width
        written = [(54, value), (20, meaning)] if meaning else [(54, value)]
        elements += [
            svg.text(x, y, words, size=15, colour='#ddd', anchor='middle') for y, words in written
        ]
    return elements


def _coordinates(mosaic: Mosaic) -> list[str]:
    """Write where each slice lies, and which side is which."""
    elements = []
    for panel in mosaic.panels:
        place = f'{"xyz"[panel.axis]} = {_signed(round(panel.position), "d")}'
        x, y = panel.left + panel.width / 2 + _PAD, panel.top + panel.height + _HEADER + 17
        elements.append(svg.text(x, y, place, size=16, colour='#b4b4b4', anchor='middle'))
    for panel in mosaic.first_of_rows():
        elements += _sides(panel)
    return elements


def _signed(value: float, form: str) -> str:
    return f'{value:+{form}}'.replace('-', '−') if value else '0'


def _sides(panel: Panel) -> list[str]:
    left, right = ('P', 'A') if panel.axis == 0 else ('L', 'R')
    y = panel.top + _HEADER + 20
    return [
        svg.text(panel.left + _PAD + 3, y, left, size=_SIZE, weight=600),
        svg.text(
            panel.left + panel.width + _PAD - 3, y, right, size=_SIZE, anchor='end', weight=600
        ),
    ]
