"""Nipype interfaces: thin shells over the library, each imported when it is asked for."""

from __future__ import annotations

from deepreg_wf._lazy import lazy_exports

_HOMES = {
    'ValidateT1w': 'anatomical',
    'SkullStrip': 'anatomical',
    'BiasCorrect': 'anatomical',
    'PrepareTemplate': 'template',
    'SelectTemplate': 'template',
    'StopOnDoubt': 'checks',
    'AffineAlign': 'affine',
    'FillLesion': 'affine',
    'PredictMomentum': 'prediction',
    'CorrectMomentum': 'prediction',
    'RefineMomentum': 'momentum',
    'GeodesicShooting': 'momentum',
    'TransformUncertainty': 'prediction',
    'ComposeTransforms': 'transforms',
    'ApplyTransforms': 'transforms',
    'ResampleTransform': 'transforms',
    'RegistrationQC': 'qc',
    'DerivativesDataSink': 'bids',
    'SummaryReportlet': 'reportlets',
    'BrainMaskReportlet': 'reportlets',
    'AlignmentReportlet': 'reportlets',
    'LogJacobianReportlet': 'reportlets',
    'MomentumReportlet': 'reportlets',
    'UncertaintyReportlet': 'reportlets',
    'QualityReportlet': 'reportlets',
    'ConvergenceReportlet': 'reportlets',
}

__all__ = list(_HOMES)
__getattr__, __dir__ = lazy_exports('deepreg_wf.interfaces', _HOMES)
