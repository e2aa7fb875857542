"""Names of rows that are worked out when a device asks for them: a simulated one does, an instrument does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from skpat.controls import ControlBatch

__all__ = ["BatchNamedOnDemand"]


class BatchNamedOnDemand(ControlBatch):
    """A ControlBatch whose ``row_keys`` are there when they are looked at, and cost nothing before.

    Hashing takes a fifth of the time of a prediction of one row.
    """

    @classmethod
    def of(cls, batch: ControlBatch, name_rows: Callable[[], np.ndarray], shot: int = 0) -> BatchNamedOnDemand:
        """The same settings; ``name_rows()`` gives the keys (n_rows,)."""
        other = object.__new__(cls)
        other.__dict__.update(batch.__dict__, shot=shot, _name_rows=name_rows)
        del other.__dict__["row_keys"]
        return other

    @property
    def row_keys(self) -> np.ndarray | None:
        state = self.__dict__
        if "row_keys" not in state:
            state["row_keys"] = state["_name_rows"]()
        return state["row_keys"]

    @row_keys.setter
    def row_keys(self, row_keys: np.ndarray | None) -> None:  # for dataclasses.replace
        self.__dict__["row_keys"] = row_keys

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__ | {"row_keys": self.row_keys}
        state.pop("_name_rows", None)
        return state
