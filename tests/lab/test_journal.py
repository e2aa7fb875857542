"""Nothing acknowledged is ever lost: any sequence of writes, kills and reads."""

from __future__ import annotations

import copy
import os
import pickle
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skpat import ControlBatch, Device, PhysicalNetworkClassifier, as_device
from skpat.devices import SecondHarmonicLaser
from skpat.exceptions import JournalError
from skpat.lab import Journal, Session
from skpat.lab.replay import control_keys
from skpat.lab.watch import read_status

from .bench_device import BenchDevice
from .recorded_device import LASER, POOL, SMALL_TWIN, Counter, data, fitted, same_weights

ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("measure"), st.lists(st.integers(0, 3), min_size=1, max_size=5)),
        st.tuples(st.just("kill"), st.none()),
        st.tuples(st.just("restart"), st.none()),
        st.tuples(st.just("read"), st.none()),
    ),
    max_size=14,
)


@given(ACTIONS, st.sampled_from([None, 1, 2]), st.booleans())
@settings(max_examples=40)
def test_any_sequence_of_writes_kills_and_reads_gives_back_what_was_acknowledged(
    actions: list[tuple[str, Any]], max_batch: int | None, in_parts: bool
) -> None:
    device = Counter(max_batch)
    acknowledged: dict[int, list[float]] = defaultdict(list)  # answers to each row of the pool, in order
    asked: dict[int, int] = defaultdict(int)  # how often since the last start
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "0.db"
        journal = Journal(path)
        session = Session(device, journal=journal)
        for number, (action, rows) in enumerate(actions):
            if action == "measure":
                batch: Any = POOL[rows]
                if in_parts and len(set(rows)) == 1:
                    batch = ControlBatch(POOL[rows][:, 1:], np.array([1, 2]), POOL[rows[0], :1], np.array([0]))
                before = device.answered
                new = 0
                expected = []
                for row in rows:
                    if asked[row] < len(acknowledged[row]):
                        expected.append(acknowledged[row][asked[row]])
                    else:
                        new += 1
                        acknowledged[row].append(before + new)
                        expected.append(before + new)
                    asked[row] += 1
                outputs = session.measure(batch)
                np.testing.assert_array_equal(outputs[:, 0], expected)
                assert device.answered == before + new  # nothing on record was measured again
            elif action == "read":
                with Journal(path) as reader:
                    n_rows = sum(len(part.outputs) for part in reader.answers())
                assert n_rows == sum(map(len, acknowledged.values()))
            else:
                if action == "kill":  # what the disk holds at this moment, without the writer's goodbye
                    killed = Path(folder) / f"{number + 1}.db"
                    for ending in ("", "-wal"):
                        if Path(f"{path}{ending}").exists():
                            shutil.copy(f"{path}{ending}", f"{killed}{ending}")
                    path = killed
                journal.close()
                journal = Journal(path)
                session = Session(device, journal=journal)
                asked.clear()
        assert journal.query("PRAGMA integrity_check") == [("ok",)]
        journal.close()


