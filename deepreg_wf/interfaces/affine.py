"""Interfaces of the affine registration of a brain with the template."""

from __future__ import annotations

import json
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

from deepreg_wf.interfaces.checks import error_outputs, run_check
from deepreg_wf.settings import AFFINE_METHODS

if TYPE_CHECKING:
    from deepreg_wf.affine.align import Alignment, Image

LOGGER = logging.getLogger('nipype.interface')

OFFSET_WARNING_MM = 100.0
"""Distance from the template that is implausible: scanners place the head in the isocentre."""

ROTATION_WARNING_DEG = 50.0
"""Rotation that is implausible for a head in a coil, in degrees."""

MIRROR_WARNING_GAIN = 0.02
"""Gain in correlation of the mirrored brain from which a warning is logged."""


class _AffineAlignInputSpec(BaseInterfaceInputSpec):
    moving_image = File(exists=True, mandatory=True, desc='brain, on its native grid')
    moving_mask = File(exists=True, mandatory=True, desc='brain mask')
    fixed_image = File(exists=True, mandatory=True, desc='template, on the registration grid')
    fixed_mask = File(exists=True, mandatory=True, desc='mask of the template')
    source_file = File(desc='raw image, which the log names')
    method = traits.Enum(*AFFINE_METHODS, usedefault=True, desc='initialisations that are tried')
    polish = traits.Bool(True, usedefault=True, desc='refine the estimate of the network')
    weights = File(exists=True, desc='network (.safetensors); that of the package by default')
    sloppy = traits.Bool(False, usedefault=True, desc='few iterations, for tests')


class _AffineAlignOutputSpec(TraitedSpec):
    affine = File(exists=True, desc='ITK transform from template points to points of the brain')
    out_file = File(exists=True, desc='brain on the registration grid')
    out_mask = File(exists=True, desc='brain mask on the registration grid')
    out_trace = File(exists=True, desc='initialisation and similarities (JSON)')
    problem = Str(desc='reason why the affine is implausible; not set if it is plausible')
    advice = Str(desc='what the user can do about the problem')


class AffineAlign(SimpleInterface):
    """Align a brain with the template by an affine, and check that it is plausible.

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
        alignment = align(
            moving,
            fixed,
            method=inputs.method,
            polish=inputs.polish,
            mirror=True,
            sloppy=inputs.sloppy,
            weights=Path(inputs.weights) if isdefined(inputs.weights) else None,
        )
        name = inputs.source_file if isdefined(inputs.source_file) else inputs.moving_image
        _log_alignment(name, alignment)
        folder = Path(runtime.cwd)
        brain, mask = resample_brain(*moving, fixed[2], alignment.affine)
        save_affine(folder / 'affine.txt', alignment.affine)
        save_image(folder / 'brain.nii.gz', brain, fixed[2])
        save_image(folder / 'mask.nii.gz', mask, fixed[2], np.uint8)
        trace = {key: value for key, value in vars(alignment).items() if key != 'affine'}
        (folder / 'affine.json').write_text(json.dumps(trace, indent=2))
        self._results |= {
            'affine': str(folder / 'affine.txt'),
            'out_file': str(folder / 'brain.nii.gz'),
            'out_mask': str(folder / 'mask.nii.gz'),
            'out_trace': str(folder / 'affine.json'),
            **error_outputs(run_check(check_alignment, alignment)),
        }
        return runtime


def _log_alignment(name: str, alignment: Alignment) -> None:
    """Log the similarities, and warn of headers that seem wrong."""
    mirrored = float('nan') if alignment.mirrored is None else alignment.mirrored
    LOGGER.info(
        '%s: affine initialised by the %s; correlation %.3f, %.3f with only the centres matched, '
        '%.3f for the mirrored brain',
        name,
        alignment.start,
        alignment.similarity,
        alignment.similarity_before,
        mirrored,
    )
    if alignment.offset > OFFSET_WARNING_MM:
        LOGGER.warning(
            '%s: by its header the brain is %.0f mm away from the template; the registration '
            'corrects for it, but other software may not.',
            name,
            alignment.offset,
        )
    if alignment.rotation_deg > ROTATION_WARNING_DEG:
        LOGGER.warning(
            '%s: by its header the brain is rotated by %.0f degrees; the registration corrects '
            'for it, but check that left and right are correct in the header.',
            name,
            alignment.rotation_deg,
        )
    if mirrored > alignment.similarity + MIRROR_WARNING_GAIN:
        LOGGER.warning(
            '%s: the mirrored brain is more like the template (correlation %.3f, not %.3f); '
            'check that left and right are correct in the header.',
            name,
            mirrored,
            alignment.similarity,
        )


def load_brain(image: str, mask: str) -> Image:
    """Read the intensities, mask and grid of a brain, as the affine registration takes them."""
    from deepreg_wf.spatial import load_image
    from deepreg_wf.spatial.masks import load_mask

    data, grid = load_image(image)
    return data, load_mask(mask, grid), grid


class _FillLesionInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc='brain on the registration grid')
    template = File(exists=True, mandatory=True, desc='brain of the template, on the same grid')
    affine = File(exists=True, mandatory=True, desc='affine from template to image points')
    lesion_mask = File(exists=True, desc='lesion mask, in the space of the image')


class _FillLesionOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc='brain, with the template in place of the lesion')


class FillLesion(SimpleInterface):
    """Replace a lesion by the template, so that nothing is matched there.

    The template is scaled to the brightness of the brain. Without a lesion mask, the input is
    passed on.

    Examples
    --------
    >>> fill = FillLesion(in_file='aligned.nii.gz', template='template_brain.nii.gz')
    >>> fill.inputs.affine = 'affine.txt'
    >>> Path(fill.run().outputs.out_file).name  # no lesion mask: passed on
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
        lesion, lesion_grid = load_image(self.inputs.lesion_mask)
        transform = Transform(affine=load_affine(self.inputs.affine))
        inside = resample((lesion > 0).astype(np.float32), lesion_grid, grid, transform) > 0
        healthy = (brain > 0) & (template > 0) & ~inside
        scale = np.median(brain[healthy]) / np.median(template[healthy]) if healthy.any() else 1.0
        out_file = Path(runtime.cwd) / 'filled.nii.gz'
        save_image(out_file, np.where(inside, scale * template, brain), grid)
        self._results['out_file'] = str(out_file)
        return runtime
