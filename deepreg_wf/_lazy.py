"""Packages whose public names are imported only when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_exports(
    package: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Give a package the ``__getattr__`` and ``__dir__`` that import names on demand.

    Parameters
    ----------
    package : str
        Full name of the package.
    homes : mapping of str to str
        For each public name the module, relative to the package, where it is defined.

    Returns
    -------
    getter, lister : callable
        To be bound to ``__getattr__`` and ``__dir__`` in the package.
    """

    def getter(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f'module {package!r} has no attribute {name!r}')
        return getattr(import_module(f'{package}.{homes[name]}'), name)

    return getter, lambda: sorted(homes)