def test_an_answer_is_on_the_disk_before_it_is_handed_on(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    journal = Journal(path)
    device = Counter(max_batch=2)
    session = Session(device, journal=journal)
    session.measure(POOL)
    assert journal.query("PRAGMA synchronous") == [(2,)]  # FULL
    assert journal.query("PRAGMA journal_mode") == [("wal",)]
    with sqlite3.connect(path) as other:
        assert other.execute("SELECT n_rows FROM batches").fetchall() == [(2,), (2,)]
    other.close()
    journal.close()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_any_flipped_bit_of_an_answer_is_found_and_older_pieces_are_read(tmp_path: Path, dtype: type) -> None:
    path = tmp_path / "run.db"
    device = as_device(lambda c: (c[:, :2] + 1.5).astype(dtype), n_controls=3, n_outputs=2, bounds=(0, 1), name="sums")
    with Journal(path) as journal:
        right = Session(device, journal=journal).measure(POOL)
    ((content,),) = _executed(path, "SELECT outputs FROM batches")
    for bit in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        _executed(path, "UPDATE batches SET outputs = ?", bytes(flipped))
        with (
            Journal(path) as journal,
            pytest.raises(JournalError, match="the answers must be those that were recorded"),
        ):
            list(journal.answers())
    _executed(path, "UPDATE batches SET outputs = ?", right.tobytes())  # as before there were checksums
    with Journal(path) as journal:
        (piece,) = journal.answers()
    np.testing.assert_array_equal(piece.outputs, right)


def _executed(path: Path, statement: str, *values: Any) -> list[tuple]:
    with sqlite3.connect(path) as file:
        found = file.execute(statement, values).fetchall()
    file.close()
    return found


def test_a_piece_whose_call_fails_leaves_the_earlier_ones_on_record(tmp_path: Path) -> None:
    class Failing(Counter):
        def measure(self, batch: ControlBatch) -> np.ndarray:
            if self.calls == 1:
                self.calls += 1
                raise RuntimeError("dead")
            return super().measure(batch)

    with Journal(tmp_path / "run.db") as journal:
        device = Failing(max_batch=2)
        with pytest.raises(RuntimeError, match="dead"):
            Session(device, journal=journal).measure(POOL)
        outputs = Session(device, journal=journal).measure(POOL)
    np.testing.assert_array_equal(outputs[:, 0], [1, 2, 3, 4])


def test_repeats_of_one_row_are_occurrences(tmp_path: Path) -> None:
    with Journal(tmp_path / "run.db") as journal:
        for _ in range(2):
            session = Session(Counter(), n_shots=3, journal=journal)
            np.testing.assert_array_equal(session.measure(POOL[:1])[:, 0], [2])
            np.testing.assert_array_equal(session.measure(POOL[:1])[:, 0], [5])
    assert session.ledger.replayed["prediction"] == 6


@given(st.permutations(range(5)), st.integers(1, 5))
def test_a_row_has_one_key_however_it_is_split(order: list[int], n_varying: int) -> None:
    dense = np.random.RandomState(0).uniform(size=(3, 5))
    dense[:, order[n_varying:]] = dense[0, order[n_varying:]]
    index, shared = np.array(order[:n_varying]), np.array(order[n_varying:], dtype=int)
    batch = ControlBatch(dense[:, index], index, dense[0, shared], shared)
    np.testing.assert_array_equal(control_keys(batch), control_keys(ControlBatch.from_dense(dense)))
    assert len(set(control_keys(batch).tolist())) == 3


def test_a_journal_of_another_device_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    with Journal(path) as journal:
        Session(Counter(), journal=journal).measure(POOL)
        Session(Counter(max_batch=7), journal=journal)  # another way to speak to it, and the same device
        wider = Counter()
        wider.bounds = (0.0, 2.0)
        with pytest.raises(
            JournalError, match=r"this device, Counter\. Got one of 'Counter', which differs in bounds\. Use"
        ):
            Session(wider, journal=journal)
        with pytest.raises(JournalError, match="must be of this device, SecondHarmonicLaser"):
            Session(SecondHarmonicLaser(), journal=journal)


def test_a_journal_of_another_instrument_is_refused(tmp_path: Path) -> None:
    class Named(Counter):
        serial = "7"

        def identify(self) -> str:
            return self.serial

    with Journal(tmp_path / "run.db") as journal:
        Session(Named(), journal=journal).measure(POOL)
        assert journal.about["identity"] == "7"
        swapped = Named()
        swapped.serial = "8"
        Session(swapped, journal=journal).measure(POOL)  # nothing is asked of it
        with pytest.raises(Exception, match=r"'7'.*Got '8'"):
            Session(swapped, journal=journal).measure(1 - POOL)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"no database at all" * 100, "is no journal of skpat"), (None, "is a database, but no journal of skpat")],
)
def test_what_is_no_journal_is_refused_and_left_alone(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "thesis.db"
    if content is None:
        other = sqlite3.connect(path)
        other.execute("CREATE TABLE chapters (title)")
        other.close()
        content = path.read_bytes()
    else:
        path.write_bytes(content)
    with pytest.raises(JournalError, match=message):
        Session(Counter(), journal=path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("name", [".", "folder"])
def test_a_folder_is_no_journal(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(JournalError, match=r"must be a file\. Got the folder .*\. Use '.*run\.db'"):
        Session(Counter(), journal=tmp_path / name)


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_was_removed_is_not_written_to_and_a_new_run_begins_a_new_one(
    tmp_path: Path, replaced: bool
) -> None:
    path = tmp_path / "run.db"
    device, journal = Counter(), Journal(path)
    session = Session(device, journal=journal)
    session.measure(POOL)
    path.rename(tmp_path / "elsewhere.db")
    if replaced:
        Session(Counter(), journal=path).measure(POOL)
    for attempt in (lambda: session.measure(POOL), journal.to_arrays):
        with pytest.raises(JournalError, match=r"must stay where it is while it is in use"):
            attempt()
    n_before = device.answered
    Session(device, journal=journal).measure(1 - POOL)
    assert device.answered == n_before + len(POOL)
    with Journal(path) as read_again:
        assert len(read_again.to_arrays()["outputs"]) == len(POOL) * (2 if replaced else 1)
    if replaced:
        return  # by one that began with an empty log
    with Journal(tmp_path / "elsewhere.db") as moved:
        np.testing.assert_array_equal(moved.to_arrays()["outputs"][:, 0], [1, 2, 3, 4])


def test_a_moved_file_has_all_that_was_recorded_when_it_is_closed(tmp_path: Path) -> None:
    with Journal(tmp_path / "run.db") as journal:
        Session(Counter(), journal=journal).measure(POOL)
        journal.path.rename(tmp_path / "elsewhere.db")
    with Journal(tmp_path / "elsewhere.db") as moved:
        assert len(moved.to_arrays()["outputs"]) == len(POOL)


@pytest.mark.parametrize("given", ["its path", "a journal"])
def test_between_runs_the_file_alone_has_everything(tmp_path: Path, given: str) -> None:
    path = tmp_path / "run.db"
    opened = Journal(path)
    for number in range(2):
        with Session(Counter(), journal=opened if given == "a journal" else str(path)) as session:
            session.measure(POOL[:, ::-1] if number else POOL)
        shutil.copy(path, tmp_path / f"copy_{number}.db")
        with Journal(tmp_path / f"copy_{number}.db") as copied:
            assert len(copied.to_arrays()["outputs"]) == len(POOL) * (number + 1)
    opened.close()


def test_a_session_that_measures_nothing_leaves_its_file_closed(tmp_path: Path) -> None:
    device = Counter()
    with Session(device, journal=tmp_path / "run.db") as session:
        session.measure(POOL)
    for rows in (POOL, None):  # all on record; nothing at all
        with Session(device, journal=tmp_path / "run.db") as session:
            if rows is not None:
                session.measure(rows)
        assert [path.name for path in tmp_path.iterdir()] == ["run.db"]
    assert device.answered == len(POOL)
    with pytest.raises(JournalError, match="must be of this device") as caught:
        Session(LASER, journal=tmp_path / "run.db")
    assert [path.name for path in tmp_path.iterdir()] == ["run.db"]
    del caught


def test_ctrl_c_at_the_end_of_a_run_lets_the_run_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(self: Journal) -> None:
        raise KeyboardInterrupt

    device = Counter()
    with Journal(tmp_path / "run.db") as journal:
        session = Session(device, journal=journal.run(device, "a fit"))
        session.measure(POOL)
        with monkeypatch.context() as patched:
            patched.setattr(Journal, "checkpoint", interrupt)
            with pytest.raises(KeyboardInterrupt):
                session.close()
        with Session(device, journal=journal.run(device, "a fit"), wait=0) as again:
            again.measure(np.concatenate([POOL, 1 - POOL]))
            assert again.ledger.total == len(POOL)


def test_a_copied_journal_is_of_the_same_file_in_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    journal = Journal("run.db")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert copy.deepcopy(journal).place == journal.place == tmp_path / "run.db"
    assert repr(copy.deepcopy(journal)) == "Journal('run.db')"


def test_a_driver_may_change_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Session(Counter(), journal="run.db") as session:
        session.measure(POOL)
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        session.measure(1 - POOL)
    with Journal(tmp_path / "run.db") as journal:
        assert len(journal.to_arrays()["outputs"]) == 2 * len(POOL)


def test_a_run_within_itself_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    with Journal(tmp_path / "run.db") as journal:
        device = Counter()
        with Session(device, journal=journal.run(device, "a fit")) as outer:
            outer.measure(POOL)
            inner = Session(device, journal=journal.run(device, "a fit"))
            inner.measure(POOL)  # on record: nothing is written
            with pytest.raises(JournalError, match=r"written by one fit at a time.*Nothing was sent.*journal=None"):
                inner.measure(1 - POOL)
        assert device.answered == len(POOL)
        inner.measure(1 - POOL)
        inner.close()


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match=r"cannot be opened: .*Does its folder exist\?"):
        Session(Counter(), journal=Journal(tmp_path / "nowhere" / "run.db"))


def test_a_journal_is_pickled_as_its_path(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "run.db")
    Session(Counter(), journal=journal).measure(POOL)
    copy = pickle.loads(pickle.dumps(journal))
    assert repr(copy) == repr(journal) == f"Journal({str(tmp_path / 'run.db')!r})"
    assert len(list(copy.answers())) == 1
    copy.close()
    journal.close()


# ---- what a hostile reader found ----


def gain(controls: np.ndarray, factor: float = 1.0) -> np.ndarray:
    return factor * controls[:, :2]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda c: c[:, :2], lambda c: 100 + c[:, :2]),
        (partial(gain, factor=1.0), partial(gain, factor=7.0)),
        ((lambda k: lambda c: k * c[:, :2])(1.0), (lambda k: lambda c: k * c[:, :2])(7.0)),
    ],
    ids=["lambda", "partial", "closure"],
)
def test_another_function_is_another_device(tmp_path: Path, one: Any, other: Any) -> None:
    def device(function: Any) -> Device:
        return as_device(function, n_controls=3, n_outputs=2, bounds=(0, 1), name="rig")

    Session(device(one), journal=tmp_path / "run.db").measure(POOL)
    session = Session(device(one), journal=tmp_path / "run.db")
    session.measure(POOL)
    assert session.ledger.total == 0
    with pytest.raises(JournalError, match="which differs in function"):
        Session(device(other), journal=tmp_path / "run.db")


