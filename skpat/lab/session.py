"""The one way to a device: everything sent is checked, batched, repeated after a fault, recorded and counted here."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any

import numpy as np

from skpat.controls import ControlBatch
from skpat.devices.specification import device_name
from skpat.exceptions import (
    ControlBoundsError,
    DeviceConnectionError,
    DeviceIdentityError,
    DeviceOutputError,
    ShotBudgetError,
    SkpatError,
    UnclearedLineError,
)
from skpat.lab.address_lock import is_of_one_process
from skpat.lab.answers import IncompleteAnswer, advise, inspect, mask
from skpat.lab.connection import Connection, attach, detach
from skpat.lab.journal import Journal, JournalRun
from skpat.lab.ledger import AddressTotals, Ledger, check_purpose
from skpat.lab.limits import Limits
from skpat.lab.replay import in_layout_of
from skpat.lab.row_names import BatchNamedOnDemand
from skpat.row_keys import combine_keys
from skpat.value_checks import is_int, is_number

__all__ = ["PREDICTION_ROWS", "PREDICTION_SHOT", "Session"]

PREDICTION_ROWS = 1024
"""Rows of one device call in a prediction, an estimator's or a deployed network's: memory stays flat, arrays stay in the cache,
and the last bits are the same."""

PREDICTION_SHOT = 1 << 32
"""Where predictions begin to number their shots, beyond any of a fit: the noise is not met twice."""

_JOURNALS = (str, os.PathLike, Journal, JournalRun)

_log = logging.getLogger("skpat.lab")
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 10.0  # seconds before a line is opened once more, growing fourfold


class Session:
    """Measure on a device: bounds first, then the device, then the count.

    Parameters
    ----------
    device : Device
        What to measure on. It is opened at the first measurement and closed with the session, in its safe state.
    n_shots : int, default=1
        Measurements of each row, averaged.
    ledger : Ledger, default=None
        Where shots are counted. None: a new one.
    journal : str, path, Journal or JournalRun, default=None
        Where every answer is written before it is handed on, and where answers are taken from that it holds already. None:
        nowhere.
    bounds : (low, high) or array-like of shape (n_controls, 2), default=None
        Stricter bounds than the device's, in its units.
    wait : float, default=None
        Seconds to wait for an address that somebody else holds. None: until it is free. Who holds it is logged.
    identity : str, default=None
        What the device must answer when it is asked who it is. None or "": anybody.
    max_shots : int, default=None
        Most shots of this session, repeats after faults and what a journal answers included. None: any number.

    Attributes
    ----------
    ledger : Ledger
    kept_back : int
        Shots of ``max_shots`` that whoever set this number means for later, and that are not to be had until it is lowered.

    Notes
    -----
    The whole batch is checked before its first row is sent, so an illegal value means that nothing was sent. Rows are
    then sent in pieces of at most the device's ``max_batch``. A shot is counted when it has been asked for, whether or
    not its answer is usable.

    Where the device has an ``address``, one thread of one process holds it, from the first measurement to
    :meth:`close`; sessions opened inside another one in the same thread share its line. Everybody else waits.

    When the line breaks or an answer does not come in time, the line is closed, opened anew, asked who it is, given the
    shared controls again, and the piece is repeated, at most ``max_retries`` times with growing pauses. Bad
    readings are treated as the device's ``on_bad_output`` says.

    A device that drifts is told how many rows have been answered before, by the device or from the journal: that is its clock,
    and it goes on for as long as the ledger does.

    Shots are numbered so that a simulated device draws new noise for each: a batch measured without a number gets
    the session's next one.

    Examples
    --------
    >>> import numpy as np
    >>> from skpat import as_device
    >>> from skpat.lab import Session
    >>> device = as_device(lambda controls: controls**2, n_controls=2, n_outputs=2, bounds=(0, 1))
    >>> with Session(device, n_shots=3) as session:
    ...     outputs = session.measure(np.array([[0.5, 1.0]]))
    >>> outputs, session.ledger.shots["prediction"]
    (array([[0.25, 1.  ]]), 3)
    >>> session.measure(np.array([[0.5, 1.5]]))
    Traceback (most recent call last):
        ...
    skpat.exceptions.ControlBoundsError: The 'controls' passed to <lambda>.measure must lie within its bounds. Got 1.5 \
