"""What a journal holds, as arrays, files and tables."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest

import skpat
from skpat import ControlBatch
from skpat.exceptions import JournalError
from skpat.lab import Journal, Session

from .recorded_device import POOL, Counter


def test_what_was_recorded_can_be_taken_elsewhere(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    with Journal(tmp_path / "run.db") as journal:
        with pytest.raises(JournalError, match="There is no journal"):
            journal.to_arrays()
        assert not journal.path.exists()
        session = Session(Counter(max_batch=3), journal=journal)
        outputs = session.measure(POOL, purpose="training")
        session.measure(ControlBatch(POOL[:1, 1:], np.array([1, 2]), POOL[0, :1], np.array([0])))
        journal.to_npz(tmp_path / "run.npz")
        table = journal.to_pandas()
    with np.load(tmp_path / "run.npz") as saved:
        np.testing.assert_array_equal(saved["controls"], [*POOL, POOL[0]])
        np.testing.assert_array_equal(saved["outputs"][:4], outputs)
        assert saved["purpose"].tolist() == ["training"] * 4 + ["prediction"]
    assert isinstance(table, pandas.DataFrame)
    assert table.columns.tolist()[-5:] == ["control_0", "control_1", "control_2", "output_0", "output_1"]
    np.testing.assert_array_equal(table["output_0"], [1, 2, 3, 4, 5])


def test_another_process_reads_while_it_is_written(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[2]); from skpat.lab import Journal; j = Journal(sys.argv[1]); "
        "print(sum(len(a.outputs) for a in j.answers())); j.close()"
    )
    with Journal(tmp_path / "run.db") as journal:
        session = Session(Counter(), journal=journal)
        session.measure(POOL)
        with journal.transaction() as file:
            file.execute("UPDATE batches SET purpose = 'training'")
            done = subprocess.run(
                [sys.executable, "-c", code, str(tmp_path / "run.db"), str(Path(skpat.__file__).parents[1])],
                capture_output=True,
                text=True,
                timeout=60,
            )
    assert done.stdout.strip() == "4", done.stderr


def test_controls_are_read_as_they_were_sent_however_each_batch_was_split(tmp_path: Path) -> None:
    sent = []
    with Journal(tmp_path / "run.db") as journal:
        session = Session(Counter(), journal=journal)
        for order, n_varying in product(permutations(range(3)), (1, 2)):
            varying, shared = np.array(order[:n_varying]), np.array(order[n_varying:])
            values = np.linspace(0.1, 0.9, 2 * n_varying).reshape(2, n_varying)
            batch = ControlBatch(values, varying, np.array([0.25, 0.75])[: len(shared)], shared)
            session.measure(batch)
            sent.append(np.asarray(batch))
        np.testing.assert_array_equal(journal.to_arrays()["controls"], np.concatenate(sent))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_reads_by_a_connection_of_its_own(tmp_path: Path) -> None:
    with Journal(tmp_path / "run.db") as journal:
        Session(Counter(), journal=journal).measure(POOL)
        inherited = journal._file
        child = os.fork()
        if not child:
            code = 1
            try:
                code = int(len(journal.to_arrays()["outputs"]) != len(POOL) or journal._file == inherited)
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        assert journal._file == inherited