@pytest.mark.parametrize("address", [None, "bench"])
def test_two_fits_of_one_run_take_turns_and_the_second_replays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str | None
) -> None:
    monkeypatch.setenv("SKPAT_LOCK_DIR", str(tmp_path / "locks"))

    def one(_: int) -> PhysicalNetworkClassifier:
        device = BenchDevice(address, pause=2e-3, max_batch=8)
        network = PhysicalNetworkClassifier(
            device,
            SMALL_TWIN,
            max_iter=2,
            n_calibration_shots=40,
            random_state=0,
            journal=tmp_path / "run.db",
            batch_size=16,
        )
        return network.fit(*data())

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(one, range(2))
    assert same_weights(first, second)
    assert sorted([first.ledger_.total, second.ledger_.total])[0] == 0
    assert sum(first.ledger_.replayed.values()) + sum(second.ledger_.replayed.values()) == max(
        first.ledger_.total, second.ledger_.total
    )


@pytest.mark.parametrize("way", ["partial_fit", "warm_start", "generator"])
def test_a_fit_that_fails_can_be_called_again_in_the_same_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    calls = [0]

    class Once(SecondHarmonicLaser):
        fails_at = 10**9

        def measure(self, batch: Any) -> Any:
            calls[0] += 1
            if calls[0] == Once.fails_at:
                raise RuntimeError("a bug in the driver")
            return super().measure(batch)

    def go(journal: Any, fails_after: int | None) -> PhysicalNetworkClassifier:
        seed = np.random.RandomState(3) if way == "generator" else 0
        network = PhysicalNetworkClassifier(
            Once(16, 12, n_steps=3),
            SMALL_TWIN,
            journal=journal,
            n_calibration_shots=60,
            random_state=seed,
            max_iter=2,
            batch_size=16,
        )
        if way == "generator":
            Once.fails_at = 10**9 if fails_after is None else calls[0] + fails_after + 6
            step = network.fit
        else:
            network.fit(*data())
            network.set_params(warm_start=way == "warm_start")
            Once.fails_at = 10**9 if fails_after is None else calls[0] + fails_after
            step = network.fit if way == "warm_start" else network.partial_fit
        if fails_after is not None:
            with pytest.raises(RuntimeError, match="a bug"):
                step(*data())
        return step(*data())

    bare, broken = go(None, None), go(tmp_path / "run.db", 4)
    assert same_weights(bare, broken)
    assert sum(broken.ledger_.replayed.values()) > 0


