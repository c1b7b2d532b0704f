"""Interfaces for the quality control of an image and of its registration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)

_GIVEN = ('nonfinite_voxels', 'form_distance_mm')
"""Measures that `ValidateT1w` has found, and that `InputQC` copies."""


class _RegistrationQCInputSpec(BaseInterfaceInputSpec):
    template_image = File(exists=True, mandatory=True, desc='brain of the template')
    template_mask = File(exists=True, mandatory=True, desc='brain mask of the template')
    affine = File(exists=True, mandatory=True, desc='affine from template to image points')
    affine_trace = File(exists=True, desc='record of the affine registration (JSON)')
    affine_image = File(exists=True, mandatory=True, desc='brain after the affine alone')
    affine_mask = File(exists=True, mandatory=True, desc='brain mask after the affine alone')
    warped_image = File(exists=True, mandatory=True, desc='brain after the whole transform')
    warped_mask = File(exists=True, mandatory=True, desc='brain mask after the whole transform')
    warp = File(exists=True, mandatory=True, desc='displacement from template points')
    inverse_warp = File(exists=True, mandatory=True, desc='displacement to template points')
    shooting_trace = File(exists=True, mandatory=True, desc='record of the shooting (JSON)')
    input_measures = File(exists=True, desc='measures of the image and its mask (JSON)')


class _RegistrationQCOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc='quality measures (JSON)')


class RegistrationQC(SimpleInterface):
    """Measure folding, inverse error, energy drift, the gain in similarity and the affine.

    All images are on the registration grid, and all measures are over the brain of the template.
    Measures of the image in its own space, if given, are copied.

    Examples
    --------
    >>> qc = RegistrationQC(template_image='template_brain.nii.gz', affine='affine.txt')
    >>> qc.inputs.template_mask = 'template_mask.nii.gz'
    >>> qc.inputs.affine_image = qc.inputs.warped_image = 'aligned.nii.gz'
    >>> qc.inputs.affine_mask = qc.inputs.warped_mask = 'brain_mask.nii.gz'
    >>> qc.inputs.warp, qc.inputs.inverse_warp = 'warp.nii.gz', 'inverse_warp.nii.gz'
    >>> qc.inputs.shooting_trace = 'shooting.json'
    >>> measures = json.loads(Path(qc.run().outputs.out_file).read_text())
    >>> measures['nonpositive_jacobian_fraction']
    0.0
    """

    input_spec = _RegistrationQCInputSpec
    output_spec = _RegistrationQCOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        measures: dict[str, Any] = {
            **self._map_measures(),
            **self._similarity(),
            **self._affine_measures(),
        }
        if isdefined(self.inputs.input_measures):
            measures |= _read_json(self.inputs.input_measures)
        measures['energy_drift'] = _read_json(self.inputs.shooting_trace)['energy_drift']
        out_file = Path(runtime.cwd) / 'qc.json'
        out_file.write_text(json.dumps(measures, indent=2))
        self._results['out_file'] = str(out_file)
        return runtime

    def _map_measures(self) -> dict[str, float]:
        """Measure the deformable part alone."""
        import torch

        from deepreg_wf.qc.metrics import map_measures
        from deepreg_wf.spatial import load_displacement, load_image

        brain = load_image(self.inputs.template_mask)[0] > 0
        warp, grid = load_displacement(self.inputs.warp)
        inverse, _ = load_displacement(self.inputs.inverse_warp)
        return map_measures(torch.from_numpy(warp), torch.from_numpy(inverse), brain, grid.spacing)

    def _similarity(self) -> dict[str, float]:
        """Measure the similarity to the template before and after the deformable part."""
        import torch

        from deepreg_wf.qc.metrics import similarity_measures
        from deepreg_wf.spatial import load_image

        def load(name: str) -> torch.Tensor:
            return torch.from_numpy(load_image(getattr(self.inputs, name))[0])

        template, mask = load('template_image'), load('template_mask')
        measures: dict[str, float] = {}
        for stage, source in (('affine', 'affine'), ('final', 'warped')):
            image, image_mask = load(f'{source}_image'), load(f'{source}_mask')
            measures |= similarity_measures(image, image_mask, template, mask, stage)
        return measures

    def _affine_measures(self) -> dict[str, float | None]:
        """Measure what the affine did, and what the aligned mask leaves out."""
        from deepreg_wf.qc.metrics import affine_measures, mirror_gain, template_coverage
        from deepreg_wf.spatial import load_affine, load_image

        mask = load_image(self.inputs.affine_mask)[0] > 0
        template_mask, grid = load_image(self.inputs.template_mask)
        brain = template_mask > 0
        affine = load_affine(self.inputs.affine)
        measures: dict[str, float | None] = {
            **affine_measures(affine, brain, grid.affine),
            'template_coverage': template_coverage(mask, brain, grid.spacing),
        }
        if isdefined(self.inputs.affine_trace):
            trace = _read_json(self.inputs.affine_trace)
            names = ('similarity', 'mirrored', 'template_symmetry')
            measures['mirror_gain'] = mirror_gain(*(trace[name] for name in names))
        return measures


class _InputQCInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc='T1-weighted image, finite')
    in_mask = File(exists=True, mandatory=True, desc='brain mask of the image')
    nonfinite_voxels = traits.Int(desc='voxels of the raw image that were set to 0')
    form_distance_mm = traits.Float(desc='distance between the positions by sform and qform')


class _InputQCOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc='measures of the image and its mask (JSON)')


class InputQC(SimpleInterface):
    """Measure an image and its brain mask in their own space.

    Examples
    --------
    >>> qc = InputQC(in_file='T1w.nii.gz', in_mask='brain_mask.nii.gz', nonfinite_voxels=0)
    >>> sorted(json.loads(Path(qc.run().outputs.out_file).read_text()))
    ['doubling_strength', 'form_distance_mm', 'ghost_strength', 'mask_edge', 'nonfinite_voxels', \
'slice_order']
    """

    input_spec = _InputQCInputSpec
    output_spec = _InputQCOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from deepreg_wf.qc.ghosts import ghost_measures
        from deepreg_wf.qc.input_measures import mask_edge, slice_order
        from deepreg_wf.spatial import load_image
        from deepreg_wf.spatial.masks import load_mask

        data, grid = load_image(self.inputs.in_file)
        mask = load_mask(self.inputs.in_mask, grid)
        given = {name: getattr(self.inputs, name) for name in _GIVEN}
        measures = {
            'mask_edge': mask_edge(data, mask, grid.spacing),
            'slice_order': slice_order(data, mask),
            **ghost_measures(data, grid.spacing),
            **{name: value if isdefined(value) else None for name, value in given.items()},
        }
        out_file = Path(runtime.cwd) / 'input_qc.json'
        out_file.write_text(json.dumps(measures, indent=2))
        self._results['out_file'] = str(out_file)
        return runtime


def _read_json(path: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path(path).read_text())
    return content
