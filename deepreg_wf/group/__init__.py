"""The group level: what the registrations of a cohort say together."""

from __future__ import annotations

from deepreg_wf._lazy import lazy_exports

_HOMES = {
    'Atlas': 'atlas',
    'build_atlas': 'atlas',
    'Member': 'members',
    'Members': 'members',
    'find_members': 'members',
    'ranked': 'tables',
    'write_table': 'tables',
}

__all__ = list(_HOMES)
__getattr__, __dir__ = lazy_exports('deepreg_wf.group', _HOMES)
