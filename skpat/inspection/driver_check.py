"""check_device: does a driver keep the contract of a device? Few shots, legal settings only."""

from __future__ import annotations

import pickle
import threading
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.utils import check_random_state

from skpat.controls import ControlBatch
from skpat.devices.specification import channel_periods, check_device_specification, device_name, slow_channels
from skpat.exceptions import ControlBoundsError, DeviceBusyError, DeviceContractError, DeviceOutputError
from skpat.inspection import driver_faults
from skpat.inspection.control_scans import check_integers, check_scans, check_steps, scan_plan, step_plan
from skpat.inspection.driver_specification import check_specification
from skpat.inspection.findings import DeviceCheck, Finding, listed
from skpat.inspection.legal_settings import LegalSettings, measured_in_runs, slow_beside_others
from skpat.inspection.observed_device import AnotherAnswerError, DriverError, ObservedDevice, WrongAnswerError
from skpat.inspection.period_scans import check_periods, period_plan
from skpat.inspection.repeats import has_masked, measured_settling
from skpat.lab.ledger import Ledger
from skpat.lab.session import Session
from skpat.row_keys import hash_rows

__all__ = ["check_device"]

_N_SETTINGS = 6
_LARGEST_BATCH = 24  # rows, unless the number of outputs or max_batch asks for more
_LONGEST_BATCH = 28
_COARSEST = 0.5  # of the step from the answer before: what must be seen at least
_SLOW = 1.0  # seconds per row
_LAST = np.array([3, 0, 5])  # settings that are measured before and after closing
_NAMED_SHOT = 1 << 20  # far from the shots that a session counts


def check_device(
    device: Any, *, on_fail: str | None = "raise", random_state: Any = 0, wait: float | None = None
) -> DeviceCheck:
    """Check that a driver keeps the contract of a device, and say in words what is wrong and how to mend it.

    It works on a copy of the device, through a :class:`skpat.lab.Session`: only settings within the bounds are sent, on the
    device's steps, within its ``max_change`` and not vetoed. It takes 120 to 200 shots, and up to 90 more where an
    answer seems to depend on the row before it, or a stated period looks wrong; ``n_shots`` of the result says how many.

    Parameters
    ----------
    device : Device
        Any object with the attributes of :class:`skpat.Device`.
    on_fail : {"raise", "warn", None}, default="raise"
        What to do about faults: raise an error that lists them all, warn, or only return them.
    random_state : int, RandomState instance or None, default=0
        For the settings. An int: the same settings in every run.
    wait : float, default=None
        Seconds to wait for an address that somebody else holds. None: until it is free.

    Returns
    -------
    DeviceCheck
        Every finding. Print it.

    Raises
    ------
    DeviceContractError
        If ``on_fail="raise"`` and the driver has a fault.
    DeviceBusyError
        If somebody else holds the address when ``wait`` is over.
    ValueError
        If ``on_fail`` is none of the three.

    Notes
    -----
    What is checked: the specification; that constructing, cloning, printing and pickling open nothing; parameters; shape,
    dtype and finite numbers for calls of different size; that an answer depends on its own row alone (not on the rows
    before it, beside it, or on the order); shared channels; controls that are rounded, clipped or ignored; outputs that
    never change; stated periods; that controls are not modified; buffers; refusal of illegal values; closing, opening again,
    the safe state, use from another thread.

    Slow channels (``slow_controls``) are sent as shared ones, so that the session waits for them; they stand still but in the
    scan of each channel.

    Instruments are noisy. Noise is measured first, from batches that are repeated in the course of the check, so that a slow
    drift counts as noise. A difference is a fault only if nearly all of several settings differ by more than five standard
    deviations. Checks that the noise makes blind are skipped, and the result says so.

    Examples
    --------
    >>> import numpy as np
    >>> from skpat import as_device, check_device
    >>> def amplifier(volts):
    ...     return np.tanh(volts.astype(int) @ np.ones((4, 3)))  # the cast is a fault
    >>> device = as_device(amplifier, n_controls=4, n_outputs=3, bounds=(-5, 5))
    >>> check = check_device(device, on_fail=None)
    >>> check.passed
    False
    >>> check["control steps"].status
    'failed'
    """
    if on_fail not in ("raise", "warn", None):
        raise ValueError(f"'on_fail' must be 'raise', 'warn' or None. Got {on_fail!r}.")
    check = _Check(device, check_random_state(random_state), wait).run()
    if not check.passed and on_fail is not None:
        faults = "\n".join(f"  {number}. {fault}" for number, fault in enumerate(check.failures, 1))
        message = f"{check.device} must keep the contract of a device. Got {len(check.failures)} faults:\n{faults}"
        message = message.replace("Got 1 faults", "Got one fault")
        if on_fail == "raise":
            raise DeviceContractError(message)
        warnings.warn(message, UserWarning, stacklevel=2)
    return check


