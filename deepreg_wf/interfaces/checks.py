"""Interfaces that end the processing of an image whose result is implausible."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    Str,
    TraitedSpec,
    isdefined,
)

from deepreg_wf.errors import InputError

Value = TypeVar('Value')


def run_check(check: Callable[[Value], object], value: Value) -> InputError | None:
    """Run a check that raises `InputError` and return the error, None if the check passes."""
    try:
        check(value)
    except InputError as error:
        return error
    return None


def error_outputs(error: InputError | None) -> dict[str, str]:
    """Return an error as the outputs `problem` and `advice` of an interface."""
    return {} if error is None else {'problem': error.problem, 'advice': error.advice}


class _RaiseIfImplausibleInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc='file that is passed on')
    problem = Str(desc='reason why the result is implausible; not set if it is plausible')
    advice = Str(desc='what the user can do about it')
    source_file = File(desc='raw image, which the error names')


class _RaiseIfImplausibleOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc='the same file')


class RaiseIfImplausible(SimpleInterface):
    """Pass a file on, or raise an error if it is implausible.

    The interface that made the file reports the problem and does not raise it, so that a figure of
    the implausible result can be drawn.

    Examples
    --------
    >>> from pathlib import Path
    >>> check = RaiseIfImplausible(in_file='brain_mask.nii.gz')
    >>> Path(check.run().outputs.out_file).name
    'brain_mask.nii.gz'
    """

    input_spec = _RaiseIfImplausibleInputSpec
    output_spec = _RaiseIfImplausibleOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        inputs = self.inputs
        if isdefined(inputs.problem):
            path = inputs.source_file if isdefined(inputs.source_file) else inputs.in_file
            advice = inputs.advice if isdefined(inputs.advice) else ''
            raise InputError(inputs.problem, advice=advice, path=path)
        self._results['out_file'] = inputs.in_file
        return runtime
