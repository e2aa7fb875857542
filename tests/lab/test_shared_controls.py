"""What all rows share is sent when it changes, and counted when it is sent."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skpat import ControlBatch, Device
from skpat.exceptions import DeviceOutputError
from skpat.lab import Journal, Session, adopt
from skpat.lab.answers import IncompleteAnswer


class Heaters(Device):
    """Keeps what ``set_shared`` gave it; answers with the settings it has, and counts the numbers that it got and gave."""

    n_controls, n_outputs, bounds = 4, 4, (0.0, 1.0)

    def open(self) -> None:
        self.held_, self.converted_ = np.zeros(4), 0

    def set_shared(self, batch: ControlBatch) -> None:
        self.held_[batch.shared_index] = batch.shared
        self.converted_ += len(batch.shared_index)

    def measure(self, batch: ControlBatch) -> np.ndarray:
        controls = np.tile(self.held_, (batch.n_rows, 1))
        controls[:, batch.varying_index] = batch.varying
        self.converted_ += controls.size + batch.varying.size
        return controls


VALUES = st.sampled_from([0.25, 0.75])


@given(st.lists(st.tuples(VALUES, VALUES, st.booleans()), min_size=1, max_size=6))
def test_a_device_has_the_shared_values_of_each_batch_whatever_its_user_does_with_the_arrays(
    wanted: list[tuple[float, float, bool]],
) -> None:
    device, shared, index = Heaters(), np.zeros(2), np.array([1, 3])
    with Session(device) as session:
        for one, other, turned in wanted:
            shared[:], index[:] = (one, other), (3, 1) if turned else (1, 3)  # the user's own arrays, changed in place
            batch = ControlBatch(np.full((2, 2), 0.5), np.array([0, 2]), shared, index)
            np.testing.assert_array_equal(session.measure(batch, purpose="training"), np.asarray(batch))
        assert session.ledger.conversions["training"] == sum(session.ledger.conversions.values()) == device.converted_


def test_what_a_journal_answers_is_converted_like_what_is_measured(tmp_path: Path) -> None:
    rows = np.linspace(0, 1, 12).reshape(6, 2)
    batches = [ControlBatch(rows, np.array([0, 2]), np.full(2, value), np.array([1, 3])) for value in (0.1, 0.1, 0.2)]
    counted = []
    with Journal(tmp_path / "run.db") as journal:
        for _ in range(2):
            with Session(Heaters(), n_shots=2, journal=journal) as session:
                for batch in batches:
                    session.measure(batch)
            counted.append(session.ledger.conversions)
    assert session.ledger.total == 0
    assert counted[0] == counted[1]
    assert counted[0]["prediction"] == 3 * 2 * 6 * (2 + 4) + 2 * 2


def batch_of(*shared: float) -> ControlBatch:
    return ControlBatch(np.full((2, 2), 0.5), np.array([0, 2]), np.array(shared), np.array([1, 3]))


def test_shared_values_that_were_not_all_taken_are_sent_again() -> None:
    class Halting(Heaters):
        max_retries = 0

        def set_shared(self, batch: ControlBatch) -> None:
            super().set_shared(batch)
            if batch.shared[1] == 1.0:
                raise IncompleteAnswer("one of two heaters is set")

    with Session(Halting()) as session:
        session.measure(batch_of(0.25, 0.75))
        with pytest.raises(DeviceOutputError, match="one of two"):
            session.measure(batch_of(0.5, 1.0))
        np.testing.assert_array_equal(session.measure(batch_of(0.25, 0.75)), np.asarray(batch_of(0.25, 0.75)))


@pytest.mark.parametrize("part", ["shared", "varying"])
def test_a_driver_cannot_change_what_is_set_again_for_the_next_shot(part: str) -> None:
    class Scaling(Heaters):
        def measure(self, batch: ControlBatch) -> np.ndarray:
            values = getattr(batch, part)
            values *= 0.5
            return np.asarray(batch)

    batch = batch_of(0.25, 0.75)
    with Session(Scaling()) as session, pytest.raises(ValueError, match="read-only"):
        session.measure(batch)
    np.testing.assert_array_equal(np.asarray(batch), np.asarray(batch_of(0.25, 0.75)))


def test_settings_settle_also_where_measure_itself_sends_them(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("skpat.lab.connection.time", SimpleNamespace(sleep=waited.append))
    device = adopt(None, lambda _, c: c, n_controls=4, n_outputs=4, bounds=(0, 1), settling_seconds=0.5)
    with Session(device) as session:
        for value in (0.1, 0.1, 0.2):
            session.measure(batch_of(value, value))
    assert waited == [0.5, 0.5]
    assert session.ledger.settling["prediction"] == 1.0