class _Check:
    """One check of one device: measures, and collects findings."""

    def __init__(self, device: Any, rng: np.random.RandomState, wait: float | None):
        self.original, self.rng, self.wait = device, rng, wait
        self.findings: list[Finding] = []
        self.readings: driver_faults.ReferenceReadings | None = None
        self.last_outputs: np.ndarray | None = None
        self.ledger = Ledger()

    def add(self, name: str, status: str, seen: str, mend: str = "") -> None:
        self.findings.append(Finding(name, status, seen, mend))

    def judge(self, name: str, verdict: driver_faults.Verdict, passed: str) -> None:
        if verdict.found:
            self.add(name, "failed", verdict.seen, verdict.mend)
        else:
            self.add(name, "passed", passed)

    def run(self) -> DeviceCheck:
        try:
            name = device_name(self.original)
            check_device_specification(self.original)
        except DeviceContractError as error:
            self.add("specification", "failed", str(error))
            return DeviceCheck(name, self.findings)
        self.add("specification", "passed", "States what a device must state.")
        copy, findings = check_specification(self.original, self.rng)
        self.findings += findings
        try:
            self.slow, still = slow_channels(copy), slow_beside_others(copy)
            self.legal = LegalSettings(copy, self.rng, still=still)
            self.settings = self.legal.draw(_N_SETTINGS)
        except ControlBoundsError as error:
            self.add("veto", "failed", f"Every setting that was tried is vetoed: {error}", "Look at check_controls.")
            return DeviceCheck(name, self.findings)
        except DeviceContractError as error:
            self.add("veto", "failed", str(error))
            return DeviceCheck(name, self.findings)
        for restriction in self.legal.restrictions:
            self.add("settings", "skipped", f"Settings near the bounds were not tried ({restriction}).")
        if len(still):
            self.add(
                "slow channels", "skipped", f"{listed('Channel', still)} stood still but in the scan of each channel."
            )
        self.copy, self.observed = copy, ObservedDevice(copy)
        self.all_observed = [self.observed]
        with Session(self.observed, ledger=self.ledger, wait=self.wait) as self.session:
            if self.attempt("refusal", self.check_refusal) and self.attempt("batch", self.check_rows):
                if self._faultless("company", "rows before"):
                    self.attempt("large batch", self.check_large_batch)
                    self.attempt("shared channels", self.check_shared)
                    self.attempt("controls", self.check_controls)
                    self.attempt("noise by name", self.check_names)
                    self.attempt("periods", self.check_periods)
                    self.attempt("batch", self.measure_last)
                else:
                    self.add("controls", "skipped", "First, an answer must depend on its own row only.")
        if self.readings is not None:
            self.check_use_again()
        self.check_whole()
        readings = self.readings
        return DeviceCheck(
            name, self.findings, self.ledger.total, None if readings is None else readings.relative_noise
        )

    # ---- measuring ----

    def attempt(self, name: str, check: Callable[[], None]) -> bool:
        """Make a check; what a driver raises in it is a finding. False if it could not be finished."""
        try:
            check()
        except WrongAnswerError as error:
            self.add(error.check, "failed", error.seen, error.mend)
        except DeviceOutputError as error:
            self.add("finite", "failed", str(error), "Repeating did not help. Find out for which settings it happens.")
        except DriverError as wrapped:
            seen = wrapped.seen
            if "read-only" in str(wrapped.error):
                mend = "The driver works in place on its controls. Work on a copy: np.array(batch)."
            elif name == "shared channels":
                mend = (
                    "Shared channels are in batch.shared, at batch.shared_index; batch.varying holds the others only. "
                    "np.asarray(batch) puts both in their places."
                )
            else:
                mend = wrapped.mend
            self.add(name, "failed", seen, mend)
        else:
            return True
        return False

    def measure(self, controls: np.ndarray | ControlBatch, shot: int | None = None) -> np.ndarray:
        batch = ControlBatch.from_dense(controls)
        if batch.row_keys is None:
            batch = batch.named(hash_rows(np.asarray(batch)))
        measure = partial(self.session.measure, purpose="calibration", shot=shot)
        try:
            return measured_in_runs(measure, batch, self.slow).astype(np.float64)
        except (WrongAnswerError, DeviceOutputError, DeviceBusyError):
            raise
        except Exception as error:
            raise DriverError(error, self.observed.given) from error

    def check_refusal(self) -> None:
        """Illegal values are refused by the session, with nothing sent."""
        legal, bounds = self.settings[:1], self.legal.bounds
        for value in (bounds[0, 1] + 1e-3 * np.ptp(bounds[0]), bounds[0, 0] - 1e-3 * np.ptp(bounds[0]), np.nan):
            illegal = legal.copy()
            illegal[0, 0] = value
            self._must_refuse(illegal)
        self._must_refuse(np.hstack([legal, legal[:, :1]]))
        self.add("refusal", "passed", "Values outside the bounds, NaN and a wrong number of channels are not sent.")

    def _must_refuse(self, illegal: np.ndarray) -> None:
        try:
            self.session.measure(illegal)
        except ValueError:
            if not self.observed.n_calls:
                return
        raise AssertionError("an illegal value was sent: a defect of skpat, not of the driver")

    def check_rows(self) -> None:
        """An answer depends on its own row: in a batch, alone, in another order, after other rows and after itself."""
        parts: list[tuple[int, str, int, int, np.ndarray]] = []

        def block(context: str, repeat: int, *calls: np.ndarray) -> None:
            for labels in calls:
                outputs = self.measure(self.settings[labels])
                parts.extend((s, context, repeat, i, outputs[i]) for i, s in enumerate(labels))

        # a call of as many rows as there are outputs is a check of its own
        cuts = [cut for cut in (5, 4, 3, 2, 1) if self.copy.n_outputs not in (cut, _N_SETTINGS - cut)]

        def mixed(cut: int) -> tuple[np.ndarray, np.ndarray]:
            order = self.rng.permutation(_N_SETTINGS)
            return order[:cut], order[cut:]

        everything = np.arange(_N_SETTINGS)
        block("batch", 0, everything)
        block("single", 1, *everything[::-1, None])
        block(
            "mixed", 2, *mixed(cuts[0])
        )  # in time, the middles of all three contexts coincide: a steady drift cancels
        block("batch", 3, everything)
        block("mixed", 4, *mixed(cuts[-1]))
        block("single", 5, *self.rng.permutation(_N_SETTINGS)[:, None])
        block("batch", 6, everything)
        setting, context, repeat, place, outputs = zip(*parts, strict=True)
        self.record = driver_faults.Record(
            np.array(setting), np.array(context), np.array(repeat), np.array(place), np.array(outputs)
        )
        self.readings = readings = driver_faults.ReferenceReadings(self.record)
        self.add("shape", "passed", "(n_rows, n_outputs) for single rows and for batches.")
        self._check_dead(readings)
        self._report_noise(readings)
        if not readings.live.any():
            return
        if (stale := driver_faults.stale_fault(readings)).found and not has_masked(self.copy, self.ledger):
            self.judge("stale answers", stale, "")
        memory = driver_faults.memory_fault(readings)
        company = driver_faults.Verdict(False) if memory.found else driver_faults.company_fault(readings)
        if not memory.found and (not company.found or company is driver_faults.ANOTHER_ANSWER):
            found = measured_settling(self.measure, self.settings)
            memory = driver_faults.settling_fault(found)
            if not memory.found and found.resolution < _COARSEST:
                passed = f"The row before moves an answer by less than {found.resolution:.0%} of the step between."
                self.add("rows before", "passed", passed)
        if memory.found:
            self.judge("rows before", memory, "")
        elif company.found or readings.resolves:
            self.judge("company", company, "The same answer alone, in a batch and in another order.")
        else:
            self.add("company", "skipped", "The noise would hide a dependence on other rows.")

    def _check_dead(self, readings: driver_faults.ReferenceReadings) -> None:
        dead = np.flatnonzero(~readings.live)
        if not readings.live.any():
            self.add(
                "dead outputs",
                "failed",
                f"No output changes: {_N_SETTINGS} settings, drawn at random, gave one answer.",
                "Are the controls sent at all? Are they rounded to whole numbers on the way, or is the trigger missing?",
            )
        elif len(dead) or len(readings.dark):
            never = f"{listed('Output', dead)} never changed." if len(dead) else ""
            dark = f"{listed('Output', readings.dark)} showed little but noise." if len(readings.dark) else ""
            mend = "Check the wiring, or leave them out of n_outputs."
            self.add("dead outputs", "warning", f"{never} {dark}".strip(), mend)
        else:
            self.add("dead outputs", "passed", "Every output changes.")

    def _report_noise(self, readings: driver_faults.ReferenceReadings) -> None:
        if not readings.live.any():
            return
        noise = readings.relative_noise
        if not readings.is_noisy:
            self.add("repeatability", "passed", "Repeats are equal: no noise.")
        elif noise < 1:
            self.add("repeatability", "passed", f"Noise is {noise:.2g} of the spread between settings.")
        else:
            self.add(
                "repeatability",
                "warning",
                f"Noise is {noise:.2g} times the spread between settings.",
                "Much is hidden by it. Average several shots, or look for a loose cable; see skpat.characterize.",
            )

    def check_large_batch(self) -> None:
        """A batch as large as may be, with as many rows as outputs where that is possible."""
        n_outputs, max_batch = int(self.copy.n_outputs), getattr(self.copy, "max_batch", None)
        n_rows = min(max_batch, _LONGEST_BATCH) if max_batch else _LARGEST_BATCH
        if 2 <= n_outputs <= _LONGEST_BATCH and n_outputs != _N_SETTINGS:
            n_rows = n_outputs
        labels = self.rng.permutation(np.arange(n_rows) % _N_SETTINGS)
        outputs = self.measure(self.settings[labels])
        readings = self.readings
        assert readings is not None
        if n_rows == n_outputs and readings.live.all():
            transposed = driver_faults.square_is_transposed(readings, outputs, labels)
            if transposed.found:
                self.judge("shape of a square batch", transposed, "")
                return
        wrong = readings.differ(outputs, self._mean_answers(labels))
        if wrong:  # unless it is the device that has changed in the meantime
            again, now = self.measure(self.settings[labels]), self.measure(self.settings)[labels]
            wrong = readings.differ(outputs, now, driver_faults.AGAIN) and readings.differ(
                again, now, driver_faults.AGAIN
            )
        if wrong:
            self.add(
                "large batch",
                "failed",
                f"A batch of {n_rows} rows is answered differently from smaller ones.",
                "If the instrument takes fewer rows at once, state that as max_batch.",
            )
        else:
            at_once = f", {max_batch} at once" if max_batch and max_batch < n_rows else " in one batch"
            self.add("large batch", "passed", f"{n_rows} rows{at_once}.")

    def _mean_answers(self, labels: np.ndarray) -> np.ndarray:
        """Mean answers to the reference settings, in the device's units."""
        record = self.record
        means = [record.outputs[record.setting == setting].mean(axis=0) for setting in range(_N_SETTINGS)]
        return np.stack(means)[labels]

    def check_shared(self) -> None:
        """The same settings, with some channels shared by all rows of the call."""
        n_controls = self.legal.bounds.shape[0]
        if n_controls < 2:
            self.add("shared channels", "skipped", "There is one channel only.")
            return
        readings = self.readings
        assert readings is not None
        shared, varying = np.arange(1, n_controls, 2), np.arange(0, n_controls, 2)
        variants = [
            (self.settings[0], varying, shared, "values that all rows of a call share"),
            (self.settings[5], varying, shared, "shared values that differ from those of the call before"),
            (self.settings[0], varying[::-1].copy(), shared[::-1].copy(), "channels listed in another order"),
        ]
        n_compared = 0
        for base, varying_index, shared_index, what in variants:
            dense = self.settings[1:5].copy()
            dense[:, shared_index] = base[shared_index]
            if any(self.legal.veto(row) is not None for row in dense):
                continue
            batch = ControlBatch(dense[:, varying_index], varying_index, base[shared_index], shared_index)
            n_compared += 1
            sent = [(self.measure(batch), self.measure(dense))]
            if not readings.differ(*sent[0]):
                continue
            sent.append((self.measure(batch), self.measure(dense)))  # once more: it may have been a leap of the device
            if readings.differ_beyond_repeats(*map(np.stack, zip(*sent, strict=True))):
                self.add(
                    "shared channels",
                    "failed",
                    f"The same settings are answered differently when some channels are sent as shared: {what}.",
                    "measure must put batch.varying at batch.varying_index and batch.shared at batch.shared_index "
                    "(np.asarray(batch) does); set_shared must send the values anew whenever it is called.",
                )
                return
        if n_compared:
            self.add("shared channels", "passed", "Shared channels and whole settings give the same answers.")
        else:
            self.add("shared channels", "skipped", "The device vetoes such settings.")

    def check_controls(self) -> None:
        """Rounded, clipped and ignored controls; outputs that are whole numbers."""
        readings = self.readings
        assert readings is not None
        if not readings.live.any():
            return
        steps = step_plan(self.legal)
        step_outputs = None if steps is None else self.measure(steps)
        scan = scan_plan(self.legal, self.settings[0])
        scan_outputs = self.measure(scan.settings) if len(scan.settings) else np.empty((0, len(readings.live)))
        self.findings.append(check_steps(self.legal, readings, steps, step_outputs))
        self.findings += check_scans(scan, readings, scan_outputs)
        self.findings.append(check_integers(readings, self.record.outputs, self.observed.dtypes))

    def check_names(self) -> None:
        """A simulated device's noise is a function of the row's name and the shot."""
        readings = self.readings
        assert readings is not None
        parameters = self.copy.get_params(deep=True) if hasattr(self.copy, "get_params") else {}
        if not any(name.split("__")[-1] == "random_state" for name in parameters):
            return
        if not readings.is_noisy:
            self.add("noise by name", "passed", "No noise.")
            return
        first, again = (self.measure(self.settings, shot=_NAMED_SHOT) for _ in range(2))
        if not np.array_equal(first, again):
            squares = np.square(readings.in_scale(first) - readings.in_scale(again)).sum(axis=1)
            if np.mean(squares) > 0.5 * readings.noise.mean():
                self.add(
                    "noise by name",
                    "warning",
                    "The device has a random_state, but a row of the same name and shot gets other noise.",
                    "Draw it with self.standard_normal(batch, n_values).",
                )
            else:
                self.add("noise by name", "skipped", "Repeats of a named row differ a little: a drift.")
            return
        alone = np.concatenate([self.measure(self.settings[i : i + 1], shot=_NAMED_SHOT) for i in (4, 2)])
        squares = np.square(readings.in_scale(alone) - readings.in_scale(first[[4, 2]])).sum(axis=1)
        if (squares > readings.floor).any():
            self.add(
                "noise by name",
                "failed",
                "The noise of a named row depends on the rows that share its call.",
                "Draw it with self.standard_normal(batch, n_values), which depends on seed, row and shot alone.",
            )
        else:
            self.add("noise by name", "passed", "Noise depends on seed, row and shot alone.")

    def check_periods(self) -> None:
        """Channels that are stated to be periodic, moved by whole periods."""
        readings, periods = self.readings, channel_periods(self.copy)
        assert readings is not None
        if periods.any() and readings.live.any():
            self.findings += check_periods(period_plan(self.legal, periods), readings, self.measure)

    def measure_last(self) -> None:
        """How the device answers before it is closed: it may have drifted."""
        self.last_outputs = self.measure(self.settings[_LAST])

    # ---- after the session ----

    def check_use_again(self) -> None:
        """Closed, the device can be opened again, also from another thread and as an unpickled copy."""
        events = self.observed.events
        if self.observed.errors:
            what, error = self.observed.errors[-1]
            self.add(
                what.replace("_", " "),
                "failed",
                f"{what}() raised {type(error).__name__}: {error}",
                "It must bring the device to rest, or let go of it, in whatever state it is.",
            )
        elif "safe_state" in events:
            self.add("safe state", "passed", "safe_state() and close() can be called after use.")
        self.observed.errors.clear()
        where, fault = "another thread", self._measure_again(in_a_thread=True)
        if fault is not None and not isinstance(fault, AnotherAnswerError):
            where, of_thread = "this thread", fault
            fault = self._measure_again(in_a_thread=False)
            if fault is None:
                self.add(
                    "threads",
                    "warning",
                    f"Opened from another thread, it raised {type(of_thread).__name__}: {of_thread}",
                    "Make everything that belongs to one thread in open(), not before.",
                )
        if fault is None:
            self.add("open again", "passed", f"Closed and opened again, in {where}, it answers as before.")
        else:
            self.add(
                "open again",
                "failed",
                f"Closed and opened again: {_worded(fault)}",
                "open() must make everything anew that close() ends, and measure() must not keep what it sent before.",
            )
            return
        try:
            pickled = pickle.dumps(clone(self.copy, safe=False))
            unpickled = pickle.loads(pickled)
        except Exception:  # reported by the specification
            return
        fault = self._measure_with(unpickled)
        if isinstance(fault, AnotherAnswerError):  # once more, the device itself first: it may have been a leap
            self.observed = self.all_observed[0]
            self._measure_again(in_a_thread=False)
            fault = self._measure_with(pickle.loads(pickled))
        if fault is not None:
            self.add(
                "unpickled copy",
                "failed",
                f"A pickled copy does not measure like the device: {_worded(fault)}",
                "Everything that measure() needs must follow from the parameters, in open().",
            )
        else:
            self.add("unpickled copy", "passed", "A pickled copy measures like the device.")

    def _measure_with(self, device: Any) -> Exception | None:
        self.observed = ObservedDevice(device)
        self.all_observed.append(self.observed)
        return self._measure_again(in_a_thread=False)

    def _measure_again(self, in_a_thread: bool) -> Exception | None:
        caught: list[Exception] = []

        def again() -> None:
            try:
                with Session(self.observed, ledger=self.ledger, wait=self.wait) as self.session:
                    outputs = self.measure(self.settings[_LAST])
                before, self.last_outputs = self.last_outputs, outputs
                if before is not None and self.readings is not None and self.readings.differ(outputs, before):
                    raise AnotherAnswerError("The answers differ from those before.")
            except DriverError as wrapped:
                caught.append(wrapped.error)
            except Exception as error:
                caught.append(error)

        if in_a_thread:
            thread = threading.Thread(target=again)
            thread.start()
            thread.join()
        else:
            again()
        if caught and isinstance(caught[0], DeviceBusyError):
            raise caught[0]
        return caught[0] if caught else None

    def _faultless(self, *names: str) -> bool:
        return not any(f.name in names and f.status == "failed" for f in self.findings)

    def check_whole(self) -> None:
        """What only the whole check shows."""
        if any(observed.modified for observed in self.all_observed):
            self.add(
                "controls unchanged",
                "failed",
                "measure changes the controls that it is handed.",
                "Work on a copy: np.array(batch).",
            )
        if any(observed.reuses_its_buffer() for observed in self.all_observed):
            self.add(
                "buffers",
                "warning",
                "All answers are one buffer: a later call changes earlier answers. A session copies them; others may not.",
                "Return a copy of the buffer.",
            )
        if self.ledger.faults["not_finite"] and self._faultless("finite"):
            self.add(
                "finite",
                "warning",
                f"{self.ledger.faults['not_finite']} answers were not finite; repeating them helped.",
                "A session repeats them, and counts the shots.",
            )
        elif self.readings is not None and self._faultless("finite"):
            self.add("finite", "passed", "Every reading is a finite number.")
        if self.ledger.faults["connection"]:
            self.add(
                "connection",
                "warning",
                f"The line broke {self.ledger.faults['connection']} times; opening it anew helped.",
                "Look at the cable and at the time-out.",
            )
        seconds = sum(observed.seconds for observed in self.all_observed) / max(self.ledger.total, 1)
        if seconds > _SLOW:
            self.add(
                "speed",
                "warning",
                f"A row takes {seconds:.2g} s: a training of 10,000 shots takes {seconds * 1e4 / 3600:.2g} hours.",
                "Send rows in blocks, if the instrument can take them.",
            )


def _worded(fault: Exception) -> str:
    return str(fault) if isinstance(fault, AnotherAnswerError) else f"{type(fault).__name__}: {fault}"
