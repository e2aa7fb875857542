"""Recorded answers are given out once each, in the order of recording, to rows of the same controls."""

from __future__ import annotations

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skpat import ControlBatch
from skpat.exceptions import DeviceBusyError, JournalError
from skpat.lab import Journal, Session
from skpat.lab.replay import Answers, Replay, answers_of, control_keys, sealed

from .recorded_device import POOL, Counter

ROWS = np.linspace(0, 1, 12).reshape(4, 3)
PIECES = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4), max_size=5)


def batch_of(rows: list[int], in_parts: bool = False) -> ControlBatch:
    """Some of the rows; all that equal one another, in two parts where that is asked for."""
    controls = ROWS[rows]
    if in_parts and len(set(rows)) == 1:
        return ControlBatch(controls[:, 2:], np.array([2]), controls[0, [1, 0]], np.array([1, 0]))
    return ControlBatch.from_dense(controls)


def recorded(pieces: list[list[int]], dtypes: list[str], in_parts: bool = False) -> list[Answers]:
    """Every answer is its number, and a tenth that float32 does not hold."""
    numbers = iter(np.split(0.1 + np.arange(sum(map(len, pieces))), np.cumsum([len(piece) for piece in pieces])[:-1]))
    return [
        Answers(batch_of(rows, in_parts), next(numbers)[:, None].astype(dtype), 1, "training", 0.0)
        for rows, dtype in zip(pieces, dtypes, strict=False)
    ]


def replay_of(answers: list[Answers]) -> Replay:
    return Replay([(i, control_keys(piece.controls)) for i, piece in enumerate(answers)], answers.__getitem__)


@given(
    PIECES, PIECES, st.lists(st.sampled_from(["f4", "f8"]), min_size=5, max_size=5), st.integers(0, 5), st.booleans()
)
def test_each_answer_is_given_once_in_the_order_of_recording(
    pieces: list[list[int]], asked: list[list[int]], dtypes: list[str], n_before: int, in_parts: bool
) -> None:
    answers = recorded(pieces, dtypes, in_parts)
    left: dict[int, list[float]] = defaultdict(list)
    for piece, rows in zip(answers, pieces, strict=True):
        for row, answer in zip(rows, piece.outputs[:, 0].tolist(), strict=True):
            left[row].append(answer)
    replay, is_whole = replay_of(answers[:n_before]), False  # the rest is recorded by somebody else meanwhile
    for rows in asked:
        batch, position = batch_of(rows), replay.used.copy()
        known, missing, _ = replay.take(batch, control_keys(batch))
        if len(missing) and not is_whole:  # as a run does when it begins to write
            replay.used = position
            grown, is_whole = replay_of(answers), True
            grown.go_on_from(replay)
            replay = grown
            known, missing, _ = replay.take(batch, control_keys(batch))
        expected = [left[row].pop(0) if left[row] else None for row in rows]
        assert missing.tolist() == [i for i, answer in enumerate(expected) if answer is None]
        assert known.ravel().tolist() == [answer for answer in expected if answer is not None]
    n_left = sum(map(len, left.values())) - (0 if is_whole else sum(map(len, pieces[n_before:])))
    assert sum(replay.left().values()) == n_left


@pytest.mark.parametrize("in_parts", [False, True])
def test_a_row_of_the_same_key_and_other_controls_is_not_answered(in_parts: bool) -> None:
    def batch(shared: float, *varying: float) -> ControlBatch:
        made = ControlBatch(np.array(varying)[:, None], np.array([1]), np.array([shared, 0.5]), np.array([0, 2]))
        return made if in_parts else ControlBatch.from_dense(np.asarray(made))

    piece = Answers(batch(0.1, 0.3, 0.4), np.array([[1.0], [2.0]]), 1, "training", 0.0)
    for wanted, right in ((batch(0.1, 0.3, 0.7), [0]), (batch(0.2, 0.3, 0.4), [])):
        keys = control_keys(piece.controls)  # equal by chance
        known, missing, _ = Replay([(7, keys)], {7: piece}.__getitem__).take(wanted, keys)
        assert known.ravel().tolist() == [piece.outputs[i, 0] for i in right]
        assert missing.tolist() == [i for i in (0, 1) if i not in right]


def test_a_session_that_was_closed_goes_on_and_never_takes_its_own_answers_for_new_ones(tmp_path: Path) -> None:
    device = Counter()
    session = Session(device, journal=tmp_path / "run.db")
    for number in range(3):
        with session:
            np.testing.assert_array_equal(session.measure(POOL)[:, 0], 4 * number + np.array([1, 2, 3, 4]))
    assert session.ledger.total == device.answered == 12
    with Session(device, journal=tmp_path / "run.db") as again:
        for number in range(3):
            np.testing.assert_array_equal(again.measure(POOL)[:, 0], 4 * number + np.array([1, 2, 3, 4]))
    assert again.ledger.total == 0


