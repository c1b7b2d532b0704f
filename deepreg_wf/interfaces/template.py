"""Interfaces that find a template and bring it onto the registration grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    Directory,
    File,
    SimpleInterface,
    Str,
    TraitedSpec,
    isdefined,
    traits,
)


class _SelectTemplateInputSpec(BaseInterfaceInputSpec):
    template = Str(mandatory=True, desc='template as NAME[:cohort-X][:res-Y]')
    resolution = traits.Int(desc='resolution to use if the template names none')
    cache_dir = Directory(nohash=True, desc='folder of images derived from the bundled template')


class _SelectTemplateOutputSpec(TraitedSpec):
    t1w = File(exists=True, desc='T1-weighted template')
    mask = File(exists=True, desc='brain mask of the template, if there is one')
    name = Str(desc='name of the template, with its cohort')
    spec = traits.Dict(desc='resolution, if the template names one')


class SelectTemplate(SimpleInterface):
    """Find the files of a template; nothing is downloaded.

    Examples
    --------
    >>> select = SelectTemplate(template='MNI152NLin2009aSym:res-2')
    >>> select.run().outputs.name
    'MNI152NLin2009aSym'
    """

    input_spec = _SelectTemplateInputSpec
    output_spec = _SelectTemplateOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from deepreg_wf.templates.locate import get_template
        from deepreg_wf.templates.spaces import SpaceSpec

        spec = SpaceSpec.from_string(self.inputs.template)
        name = spec.space + (f':cohort-{spec.cohort}' if spec.cohort else '')
        resolution = spec.resolution
        if resolution is None and isdefined(self.inputs.resolution):
            resolution = str(self.inputs.resolution)
        cache_dir = self.inputs.cache_dir if isdefined(self.inputs.cache_dir) else runtime.cwd
        full_name = f'{name}:res-{resolution}' if resolution else name
        template = get_template(full_name, cache_dir=Path(cache_dir))
        self._results |= {
            't1w': str(template.t1w),
            'name': name,
            'spec': {'resolution': spec.resolution} if spec.resolution else {},
        }
        if template.mask is not None:
            self._results['mask'] = str(template.mask)
        return runtime


class _PrepareTemplateInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc='T1-weighted template')
    in_mask = File(exists=True, desc='brain mask; by default the voxels above zero')
    resolution = traits.Float(
        2.0, usedefault=True, desc='voxel size of the registration grid in mm'
    )


class _PrepareTemplateOutputSpec(TraitedSpec):
    t1w_brain = File(exists=True, desc='brain of the template on the registration grid')
    brain_mask = File(exists=True, desc='brain mask on the registration grid')
    reference = File(exists=True, desc='the template itself, which defines the output grid')


class PrepareTemplate(SimpleInterface):
    """Bring the brain of a template onto the grid on which it is registered.

    Examples
    --------
    >>> prepare = PrepareTemplate(in_file='template_brain.nii.gz', resolution=4.0)
    >>> Path(prepare.run().outputs.t1w_brain).name
    't1w_brain.nii.gz'
    """

    input_spec = _PrepareTemplateInputSpec
    output_spec = _PrepareTemplateOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        import numpy as np

        from deepreg_wf.anatomical.validate import read_t1w
        from deepreg_wf.spatial import save_image
        from deepreg_wf.spatial.isotropic import resample_brain
        from deepreg_wf.spatial.masks import load_mask
        from deepreg_wf.templates.registration_grid import registration_grid

        template = read_t1w(self.inputs.in_file)
        mask = template.data > 0
        if isdefined(self.inputs.in_mask):
            mask = load_mask(self.inputs.in_mask, template.grid)
        grid = registration_grid(mask, template.grid, self.inputs.resolution)
        brain, inside = resample_brain(template.data, mask, template.grid, grid)
        folder = Path(runtime.cwd)
        save_image(folder / 't1w_brain.nii.gz', brain, grid)
        save_image(folder / 'brain_mask.nii.gz', inside, grid, np.uint8)
        self._results |= {
            't1w_brain': str(folder / 't1w_brain.nii.gz'),
            'brain_mask': str(folder / 'brain_mask.nii.gz'),
            'reference': self.inputs.in_file,
        }
        return runtime
