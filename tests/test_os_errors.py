"""Hints for errors of the operating system, from exceptions and from their texts."""

from __future__ import annotations

import errno
import os

import pytest

from deepreg_wf.utils.os_errors import explain, explain_exception, find_hint, is_out_of_memory

CODES = {
    errno.ENOMEM: 'there is not enough memory',
    errno.ENOSPC: 'the disk is full',
    errno.EDQUOT: 'the disk is full',
    errno.EIO: 'the disk cannot be reached or is failing',
    errno.EACCES: 'a file may not be read or written',
    errno.EROFS: 'the disk can only be read',
}


@pytest.mark.parametrize('code', CODES)
def test_an_exception_and_its_text_have_the_same_explanation(code: int) -> None:
    error = OSError(code, os.strerror(code), 'x.h5')
    assert explain_exception(error).startswith(f'{CODES[code]} ({error}); ')
    assert explain(str(error)) == explain_exception(error)


def test_the_code_counts_and_not_the_name_of_the_file() -> None:
    error = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), 'out of memory.nii')
    assert find_hint(error) is None
    assert explain_exception(error) == str(error)


@pytest.mark.parametrize(
    'error',
    [
        MemoryError(),
        type('OutOfMemoryError', (RuntimeError,), {})('CUDA'),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        OSError(errno.ENOMEM, 'Cannot allocate memory'),
    ],
    ids=['python', 'gpu', 'cpu', 'system'],
)
def test_lack_of_memory_is_recognised(error: BaseException) -> None:
    assert is_out_of_memory(error)
    assert is_out_of_memory(f'{type(error).__name__}: {error}')


def test_other_errors_are_returned_as_they_are() -> None:
    assert not is_out_of_memory(ValueError('odd'))
    assert explain_exception(ValueError('odd')) == explain('odd') == 'odd'
