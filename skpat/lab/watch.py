"""Watch a run from another terminal, by its journal: ``python -m skpat.lab.watch run.db``.

Prints a line whenever the run has moved: epoch, loss, accuracy, shots, faults. ``--save run.png`` draws it.
"""

from __future__ import annotations

import argparse
import sqlite3
import sys
import time
from bisect import bisect_left
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any

from skpat.exceptions import JournalError
from skpat.lab.journal_file import connection_to_read, is_unfinished

__all__ = ["Status", "draw", "main", "read_status"]

_LARGEST_RUN = 2**63 - 1  # that SQLite can number


@dataclass(frozen=True)
class Status:
    """How a run stands.

    Attributes
    ----------
    run : int
        Its number in the journal.
    device, title : str
    started, last_answer : float or None
        Seconds since 1970.
    epochs : list of (epoch, max_iter, loss, score, shots, time)
        ``score`` is None without validation; ``shots`` counts every answer, measured or replayed.
    shots : dict of str to int
        Answers on record, by purpose.
    faults : list of (kind, message, time)
    ended : float or None
        When it ended, by itself or by its budget; None while it goes on, and where an error or Ctrl-C ended it.
    """

    run: int
    device: str
    title: str
    started: float | None
    last_answer: float | None
    epochs: list[tuple[int, int, float, float | None, int, float]]
    shots: dict[str, int]
    faults: list[tuple[str, str, float]]
    ended: float | None = None

    def __str__(self) -> str:
        total = sum(self.shots.values())
        parts = [f"run {self.run}"]
        if self.epochs:
            epoch, max_iter, loss, score, _, _ = self.epochs[-1]
            parts += [f"epoch {epoch}/{max_iter}", f"loss {loss:.4f}"]
            parts += [f"validation score {score:.3f}"] if score is not None else []
        purposes = ", ".join(f"{purpose} {count:,}" for purpose, count in self.shots.items())
        if self.ended is not None:
            parts.append("ended")
        parts.append(f"{total:,} shots on record" + (f" ({purposes})" if purposes else ""))
        if self.faults:
            kinds = {kind for kind, _, _ in self.faults}
            counts = ", ".join(f"{kind} {sum(k == kind for k, _, _ in self.faults)}" for kind in sorted(kinds))
            parts.append(f"{len(self.faults)} fault{'s' if len(self.faults) > 1 else ''} ({counts})")
        return " | ".join(parts)


def read_status(path: str | Path, run: int | None = None) -> Status:
    """How a run stands; the file is only read.

    Parameters
    ----------
    path : str or path
        The journal.
    run : int, default=None
        Number of the run; None: the one that moved last.

    Raises
    ------
    JournalError
        If there is no such journal, or no such run in it.
    """
    if not Path(path).is_file() or not Path(path).stat().st_size:
        raise _NothingYetError(f"There is no journal {path} yet. A fit with journal={str(path)!r} makes it.")
    if run is not None and not -_LARGEST_RUN <= run <= _LARGEST_RUN:
        raise JournalError(f"The journal {path} has no run {run}.")
    file = connection_to_read(Path(path))
    try:
        file.execute("BEGIN")  # one moment for all that is read
        about = dict(file.execute("SELECT name, value FROM about"))
        last = "SELECT run FROM batches ORDER BY batch DESC LIMIT 1"
        if run is None:
            (run,) = file.execute(last).fetchone() or file.execute("SELECT max(run) FROM runs").fetchone()
            if run is None:
                raise _NothingYetError(f"The journal {path} holds no run yet.")
        found = file.execute("SELECT title, started FROM runs WHERE run = ?", (run,)).fetchone()
        if found is None:
            raise JournalError(f"The journal {path} has no run {run}.")
        status = Status(
            run=int(run or 0),
            device=about.get("identity") or about.get("device", ""),
            title=found[0],
            started=found[1],
            last_answer=file.execute("SELECT max(time) FROM batches WHERE run = ?", (run,)).fetchone()[0],
            epochs=file.execute(
                "SELECT epoch, max_iter, loss, score, shots + replayed, time FROM epochs WHERE run = ? ORDER BY epoch",
                (run,),
            ).fetchall(),
            shots=dict(
                file.execute(
                    "SELECT purpose, sum(n_rows) FROM batches WHERE run = ? GROUP BY purpose ORDER BY min(batch)",
                    (run,),
                )
            ),
            faults=file.execute(
                "SELECT kind, message, time FROM faults WHERE run = ? ORDER BY fault", (run,)
            ).fetchall(),
            ended=_end_of(file, run),
        )
        if not _can_be_shown(status):
            raise JournalError(f"The journal {path} is damaged: what it holds of run {run} makes no sense.")
        return status
    except sqlite3.OperationalError as error:
        kind = _NothingYetError if is_unfinished(error) or "no such table" in str(error) else JournalError
        raise kind(f"The journal {path} cannot be read: {error}.") from error
    except (sqlite3.Error, ValueError, TypeError, MemoryError, OverflowError) as error:
        if isinstance(error, JournalError):
            raise
        raise JournalError(f"{path} is no journal of skpat: {error}.") from error
    finally:
        file.close()


