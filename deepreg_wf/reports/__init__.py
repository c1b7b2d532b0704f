"""Figures, tables and pages that let a person judge a registration."""

from __future__ import annotations

from deepreg_wf._lazy import lazy_exports

_HOMES = {
    'write_subject_report': 'page',
    'write_group_report': 'group',
    'Volume': 'volumes',
    'Reference': 'figures',
    'brain_mask_figure': 'figures',
    'alignment_figure': 'figures',
    'log_jacobian_figure': 'figures',
    'magnitude_figure': 'figures',
    'convergence_figure': 'charts',
    'quality_table': 'fragments',
    'summary': 'fragments',
    'CRITERIA': 'thresholds',
    'Grade': 'thresholds',
    'overall': 'thresholds',
}

__all__ = list(_HOMES)
__getattr__, __dir__ = lazy_exports('deepreg_wf.reports', _HOMES)
