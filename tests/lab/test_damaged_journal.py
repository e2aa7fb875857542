"""A journal that is damaged says what is wrong with it, by one named error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from skpat.exceptions import JournalError
from skpat.lab import Journal, Session
from tests.benchmarks.mutated_files import fuzz_journals, leaks
from tests.deployed_bank import Bank


def test_mutated_journals_give_named_errors_only() -> None:
    counts, _ = fuzz_journals(96, seed=1)
    assert leaks(counts) == []
    assert counts["refused"] + counts["refused in part"] > 20


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("DELETE FROM about WHERE name = 'fingerprint'", "is damaged: it does not say of which device it is"),
        ("UPDATE about SET value = '[]' WHERE name = 'fingerprint'", "is damaged: it does not say of which device it is"),
        ("UPDATE about SET value = x'00' WHERE name = 'identity'", "is damaged: its instrument calls itself"),
        ("UPDATE runs SET seed = 'x'", "is damaged: the seed of run 1 is 'x'"),
        ("UPDATE batches SET row_keys = x'00'", "is damaged: piece 1 does not name its rows"),
        ("UPDATE batches SET n_rows = 'x'", "is damaged: piece 1 does not name its rows"),
        ("UPDATE batches SET outputs_dtype = 'O'", "is damaged: piece 1: numbers must be floats. Got dtype 'O'"),
        ("UPDATE batches SET shot = -1", "is damaged: piece 1: run, shot and number of rows must be numbers"),
        ("UPDATE batches SET purpose = 'fun'", "is damaged: piece 1: purpose and time must be what they are. Got 'fun'"),
        ("UPDATE settings SET shared = zeroblob(8)", "is damaged: piece 1: there must be 0 shared settings. Got 1"),
        ("UPDATE settings SET varying_index = zeroblob(48)", "is damaged: piece 1: each channel must be set once"),
        ("UPDATE batches SET outputs = zeroblob(3 * 5 * 8)", "is damaged: piece 1 has 5 outputs, not 4"),
        ("UPDATE batches SET outputs = x'000000000000f87f'", "is damaged: piece 1: numbers must be finite"),
        ("DELETE FROM settings", "is damaged: piece 1 lacks its shared settings"),
        ("ALTER TABLE batches RENAME COLUMN row_keys TO x", "cannot be read: no such column: row_keys"),
    ],
)  # fmt: skip
def test_a_damaged_journal_says_what_is_wrong(statement: str, message: str, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).uniform(-1, 1, (3, 6))

    def go_on(journal: Journal) -> None:
        with Session(Bank(serial="one"), journal=journal) as session:
            assert session.journal is not None
            session.journal.seed(lambda: 7)
            session.measure(rows)

    with Journal(tmp_path / "run.db") as journal:
        go_on(journal)
        go_on(journal)
        with journal.transaction() as file:
            file.execute(statement)
        with pytest.raises(JournalError, match=message):
            go_on(journal)
