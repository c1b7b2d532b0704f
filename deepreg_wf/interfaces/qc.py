"""What a registration says of itself."""

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
    template_mask = File(exists=True, mandatory=True, desc='mask of the template')
    affine = File(exists=True, mandatory=True, desc='affine from template to image points')
    affine_trace = File(exists=True, desc='record of the affine registration (JSON)')
    affine_image = File(exists=True, mandatory=True, desc='brain after the affine alone')
    affine_mask = File(exists=True, mandatory=True, desc='its mask')
    warped_image = File(exists=True, mandatory=True, desc='brain after the whole transform')
    warped_mask = File(exists=True, mandatory=True, desc='its mask')
    warp = File(exists=True, mandatory=True, desc='displacement from template points')
    inverse_warp = File(exists=True, mandatory=True, desc='displacement to template points')
    shooting_trace = File(exists=True, mandatory=True, desc='record of the shooting (JSON)')


class _RegistrationQCOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc='figures of merit (JSON)')


class RegistrationQC(SimpleInterface):
    """Measure folding, inverse error, energy drift and the similarity that was gained.

    All images lie on the registration grid, and all figures are over the template's brain.

    Examples
    --------
    >>> qc = RegistrationQC(template_image='template_brain.nii.gz', affine='affine.txt')
    >>> qc.inputs.template_mask = 'template_mask.nii.gz'
    >>> qc.inputs.affine_image = qc.inputs.warped_image = 'aligned.nii.gz'
    >>> qc.inputs.affine_mask = qc.inputs.warped_mask = 'brain_mask.nii.gz'
    >>> qc.inputs.warp, qc.inputs.inverse_warp = 'warp.nii.gz', 'inverse_warp.nii.gz'
    >>> qc.inputs.shooting_trace = 'shooting.json'
    >>> figures = json.loads(Path(qc.run().outputs.out_file).read_text())
    >>> figures['nonpositive_jacobian_fraction']
    0.0
    """

    input_spec = _RegistrationQCInputSpec
    output_spec = _RegistrationQCOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        figures = {**self._maps(), **self._images(), **self._affine()}
        trace = json.loads(Path(self.inputs.shooting_trace).read_text())
        figures['energy_drift'] = trace['energy_drift']
        out_file = Path(runtime.cwd) / 'qc.json'
        out_file.write_text(json.dumps(figures, indent=2))
        self._results['out_file'] = str(out_file)
        return runtime

    def _maps(self) -> dict[str, float]:
        """Figures of the deformable part alone."""
        import numpy as np
        import torch

        from deepreg_wf.lddmm import diagnostics, fields
        from deepreg_wf.spatial import load_displacement, load_image

        brain = load_image(self.inputs.template_mask)[0] > 0
        maps = [load_displacement(path) for path in (self.inputs.warp, self.inputs.inverse_warp)]
        warp, inverse = (torch.from_numpy(field) for field, _ in maps)
        spacing = maps[0][1].spacing
        determinant = fields.jacobian_determinant(warp)[brain]
        folded = torch.cat([determinant, fields.jacobian_determinant(inverse)[brain]])
        # From the template's brain to the subject and back.
        error = diagnostics.inverse_error(inverse, warp, spacing).numpy()[brain]
        distance = diagnostics.length(warp, spacing).numpy()[brain]
        return {
            'jacobian_min': float(determinant.min()),
            'jacobian_max': float(determinant.max()),
            'nonpositive_jacobian_fraction': diagnostics.nonpositive_fraction(folded),
            'inverse_error_median_mm': float(np.median(error)),
            'inverse_error_p99_mm': float(np.percentile(error, 99)),
            'displacement_median_mm': float(np.median(distance)),
            'displacement_max_mm': float(distance.max()),
        }

    def _images(self) -> dict[str, float]:
        """Likeness to the template before and after the deformable part."""
        import torch

        from deepreg_wf.lddmm import diagnostics
        from deepreg_wf.spatial import load_image

        def load(name: str) -> torch.Tensor:
            return torch.from_numpy(load_image(getattr(self.inputs, name))[0])

        template, mask = load('template_image'), load('template_mask')
        inside = mask > 0
        figures = {}
        for stage, source in (('affine', 'affine'), ('final', 'warped')):
            image = load(f'{source}_image')
            figures[f'correlation_{stage}'] = diagnostics.correlation(
                image[inside], template[inside]
            )
            figures[f'mask_dice_{stage}'] = diagnostics.dice(load(f'{source}_mask'), mask)
        return figures

    def _affine(self) -> dict[str, float]:
        import numpy as np

        from deepreg_wf.spatial import load_affine

        figures = {
            'affine_determinant': float(np.linalg.det(load_affine(self.inputs.affine)[:3, :3]))
        }
        if isdefined(self.inputs.affine_trace):
            trace = json.loads(Path(self.inputs.affine_trace).read_text())
            figures['mirror_gain'] = trace['mirrored'] - trace['similarity']
        return figures
