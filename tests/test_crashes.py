"""Facts of failed steps, and the files that keep them."""

from __future__ import annotations

import errno
from pathlib import Path
from traceback import format_exception

import nibabel as nb
import pytest
from nipype import config
from nipype.interfaces import utility as niu
from nipype.interfaces.base import BaseInterface
from nipype.pipeline import engine as pe

from deepreg_wf.engine.crashes import (
    ErrorRecord,
    WorkerDied,
    describe_exception,
    parse_traceback,
    read_crashes,
    write_facts,
)
from deepreg_wf.engine.worker import run_node
from deepreg_wf.errors import InputError

ERRORS = (
    InputError('the mask is empty', advice='give another', path='m.nii'),
    ValueError('odd\nOdder: indeed'),
    MemoryError(),
    OSError(errno.ENOSPC, 'No space left on device', 'x.h5'),
    nb.filebasedimages.ImageFileError('not: an image'),
    WorkerDied('it was killed'),
)


def describe(error: BaseException) -> ErrorRecord:
    try:
        raise error
    except type(error):
        return describe_exception(error, traceback=''.join(format_exception(error)))


def test_the_fields_of_an_input_error_are_recorded() -> None:
    record = describe(ERRORS[0])
    assert (record.problem, record.advice, record.path) == (
        'the mask is empty',
        'give another',
        'm.nii',
    )
    assert record.reason == 'm.nii: the mask is empty; give another.'
    assert record.is_input_error


def test_an_input_error_is_known_by_its_type_and_not_by_words() -> None:
    record = describe(ValueError('InputError: the mask is empty.'))
    assert not record.is_input_error
    assert record.reason == 'ValueError: InputError: the mask is empty.'
    assert not parse_traceback(record.traceback).is_input_error


def test_a_lack_of_memory_is_recorded() -> None:
    gpu = type('OutOfMemoryError', (RuntimeError,), {})('CUDA out of memory.')
    for error, is_gpu_error in ((MemoryError(), False), (gpu, True)):
        record = describe(error)
        assert (record.is_out_of_memory, record.is_gpu_error) == (True, is_gpu_error)
        assert record.reason.startswith('there is not enough memory (')
    assert not describe(ValueError('odd')).is_out_of_memory


@pytest.mark.parametrize('error', ERRORS, ids=lambda error: type(error).__name__)
def test_a_traceback_has_the_same_facts(error: BaseException) -> None:
    """Nipype nests the traceback of an interface in that of its own error."""
    record = describe(error)
    nested = ''.join('\t' + line for line in record.traceback.splitlines(keepends=True))
    head = 'Traceback (most recent call last):\n'
    text = f'{head}  File "x.py", line 1, in run\nNodeExecutionError: Exception raised.\n\n'
    for traceback in (record.traceback, f'{text}Traceback:\n{nested}'):
        read = parse_traceback(traceback)
        for name in ('type_name', 'message', 'reason', 'is_input_error', 'is_out_of_memory'):
            assert getattr(read, name) == getattr(record, name), name


def test_facts_are_read_from_the_file_beside_a_crash_file(tmp_path: Path) -> None:
    record = describe(ERRORS[0])
    path = tmp_path / 'crash-1.txt'
    path.write_text(f'Node: a.b.step\nWorking directory: /w\n\n{record.traceback}')
    (without,) = read_crashes(tmp_path)
    assert (without.node, without.step, without.error.path) == ('a.b.step', 'step', None)
    assert without.error.is_input_error
    write_facts(path, record)
    (crash,) = read_crashes(tmp_path)
    assert (crash.reason, crash.error.path) == (record.reason, 'm.nii')
    assert crash.traceback == record.traceback.strip()


def _fail(number: int) -> int:
    from deepreg_wf.errors import InputError

    raise InputError('number is wrong', advice='give another', path=f'{number}.nii')


def make_node(folder: Path) -> pe.Node:
    node = pe.Node(niu.Function(function=_fail), name='fail', base_dir=str(folder))
    node.inputs.number = 3
    return node


def test_the_exception_of_an_interface_is_described(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(config._config['execution'], 'create_report', 'false')
    method = niu.Function._run_interface
    record = run_node(make_node(tmp_path))
    assert record is not None
    assert (record.type_name, record.path) == ('InputError', '3.nii')
    assert 'NodeExecutionError' in record.traceback
    assert niu.Function._run_interface is method


def test_an_exception_outside_of_the_interface_is_described(tmp_path: Path) -> None:
    node = make_node(tmp_path / 'file')
    (tmp_path / 'file').touch()
    record = run_node(node)
    assert record is not None
    assert record.type_name in ('FileExistsError', 'NotADirectoryError')


class Inherited(niu.IdentityInterface):
    """An interface without a method of its own."""


def test_an_interface_that_inherits_its_method_is_left_as_it_was(tmp_path: Path) -> None:
    node = pe.Node(Inherited(['x']), name='same', base_dir=str(tmp_path))
    node.inputs.x = 1
    assert run_node(node) is None
    assert '_run_interface' not in vars(Inherited)
    assert issubclass(Inherited, BaseInterface)
