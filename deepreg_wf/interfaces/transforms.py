"""Interfaces that compose transforms, resample their fields and apply them."""

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

from deepreg_wf.errors import InputError


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
    anat2std_xfm = File(exists=True, desc='composite that resamples the T1w onto the template')
    std2anat_xfm = File(exists=True, desc='composite that resamples the template onto the T1w')


class ComposeTransforms(SimpleInterface):
    """Compose an affine and the fields of a deformation into one ITK composite per direction.

    ``anat2std_xfm`` maps template points to T1w points by the field and then the affine.
    ``std2anat_xfm`` maps T1w points to template points by the inverse affine and then the field.

    Examples
    --------
    >>> compose = ComposeTransforms(affine='affine.txt', warp='warp.nii.gz')
    >>> compose.inputs.inverse_warp = 'inverse_warp.nii.gz'
    >>> Path(compose.run().outputs.anat2std_xfm).name
    'anat2std_xfm.h5'
    """

    input_spec = _ComposeTransformsInputSpec
    output_spec = _ComposeTransformsOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        import numpy as np

        from deepreg_wf.spatial import load_affine, load_displacement, save_composite

        folder = Path(runtime.cwd)
        affine = load_affine(self.inputs.affine)
        warp, grid = load_displacement(self.inputs.warp)
        forward, backward = folder / 'anat2std_xfm.h5', folder / 'std2anat_xfm.h5'
        save_composite(forward, affine=affine, warp=warp, grid=grid)
        warp, grid = load_displacement(self.inputs.inverse_warp)
        inverse = np.linalg.inv(affine)
        save_composite(backward, affine=inverse, warp=warp, grid=grid, affine_first=True)
        self._results |= {'anat2std_xfm': str(forward), 'std2anat_xfm': str(backward)}
        return runtime


_STEPS_PER_VOXEL = 1024
"""Resolution of the stored displacements; the rounding makes files a third of the size."""


class _ResampleTransformInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc='composite (.h5) with a displacement field')
    reference_image = File(
        exists=True, mandatory=True, desc='image whose field of view the field covers'
    )
    spacing = traits.Range(
        0.1, 10.0, 1.0, usedefault=True, desc='distance between the vectors of the field, in mm'
    )


class _ResampleTransformOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc='same transform, with its field on the new grid')


class ResampleTransform(SimpleInterface):
    """Resample the displacement field of a composite onto the grid that other programs expect.

    From 24.0 until August 2025, fMRIPrep reads only fields with voxels of 1 mm along R, A and S.
    ANTs, SimpleITK and nitransforms read any field.

    Raises
    ------
    InputError
        If the composite has no displacement field.

    Examples
    --------
    >>> compose = ComposeTransforms(affine='affine.txt', warp='warp.nii.gz')
    >>> compose.inputs.inverse_warp = 'inverse_warp.nii.gz'
    >>> resample = ResampleTransform(in_file=compose.run().outputs.anat2std_xfm, spacing=2.0)
    >>> resample.inputs.reference_image = 'template_brain.nii.gz'
    >>> Path(resample.run().outputs.out_file).name
    'anat2std_xfm_resampled.h5'
    """

    input_spec = _ResampleTransformInputSpec
    output_spec = _ResampleTransformOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        import numpy as np

        from deepreg_wf.spatial import load_composite, load_grid, save_composite

        field_of_view = load_grid(self.inputs.reference_image).canonical()
        grid = field_of_view.resampled(self.inputs.spacing)
        transform = load_composite(self.inputs.in_file)
        if transform.warp is None:
            raise InputError(
                'the composite has no displacement field',
                advice='give one that has',
                path=self.inputs.in_file,
            )
        transform = transform.resampled(grid)
        warp = np.asarray(transform.warp)
        out_file = Path(runtime.cwd) / f'{Path(self.inputs.in_file).stem}_resampled.h5'
        save_composite(
            out_file,
            affine=transform.affine,
            warp=np.round(warp * _STEPS_PER_VOXEL) / _STEPS_PER_VOXEL,
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
        desc='map of points of the reference to points of the image: '
        'composite (.h5) or affine (.txt, .tfm, .mat) of ITK',
    )
    interpolation = traits.Enum(
        'linear', 'nearest', 'cubic', usedefault=True, desc='nearest for masks and labels'
    )
    default_value = traits.Float(0.0, usedefault=True, desc='value outside the image')


class _ApplyTransformsOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc='the image on the grid of the reference')


class ApplyTransforms(SimpleInterface):
    """Resample an image onto the grid of another through a transform, in a single step.

    With the interpolation 'nearest' an image of integers keeps its data type; all other results
    are float32.

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
