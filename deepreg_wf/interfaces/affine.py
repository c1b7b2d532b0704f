"""The affine between a brain and the template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nipype import logging
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)

from deepreg_wf.errors import InputError

LOGGER = logging.getLogger('nipype.interface')


class _AffineAlignInputSpec(BaseInterfaceInputSpec):
    moving_image = File(exists=True, mandatory=True, desc='brain, on its native grid')
    moving_mask = File(exists=True, mandatory=True, desc='its mask')
    fixed_image = File(exists=True, mandatory=True, desc='template, on the registration grid')
    fixed_mask = File(exists=True, mandatory=True, desc='its mask')
    source_file = File(desc='raw image, by whose name errors call it')
    seed = traits.Int(0, usedefault=True, desc='of the voxels that are compared')
    num_threads = traits.Int(1, usedefault=True, nohash=True, desc='starts tried at a time')
    sloppy = traits.Bool(False, usedefault=True, desc='few iterations, for tests')


class _AffineAlignOutputSpec(TraitedSpec):
    affine = File(exists=True, desc='ITK transform from template points to points of the brain')
    out_file = File(exists=True, desc='the brain on the registration grid')
    out_mask = File(exists=True, desc='its mask on the registration grid')


class AffineAlign(SimpleInterface):
    """Align a brain with the template, and doubt the result.

    Examples
    --------
    >>> AffineAlign().inputs.seed
    0
    """

    input_spec = _AffineAlignInputSpec
    output_spec = _AffineAlignOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        import numpy as np

        from deepreg_wf.affine import align, check_alignment
        from deepreg_wf.brain import read_mask, resample_brain
        from deepreg_wf.spatial import load_image, save_affine, save_image

        images = []
        for end in ('moving', 'fixed'):
            data, grid = load_image(getattr(self.inputs, f'{end}_image'))
            mask = read_mask(getattr(self.inputs, f'{end}_mask'), grid)
            images.append((data, mask, grid))
        moving, fixed = images
        found = align(
            moving,
            fixed,
            seed=self.inputs.seed,
            num_threads=self.inputs.num_threads,
            sloppy=self.inputs.sloppy,
        )
        try:
            check_alignment(found.affine, found.similarity)
        except InputError as error:
            raise InputError(f'{self._name()}: {error}') from None
        LOGGER.info(
            '%s: affine from the %s, correlation %.3f, %.3f with centres brought together',
            self._name(),
            found.start,
            found.similarity,
            found.similarity_before,
        )
        folder = Path(runtime.cwd)
        brain, mask = resample_brain(*moving, fixed[2], found.affine)
        save_affine(folder / 'affine.txt', found.affine)
        save_image(folder / 'brain.nii.gz', brain, fixed[2])
        save_image(folder / 'mask.nii.gz', mask, fixed[2], np.uint8)
        self._results |= {
            'affine': str(folder / 'affine.txt'),
            'out_file': str(folder / 'brain.nii.gz'),
            'out_mask': str(folder / 'mask.nii.gz'),
        }
        return runtime

    def _name(self) -> str:
        inputs = self.inputs
        return str(inputs.source_file if isdefined(inputs.source_file) else inputs.moving_image)
