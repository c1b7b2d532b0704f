"""What counts as a good registration: one table of figures, limits and reasons."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum


class Grade(Enum):
    """Light of one figure, from good to bad; a figure that is missing has none."""

    GOOD = 'good'
    LOOK = 'look'
    BAD = 'bad'
    NONE = 'none'

    @property
    def meaning(self) -> str:
        """What a reader should do."""
        return _MEANINGS[self]


_MEANINGS = {
    Grade.GOOD: 'good',
    Grade.LOOK: 'needs a look',
    Grade.BAD: 'bad',
    Grade.NONE: 'not measured',
}


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Values from `low` to `high`, both included."""

    low: float = -math.inf
    high: float = math.inf

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """One figure of merit and its limits.

    Parameters
    ----------
    key : str
        Its name in the QC file.
    label : str
        Its name for a person.
    good, fair : Interval
        Green within `good`, amber within `fair`, red outside of both.
    reason : str
        What the figure says and why the limits lie where they do.
    unit : str
        Of the value; empty where it has none, ``%`` for a share that is shown as such.
    minus : str
        Key of a second figure that is subtracted; empty for none.
    """

    key: str
    label: str
    good: Interval
    fair: Interval
    reason: str
    unit: str = ''
    minus: str = ''

    def value(self, figures: Mapping[str, float | None]) -> float | None:
        """Look the figure up; None where it, or what is subtracted, was not measured."""
        value = figures.get(self.key)
        if value is None or not self.minus:
            return value
        other = figures.get(self.minus)
        return None if other is None else value - other

    def show(self, value: float) -> str:
        """Write a value in the unit of the figure."""
        return f'{format_number(value * 100 if self.unit == "%" else value)} {self.unit}'.strip()

    def show_interval(self, interval: Interval) -> str:
        """Write limits in words that a person reads at a glance."""
        low, high = self.show(interval.low), self.show(interval.high)
        if interval.low == interval.high:
            return low
        if math.isinf(interval.low):
            return f'≤ {high}'
        return f'≥ {low}' if math.isinf(interval.high) else f'{low} to {high}'

    def grade(self, figures: Mapping[str, float | None]) -> Grade:
        """Hold the figure against its limits; what is not a number is bad."""
        value = self.value(figures)
        if value is None:
            return Grade.NONE
        if value in self.good:
            return Grade.GOOD
        return Grade.LOOK if value in self.fair else Grade.BAD


