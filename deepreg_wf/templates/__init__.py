"""Templates: output spaces, where their images are found, and the registration grid."""

from __future__ import annotations

from deepreg_wf._lazy import lazy_exports

_HOMES = {
    'Template': 'template',
    'get_template': 'template',
    'get_custom_template': 'template',
    'SpaceSpec': 'spaces',
    'registration_grid': 'registration_grid',
}

__all__ = list(_HOMES)
__getattr__, __dir__ = lazy_exports('deepreg_wf.templates', _HOMES)
