"""Workflow factories, from the whole dataset down to one step, imported when asked for."""

from __future__ import annotations

from deepreg_wf._lazy import lazy_exports

_HOMES = {
    'init_deepreg_wf': 'base',
    'init_single_subject_wf': 'base',
    'single_subject_name': 'base',
    'init_space_wf': 'standard_space',
    'init_anat_preproc_wf': 'anatomical',
    'init_affine_wf': 'affine',
    'init_quicksilver_wf': 'quicksilver',
    'init_registration_wf': 'registration',
    'init_register_template_wf': 'smriprep',
    'init_pair_wf': 'pair',
    'init_outputs_wf': 'outputs',
    'init_reportlets_wf': 'reports',
}

__all__ = list(_HOMES)
__getattr__, __dir__ = lazy_exports('deepreg_wf.workflows', _HOMES)
