"""The examples run, print their tables and save their figures."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        pytest.param(
            "plot_01_train_a_laser", "identity in place of the laser", marks=pytest.mark.slow
        ),  # two minutes: the README's first command runs it
        pytest.param("plot_02_bring_your_own_device", "the bank, physics-aware", marks=pytest.mark.slow),  # 30 s
        pytest.param(
            "plot_03_search_over_splits",
            "Best: {'network__control_split__input_fraction'",
            marks=pytest.mark.slow,  # a minute of both cores
        ),
        pytest.param("plot_04_seven_devices", "frozen model", marks=pytest.mark.slow),  # a minute
        pytest.param("plot_05_control_codes", "random codes, readout fitted", marks=pytest.mark.slow),  # 20 s
        pytest.param("plot_06_the_story", "In silico believed", marks=pytest.mark.slow),  # 40 s
        pytest.param("plot_07_out_of_the_lab", "recalibrated", marks=pytest.mark.slow),  # 40 s
        pytest.param("plot_08_watch_a_training", "stopped after", marks=pytest.mark.slow),  # 20 s
    ],
)
def test_example(name: str, printed: str, tmp_path: Path) -> None:
    script = tmp_path / f"{name}.py"  # a copy, so that its figure does not land among the sources
    script.write_text((EXAMPLES / script.name).read_text(encoding="utf-8"), encoding="utf-8")
    environment = os.environ | {"MPLBACKEND": "agg"}
    command = [sys.executable, "-W", "error", str(script)]
    result = subprocess.run(command, cwd=EXAMPLES.parent, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert printed in result.stdout
    if name == "plot_01_train_a_laser":
        assert script.with_suffix(".png").stat().st_size > 50_000