def _end_of(file: sqlite3.Connection, run: int | None) -> float | None:
    """When a run ended; journals of earlier versions do not say it."""
    if not file.execute("SELECT 1 FROM sqlite_master WHERE name = 'fits'").fetchone():
        return None
    (ended,) = file.execute("SELECT ended FROM fits WHERE run = ?", (run,)).fetchone() or (None,)
    return ended


def _can_be_shown(status: Status) -> bool:
    """Whether numbers are numbers and words are words."""
    words = [status.device, status.title, *status.shots, *(word for *pair, _ in status.faults for word in pair)]
    numbers = [*status.shots.values(), *(time for *_, time in status.faults)]
    numbers += [
        number for epoch, most, loss, _, shots, when in status.epochs for number in (epoch, most, loss, shots, when)
    ]
    perhaps = [status.started, status.last_answer, status.ended, *(score for _, _, _, score, _, _ in status.epochs)]
    return all(isinstance(word, str) for word in words) and all(
        isinstance(number, (int, float)) for number in [*numbers, *(one for one in perhaps if one is not None)]
    )


class _NothingYetError(JournalError):
    """A fit may be about to make it."""


def _save(figure: Any, path: Path) -> None:
    """Put a figure in the place of the last one, whole: who is ended in the middle of it has not lost that."""
    path = path if path.suffix else path.with_suffix(".png")
    unfinished = path.with_name(f".{path.stem}.unfinished{path.suffix}")
    try:
        figure.savefig(unfinished, dpi=120)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def draw(status: Status) -> Any:
    """A figure: loss and validation score against shots, and when faults happened.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ImportError
        Without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError as error:
        raise ImportError('A figure needs matplotlib. Install it with: pip install "skpat[plot]"') from error
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    shots, along = [epoch[4] for epoch in status.epochs], "shots"
    if len(set(shots)) == 1 < len(shots):  # training on the twin
        shots, along = [epoch[0] for epoch in status.epochs], "epoch"
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.plot(shots, [epoch[2] for epoch in status.epochs], "o-", color="tab:blue", label="loss")
    title = f"{status.device}: {status.title or f'run {status.run}'}"
    axes.set(xlabel=along, ylabel="loss", title="\n".join(wrap(title[:250].replace("$", r"\$"), 80)))
    axes.set_ylim(bottom=0)
    handles: list[Any] = list(axes.lines)
    scored = [(place, epoch[3]) for place, epoch in zip(shots, status.epochs, strict=True) if epoch[3] is not None]
    if scored:
        right = axes.twinx()
        right.plot(*zip(*scored, strict=True), "s-", color="tab:orange", label="validation score")
        right.set_ylabel("validation score")
        right.set_ylim(top=1)
        handles += right.lines
    if status.faults and status.epochs:
        ends = [epoch[5] for epoch in status.epochs]
        places = [shots[min(bisect_left(ends, when), len(ends) - 1)] for _, _, when in status.faults]
        for place in set(places):
            line = axes.axvline(place, color="tab:red", linewidth=1, alpha=0.4, label=f"{len(places)} faults")
        handles.append(line)
    below = {"loc": "upper left", "bbox_to_anchor": (0, -0.13), "ncols": 3}  # not on the lines
    if not status.epochs:  # a calibration still, or a recalibration
        axes.set_axis_off()
        said = str(status).replace(" | ", "\n").replace("$", r"\$")
        axes.text(0.5, 0.5, said, ha="center", va="center", transform=axes.transAxes)
        return figure
    axes.legend(handles=handles, frameon=False, **below)
    return figure


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m skpat.lab.watch", description="Watch a run by its journal.")
    parser.add_argument("journal", help="the file given to the estimator as journal=...")
    parser.add_argument("--run", type=int, default=None, help="number of the run; without it the one that moved last")
    parser.add_argument("--once", action="store_true", help="print how it stands now, and end")
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between looks (1)")
    parser.add_argument("--save", default=None, metavar="FIGURE", help="save a figure of the run, anew at every change")
    options = parser.parse_args(arguments)
    if not 0 <= options.interval < float("inf"):
        parser.error(f"'interval' must be a number of seconds, at least 0. Got {options.interval}.")
    seen = None
    try:
        while True:
            try:
                status = read_status(options.journal, options.run)
            except JournalError as error:
                if options.once or not isinstance(error, _NothingYetError):
                    print(error, file=sys.stderr)
                    return 1
                time.sleep(options.interval)
                continue
            if status != seen:
                if seen is None or seen.run != status.run:
                    seen = None
                    print(f"{status.device}: {status.title}", flush=True)
                print(f"{time.strftime('%H:%M:%S', time.localtime(status.last_answer))}  {status}", flush=True)
                for kind, message, when in status.faults[len(seen.faults) if seen else 0 :][-3:]:
                    print(f"          {time.strftime('%H:%M:%S', time.localtime(when))} {kind}: {message}", flush=True)
                if options.save:
                    try:
                        _save(draw(status), Path(options.save))
                    except (OSError, ValueError) as error:  # no such folder, or kind of figure
                        parser.error(f"'save' must be a place for a figure. Got {options.save!r}: {error}")
                seen = status
            if options.once:
                return 0
            time.sleep(options.interval)
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
