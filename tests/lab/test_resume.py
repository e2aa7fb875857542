"""``kill -9`` at random moments of a fit: nothing acknowledged is measured twice, and the weights are the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import skpat


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and kill -9")
@pytest.mark.parametrize("n_kills", [3, pytest.param(100, marks=pytest.mark.slow)])
def test_a_fit_killed_at_random_moments_goes_on_where_it_was(tmp_path: Path, n_kills: int) -> None:
    root = Path(skpat.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("kill_nine.py")), str(tmp_path), str(n_kills), "0"],
        env=os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "SKPAT_LOCK_DIR": str(tmp_path / "locks")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    counted = json.loads(done.stdout)
    assert counted["kills"] >= n_kills
    assert counted["differing"] == 0  # the weights of every run are those of the uninterrupted one, bit for bit
