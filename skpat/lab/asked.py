"""What each fit was given, on record: to say why one that was to go on began anew."""

from __future__ import annotations

import json
from typing import Any

from skpat.lab.fingerprint import fingerprint
from skpat.lab.journal import JournalRun, only_warn

__all__ = ["note_asked"]

_LONGEST = 40  # letters of a value in a message
_MOST = 4  # differences in a message


def note_asked(run: JournalRun, data: tuple[Any, ...], asked: dict[str, Any]) -> str | None:
    """Write down what a fit is asked for, if it is new; say what became of the last one.

    Parameters
    ----------
    run : JournalRun
    data : tuple
        What it learns from.
    asked : dict of str to object
        All else that it depends on.

    Returns
    -------
    str or None
        A message, where the run is new, and the one begun before it learns from the same data, has answers on record, has not
        ended, and is not being written.
    """
    if run.journal.query("SELECT 1 FROM fits WHERE run = ?", run.number):
        return None
    mine = {name: (fingerprint(value), _words(value)) for name, value in asked.items()}
    digest = fingerprint(*data)
    last: Any = None
    with only_warn(), run.journal.transaction() as file:
        last = file.execute("SELECT max(run) FROM fits WHERE data IS NOT NULL").fetchone()[0]  # but for recalibrations
        file.execute(
            "INSERT OR IGNORE INTO fits (run, data, asked) VALUES (?, ?, ?)", (run.number, digest, json.dumps(mine))
        )
    if run.n_recorded:
        return None
    found = run.journal.query(
        "SELECT asked, (SELECT sum(n_rows) FROM batches WHERE batches.run = fits.run) FROM fits "
        "WHERE run = ? AND data = ? AND ended IS NULL",
        last,
        digest,
    )
    if not found or not found[0][1] or run.is_written_by_another(last):
        return None
    differences = _differences(mine, found[0][0])
    return (
        f"This fit is a new run of the journal {run.path}: its shots are counted anew. Run {last}, of the same data, has not "
        f"ended, and has {found[0][1]:,} answers on record. This one differs in {differences}. To go on with run {last}, fit "
        "with what it was begun with."
    )


def _words(value: Any) -> str:
    words = " ".join(repr(value).split())
    return words if len(words) <= _LONGEST else words[: _LONGEST - 3] + "..."


def _differences(mine: dict[str, tuple[str, str]], theirs: Any) -> str:
    """Names of what differs, with the values where these say it; whatever the file holds."""
    try:
        theirs = {name: (str(digest), str(words)) for name, (digest, words) in json.loads(theirs).items()}
    except (TypeError, ValueError, AttributeError, RecursionError):
        return "what it was asked for"
    said = []
    for name in sorted(mine | theirs):
        one, other = theirs.get(name, ("", "nothing")), mine.get(name, ("", "nothing"))
        if one[0] != other[0]:
            said.append(f"{name} ({one[1]} there, {other[1]} here)" if one[1] != other[1] else name)
    more = f" and {len(said) - _MOST} more" if len(said) > _MOST else ""
    return ", ".join(said[:_MOST]) + more if said else "the state that it goes on from"
