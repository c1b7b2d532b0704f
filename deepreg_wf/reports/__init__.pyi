from .convergence import convergence_figure
from .figures import alignment_figure, brain_mask_figure, log_jacobian_figure, magnitude_figure
from .group import write_group_report
from .html import quality_table, summary_table
from .images import ScalarImage
from .reference import Reference
from .subject import write_subject_report

__all__ = [
    'Reference',
    'ScalarImage',
    'alignment_figure',
    'brain_mask_figure',
    'convergence_figure',
    'log_jacobian_figure',
    'magnitude_figure',
    'quality_table',
    'summary_table',
    'write_group_report',
    'write_subject_report',
]
