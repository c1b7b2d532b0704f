"""Geometry and files: voxel grids, transforms, what is stored of them, and resampling.

Points are in RAS+ millimetres, the world of NIfTI. ITK's LPS appears in files only.
"""

from __future__ import annotations

from deepreg_wf.spatial.grid import VoxelGrid
from deepreg_wf.spatial.itk import (
    load_affine,
    load_chain,
    load_transform,
    read_composite,
    save_affine,
    write_composite,
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
from deepreg_wf.spatial.transform import Chain, Transform

__all__ = [
    'Chain',
    'Transform',
    'VoxelGrid',
    'load_affine',
    'load_chain',
    'load_displacement',
    'load_grid',
    'load_image',
    'load_transform',
    'load_vector',
    'read_composite',
    'resample',
    'save_affine',
    'save_displacement',
    'save_image',
    'save_vector',
    'write_composite',
]
