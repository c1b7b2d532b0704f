"""Where derivatives leave the workflow: the sink that names, labels and stores them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

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
    in_file = File(exists=True, mandatory=True, desc='the file to be stored')
    source_file = File(mandatory=True, desc='the raw image, whose entities are passed down')
    meta_dict = traits.Dict(desc='content of the sidecar; none is written without it')
    dismiss_entities = traits.List(Str, desc='entities of the raw image not passed down')
    datatype = traits.Enum('anat', 'figures', usedefault=True, desc='folder')
    space = Str(desc='space of the image; that of the raw image if not given')
    cohort = Str(desc='cohort of the template')
    resolution = Str(desc='label of the resolution, where one was asked for')
    desc = Str(desc='description, a row of descriptions.tsv')
    suffix = Str(desc='by default that of the raw image')
    extension = Str(desc='by default that of in_file')
    from_ = Str(desc='space that a transform takes images from')
    to = Str(desc='space that a transform takes images to')
    mode = Str(desc='what a transform applies to')


class _DerivativesDataSinkOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc='the stored file')
    out_meta = File(exists=True, desc='its sidecar')


class DerivativesDataSink(SimpleInterface):
    """Store a file among the derivatives, under the name that its entities give it.

    The grammar is that of niworkflows' sink of the same name. This one names only what
    ``data/io_patterns.json`` covers, drops no entity silently, and never leaves half a file
    under a final name. NIfTI images are stored compressed, with the codes of their space.

    Examples
    --------
    >>> sink = DerivativesDataSink(base_directory='out', desc='brain', suffix='mask')
    >>> sink.inputs.datatype
    'anat'
    """

    input_spec = _DerivativesDataSinkInputSpec
    output_spec = _DerivativesDataSinkOutputSpec
    # The derivatives may have been deleted while the working directory was kept.
    _always_run = True

    def _run_interface(self, runtime: Any) -> Any:
        from deepreg_wf.bids.entities import write_json
        from deepreg_wf.utils.atomic import atomic_write

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
        """The NIfTI code of the space, as niworkflows gives it."""
        if not isdefined(self.inputs.space):
            return 'scanner'
        return 'mni' if self.inputs.space.startswith('MNI') else 'aligned'


class _StoreFileInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc='the file to be stored')
    out_file = File(mandatory=True, desc='where, an absolute path')


class _StoreFileOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc='the stored file')


class StoreFile(SimpleInterface):
    """Copy a file out of the working directory, whole or not at all.

    Examples
    --------
    >>> store = StoreFile(out_file='/out/brain.nii.gz')
    """

    input_spec = _StoreFileInputSpec
    output_spec = _StoreFileOutputSpec
    # It may have been deleted while the working directory was kept.
    _always_run = True

    def _run_interface(self, runtime: Any) -> Any:
        from deepreg_wf.utils.atomic import atomic_write

        with atomic_write(self.inputs.out_file) as temporary:
            shutil.copyfile(self.inputs.in_file, temporary)
        self._results['out_file'] = self.inputs.out_file
        return runtime


def _store(source: Path, temporary: Path, code: str) -> None:
    """Copy a file; an image gets the code of its space on the way."""
    if not temporary.name.endswith('.nii.gz'):
        shutil.copyfile(source, temporary)
        return
    import nibabel as nb

    image = nb.Nifti1Image.from_filename(source)
    image.set_sform(image.affine, code)
    image.set_qform(image.affine, code if _is_orthogonal(image.affine) else 'unknown')
    image.header.set_xyzt_units('mm')
    image.to_filename(temporary)


def _is_orthogonal(affine: Any) -> bool:
    """Tell whether a qform, which cannot shear, can hold the affine."""
    import numpy as np

    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.allclose(axes.T @ axes, np.eye(3), atol=1e-4))
