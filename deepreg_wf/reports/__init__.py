"""Figures, tables and pages that let a person judge a registration."""

from __future__ import annotations

from deepreg_wf._lazy import lazy_exports

_HOMES = {
    'write_subject_report': 'subject',
    'write_group_report': 'group',
    'Volume': 'volumes',
    'Reference': 'figures',
    'brain_mask_figure': 'figures',
    'alignment_figure': 'figures',
    'log_jacobian_figure': 'figures',
    'magnitude_figure': 'figures',
    'convergence_figure': 'convergence',
    'quality_table': 'html',
    'summary': 'html',
}

__all__ = list(_HOMES)
__getattr__, __dir__ = lazy_exports('deepreg_wf.reports', _HOMES)
