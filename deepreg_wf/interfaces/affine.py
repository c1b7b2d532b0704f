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
    >>> align = AffineAlign(moving_image='brain.nii.gz', moving_mask='brain_mask.nii.gz')
    >>> align.inputs.fixed_image = 'template_brain.nii.gz'
    >>> align.inputs.fixed_mask = 'template_mask.nii.gz'
    >>> align.inputs.sloppy = True
    >>> Path(align.run().outputs.affine).name
    'affine.txt'
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


class _FillLesionInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc='brain on the registration grid')
    template = File(exists=True, mandatory=True, desc='brain of the template, on the same grid')
    affine = File(exists=True, mandatory=True, desc='affine from template to image points')
    lesion_mask = File(exists=True, desc='lesion, in the space of the image')


class _FillLesionOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc='the brain, with the template where the lesion is')


class FillLesion(SimpleInterface):
    """Put the template in the place of a lesion, so that nothing there is to be matched.

    The template is scaled to the brightness of the brain. Without a lesion, the brain is passed
    on as it is.

    Examples
    --------
    >>> fill = FillLesion(in_file='aligned.nii.gz', template='template_brain.nii.gz')
    >>> fill.inputs.affine = 'affine.txt'
    >>> Path(fill.run().outputs.out_file).name  # there is no lesion: nothing is to be done
    'aligned.nii.gz'
    >>> fill.inputs.lesion_mask = 'lesion.nii.gz'
    >>> Path(fill.run().outputs.out_file).name
    'filled.nii.gz'
    """

    input_spec = _FillLesionInputSpec
    output_spec = _FillLesionOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        import numpy as np

        from deepreg_wf.spatial import (
            Transform,
            load_affine,
            load_image,
            resample,
            save_image,
        )

        self._results['out_file'] = self.inputs.in_file
        if not isdefined(self.inputs.lesion_mask):
            return runtime
        brain, grid = load_image(self.inputs.in_file)
        template, _ = load_image(self.inputs.template)
        lesion, own = load_image(self.inputs.lesion_mask)
        way = Transform(affine=load_affine(self.inputs.affine))
        inside = resample((lesion > 0).astype(np.float32), own, grid, way) > 0
        both = (brain > 0) & (template > 0) & ~inside
        scale = np.median(brain[both]) / np.median(template[both]) if both.any() else 1.0
        out_file = Path(runtime.cwd) / 'filled.nii.gz'
        save_image(out_file, np.where(inside, scale * template, brain), grid)
        self._results['out_file'] = str(out_file)
        return runtime
