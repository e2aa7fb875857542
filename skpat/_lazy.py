"""Public names loaded when first used, so that importing skpat costs next to nothing and never imports torch."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any


def attach(package: str, names: dict[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """The module-level ``__getattr__``, ``__dir__`` and ``__all__`` of a package whose names live elsewhere (PEP 562).

    Parameters
    ----------
    package : str
        The package's ``__name__``.
    names : dict of str to str
        Public name to the module that defines it.
    """

    def load(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(names[name]), name)

    def listing() -> list[str]:
        return sorted(names)

    return load, listing, sorted(names)
