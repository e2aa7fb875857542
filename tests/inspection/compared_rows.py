"""Rows of a comparison that are made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np

from skpat.inspection.comparison_report import ComparisonRow


def row(name: str, scores: Any, **changes: Any) -> ComparisonRow:
    parts: dict[str, Any] = {"uses_device": False, "shots": {"calibration": 0, "training": 0, "validation": 0}}
    parts |= {"n_shots_per_prediction": 0, "operations": 10.0, "n_parameters": 5, "test_to_train": 0.25}
    return ComparisonRow(name, f"the {name} one", np.array(scores, dtype=float), **(parts | changes))


# ---- what is compared ----
