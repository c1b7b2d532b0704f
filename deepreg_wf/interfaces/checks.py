"""Ending the way of an image where a result cannot be right, once there is a picture of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    Str,
    TraitedSpec,
    isdefined,
)

from deepreg_wf.errors import InputError


def doubt_of(check: Callable[[Any], Any], found: Any) -> str:
    """What a check that raises `InputError` has against something; empty if nothing."""
    try:
        check(found)
    except InputError as error:
        return str(error)
    return ''


class _StopOnDoubtInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc='what is passed on')
    doubt = Str(mandatory=True, desc='why it is not to be; empty where nothing speaks against it')
    source_file = File(desc='raw image, by whose name errors call it')


class _StopOnDoubtOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc='the same file')


class StopOnDoubt(SimpleInterface):
    """Pass a file on, or end the way of an image in one sentence.

    What raised the doubt has written its results, so that a picture of them can be drawn.

    Examples
    --------
    >>> stop = StopOnDoubt(in_file='brain_mask.nii.gz', doubt='')
    >>> Path(stop.run().outputs.out_file).name
    'brain_mask.nii.gz'
    """

    input_spec = _StopOnDoubtInputSpec
    output_spec = _StopOnDoubtOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        inputs = self.inputs
        if inputs.doubt:
            name = inputs.source_file if isdefined(inputs.source_file) else inputs.in_file
            raise InputError(f'{name}: {inputs.doubt}')
        self._results['out_file'] = inputs.in_file
        return runtime