in channel 1, row 0 (bounds 0 to 1). Nothing was sent.
    """

    def __init__(
        self,
        device: Any,
        *,
        n_shots: int = 1,
        ledger: Ledger | None = None,
        journal: Any = None,
        bounds: Any = None,
        wait: float | None = None,
        identity: str | None = None,
        max_shots: int | None = None,
    ):
        self._limits = Limits(device, bounds)
        for name, value, legal, what in (
            ("n_shots", n_shots, is_int(n_shots, 1), "an int of at least 1"),
            ("ledger", ledger, ledger is None or isinstance(ledger, Ledger), "a skpat.lab.Ledger or None"),
            (
                "journal",
                journal,
                journal is None or isinstance(journal, _JOURNALS),
                "a path, a skpat.lab.Journal or None",
            ),
            ("wait", wait, wait is None or is_number(wait, 0), "a number of seconds, at least 0, or None"),
            ("identity", identity, identity is None or isinstance(identity, str), "a str or None"),
            ("max_shots", max_shots, max_shots is None or is_int(max_shots, 0), "an int of at least 0 or None"),
        ):
            if not legal:
                raise ValueError(f"'{name}' of a Session must be {what}. Got {value!r:.80}.")
        self.device = device
        self.n_shots = int(n_shots)
        self.ledger = Ledger.of(device) if ledger is None else ledger
        self._opened = Journal(journal) if isinstance(journal, (str, os.PathLike)) else None
        journal = journal if self._opened is None else self._opened
        self.journal: JournalRun | None = journal.run(device) if isinstance(journal, Journal) else journal
        self.wait = wait
        self._expected = identity or None
        self._totals: AddressTotals | None = None
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._connection: Connection | None = None
        self._next_shot = 0
        self._shared: tuple[np.ndarray, np.ndarray] | None = None  # of the last batch
        self.max_shots = max_shots
        self.kept_back = 0
        self._answered_before = self.ledger.asked_in_all

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def identity(self) -> str | None:
        """Who answers, by its own words; None where nobody has said so yet."""
        answering = None if self._connection is None else self._connection.identity
        recorded = None if self.journal is None else self.journal.identity
        return answering or self._expected or recorded or None

    @property
    def shots_left(self) -> float:
        """Shots that ``max_shots`` still allows, but for those kept back; infinite without it."""
        if self.max_shots is None:
            return float("inf")
        return self.max_shots - self.kept_back - (self.ledger.asked_in_all - self._answered_before)

    def keep_within_budget(self, n_shots: int) -> None:
        """Raise ShotBudgetError if so many more shots would go beyond ``max_shots``."""
        if self.max_shots is not None and n_shots > self.shots_left:
            kept = (
                f", beside {self.kept_back:,} that are reserved for the end of the training" if self.kept_back else ""
            )
            raise ShotBudgetError(
                f"A measurement must not go beyond max_shots={self.max_shots:,}. {n_shots:,} more shots were asked for, "
                f"{max(self.shots_left, 0):,} are left{kept}. They were not sent. Use a larger max_shots, or a new Session.",
                max_shots=self.max_shots,
            )

    def close(self) -> None:
        """Bring the device into its safe state, close it, and free its address. The session may be used again."""
        if self._pid != os.getpid():  # forked: even the lock is the parent's, and a thread of it may hold it
            self._connection = None
            return
        with self._lock:
            connection, self._connection = self._connection, None
            with ExitStack() as at_the_end:
                if self._opened is not None:
                    at_the_end.callback(self._opened.close)  # until it is needed again
                if connection is not None:
                    if self.journal is not None:
                        at_the_end.callback(self.journal.end_writing)
                    detach(id(self), connection)

    def __del__(self) -> None:
        if self.__dict__.get("_connection") is not None and self._pid == os.getpid():
            self.close()

    def measure(
        self,
        batch: ControlBatch | np.ndarray,
        *,
        purpose: str = "prediction",
        shot: int | None = None,
        aside: bool = False,
    ) -> np.ndarray:
        """Measure every row ``n_shots`` times and average.

        Parameters
        ----------
        batch : ControlBatch or array of shape (n_rows, n_controls)
            Settings in the device's units.
        purpose : {"calibration", "training", "validation", "prediction", "recalibration"}, default="prediction"
            What the shots are counted as.
        shot : int, default=None
            Number of the first shot, for noise that must repeat. None: the session's next.
        aside : bool, default=False
            Whether a journal keeps the answers apart from the run's own, which are then the same with and without this
            measurement: for a look at a run from outside.

        Returns
        -------
        ndarray of float, shape (n_rows, n_outputs)
            In the device's dtype where that is a float, else float64.

        Raises
        ------
        ControlBoundsError
            If a value lies outside its bounds or is not finite, or the device vetoes it. Nothing was sent.
        ValueError
            If the batch has the wrong number of channels. Nothing was sent.
        DeviceOutputError
            If the device returns a wrong shape, NaN, infinity or a saturated reading, and goes on doing so.
        DeviceConnectionError
            If the line broke, and opening it anew did not help.
        DeviceBusyError
            If somebody else holds the address when ``wait`` is over. Nothing was sent.
        DeviceIdentityError
            If another instrument answers than before.
        JournalError
            If the journal was made with another instrument, or holds another course of the same run. Nothing was sent.
        ShotBudgetError
            If more than ``max_shots`` would be needed. What was asked for last was not sent.
        """
        check_purpose(purpose)
        batch = self._limits.check(ControlBatch.from_dense(batch).numpy()).read_only()
        if (
            self._limits.limits_changes and self.n_shots > 1 and batch.n_rows
        ):  # the second shot starts from the last row
            self._limits.check_changes(batch, np.asarray(batch.rows(slice(-1, None)))[0])
        if self._pid != os.getpid():  # forked: the line and whoever held the lock are the parent's
            self._lock, self._pid, self._connection = threading.RLock(), os.getpid(), None
        with self._lock:
            self.keep_within_budget(batch.n_rows * self.n_shots)
            first = self._next_shot if shot is None else shot
            if shot is None:
                self._next_shot += self.n_shots
            total = self._measure_once(batch, first, purpose, aside)
            for number in range(first + 1, first + self.n_shots):
                total = total + self._measure_once(batch, number, purpose, aside)
        return total / self.n_shots if self.n_shots > 1 else total

    def run(
        self,
        row_keys: np.ndarray | Callable[[], np.ndarray],
        purpose: str,
        *,
        shot: int | None = None,
        aside: bool = False,
    ) -> Callable[[ControlBatch, int, int], np.ndarray]:
        """A ``run(batch, layer, unit)`` for the network's forward pass: this device, every row named.

        Parameters
        ----------
        row_keys : ndarray of uint64, shape (n_rows,), or callable
            Names of the rows of X; layer and unit are mixed in. A function is asked for them if the device wants to know.
        purpose, shot, aside
            As in :meth:`measure`.

        Returns
        -------
        callable
            Gives outputs (n_rows, n_outputs) in the dtype of the controls.
        """

        def run(batch: ControlBatch, layer: int, unit: int) -> np.ndarray:
            batch = batch.numpy()
            if callable(row_keys):
                batch = BatchNamedOnDemand.of(batch, lambda: combine_keys(row_keys(), layer, unit), shot or 0)
            else:
                batch = batch.named(combine_keys(row_keys, layer, unit), shot or 0)
            outputs = self.measure(batch, purpose=purpose, shot=shot, aside=aside)
            return outputs.astype(batch.varying.dtype, copy=False)

        return run

    def _measure_once(self, batch: ControlBatch, shot: int, purpose: str, aside: bool) -> np.ndarray:
        """One shot of each row: from the journal where it has the answer, else from the device."""
        self._count_shared(batch, purpose)
        if self.journal is None:
            return self._measure_rows(batch.named_shot(shot), purpose)
        if not batch.n_rows:
            return np.empty((0, self.device.n_outputs))
        before = self.journal.position()
        known, missing, keys, n_lost = self.journal.take(batch, aside)
        if len(missing) and (self._connection is None or not self.journal.is_writing):
            try:
                self._attached()
                has_more = self.journal.begin_writing(before, self.wait)
            except BaseException:  # nothing was sent: the same again finds the same
                self.journal.go_back(before)
                raise
            if has_more:  # while this one waited, another has recorded the same run
                known, missing, keys, n_lost = self.journal.take(batch, aside)
            n_lost = n_lost + self.journal.take_pending()
        n_known = batch.n_rows - len(missing)
        self.ledger.add_replayed(
            purpose,
            n_known + int(n_lost[0]),
            conversions=n_known * self._count_conversions(batch),
            in_vain=int(n_lost[1]),
        )
        if not len(missing):
            return known
        rows = slice(None) if len(missing) == batch.n_rows else missing
        measured = self._measure_rows(batch.rows(rows).named_shot(shot), purpose, missing, keys[rows])
        if len(missing) == batch.n_rows:
            return measured
        outputs = np.empty((batch.n_rows, measured.shape[1]), dtype=np.result_type(known, measured))
        outputs[np.setdiff1d(np.arange(batch.n_rows), missing)] = known
        outputs[missing] = measured
        return in_layout_of(outputs, known, measured)

    def _measure_rows(
        self,
        batch: ControlBatch,
        purpose: str,
        row_numbers: np.ndarray | None = None,
        keys: np.ndarray | None = None,
    ) -> np.ndarray:
        """Measure in pieces of at most ``max_batch`` rows; each is recorded before the next is sent."""
        if not batch.n_rows:
            return np.empty((0, self.device.n_outputs))
        connection = self._attached()
        if self._limits.limits_changes:
            self._limits.check_changes(batch, connection.last_row)
        limit = getattr(self.device, "max_batch", None) or batch.n_rows
        pieces = []
        for start in range(0, batch.n_rows, limit):
            piece = batch.rows(slice(start, start + limit)) if limit < batch.n_rows else batch
            first_row = start if row_numbers is None else int(row_numbers[start])
            with self._lost_on_record(piece.n_rows) as asked:
                pieces.append(self._measure_piece(connection, piece, purpose, first_row, asked))
            if self.journal is not None and keys is not None:
                self.journal.record(piece, keys[start : start + limit], pieces[-1], purpose)
        return pieces[0] if len(pieces) == 1 else in_layout_of(np.concatenate(pieces), *pieces)

    @contextmanager
    def _lost_on_record(self, n_rows: int) -> Iterator[list[int]]:
        """Let the journal know of shots that got no answer: a run that goes on has as many left as this one would have.

        Gives a list for the rows of every attempt.
        """
        asked: list[int] = []
        n_answered = 0
        try:
            yield asked
            n_answered = n_rows
        finally:
            if self.journal is not None and (n_lost := sum(asked) - n_answered) > 0:
                self.journal.note_lost(n_lost, ended=not n_answered)

    def _attached(self) -> Connection:
        if self._connection is None:
            address = getattr(self.device, "address", None)
            connection = attach(id(self), self.device, self.wait)
            self._totals = None if address is None or is_of_one_process(address) else AddressTotals(address)
            if self._expected is not None and connection.identity not in (None, self._expected):
                detach(id(self), connection)
                raise DeviceIdentityError(
                    f"The instrument {device_name(self.device)} must be {self._expected!r}. Got {connection.identity!r}. "
                    "Nothing was sent. Connect the right one."
                )
            self._connection = connection
        return self._connection

    def _measure_piece(
        self, connection: Connection, piece: ControlBatch, purpose: str, first_row: int, asked: list[int]
    ) -> np.ndarray:
        retries = getattr(self.device, "max_retries", 0) or 0
        policy = getattr(self.device, "on_bad_output", "raise")

        def count(settling_seconds: float) -> None:
            self.keep_within_budget(piece.n_rows)  # a repeat after a fault costs shots, too
            conversions = piece.n_rows * self._count_conversions(piece)
            self.ledger.add(purpose, piece.n_rows, conversions=conversions, settling_seconds=settling_seconds)
            asked.append(piece.n_rows)
            if self._totals is not None:
                self._totals.add(purpose, piece.n_rows)

        expected = self._expected or (None if self.journal is None else self.journal.identity) or None
        n_lost = 0  # time-outs and broken lines, one after the other
        fault: str | None
        for attempt in range(retries + 1):
            try:
                with connection.io:  # nobody else moves a channel in between
                    if self._limits.limits_changes:
                        self._limits.check_changes(piece, connection.last_row)
                        connection.last_row = np.asarray(piece.rows(slice(-1, None)))[0]
                    answer = connection.measure(self.device, piece.started_at(self.ledger.clock), count, expected)
            except DeviceIdentityError as error:
                raise self._given_up(DeviceIdentityError, str(error)) from error
            except IncompleteAnswer as error:
                outputs, fault, message = np.empty(0), "shape", str(error)
            except DeviceOutputError as error:
                raise self._given_up(DeviceOutputError, str(error)) from error
            except OSError as error:
                if isinstance(error, SkpatError) and not isinstance(error, DeviceConnectionError):
                    raise
                if isinstance(error, UnclearedLineError):
                    connection.make_safe(self.device)
                    raise self._given_up(UnclearedLineError, str(error)) from error
                self._count_fault("connection", str(error))
                if attempt == retries:
                    connection.make_safe(self.device)
                    told = f"{_sentence(error)} Tried {_times(retries + 1)}."
                    if retries and piece.n_rows > 1:
                        told += f" Each try asks for all {piece.n_rows} rows of the call: a lower max_batch makes it shorter."
                    raise self._given_up(DeviceConnectionError, told) from error
                self._check_way_back(connection, piece, DeviceConnectionError, _sentence(error))
                if n_lost:  # the first time at once
                    time.sleep(min(_FIRST_PAUSE * 4 ** (n_lost - 1), _LONGEST_PAUSE))
                n_lost += 1
                continue
            else:
                if self.journal is not None and connection.identity:
                    self.journal.check_identity(connection.identity)
                outputs, fault, message = inspect(self.device, answer, piece.n_rows, first_row)
            n_lost = 0
            if fault is None:
                return outputs
            self._count_fault(fault, message)
            masked = mask(self.device, outputs) if policy == "mask" and fault != "shape" else None
            if masked is not None:
                return masked
            is_last = attempt == retries or policy == "raise"
            if fault != "shape":  # if this message is shown, there are no repeats left: it says what to do
                message += (
                    f" {advise(self.device, outputs, policy, repeats=is_last and attempt > 0 and piece.n_rows > 1)}"
                )
            if is_last:
                raise self._given_up(DeviceOutputError, message)
            self._check_way_back(connection, piece, DeviceOutputError, message)
        raise AssertionError("every way out of the loop returns or raises")

    def _count_shared(self, batch: ControlBatch, purpose: str) -> None:
        """Count the conversions of what all rows share, if it has changed since the last batch."""
        if not batch.n_rows or not len(batch.shared_index):
            return
        known = self._shared
        if known is None or not all(map(np.array_equal, known, (batch.shared, batch.shared_index))):
            self._shared = np.array(batch.shared), np.array(batch.shared_index)
            self.ledger.add_conversions(purpose, len(batch.shared_index))

    def _count_conversions(self, batch: ControlBatch) -> int:
        """Numbers converted for each row of a batch: the controls that differ from row to row, and the outputs."""
        return len(batch.varying_index) + int(self.device.n_outputs)

    def _check_way_back(
        self,
        connection: Connection,
        piece: ControlBatch,
        kind: type[DeviceConnectionError] | type[DeviceOutputError],
        message: str,
    ) -> None:
        """Give up, and tell the fault, where a repeat would move a channel too far: from the last row to the first."""
        try:
            self._limits.check_changes(piece, connection.last_row)
        except ControlBoundsError as error:
            if kind is DeviceConnectionError:
                connection.make_safe(self.device)
            told = f"{message} It was not repeated: the way back to the first row is longer than max_change allows."
            raise self._given_up(kind, told) from error

    def _count_fault(self, kind: str, message: str) -> None:
        self.ledger.add_fault(kind)
        _log.info("Fault of %s (%s): %s", device_name(self.device), kind, message)
        if self.journal is not None:
            self.journal.note_fault(kind, message)

    def _given_up(
        self, kind: type[DeviceConnectionError] | type[DeviceOutputError] | type[DeviceIdentityError], message: str
    ) -> SkpatError:
        journal = None if self.journal is None else str(self.journal.path)
        if journal is not None:
            message += f" What was measured is in {journal}: the same fit goes on from there."
        return kind(message, shots_done=self.ledger.shots, journal=journal)


def _sentence(error: BaseException) -> str:
    text = str(error) or type(error).__name__
    return text if text.endswith(".") else f"{text}."


def _times(n: int) -> str:
    return "once" if n == 1 else f"{n} times"
