"""Errors that are shown to the user, each as one clear sentence."""

from __future__ import annotations

from os import PathLike, fspath
from typing import Any


class InputError(ValueError):
    """Error of the input, with the problem, the advice and the file as fields.

    As text it reads ``PATH: PROBLEM; ADVICE.``, without the parts that are not given.

    Parameters
    ----------
    problem : str
        What is wrong, without the name of the file.
    advice : str, optional
        What the user can do about it.
    path : path-like, optional
        The file or folder that is at fault.

    Examples
    --------
    >>> str(InputError('the mask is empty', advice='give one that marks the brain', path='m.nii'))
    'm.nii: the mask is empty; give one that marks the brain.'
    """

    def __init__(
        self, problem: str, *, advice: str = '', path: str | PathLike[str] | None = None
    ) -> None:
        self.problem = problem.rstrip('.')
        self.advice = advice.rstrip('.')
        self.path = None if path is None else fspath(path)
        where = f'{self.path}: ' if self.path is not None else ''
        super().__init__(f'{where}{"; ".join(filter(None, (self.problem, self.advice)))}.')

    def at(self, path: str | PathLike[str]) -> InputError:
        """Return the same error with the file that is at fault.

        Parameters
        ----------
        path : path-like
            The file or folder.

        Returns
        -------
        InputError
            The error, to be raised.
        """
        return type(self)(self.problem, advice=self.advice, path=path)

    def __reduce__(self) -> tuple[Any, ...]:
        """Return the fields, so that processes can send the error to each other."""
        return _restore, (type(self), self.problem, self.advice, self.path)


def _restore(cls: type[InputError], problem: str, advice: str, path: str | None) -> InputError:
    """Rebuild an error that was sent from another process."""
    return cls(problem, advice=advice, path=path)
