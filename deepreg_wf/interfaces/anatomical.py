"""Interfaces from the raw T1-weighted image to the bias-corrected brain and its mask."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nipype import logging
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    Str,
    TraitedSpec,
    isdefined,
    traits,
)

from deepreg_wf.interfaces._tensors import ComputeInputSpec
from deepreg_wf.interfaces.affine import load_brain
from deepreg_wf.interfaces.checks import error_outputs, run_check

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from deepreg_wf.anatomical.skullstrip.extract import Extraction, MaskCheck
    from deepreg_wf.spatial import VoxelGrid

LOGGER = logging.getLogger('nipype.interface')


class _ValidateT1wInputSpec(BaseInterfaceInputSpec):
    in_file = File(mandatory=True, desc='raw T1-weighted image')


class _ValidateT1wOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc='one volume of finite float32, on the same grid')
    nonfinite_voxels = traits.Int(desc='voxels that were not finite and were set to 0')
    form_distance_mm = traits.Float(
        desc='largest distance between the positions of a voxel by sform and qform; not set if '
        'only one of them is valid'
    )


class ValidateT1w(SimpleInterface):
    """Read and validate a T1-weighted image.

    Examples
    --------
    >>> validate = ValidateT1w(in_file='T1w.nii.gz')
    >>> Path(validate.run().outputs.out_file).name
    't1w.nii.gz'
    """

    input_spec = _ValidateT1wInputSpec
    output_spec = _ValidateT1wOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from deepreg_wf.anatomical.validate import read_t1w
        from deepreg_wf.spatial import save_image

        image = read_t1w(self.inputs.in_file)
        for remark in image.remarks:
            LOGGER.warning(remark)
        out_file = Path(runtime.cwd) / 't1w.nii.gz'
        save_image(out_file, image.data, image.grid)
        self._results |= {'out_file': str(out_file), 'nonfinite_voxels': image.nonfinite_voxels}
        if image.form_distance_mm is not None:
            self._results['form_distance_mm'] = image.form_distance_mm
        return runtime


class _SkullStripInputSpec(ComputeInputSpec):
    in_file = File(exists=True, mandatory=True, desc='T1-weighted image')
    in_mask = File(exists=True, desc='precomputed brain mask, in place of an extraction')
    source_file = File(desc='raw image, which the log names')
    mode = traits.Enum(
        'auto',
        'force',
        'skip',
        usedefault=True,
        desc='extract unless the image shows an extracted brain, always, or never',
    )
    method = Str('auto', usedefault=True, desc='method of brain extraction')
    model = File(exists=True, desc='weights of a method whose package has none')
    template = File(exists=True, desc='brain of a template, for the plausibility check')
    template_mask = File(exists=True, requires=['template'], desc='mask of the template')


class _SkullStripOutputSpec(TraitedSpec):
    out_mask = File(exists=True, desc='brain mask')
    out_file = File(exists=True, desc='image within the mask')
    method = Str(desc="method, 'already-extracted', 'precomputed' or 'none'")
    problem = Str(desc='reason why the mask is implausible; not set if it is plausible')
    advice = Str(desc='what the user can do about the problem')


class SkullStrip(SimpleInterface):
    """Extract the brain of a head, or keep a brain that was extracted before.

    Examples
    --------
    >>> strip = SkullStrip(in_file='T1w.nii.gz')
    >>> strip.run().outputs.method
    'already-extracted'
    """

    input_spec = _SkullStripInputSpec
    output_spec = _SkullStripOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        import numpy as np

        from deepreg_wf.spatial import load_image, save_image

        inputs = self.inputs
        data, grid = load_image(inputs.in_file)
        extraction = self._extract(data, grid)
        name = inputs.source_file if isdefined(inputs.source_file) else inputs.in_file
        LOGGER.info('%s: brain mask by %s; %s', name, extraction.method, extraction.remark)
        folder = Path(runtime.cwd)
        save_image(folder / 'mask.nii.gz', extraction.mask, grid, np.uint8)
        save_image(folder / 'brain.nii.gz', np.where(extraction.mask, data, 0), grid)
        self._results |= {
            'out_mask': str(folder / 'mask.nii.gz'),
            'out_file': str(folder / 'brain.nii.gz'),
            'method': extraction.method,
            **error_outputs(extraction.error),
        }
        return runtime

    def _extract(self, data: NDArray[np.float32], grid: VoxelGrid) -> Extraction:
        """Use the precomputed mask if there is one, extract the brain otherwise."""
        from deepreg_wf.anatomical.mask import read_precomputed_mask
        from deepreg_wf.anatomical.skullstrip.extract import PRECOMPUTED, Extraction, extract_brain

        inputs = self.inputs
        check = self._template_check(data, grid)
        if isdefined(inputs.in_mask):
            mask = read_precomputed_mask(inputs.in_mask, grid)
            error = run_check(check, mask) if check else None
            return Extraction(mask=mask, method=PRECOMPUTED, remark=inputs.in_mask, error=error)
        return extract_brain(
            data,
            grid,
            mode=inputs.mode,
            method=inputs.method,
            model=Path(inputs.model) if isdefined(inputs.model) else None,
            check=check,
            num_threads=inputs.num_threads,
            device=inputs.device,
        )

    def _template_check(self, data: NDArray[np.float32], grid: VoxelGrid) -> MaskCheck | None:
        """Return the check that a brain is like the template, None without a template."""
        from deepreg_wf.affine.plausibility import check_brain

        inputs = self.inputs
        if not isdefined(inputs.template):
            return None
        fixed = load_brain(inputs.template, inputs.template_mask)
        return lambda mask: check_brain((data, mask, grid), fixed)


class _BiasCorrectInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc='T1-weighted image')
    in_mask = File(exists=True, mandatory=True, desc='brain mask')
    sloppy = traits.Bool(False, usedefault=True, desc='few iterations, for tests')


class _BiasCorrectOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc='bias-corrected image, whole')
    out_brain = File(exists=True, desc='bias-corrected image within the mask')


class BiasCorrect(SimpleInterface):
    """Divide an image by the bias field that N4 estimates within its brain.

    Examples
    --------
    >>> correct = BiasCorrect(in_file='T1w.nii.gz', in_mask='brain_mask.nii.gz', sloppy=True)
    >>> Path(correct.run().outputs.out_file).name
    'corrected.nii.gz'
    """

    input_spec = _BiasCorrectInputSpec
    output_spec = _BiasCorrectOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        import numpy as np

        from deepreg_wf.anatomical.bias import correct_bias
        from deepreg_wf.spatial import load_image, save_image
        from deepreg_wf.spatial.masks import load_mask

        data, grid = load_image(self.inputs.in_file)
        mask = load_mask(self.inputs.in_mask, grid)
        corrected = correct_bias(data, mask, grid, sloppy=self.inputs.sloppy)
        folder = Path(runtime.cwd)
        save_image(folder / 'corrected.nii.gz', corrected, grid)
        save_image(folder / 'brain.nii.gz', np.where(mask, corrected, 0), grid)
        self._results |= {
            'out_file': str(folder / 'corrected.nii.gz'),
            'out_brain': str(folder / 'brain.nii.gz'),
        }
        return runtime