CRITERIA = (
    Criterion(
        key='nonpositive_jacobian_fraction',
        label='Folded voxels in the brain',
        unit='%',
        good=Interval(low=0, high=0),
        fair=Interval(high=1e-4),
        reason='Where the Jacobian determinant is zero or negative, the map folds: it has no '
        'inverse there. One voxel in ten thousand is about twenty in a brain at 2 mm.',
    ),
    Criterion(
        key='jacobian_min',
        label='Smallest Jacobian determinant',
        good=Interval(low=0.1),
        fair=Interval(low=0.0),
        reason='The strongest shrinkage. Parts of normal brains seldom differ tenfold in volume; '
        'with still smaller values the map is close to folding.',
    ),
    Criterion(
        key='jacobian_max',
        label='Largest Jacobian determinant',
        good=Interval(high=10),
        fair=Interval(high=20),
        reason='The strongest growth, with the same limit of ten, which enlarged ventricles may '
        'exceed.',
    ),
    Criterion(
        key='inverse_error_median_mm',
        label='Inverse error, median',
        unit='mm',
        good=Interval(high=0.1),
        fair=Interval(high=0.5),
        reason='Distance between a point of the brain and where it ends after both transforms, '
        'there and back. A tenth of a millimetre is far below the size of a voxel.',
    ),
    Criterion(
        key='inverse_error_p99_mm',
        label='Inverse error, 99th percentile',
        unit='mm',
        good=Interval(high=0.5),
        fair=Interval(high=1.0),
        reason='The same where it is worst. Half a millimetre is a quarter of a voxel of the '
        'registration grid at 2 mm, one millimetre is half of it.',
    ),
    Criterion(
        key='energy_drift',
        label='Energy drift along the geodesic',
        unit='%',
        good=Interval(high=0.01),
        fair=Interval(high=0.05),
        reason='The energy is constant along an exact geodesic, so its largest relative change '
        'measures the error of the integration in time; a hundredth of a percent is usual.',
    ),
    Criterion(
        key='correlation_final',
        label='Correlation with the template, final',
        good=Interval(low=0.75),
        fair=Interval(low=0.6),
        reason='Correlation of intensities within the brain of the template. T1-weighted brains '
        'reach 0.8 to 0.95 once registered, and 0.5 to 0.7 after the affine alone; less points '
        'to another contrast, a lesion or a failure.',
    ),
    Criterion(
        key='correlation_final',
        minus='correlation_affine',
        label='Correlation gained over the affine',
        good=Interval(low=0.03),
        fair=Interval(low=0),
        reason='Deformable registration must not make matters worse. A gain near zero means that '
        'it hardly moved anything.',
    ),
    Criterion(
        key='mask_dice_affine',
        label='Overlap of the brain masks, affine',
        good=Interval(low=0.9),
        fair=Interval(low=0.82),
        reason='Dice coefficient. Brains aligned by an affine overlap by 0.91 to 0.97, depending '
        'on how much of the meninges and the brain stem their masks include; with less, the mask '
        'or the affine has usually failed.',
    ),
    Criterion(
        key='mask_dice_final',
        label='Overlap of the brain masks, final',
        good=Interval(low=0.95),
        fair=Interval(low=0.9),
        reason='Dice coefficient after the deformable registration. What still differs is mostly '
        'meninges, or brain stem that one of the masks lacks.',
    ),
    Criterion(
        key='affine_determinant',
        label='Volume of the brain relative to the template, affine',
        good=Interval(low=0.5, high=1.3),
        fair=Interval(low=0.35, high=1.7),
        reason='Determinant of the affine map. Adult brains are 0.6 to 1 times as large as '
        'MNI152; a negative value is a mirror image, an extreme one a failed affine.',
    ),
    Criterion(
        key='mirror_gain',
        label='Gain from mirroring the brain, affine',
        good=Interval(high=0.02),
        fair=Interval(high=0.05),
        reason='By how much the correlation with the template would rise if left and right were '
        'exchanged; seldom more than 0.01, as people are nearly symmetric. A larger gain points '
        'to a header that exchanges them. A symmetric template cannot tell. Nothing is ever '
        'mirrored.',
    ),
    Criterion(
        key='displacement_median_mm',
        label='Deformable displacement, median',
        unit='mm',
        good=Interval(high=6),
        fair=Interval(high=10),
        reason='What the affine left to do. Two to four millimetres are usual; far more means '
        'that the affine was wrong.',
    ),
    Criterion(
        key='displacement_max_mm',
        label='Deformable displacement, largest',
        unit='mm',
        good=Interval(high=20),
        fair=Interval(high=30),
        reason='Ten to fifteen millimetres occur at the ventricles and at the surface; for more, '
        'look at the pictures.',
    ),
)
"""In the order in which the report shows them."""


def overall(figures: Mapping[str, float | None]) -> Grade:
    """Sum a registration up.

    Parameters
    ----------
    figures : mapping of str to float or None
        What the QC file holds.

    Returns
    -------
    Grade
        The worst light of all; none where nothing was measured.
    """
    return worst(criterion.grade(figures) for criterion in CRITERIA)


def worst(grades: Iterable[Grade]) -> Grade:
    """Return the worst of several lights."""
    from_worst = (Grade.BAD, Grade.LOOK, Grade.GOOD, Grade.NONE)
    return min(grades, key=from_worst.index, default=Grade.NONE)


def format_number(value: float) -> str:
    """Write a number with three digits, and no more than four after the point.

    Parameters
    ----------
    value : float
        What is to be written.

    Returns
    -------
    str
        With a true minus sign and thin spaces between thousands.

    Examples
    --------
    >>> format_number(0.98765), format_number(0.00002), format_number(-4623.4)
    ('0.988', '< 0.0001', '−4\u202f623')
    """
    if 0 < abs(value) < 1e-4:
        return '< 0.0001' if value > 0 else '> −0.0001'
    if abs(value) < 1e-2:
        text = f'{value:.4f}'.rstrip('0').rstrip('.')
    else:
        text = f'{value:.3g}' if abs(value) < 100 else f'{value:,.0f}'.replace(',', '\u202f')
    return text.replace('-', '−')
