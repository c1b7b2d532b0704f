from .affine import AffineAlign, FillLesion
from .anatomical import BiasCorrect, SkullStrip, ValidateT1w
from .bids import DerivativesDataSink
from .checks import RaiseIfImplausible
from .momentum import GeodesicShooting, RefineMomentum
from .prediction import CorrectMomentum, PredictMomentum, TransformUncertainty
from .qc import InputQC, RegistrationQC
from .reportlets import (
    AlignmentReportlet,
    BrainMaskReportlet,
    ConvergenceReportlet,
    LogJacobianReportlet,
    MomentumReportlet,
    QualityReportlet,
    SummaryReportlet,
    UncertaintyReportlet,
)
from .template import PrepareTemplate, SelectTemplate
from .transforms import ApplyTransforms, ComposeTransforms, ResampleTransform

__all__ = [
    'AffineAlign',
    'AlignmentReportlet',
    'ApplyTransforms',
    'BiasCorrect',
    'BrainMaskReportlet',
    'ComposeTransforms',
    'ConvergenceReportlet',
    'CorrectMomentum',
    'DerivativesDataSink',
    'FillLesion',
    'GeodesicShooting',
    'InputQC',
    'LogJacobianReportlet',
    'MomentumReportlet',
    'PredictMomentum',
    'PrepareTemplate',
    'QualityReportlet',
    'RefineMomentum',
    'RegistrationQC',
    'ResampleTransform',
    'SelectTemplate',
    'SkullStrip',
    'RaiseIfImplausible',
    'SummaryReportlet',
    'TransformUncertainty',
    'UncertaintyReportlet',
    'ValidateT1w',
]
