"""Interfaces that store files in the output folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    Directory,
    File,
    SimpleInterface,
    Str,
    TraitedSpec,
    isdefined,
    traits,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_ENTITIES = (
    'datatype',
    'space',
    'cohort',
    'resolution',
    'desc',
    'suffix',
    'extension',
    'from_',
    'to',
    'mode',
)


class _DerivativesDataSinkInputSpec(BaseInterfaceInputSpec):
    base_directory = Directory(mandatory=True, desc='folder of the derivatives')
    in_file = File(exists=True, mandatory=True, desc='file to store')
    source_file = File(mandatory=True, desc='raw image, whose entities the file inherits')
    meta_dict = traits.Dict(desc='content of the sidecar; without it, none is written')
    dismiss_entities = traits.List(Str, desc='entities that the file does not inherit')
    datatype = traits.Enum('anat', 'figures', usedefault=True, desc='subfolder of the participant')
    space = Str(desc='space of the image; by default that of the raw image')
    cohort = Str(desc='cohort of the template')
    resolution = Str(desc='label of the resolution, if one was requested')
    desc = Str(desc='label that descriptions.tsv explains')
    suffix = Str(desc='by default that of the raw image')
    extension = Str(desc='by default that of in_file')
    from_ = Str(desc='space of the images that a transform resamples')
    to = Str(desc='space onto which a transform resamples images')
    mode = Str(desc='type of data to which a transform applies')


class _DerivativesDataSinkOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc='stored file')
    out_meta = File(exists=True, desc='sidecar of the stored file')


class DerivativesDataSink(SimpleInterface):
    """Store a file among the derivatives, under a name made of its entities.

    The inputs are those of the interface of the same name in niworkflows. Unlike that one, it
    makes only names that ``data/io_patterns.json`` allows, never ignores an entity, and writes
    files atomically. NIfTI images are compressed, and get the sform and qform codes of their
    space.

    Examples
    --------
    >>> sink = DerivativesDataSink(base_directory='out', desc='brain', suffix='mask')
    >>> sink.inputs.datatype
    'anat'
    """

    input_spec = _DerivativesDataSinkInputSpec
    output_spec = _DerivativesDataSinkOutputSpec
    # The user may have deleted the derivatives and kept the work folder.
    _always_run = True

    def _run_interface(self, runtime: Any) -> Any:
        from deepreg_wf.utils.atomic import atomic_write, write_json

        target = Path(self.inputs.base_directory).absolute() / self._relative_path()
        with atomic_write(target) as temporary:
            _store(Path(self.inputs.in_file), temporary, self._xform_code())
        self._results['out_file'] = str(target)
        if isdefined(self.inputs.meta_dict):
            sidecar = target.with_name(f'{target.name.split(".")[0]}.json')
            write_json(sidecar, self.inputs.meta_dict)
            self._results['out_meta'] = str(sidecar)
        return runtime

    def _relative_path(self) -> Path:
        from deepreg_wf.bids.entities import derivative_path

        name = Path(self.inputs.in_file)
        is_image = name.name.endswith(('.nii', '.nii.gz'))
        entities: dict[str, str | None] = {'extension': '.nii.gz' if is_image else name.suffix}
        if isdefined(self.inputs.dismiss_entities):
            entities |= dict.fromkeys(self.inputs.dismiss_entities)
        given = {key: getattr(self.inputs, key) for key in _ENTITIES}
        entities |= {key: value for key, value in given.items() if isdefined(value)}
        return derivative_path(self.inputs.source_file, **entities)

    def _xform_code(self) -> str:
        """Return the NIfTI code of the space, as in niworkflows."""
        if not isdefined(self.inputs.space):
            return 'scanner'
        return 'mni' if self.inputs.space.startswith('MNI') else 'aligned'


class _StoreFileInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc='file to store')
    out_file = File(mandatory=True, desc='absolute path of the copy')


class _StoreFileOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc='stored file')


class StoreFile(SimpleInterface):
    """Copy a file out of the work folder, atomically.

    Examples
    --------
    >>> store = StoreFile(out_file='/out/brain.nii.gz')
    """

    input_spec = _StoreFileInputSpec
    output_spec = _StoreFileOutputSpec
    # The user may have deleted the copy and kept the work folder.
    _always_run = True

    def _run_interface(self, runtime: Any) -> Any:
        from deepreg_wf.utils.atomic import atomic_write

        with atomic_write(self.inputs.out_file) as temporary:
            shutil.copyfile(self.inputs.in_file, temporary)
        self._results['out_file'] = self.inputs.out_file
        return runtime


def _store(source: Path, temporary: Path, code: str) -> None:
    """Copy a file; the copy of an image gets the code of its space."""
    if not temporary.name.endswith('.nii.gz'):
        shutil.copyfile(source, temporary)
        return
    import nibabel as nb

    image = nb.Nifti1Image.from_filename(source)
    image.set_sform(image.affine, code)
    image.set_qform(image.affine, code if _is_orthogonal(image.affine) else 'unknown')
    image.header.set_xyzt_units('mm')
    image.to_filename(temporary)


def _is_orthogonal(affine: NDArray[np.float64]) -> bool:
    """Check whether an affine has no shear, so that a qform can represent it."""
    import numpy as np

    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.allclose(axes.T @ axes, np.eye(3), atol=1e-4))
