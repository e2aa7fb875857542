"""Nested parameters ``outer__inner`` of an ``outer`` that is a plain value: refused in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from skpat.exceptions import NestedParameterError

__all__ = ["refuse_nested_of_plain"]


def refuse_nested_of_plain(owner: Any, params: Mapping[str, Any], fixes: Mapping[str, str]) -> None:
    """Raise if ``set_params(**params)`` would reach for a parameter of something that has none.

    Parameters
    ----------
    owner : estimator
        Whose parameters are to be set.
    params : dict
        As ``set_params`` gets them.
    fixes : dict of str to str
        What to construct the owner with instead, for each parameter that may be nested.

    Raises
    ------
    NestedParameterError
        If ``outer__inner`` is among them while ``outer`` is a plain value.
    """
    for name in params:
        outer, nested, _ = name.partition("__")
        value = params.get(outer, getattr(owner, outer, None))
        if nested and outer in fixes and not hasattr(value, "set_params"):
            raise NestedParameterError(
                f"{name!r} cannot be set: {outer!r} is {value!r}, which has no parameters. Construct the "
                f"{type(owner).__name__} with {fixes[outer]} first."
            )
