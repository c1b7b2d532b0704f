"""From the raw T1-weighted image to an evened-out brain and its mask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
from deepreg_wf.interfaces.checks import doubt_of

LOGGER = logging.getLogger('nipype.interface')


class _ValidateT1wInputSpec(BaseInterfaceInputSpec):
    in_file = File(mandatory=True, desc='raw T1-weighted image')


class _ValidateT1wOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc='one volume of finite float32, in the same place')


class ValidateT1w(SimpleInterface):
    """Read a T1-weighted image, or say in one sentence why it cannot be used.

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
        self._results['out_file'] = str(out_file)
        return runtime


class _SkullStripInputSpec(ComputeInputSpec):
    in_file = File(exists=True, mandatory=True, desc='T1-weighted image')
    in_mask = File(exists=True, desc='brain mask that is there already: nothing is stripped')
    source_file = File(desc='raw image, by whose name errors call it')
    mode = traits.Enum(
        'auto',
        'force',
        'skip',
        usedefault=True,
        desc='strip what is not recognised as a brain, strip in any case, or never',
    )
    method = Str('auto', usedefault=True, desc='what strips')
    model = File(exists=True, desc='weights of a method that brings none')
    template = File(exists=True, desc='brain of a template, that the brain has to be like')
    template_mask = File(exists=True, requires=['template'], desc='its mask')


class _SkullStripOutputSpec(TraitedSpec):
    out_mask = File(exists=True, desc='brain mask')
    out_file = File(exists=True, desc='the image within the mask')
    method = Str(desc="what stripped, 'already-extracted', 'precomputed' or 'none'")
    doubt = Str(desc='why it cannot be a brain, in words; empty where nothing speaks against it')


class SkullStrip(SimpleInterface):
    """Find the brain in an image of a head, or keep a brain that was extracted before.

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

        data, grid = load_image(self.inputs.in_file)
        found = self._find(data, grid)
        LOGGER.info('%s: brain by %s; %s', _name(self.inputs), found.method, found.remark)
        folder = Path(runtime.cwd)
        save_image(folder / 'mask.nii.gz', found.mask, grid, np.uint8)
        save_image(folder / 'brain.nii.gz', np.where(found.mask, data, 0), grid)
        self._results |= {
            'out_mask': str(folder / 'mask.nii.gz'),
            'out_file': str(folder / 'brain.nii.gz'),
            'method': found.method,
            'doubt': found.doubt,
        }
        return runtime

    def _find(self, data: Any, grid: Any) -> Any:
        from deepreg_wf.anatomical.mask import adopt_mask
        from deepreg_wf.anatomical.skullstrip.extract import PRECOMPUTED, Extraction, extract_brain

        inputs = self.inputs
        check = self._make_check(data, grid)
        if isdefined(inputs.in_mask):
            mask = adopt_mask(inputs.in_mask, grid)
            doubt = doubt_of(check, mask) if check else ''
            return Extraction(mask=mask, method=PRECOMPUTED, remark=inputs.in_mask, doubt=doubt)
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

    def _make_check(self, data: Any, grid: Any) -> Any:
        """What a mask has to pass: its brain can be aligned with the template."""
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
    out_file = File(exists=True, desc='whole image without the bias')
    out_brain = File(exists=True, desc='the same within the mask')


class BiasCorrect(SimpleInterface):
    """Divide an image by the smooth bias that N4 finds in its brain.

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
        from deepreg_wf.spatial.masks import read_mask

        data, grid = load_image(self.inputs.in_file)
        mask = read_mask(self.inputs.in_mask, grid)
        corrected = correct_bias(data, mask, grid, sloppy=self.inputs.sloppy)
        folder = Path(runtime.cwd)
        save_image(folder / 'corrected.nii.gz', corrected, grid)
        save_image(folder / 'brain.nii.gz', np.where(mask, corrected, 0), grid)
        self._results |= {
            'out_file': str(folder / 'corrected.nii.gz'),
            'out_brain': str(folder / 'brain.nii.gz'),
        }
        return runtime


def _name(inputs: Any) -> str:
    return str(inputs.source_file if isdefined(inputs.source_file) else inputs.in_file)
