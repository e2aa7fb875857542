"""Many combinations of parameters of which few run by default."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import pytest


def mostly_slow(few: Iterable[tuple[Any, ...]], *values: Iterable[Any]) -> list[Any]:
    """All combinations of the values for ``parametrize``; those not among the few run with the slow tests."""
    few, whole = list(few), list(itertools.product(*values))
    assert all(combination in whole for combination in few)
    return [pytest.param(*each, marks=() if each in few else pytest.mark.slow) for each in whole]
