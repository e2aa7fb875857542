"""The ledger counts every shot, from every thread, and keeps its count when pickled."""

from __future__ import annotations

import pickle
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skpat.lab import Ledger
from skpat.lab.ledger import PURPOSES


class LosesItsTurn(int):
    """A count that lets another thread in while it is added."""

    def __radd__(self, other: int) -> int:
        total = int(other) + int(self)
        time.sleep(0)
        return total


@given(st.lists(st.tuples(st.sampled_from(PURPOSES), st.integers(0, 10**6))))
def test_shots_are_counted_by_purpose(entries: list[tuple[str, int]]) -> None:
    ledger = Ledger(seconds_per_shot=0.5, joules_per_shot=3.0)
    for purpose, n_shots in entries:
        ledger.add(purpose, n_shots)
    assert {p: ledger.shots.get(p, 0) for p in PURPOSES} == {p: sum(n for q, n in entries if q == p) for p in PURPOSES}
    assert ledger.total == sum(n for _, n in entries)
    assert ledger.seconds == 0.5 * ledger.total
    assert ledger.joules == 3.0 * ledger.total


def test_the_four_purposes() -> None:
    assert PURPOSES == ("calibration", "training", "validation", "prediction", "recalibration")
    assert Ledger().shots == dict.fromkeys(PURPOSES[:4], 0)  # recalibration from its first shot on


def test_an_unknown_purpose_is_refused() -> None:
    ledger = Ledger()
    with pytest.raises(ValueError, match=r"'purpose' must be one of calibration, training, .*Got 'play'"):
        ledger.add("play", 1)
    assert ledger.total == 0


def test_costs_that_nobody_states_are_unknown() -> None:
    ledger = Ledger()
    ledger.add("training", 3)
    assert ledger.seconds is None
    assert ledger.joules is None


def test_the_counts_handed_out_are_a_copy() -> None:
    ledger = Ledger()
    ledger.shots["training"] = 99
    assert ledger.total == 0


def test_no_shot_is_lost_between_threads() -> None:
    ledger = Ledger()
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(ledger.add, "training", LosesItsTurn(2)) for _ in range(500)]:
            done.result()
    assert ledger.shots["training"] == 1000


def test_a_ledger_survives_pickling() -> None:
    ledger = Ledger(seconds_per_shot=0.5, joules_per_shot=3.0)
    ledger.add("validation", 7)
    copied = pickle.loads(pickle.dumps(ledger))
    copied.add("validation", 1)
    assert copied.shots["validation"] == 8
    assert ledger.shots["validation"] == 7
    assert (copied.seconds, copied.joules) == (4.0, 24.0)


def test_a_ledger_says_what_it_counted() -> None:
    ledger = Ledger()
    ledger.add("training", 5)
    assert repr(ledger) == "Ledger(calibration=0, training=5, validation=0, prediction=0)"


def test_a_ledger_of_an_older_version_goes_on() -> None:
    ledger = Ledger()
    ledger.add("training", 5)
    state = ledger.__getstate__()
    del state["_conversions"], state["_settling"]
    older = Ledger.__new__(Ledger)
    older.__setstate__(state)
    older.add("prediction", 2, conversions=7, settling_seconds=0.5)
    again = pickle.loads(pickle.dumps(older))
    assert again.shots == {"calibration": 0, "training": 5, "validation": 0, "prediction": 2}
    assert again.conversions["prediction"] == 7
    assert again.settling["prediction"] == 0.5
