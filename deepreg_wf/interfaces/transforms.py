"""Interfaces that put transforms together and apply them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    traits,
)


class _ComposeTransformsInputSpec(BaseInterfaceInputSpec):
    affine = File(
        exists=True, mandatory=True, desc='affine of ITK that maps template points to T1w points'
    )
    warp = File(
        exists=True,
        mandatory=True,
        desc='displacement field that maps template points to points of the aligned T1w',
    )
    inverse_warp = File(
        exists=True,
        mandatory=True,
        desc='displacement field that maps points of the aligned T1w to template points',
    )


class _ComposeTransformsOutputSpec(TraitedSpec):
    t1w2std = File(exists=True, desc='composite that resamples the T1w onto the template')
    std2t1w = File(exists=True, desc='composite that resamples the template onto the T1w')


class ComposeTransforms(SimpleInterface):
    """Put an affine and the fields of a deformation into one ITK composite for each direction.

    ``t1w2std`` maps template points to T1w points, the field first and the affine then;
    ``std2t1w`` maps T1w points to template points, the inverse affine first.

    Examples
    --------
    >>> compose = ComposeTransforms(affine='affine.txt', warp='warp.nii.gz')
    >>> compose.inputs.inverse_warp = 'inverse_warp.nii.gz'
    >>> Path(compose.run().outputs.t1w2std).name
    't1w2std.h5'
    """

    input_spec = _ComposeTransformsInputSpec
    output_spec = _ComposeTransformsOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        import numpy as np

        from deepreg_wf.spatial import load_affine, load_displacement, write_composite

        folder = Path(runtime.cwd)
        affine = load_affine(self.inputs.affine)
        warp, grid = load_displacement(self.inputs.warp)
        forward, backward = folder / 't1w2std.h5', folder / 'std2t1w.h5'
        write_composite(forward, affine=affine, warp=warp, grid=grid)
        warp, grid = load_displacement(self.inputs.inverse_warp)
        inverse = np.linalg.inv(affine)
        write_composite(backward, affine=inverse, warp=warp, grid=grid, affine_first=True)
        self._results |= {'t1w2std': str(forward), 'std2t1w': str(backward)}
        return runtime


_STEPS = 1024
"""Into which a voxel is divided: with whole numbers of them, a file takes a third of the room."""


class _ResampleTransformInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc='composite (.h5) with a displacement field')
    reference_image = File(
        exists=True, mandatory=True, desc='image whose field of view the field is to cover'
    )
    spacing = traits.Range(
        0.1, 10.0, 1.0, usedefault=True, desc='distance between the vectors of the field, in mm'
    )


class _ResampleTransformOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc='the same transform, with its field on the new grid')


class ResampleTransform(SimpleInterface):
    """Put the displacement field of a composite on the grid that other programs expect.

    fMRIPrep, from 24.0 until August 2025, reads fields whose voxels are of 1 mm and lie along R, A
    and S, and no others. ANTs, SimpleITK and nitransforms read any.

    Examples
    --------
    >>> compose = ComposeTransforms(affine='affine.txt', warp='warp.nii.gz')
    >>> compose.inputs.inverse_warp = 'inverse_warp.nii.gz'
    >>> resample = ResampleTransform(in_file=compose.run().outputs.t1w2std, spacing=2.0)
    >>> resample.inputs.reference_image = 'template_brain.nii.gz'
    >>> Path(resample.run().outputs.out_file).name
    't1w2std_resampled.h5'
    """

    input_spec = _ResampleTransformInputSpec
    output_spec = _ResampleTransformOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        import numpy as np

        from deepreg_wf.spatial import load_grid, read_composite, write_composite

        view = load_grid(self.inputs.reference_image).canonical()
        grid = view.resampled(self.inputs.spacing)
        transform = read_composite(self.inputs.in_file).resampled(grid)
        out_file = Path(runtime.cwd) / f'{Path(self.inputs.in_file).stem}_resampled.h5'
        write_composite(
            out_file,
            affine=transform.affine,
            warp=np.round(transform.warp * _STEPS) / _STEPS,
            grid=grid,
            affine_first=transform.affine_first,
        )
        self._results['out_file'] = str(out_file)
        return runtime


class _ApplyTransformsInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc='image to resample')
    reference_image = File(exists=True, mandatory=True, desc='image whose grid is filled')
    transform = File(
        exists=True,
        mandatory=True,
        desc='maps points of the reference to points of the image: '
        'composite (.h5) or affine (.txt, .tfm, .mat) of ITK',
    )
    interpolation = traits.Enum(
        'linear', 'nearest', 'cubic', usedefault=True, desc='nearest is for masks and labels'
    )
    default_value = traits.Float(0.0, usedefault=True, desc='value outside the image')


class _ApplyTransformsOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc='the image on the grid of the reference')


class ApplyTransforms(SimpleInterface):
    """Resample an image onto the grid of another through a transform, in a single step.

    With the interpolation 'nearest' an image of whole numbers keeps its data type; everything
    else becomes float32.

    Examples
    --------
    >>> apply = ApplyTransforms(in_file='T1w.nii.gz', reference_image='template_brain.nii.gz')
    >>> apply.inputs.transform = 'affine.txt'
    >>> Path(apply.run().outputs.out_file).name
    'T1w_resampled.nii.gz'
    """

    input_spec = _ApplyTransformsInputSpec
    output_spec = _ApplyTransformsOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from deepreg_wf.spatial import (
            load_grid,
            load_image,
            load_transform,
            resample,
            save_image,
        )
        from deepreg_wf.spatial.nifti import lossless_dtype

        data, source = load_image(self.inputs.in_file)
        target = load_grid(self.inputs.reference_image)
        resampled = resample(
            data,
            source,
            target,
            load_transform(self.inputs.transform),
            interpolation=self.inputs.interpolation,
            default_value=self.inputs.default_value,
        )
        nearest = self.inputs.interpolation == 'nearest'
        dtype = lossless_dtype(self.inputs.in_file) if nearest else 'float32'
        stem = Path(self.inputs.in_file).name.removesuffix('.gz').removesuffix('.nii')
        out_file = Path(runtime.cwd) / f'{stem}_resampled.nii.gz'
        save_image(out_file, resampled, target, dtype)
        self._results['out_file'] = str(out_file)
        return runtime
