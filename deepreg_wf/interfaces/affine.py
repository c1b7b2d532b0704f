"""The affine between a brain and the template."""

from __future__ import annotations

import json
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

from deepreg_wf.interfaces.checks import doubt_of

LOGGER = logging.getLogger('nipype.interface')

FAR_MM = 100.0
"""Implausible distance from the template: scanners place the head in the centre of the coil."""

TURNED = 50.0
"""Rotation in degrees that no head in a coil has."""

MIRROR_GAIN = 0.02
"""Correlation by which a mirrored brain has to be more like the template to be told of."""


class _AffineAlignInputSpec(BaseInterfaceInputSpec):
    moving_image = File(exists=True, mandatory=True, desc='brain, on its native grid')
    moving_mask = File(exists=True, mandatory=True, desc='its mask')
    fixed_image = File(exists=True, mandatory=True, desc='template, on the registration grid')
    fixed_mask = File(exists=True, mandatory=True, desc='its mask')
    source_file = File(desc='raw image, by whose name the log calls it')
    method = Str('auto', usedefault=True, desc='where it starts from')
    polish = traits.Bool(True, usedefault=True, desc='refine what the network finds')
    sloppy = traits.Bool(False, usedefault=True, desc='few iterations, for tests')


class _AffineAlignOutputSpec(TraitedSpec):
    affine = File(exists=True, desc='ITK transform from template points to points of the brain')
    out_file = File(exists=True, desc='the brain on the registration grid')
    out_mask = File(exists=True, desc='its mask on the registration grid')
    out_trace = File(exists=True, desc='where it started, and how alike the brains are (JSON)')
    doubt = Str(desc='why it cannot be right, in words; empty where nothing speaks against it')


class AffineAlign(SimpleInterface):
    """Align a brain with the template, and doubt the result.

    Examples
    --------
    >>> align = AffineAlign(moving_image='brain.nii.gz', moving_mask='brain_mask.nii.gz')
    >>> align.inputs.fixed_image = 'template_brain.nii.gz'
    >>> align.inputs.fixed_mask = 'template_mask.nii.gz'
    >>> align.inputs.sloppy = True
    >>> outputs = align.run().outputs
    >>> Path(outputs.affine).name
    'affine.txt'
    """

    input_spec = _AffineAlignInputSpec
    output_spec = _AffineAlignOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        import numpy as np

        from deepreg_wf.affine.align import align
        from deepreg_wf.affine.plausibility import check_alignment
        from deepreg_wf.spatial import save_affine, save_image
        from deepreg_wf.spatial.isotropic import resample_brain

        inputs = self.inputs
        moving = load_brain(inputs.moving_image, inputs.moving_mask)
        fixed = load_brain(inputs.fixed_image, inputs.fixed_mask)
        found = align(
            moving,
            fixed,
            method=inputs.method,
            polish=inputs.polish,
            mirror=True,
            sloppy=inputs.sloppy,
        )
        self._tell(found)
        folder = Path(runtime.cwd)
        brain, mask = resample_brain(*moving, fixed[2], found.affine)
        save_affine(folder / 'affine.txt', found.affine)
        save_image(folder / 'brain.nii.gz', brain, fixed[2])
        save_image(folder / 'mask.nii.gz', mask, fixed[2], np.uint8)
        trace = {key: value for key, value in vars(found).items() if key != 'affine'}
        (folder / 'affine.json').write_text(json.dumps(trace, indent=2))
        self._results |= {
            'affine': str(folder / 'affine.txt'),
            'out_file': str(folder / 'brain.nii.gz'),
            'out_mask': str(folder / 'mask.nii.gz'),
            'out_trace': str(folder / 'affine.json'),
            'doubt': doubt_of(check_alignment, found),
        }
        return runtime

    def _tell(self, found: Any) -> None:
        source = self.inputs.source_file
        name = source if isdefined(source) else self.inputs.moving_image
        LOGGER.info(
            '%s: affine from the %s, correlation %.3f, %.3f with centres brought together, '
            '%.3f for the mirrored brain',
            name,
            found.start,
            found.similarity,
            found.similarity_before,
            found.mirrored,
        )
        if found.offset > FAR_MM:
            LOGGER.warning(
                '%s: its header puts the brain %.0f mm away from the template; it was found all '
                'the same, but other software may not.',
                name,
                found.offset,
            )
        if found.turn > TURNED:
            LOGGER.warning(
                '%s: its header turns the brain by %.0f degrees; it was found all the same, but '
                'check that left and right of its header are right.',
                name,
                found.turn,
            )
        if found.mirrored > found.similarity + MIRROR_GAIN:
            LOGGER.warning(
                '%s: the mirrored brain is more like the template (correlation %.3f, not %.3f); '
                'check that left and right of its header are right.',
                name,
                found.mirrored,
                found.similarity,
            )


def load_brain(image: str, mask: str) -> Any:
    """Intensities, mask and grid of a brain, as the affine registration takes them."""
    from deepreg_wf.spatial import load_image
    from deepreg_wf.spatial.masks import read_mask

    data, grid = load_image(image)
    return data, read_mask(mask, grid), grid


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

        from deepreg_wf.spatial import Transform, load_affine, load_image, resample, save_image

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