def test_whoever_may_not_write_a_run_yet_sends_nothing_however_often_it_tries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKPAT_LOCK_DIR", str(tmp_path / "locks"))
    one, other = Counter(), Counter()

    def try_twice(session: Session) -> None:
        session.measure(POOL)  # on record
        for _ in range(2):
            with pytest.raises(DeviceBusyError, match="Nothing was sent"):
                session.measure(np.concatenate([POOL, 1 - POOL]))
        with pytest.raises(JournalError, match="It asks for other settings, with 4 recorded rows left"):
            session.measure(0.3 * POOL)  # the record would go on otherwise

    with Journal(tmp_path / "run.db") as journal, ThreadPoolExecutor(1) as pool:
        with Session(one, journal=journal.run(one, "a fit")) as writer:
            for _ in range(2):
                writer.measure(POOL)
            waiting = Session(other, journal=journal.run(other, "a fit"), wait=0)
            pool.submit(try_twice, waiting).result(10)
        assert other.answered == 0
        outputs = pool.submit(waiting.measure, np.concatenate([POOL, 1 - POOL])).result(10)
        np.testing.assert_array_equal(outputs[:, 0], [5, 6, 7, 8, 1, 2, 3, 4])  # half of it is on record
        assert other.answered == 4
        pool.submit(waiting.close).result(10)


def test_what_another_one_has_recorded_meanwhile_is_taken_up_from_where_the_run_stood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKPAT_LOCK_DIR", str(tmp_path / "locks"))
    one, other = Counter(), Counter()
    with Journal(tmp_path / "run.db") as journal:
        with Session(one, journal=journal.run(one, "a fit")) as first:
            first.measure(POOL)
            second = Session(other, journal=journal.run(other, "a fit"))
            first.measure(POOL)
            first.measure(1 - POOL)
        second.measure(POOL)
        outputs = second.measure(np.concatenate([POOL, 1 - POOL, 0.5 * POOL]))
        second.close()
    np.testing.assert_array_equal(outputs[:, 0], [*range(5, 13), 1, 2, 3, 4])
    assert (other.answered, second.ledger.total, second.ledger.replayed["prediction"]) == (4, 4, 12)


def test_a_look_from_outside_is_no_part_of_a_run_whether_it_is_on_record_or_not(tmp_path: Path) -> None:
    device = Counter()
    with Journal(tmp_path / "run.db") as journal:
        with Session(device, journal=journal.run(device, "a fit")) as session:
            session.measure(POOL)
            session.measure(0.25 * POOL, aside=True)
            session.measure(1 - POOL)
        with Session(device, journal=journal.run(device, "a fit")) as again:  # looks elsewhere, and is the same run
            np.testing.assert_array_equal(again.measure(POOL)[:, 0], [1, 2, 3, 4])
            np.testing.assert_array_equal(again.measure(0.5 * POOL, aside=True)[:, 0], [13, 14, 15, 16])
            np.testing.assert_array_equal(again.measure(1 - POOL)[:, 0], [9, 10, 11, 12])
            np.testing.assert_array_equal(again.measure(0.75 * POOL)[:, 0], [17, 18, 19, 20])
        with Session(device, journal=journal.run(device, "a fit")) as other, pytest.raises(JournalError, match="other"):
            other.measure(0.9 * POOL)


# ---- what stands in a file that somebody has damaged ----


def kept(**changed: Any) -> tuple[Any, ...]:
    """A piece of two rows as it is kept in the file, with some entries replaced."""
    row: dict[str, Any] = {"run": 1, "purpose": "training", "shot": 0, "n_rows": 2, "kind": "<f8", "out_kind": "<f8"}
    row |= {
        "varying": np.array([0.1, 0.2, 0.3, 0.4]).tobytes(),
        "outputs": sealed(np.array([[1.0], [2.0]])),
        "when": 5.0,
    }
    row |= {"index": np.array([2, 0]).tobytes(), "shared_index": np.array([1]).tobytes()}
    row |= {"shared": np.array([0.7]).tobytes(), "shared_kind": "<f8"}
    return tuple((row | changed).values())


def test_a_piece_is_read_as_it_was_kept() -> None:
    piece = answers_of(kept())
    np.testing.assert_array_equal(np.asarray(piece.controls), [[0.2, 0.7, 0.1], [0.4, 0.7, 0.3]])
    np.testing.assert_array_equal(piece.outputs, [[1.0], [2.0]])
    assert (piece.run, piece.purpose, piece.time, piece.controls.shot) == (1, "training", 5.0, 0)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"run": "1"}, "run, shot and number of rows must be numbers"),
        ({"shot": -1}, "run, shot and number of rows must be numbers"),
        ({"n_rows": 0}, "run, shot and number of rows must be numbers"),
        ({"n_rows": 3}, "cannot reshape"),
        ({"purpose": "play"}, "purpose and time must be what they are"),
        ({"when": None}, "purpose and time must be what they are"),
        ({"index": np.array([2, 1]).tobytes()}, "each channel must be set once"),
        ({"shared_index": np.array([3]).tobytes()}, "each channel must be set once"),
        ({"shared": np.array([0.7, 0.8]).tobytes()}, "there must be 1 shared settings. Got 2"),
        ({"varying": np.array([0.1, np.nan, 0.3, 0.4]).tobytes()}, "numbers must be finite"),
        ({"shared": np.array([np.inf]).tobytes()}, "numbers must be finite"),
        ({"outputs": sealed(np.array([[1.0], [np.nan]]))}, "numbers must be finite"),
        ({"outputs": sealed(np.array([[1.0], [2.0]]))[:-1] + b"x"}, "the answers must be those that were recorded"),
        ({"out_kind": ">f8"}, "the answers must be those that were recorded"),
        ({"kind": "<i8"}, "numbers must be floats"),
        ({"shared_kind": "O"}, "numbers must be floats"),
    ],
)
def test_what_was_never_recorded_is_not_given_out(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        answers_of(kept(**changed))
