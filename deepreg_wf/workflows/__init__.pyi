from .affine import init_affine_wf
from .anatomical import init_anat_preproc_wf
from .base import init_deepreg_wf, init_single_subject_wf, single_subject_name
from .outputs import init_outputs_wf
from .pair import init_pair_wf
from .quicksilver import init_quicksilver_wf
from .registration import init_registration_wf
from .reports import init_reportlets_wf
from .smriprep import init_register_template_wf
from .standard_space import init_standard_space_wf

__all__ = [
    'init_affine_wf',
    'init_anat_preproc_wf',
    'init_deepreg_wf',
    'init_outputs_wf',
    'init_pair_wf',
    'init_quicksilver_wf',
    'init_register_template_wf',
    'init_registration_wf',
    'init_reportlets_wf',
    'init_single_subject_wf',
    'init_standard_space_wf',
    'single_subject_name',
]
