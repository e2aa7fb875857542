"""ruff and the type checker are part of the test run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLACES = ["skpat", "tests", "examples", "docs"]


@pytest.mark.parametrize(
    "command",
    [["ruff", "check", *PLACES], ["ruff", "format", "--check", *PLACES], ["mypy", "--cache-dir", "/dev/null"]],
    ids=["lint", "format", "types"],
)
def test_the_code_passes(command: list[str]) -> None:
    result = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
