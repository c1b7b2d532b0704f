"""Criteria of registration quality: one table of measures, limits and reasons."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum


class Grade(Enum):
    """Grade of one measure, or of a registration as a whole."""

    GOOD = 'good'
    REVIEW = 'review'
    BAD = 'bad'
    NONE = 'none'

    @property
    def meaning(self) -> str:
        """Grade in words, for the reports."""
        return _MEANINGS[self]


_MEANINGS = {
    Grade.GOOD: 'good',
    Grade.REVIEW: 'needs review',
    Grade.BAD: 'bad',
    Grade.NONE: 'not measured',
}


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Closed interval of numbers.

    Parameters
    ----------
    low, high : float
        Both ends belong to the interval; by default it is unbounded.
    """

    low: float = -math.inf
    high: float = math.inf

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """A measure of registration quality with its limits.

    Parameters
    ----------
    key : str
        Name of the measure in the QC file.
    label : str
        Name of the measure in the reports.
    good, acceptable : Interval
        Values in `good` are graded good, other values in `acceptable` need review, and all
        others are bad.
    reason : str
        Meaning of the measure, and the reason for the limits.
    unit : str
        Unit of the measure; empty for none, ``%`` for a fraction that is shown in percent.
    baseline : str
        Key of a second measure, which is subtracted from the first; empty for none.
    """

    key: str
    label: str
    good: Interval
    acceptable: Interval
    reason: str
    unit: str = ''
    baseline: str = ''

    def value(self, measures: Mapping[str, float | None]) -> float | None:
        """Return the value that is graded; None if it, or its baseline, was not measured."""
        value = measures.get(self.key)
        if value is None or not self.baseline:
            return value
        baseline = measures.get(self.baseline)
        return None if baseline is None else value - baseline

    def format(self, value: float) -> str:
        """Format a value with its unit."""
        return f'{format_number(value * 100 if self.unit == "%" else value)} {self.unit}'.strip()

    def format_interval(self, interval: Interval) -> str:
        """Format limits, such as ``≥ 0.1``, ``0.5 to 1.3`` or, without limits, ``any``."""
        low, high = self.format(interval.low), self.format(interval.high)
        if interval.low == interval.high:
            return low
        if math.isinf(interval.low):
            return 'any' if math.isinf(interval.high) else f'≤ {high}'
        return f'≥ {low}' if math.isinf(interval.high) else f'{low} to {high}'

    def grade(self, measures: Mapping[str, float | None]) -> Grade:
        """Compare the value with the limits; NaN is bad."""
        value = self.value(measures)
        if value is None:
            return Grade.NONE
        if value in self.good:
            return Grade.GOOD
        return Grade.REVIEW if value in self.acceptable else Grade.BAD


