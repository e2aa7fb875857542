"""What the benchmarks share: runs, each one line of JSON in a file, that are not repeated; and data that lie elsewhere."""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import joblib
import numpy as np
import sklearn

__all__ = [
    "accuracy_and_shots",
    "add_arguments",
    "add_legend",
    "curve_style",
    "find_data",
    "read_results",
    "result_of_states",
    "run_cases",
    "run_devices",
]


def add_arguments(parser: argparse.ArgumentParser, results: str, jobs: int = 2) -> None:
    """Where the runs stand, whether more are wanted, and how many at a time."""
    parser.add_argument("--jobs", type=int, default=jobs)
    parser.add_argument("--results", type=Path, default=Path(results), help="a file of runs, one line of JSON each")
    parser.add_argument(
        "--only-print", action="store_true", help="run nothing more: the table of the runs that are there"
    )


def read_results(path: Path) -> list[dict[str, Any]]:
    """The runs that stand in a file; none where there is no file.

    A line that a full disk or a power cut has left half written is told of, and its run is made again.
    """
    results = []
    for number, line in enumerate(path.read_text().splitlines() if path.exists() else [], 1):
        try:
            results.append(json.loads(line))
        except json.JSONDecodeError:
            print(f"{path}, line {number} is no complete run and is left out: {line[:60]!r}", flush=True)
    return results


def run_cases(
    run: Callable[..., dict[str, Any]], cases: Iterable[tuple[Any, ...]], arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """``run(*case)`` for each case, ``arguments.jobs`` at a time; each result is printed and on disk as soon as it is there.

    ``arguments`` are those of a parser that :func:`add_arguments` has seen: with ``--only-print`` nothing is run.
    """
    results: list[dict[str, Any]] = []
    if arguments.only_print:
        return results
    for result in joblib.Parallel(n_jobs=arguments.jobs, return_as="generator_unordered")(
        joblib.delayed(run)(*case) for case in cases
    ):
        line = json.dumps(result)
        print(line, flush=True)
        with arguments.results.open("a+b") as file:
            file.write((b"" if _is_at_line_start(file) else b"\n") + line.encode() + b"\n")
        results.append(result)
    return results


def _is_at_line_start(file: BinaryIO) -> bool:
    """Whether what is written at the end of a file begins a line."""
    if not file.seek(0, os.SEEK_END):
        return True
    file.seek(-1, os.SEEK_END)
    return file.read() == b"\n"


def run_devices(
    run: Callable[[str, int], dict[str, Any]],
    devices: Sequence[str],
    states: Sequence[str],
    description: str,
    results: str,
) -> None:
    """A benchmark of devices and seeds, all of it: ``run(device, seed)`` has accuracy and shots of each of the states."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--devices", nargs="*", default=list(devices), choices=list(devices))
    parser.add_argument("--seeds", type=int, default=10)
    add_arguments(parser, results)
    arguments = parser.parse_args()
    known = read_results(arguments.results)
    done = {(r["device"], r["seed"]) for r in known}
    cases = [(name, seed) for seed in range(arguments.seeds) for name in arguments.devices if (name, seed) not in done]
    known += run_cases(run, cases, arguments)
    print(f"\nscikit-learn {sklearn.__version__}, {platform.machine()}, seeds 0 to {arguments.seeds - 1}")
    print(f"{'device':<13}{'state':<24}{'accuracy':>14}{'shots':>10}")
    for name in arguments.devices:
        rows = [r for r in known if r["device"] == name and r["seed"] < arguments.seeds]
        for state in states if rows else ():
            accuracy = 100 * np.array([r["accuracy"][state] for r in rows])
            error = accuracy.std(ddof=1) / np.sqrt(len(rows)) if len(rows) > 1 else np.nan
            shots = int(np.median([r["shots"][state] for r in rows]))
            print(f"{name:<13}{state:<24}{accuracy.mean():>7.1f} ± {error:.1f} %{shots:>10,}")


def result_of_states(
    device: str, seed: int, begun: float, accuracy: dict[str, float], shots: dict[str, int], **more: Any
) -> dict[str, Any]:
    """What a run for :func:`run_devices` returns; ``begun``: time.perf_counter() at its start."""
    return {
        "device": device,
        "seed": seed,
        "accuracy": {state: round(float(value), 4) for state, value in accuracy.items()},
        "shots": shots,
        **more,
        "seconds": round(time.perf_counter() - begun, 1),
    }


def accuracy_and_shots(results: list[dict[str, Any]]) -> str:
    """The end of a table's line: mean accuracy over runs and its standard error, median shots of calibration and training."""
    accuracy = 100 * np.array([r["accuracy"] for r in results])
    error = accuracy.std(ddof=1) / np.sqrt(len(results)) if len(results) > 1 else np.nan
    shots = [int(np.median([r[f"{kind}_shots"] for r in results])) for kind in ("calibration", "training")]
    return f"{accuracy.mean():>7.1f} ± {error:.1f} %{shots[0]:>13,}{shots[1]:>10,}"


def find_data(data_home: str | None, name: str, holds: str) -> Path:
    """The path of a file that is no part of the repository.

    Parameters
    ----------
    data_home : str or None
        The folder. None: ``SKPAT_DATA_HOME``.
    name : str
        Of the file.
    holds : str
        What must be in it, for the message.

    Raises
    ------
    SystemExit
        If the file is not there.
    """
    home = data_home or os.environ.get("SKPAT_DATA_HOME")
    path = Path(home or ".") / name
    if home is None or not path.exists():
        raise SystemExit(
            f"{name!r} must lie in --data-home or SKPAT_DATA_HOME: {holds}. Got {home!r}. Put it there; no figure can be made "
            "without it."
        )
    return path


def curve_style(number: int, *, oracle: bool) -> dict[str, Any]:
    """Colour and marker of the method with this number; black is for what no laboratory has."""
    from matplotlib import colormaps

    color = "black" if oracle else colormaps["tab20"](2 * number % 20 + number // 10)
    return {"color": color, "marker": "osD^vxP"[number % 7], "markersize": 4}


def add_legend(figure: Any, curves: dict[str, Any], order: Iterable[str], n_columns: int) -> None:
    """One legend, below all panels, for the methods (name -> curve) that any of them shows."""
    shown = [method for method in order if method in curves]
    handles = [curves[method] for method in shown]
    figure.legend(handles, shown, loc="outside lower center", ncols=n_columns, fontsize="small")
