"""What the benchmark scripts share: no run is made twice, and none is lost."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.runs import add_arguments, read_results, run_cases


def doubled(number: int) -> dict[str, Any]:
    return {"number": number, "twice": 2 * number}


def script(path: Path, wanted: range) -> list[int]:
    """Like the scripts: the runs that are not there yet are made; their numbers."""
    parser = argparse.ArgumentParser()
    add_arguments(parser, "runs.jsonl")
    arguments = parser.parse_args(["--results", str(path), "--jobs", "1"])
    done = {result["number"] for result in read_results(path)}
    return [result["number"] for result in run_cases(doubled, [(n,) for n in wanted if n not in done], arguments)]


@pytest.mark.parametrize("n_lost", [1, 2, 15])
def test_a_half_written_line_costs_its_own_run_only(tmp_path: Path, n_lost: int, capsys: Any) -> None:
    path = tmp_path / "runs.jsonl"
    assert script(path, range(3)) == [0, 1, 2]
    path.write_bytes(path.read_bytes()[:-n_lost])
    assert script(path, range(4)) == ([3] if n_lost == 1 else [2, 3])  # without its end of line a run is still whole
    said = capsys.readouterr().out
    assert ("runs.jsonl, line 3 is no complete run" in said) == (n_lost > 1)
    assert script(path, range(4)) == []
    assert sorted(result["number"] for result in read_results(path)) == [0, 1, 2, 3]
    assert json.loads(path.read_text().splitlines()[-1]) == doubled(3)


def test_without_a_file_nothing_is_known(tmp_path: Path) -> None:
    assert read_results(tmp_path / "none.jsonl") == []
