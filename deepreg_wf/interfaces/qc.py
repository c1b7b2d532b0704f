"""Interface for the quality control of a registration."""

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
)


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


class _RegistrationQCOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc='quality measures (JSON)')


class RegistrationQC(SimpleInterface):
    """Measure folding, inverse error, energy drift and the gain in similarity.

    All images are on the registration grid, and all measures are over the brain of the template.

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
        measures = {**self._map_measures(), **self._similarity(), **self._affine_measures()}
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

    def _affine_measures(self) -> dict[str, float]:
        from deepreg_wf.qc.metrics import affine_determinant
        from deepreg_wf.spatial import load_affine

        measures = {'affine_determinant': affine_determinant(load_affine(self.inputs.affine))}
        if isdefined(self.inputs.affine_trace):
            trace = _read_json(self.inputs.affine_trace)
            measures['mirror_gain'] = trace['mirrored'] - trace['similarity']
        return measures


def _read_json(path: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path(path).read_text())
    return content