CRITERIA = (
    Criterion(
        key='nonpositive_jacobian_fraction',
        label='Folded voxels in the brain',
        unit='%',
        good=Interval(low=0, high=0),
        acceptable=Interval(high=1e-4),
        reason='Where the Jacobian determinant is zero or negative, the map folds: it has no '
        'inverse there. One voxel in ten thousand is about twenty in a brain at 2 mm.',
    ),
    Criterion(
        key='jacobian_min',
        label='Smallest Jacobian determinant',
        good=Interval(low=0.1),
        acceptable=Interval(low=0.0),
        reason='The strongest shrinkage. Parts of normal brains seldom differ tenfold in volume; '
        'with still smaller values the map is close to folding.',
    ),
    Criterion(
        key='jacobian_max',
        label='Largest Jacobian determinant',
        good=Interval(high=10),
        acceptable=Interval(high=20),
        reason='The strongest growth, with the same limit of ten, which enlarged ventricles may '
        'exceed.',
    ),
    Criterion(
        key='inverse_error_median_mm',
        label='Inverse error, median',
        unit='mm',
        good=Interval(high=0.2),
        acceptable=Interval(high=0.5),
        reason='Distance between a point of the brain and where it ends after both transforms, '
        'there and back. It is the error of interpolating displacements between voxels: a fifth '
        'of a millimetre is a tenth of a voxel of the registration grid at 2 mm.',
    ),
    Criterion(
        key='inverse_error_p99_mm',
        label='Inverse error, 99th percentile',
        unit='mm',
        good=Interval(high=1.0),
        acceptable=Interval(high=2.0),
        reason='The same distance in the worst hundredth of the brain. One millimetre is half a '
        'voxel of the registration grid at 2 mm.',
    ),
    Criterion(
        key='energy_drift',
        label='Energy drift along the geodesic',
        unit='%',
        good=Interval(high=0.01),
        acceptable=Interval(high=0.05),
        reason='The energy is constant along an exact geodesic, so its largest relative change '
        'measures the error of the integration in time; a hundredth of a percent is usual.',
    ),
    Criterion(
        key='correlation_final',
        label='Correlation with the template, final',
        good=Interval(low=0.75),
        acceptable=Interval(low=0.6),
        reason='Correlation of intensities within the brain of the template. T1-weighted brains '
        'reach 0.8 to 0.95 once registered, and 0.5 to 0.7 after the affine alone; less points '
        'to another contrast, a lesion or a failure.',
    ),
    Criterion(
        key='correlation_final',
        baseline='correlation_affine',
        label='Correlation gained over the affine',
        good=Interval(low=0.03),
        acceptable=Interval(low=0),
        reason='Deformable registration must not reduce the similarity. A gain near zero means '
        'that it hardly moved anything.',
    ),
    Criterion(
        key='mask_dice_affine',
        label='Overlap of the brain masks, affine',
        good=Interval(low=0.9),
        acceptable=Interval(low=0.82),
        reason='Dice coefficient. Brains aligned by an affine overlap by 0.91 to 0.97, depending '
        'on how much of the meninges and the brain stem their masks include; with less, the mask '
        'or the affine has usually failed.',
    ),
    Criterion(
        key='mask_dice_final',
        label='Overlap of the brain masks, final',
        good=Interval(low=0.95),
        acceptable=Interval(low=0.9),
        reason='Dice coefficient after the deformable registration. What still differs is mostly '
        'meninges, or brain stem that one of the masks lacks.',
    ),
    Criterion(
        key='affine_determinant',
        label='Volume of the brain relative to the template, affine',
        good=Interval(low=0.5, high=1.3),
        acceptable=Interval(low=0.35, high=1.7),
        reason='Determinant of the affine map. Adult brains are 0.6 to 1 times as large as '
        'MNI152; a negative value is a mirror image, an extreme one a failed affine.',
    ),
    Criterion(
        key='affine_rotation_deg',
        label='Rotation from the header, affine',
        unit='degrees',
        good=Interval(high=40),
        acceptable=Interval(high=60),
        reason='Angle by which the affine turns the brain from the position that its header '
        'states. Heads in a coil were turned by at most 26°. Beyond 60° the header is wrong, and '
        'then left and right cannot be trusted.',
    ),
    Criterion(
        key='brain_height_ratio',
        label='Height of the brain relative to breadth and length',
        good=Interval(low=0.66, high=0.9),
        acceptable=Interval(low=0.57, high=1.0),
        reason='Height over the geometric mean of breadth and length, as standard deviations of '
        'the points of the brain along the axes of the template. Adults had 0.71 to 0.83; other '
        'values point to a wrong voxel size along one axis.',
    ),
    Criterion(
        key='brain_breadth_ratio',
        label='Breadth of the brain relative to its length',
        good=Interval(low=0.7, high=0.95),
        acceptable=Interval(low=0.6, high=1.05),
        reason='The cephalic index of the brain, measured in the same way. Adults had 0.73 to '
        '0.86; other values point to a wrong voxel size along one axis.',
    ),
    Criterion(
        key='template_coverage',
        label='Least local coverage of the template by the brain mask, affine',
        good=Interval(low=0.2),
        acceptable=Interval(low=0.05),
        reason='Smallest part of the brain of the template that the aligned mask covers within '
        'about a centimetre of any point. Whole brains had 0.4 or more, the least where the '
        'brain stem is cut; without the cerebellum it is 0.',
    ),
    Criterion(
        key='mirror_gain',
        label='Gain from mirroring the brain, affine',
        good=Interval(high=0.02),
        acceptable=Interval(high=0.05),
        reason='By how much the correlation with the template would rise if left and right were '
        'exchanged; seldom more than 0.01, as people are nearly symmetric. A larger gain points '
        'to a header that exchanges them. It is not measured with a symmetric template, which '
        'cannot tell. Nothing is ever mirrored.',
    ),
    Criterion(
        key='displacement_median_mm',
        label='Deformable displacement, median',
        unit='mm',
        good=Interval(high=6),
        acceptable=Interval(high=10),
        reason='Size of the deformable part. Two to four millimetres are usual; far more means '
        'that the affine was wrong.',
    ),
    Criterion(
        key='displacement_max_mm',
        label='Deformable displacement, largest',
        unit='mm',
        good=Interval(high=20),
        acceptable=Interval(high=30),
        reason='Ten to fifteen millimetres occur at the ventricles and at the surface; for more, '
        'look at the pictures.',
    ),
    Criterion(
        key='mask_edge',
        label='Brightness outside the brain mask relative to inside',
        good=Interval(high=0.55),
        acceptable=Interval(high=0.9),
        reason='Median intensity of the 3 mm around the mask over that 3 to 10 mm below its '
        'surface, measured in the image before bias correction. A brain ends at dark fluid and '
        'bone: masks of the whole brain had 0 to 0.5, masks that lacked its outer 4 to 6 mm 0.65 '
        'to 0.86. Without an edge it is 1.',
    ),
    Criterion(
        key='slice_order',
        label='Imbalance of the differences between slices',
        good=Interval(high=1.3),
        acceptable=Interval(high=1.5),
        reason='Mean difference between slices of which the first is odd, over that where it is '
        'even, or its inverse; the largest of the three axes. It is 1.0 to 1.2 in order, and 1.7 '
        'to 2.6 where odd and even slices are exchanged.',
    ),
    Criterion(
        key='ghost_strength',
        label='Strength of a ghost',
        good=Interval(high=0.07),
        acceptable=Interval(high=0.2),
        reason='Strength of a copy of the image that is shifted by 12 mm or more along an axis '
        'and added to it, from the power spectrum. It was 0.007 to 0.035 in 80 images without '
        'artefacts; it is 0.2 to 0.3 for a ghost of 30 %, and 0.05 to 0.2 with ringing from '
        'motion. It is not measured for voxels above 2.5 mm.',
    ),
    Criterion(
        key='doubling_strength',
        label='Strength of a double image',
        good=Interval(high=0.16),
        acceptable=Interval(high=0.25),
        reason='The same for a shift of 4 to 12 mm, at which the head itself has repetitions: it '
        'was 0.02 to 0.1 in the 80 images, and is 0.28 or more for a copy of 30 %.',
    ),
    Criterion(
        key='nonfinite_voxels',
        label='Voxels that were not finite and were set to 0',
        good=Interval(low=0, high=0),
        acceptable=Interval(),
        reason='Voxels of the raw image that were NaN or infinite: few are harmless, many leave '
        'holes in the brain.',
    ),
    Criterion(
        key='form_distance_mm',
        label='Distance between the positions by sform and qform',
        unit='mm',
        good=Interval(high=1),
        acceptable=Interval(),
        reason='The two positions in the header of the raw image should agree. The sform is used; '
        'if it is the wrong one, left and right may be too.',
    ),
)
"""Criteria in the order of the report."""

FROM_WORST = (Grade.BAD, Grade.REVIEW, Grade.GOOD, Grade.NONE)
"""Grades from the worst to the best."""


def overall_grade(measures: Mapping[str, float | None]) -> Grade:
    """Grade a registration as a whole.

    Parameters
    ----------
    measures : mapping of str to float or None
        Content of the QC file.

    Returns
    -------
    Grade
        The worst grade of all criteria; `Grade.NONE` if nothing was measured.
    """
    return worst_grade(criterion.grade(measures) for criterion in CRITERIA)


def worst_grade(grades: Iterable[Grade]) -> Grade:
    """Return the worst of several grades; `Grade.NONE` if there are none."""
    return min(grades, key=FROM_WORST.index, default=Grade.NONE)


def format_number(value: float) -> str:
    """Format a number with three digits, and at most four after the point.

    Parameters
    ----------
    value : float

    Returns
    -------
    str
        With a minus sign (U+2212) and thin spaces between thousands.

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