def test_sparse_data_and_the_seed_of_a_device_and_classes_are_part_of_a_run(tmp_path: Path) -> None:
    from scipy.sparse import csr_array

    X, y = data()
    path = tmp_path / "run.db"

    def fit(seed: int, X: Any = X) -> PhysicalNetworkClassifier:
        laser = SecondHarmonicLaser(16, 12, n_steps=3, random_state=seed)
        network = PhysicalNetworkClassifier(
            laser, SMALL_TWIN, max_iter=1, n_calibration_shots=60, random_state=0, journal=path
        )
        return network.fit(X, y)

    assert fit(1).ledger_.total == fit(2).ledger_.total > 0
    assert fit(2).ledger_.total == 0
    assert fit(2, csr_array(X)).ledger_.total > 0  # another container counts as other data
    assert fit(2, csr_array(X)).ledger_.total == 0

    def partial_fit(classes: list[int]) -> PhysicalNetworkClassifier:
        network = PhysicalNetworkClassifier(
            LASER, SMALL_TWIN, n_calibration_shots=60, random_state=0, journal=tmp_path / "other.db"
        )
        return network.partial_fit(X, y.astype(int), classes=classes)

    assert partial_fit([0, 1]).ledger_.total > 0
    assert partial_fit([0, 1, 2]).ledger_.total > 0
    assert partial_fit([0, 1, 2]).ledger_.total == 0


