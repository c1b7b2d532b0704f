"""Geometry and files: voxel grids, transforms, image and transform files, and resampling.

Points are in RAS+ millimetres, as in NIfTI. The LPS convention of ITK is used in files only.
"""

from __future__ import annotations

from deepreg_wf.spatial.grid import VoxelGrid
from deepreg_wf.spatial.itk import (
    load_affine,
    load_chain,
    load_composite,
    load_transform,
    save_affine,
    save_composite,
)
from deepreg_wf.spatial.nifti import (
    load_displacement,
    load_grid,
    load_image,
    load_vector,
    save_displacement,
    save_image,
    save_vector,
)
from deepreg_wf.spatial.resample import resample
from deepreg_wf.spatial.transform import Transform, TransformChain

__all__ = [
    'Transform',
    'TransformChain',
    'VoxelGrid',
    'load_affine',
    'load_chain',
    'load_composite',
    'load_displacement',
    'load_grid',
    'load_image',
    'load_transform',
    'load_vector',
    'resample',
    'save_affine',
    'save_composite',
    'save_displacement',
    'save_image',
    'save_vector',
]