def test_a_journal_of_another_version_is_refused_and_a_read_only_one_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    with Journal(path) as journal:
        Session(Counter(), journal=journal).measure(POOL)
    path.chmod(0o444)
    with Journal(path) as archived:
        assert len(archived.to_arrays()["outputs"]) == 4
    path.chmod(0o644)
    with sqlite3.connect(path) as file:
        file.execute("UPDATE about SET value = 'skpat journal 2' WHERE name = 'format'")
    file.close()
    with pytest.raises(JournalError, match=r"must be of format 'skpat journal 1'\. Got 'skpat journal 2'"):
        Session(Counter(), journal=path)


def measure_many_times(session: Session) -> None:
    for _ in range(500):
        session.measure(POOL)


def test_a_journal_that_cannot_be_written_stops_the_run_before_the_answer_is_used(tmp_path: Path) -> None:
    with Journal(tmp_path / "run.db") as journal:
        session = Session(Counter(), journal=journal)
        session.measure(POOL)
        journal._connected(to_write=True).execute("PRAGMA max_page_count = 1")
        message = r"cannot be written to: database or disk is full\. What was written before"
        with pytest.raises(JournalError, match=message):
            measure_many_times(session)
        assert journal.query("PRAGMA integrity_check") == [("ok",)]


def test_a_journal_that_somebody_makes_between_two_questions_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, access = tmp_path / "run.db", os.access

    def made_meanwhile(path: Any, mode: int) -> bool:
        found = access(path, mode)
        if Path(path) == place:
            place.touch()
        return found

    monkeypatch.setattr(os, "access", made_meanwhile)
    with Journal(place) as journal:
        assert journal.run(BenchDevice(None), "run", "").number == 1


def test_many_begin_a_new_journal_at_once(tmp_path: Path) -> None:
    for attempt in range(15):
        start, n_threads = threading.Barrier(6), 6

        def begin(number: int, path: Path = tmp_path / f"{attempt}.db", start: threading.Barrier = start) -> int:
            start.wait()
            with Journal(path) as journal:
                return journal.run(BenchDevice(None), f"run {number}", "").number

        with ThreadPoolExecutor(n_threads) as pool:
            assert sorted(pool.map(begin, range(n_threads))) == list(range(1, n_threads + 1))


def killed_while_it_writes(path: Path, *before: str) -> None:
    """A database whose maker was killed in a transaction, when some of it was on the disk already."""
    code = f"""
        import os, sqlite3
        file = sqlite3.connect({str(path)!r}, isolation_level=None)
        file.execute("PRAGMA cache_size = 1")
        for statement in {before!r}:
            file.execute(statement)
        file.execute("BEGIN")
        file.execute("CREATE TABLE unfinished (content)")
        for _ in range(100):
            file.execute("INSERT INTO unfinished VALUES (zeroblob(4000))")
        os._exit(9)
    """
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(code)]).returncode == 9
    assert path.with_name(f"{path.name}-journal").stat().st_size


def test_a_file_whose_maker_was_killed_in_it_becomes_a_journal(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    killed_while_it_writes(path)
    with pytest.raises(JournalError, match="cannot be read"):
        list(Journal(path).answers())
    with pytest.raises(JournalError, match="cannot be read"):
        read_status(path)
    network = fitted(path)
    with Journal(path) as journal:
        assert sum(len(answer.outputs) for answer in journal.answers()) == sum(network.shots_.values())
        assert journal.query("SELECT name FROM sqlite_master WHERE name = 'unfinished'") == []


def test_another_database_is_refused_however_its_maker_ended(tmp_path: Path) -> None:
    path = tmp_path / "accounts.db"
    killed_while_it_writes(path, "CREATE TABLE accounts (name)", "INSERT INTO accounts VALUES ('Ada')")
    with pytest.raises(JournalError, match="is a database, but no journal of skpat"):
        fitted(path)
    with sqlite3.connect(path) as file:
        assert file.execute("SELECT * FROM accounts").fetchall() == [("Ada",)]
    file.close()


def test_a_journal_in_memory_is_refused() -> None:
    with pytest.raises(ValueError, match="must be a file"):
        Journal(":memory:")
