"""characterize: is this device suitable? A plan of shots, and what they say."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.utils import check_random_state

from skpat.controls import ControlBatch
from skpat.devices.specification import (
    call_hook,
    check_device_specification,
    copy_to_work_with,
    device_name,
    slow_channels,
)
from skpat.exceptions import DeviceConnectionError, DeviceOutputError, ShotBudgetError
from skpat.inspection.device_report import MOST_UNSTEADY, DeviceReport
from skpat.inspection.legal_settings import LegalSettings, measured_in_runs, slow_beside_others
from skpat.inspection.repeats import count_stale, has_masked
from skpat.inspection.response_statistics import Readings, silent_units, summarize
from skpat.lab.ledger import Ledger
from skpat.lab.session import Session
from skpat.row_keys import hash_rows, splitmix64
from skpat.seeding import LARGEST_SEED
from skpat.value_checks import is_int

__all__ = ["characterize"]

_FEWEST_SHOTS = 200
_N_REFERENCES = 8
_N_ROUNDS = 12
_MOST_NUMBERS = 1 << 24  # control values in one call
_FEWEST_PAIRS = 8  # to test a group of channels
_SMALLEST_SHARE = 0.1  # of the variance: what a group must make up to be seen for certain
_CERTAIN = 4.0  # standard deviations
_N_SUSPECTS = 8


def characterize(
    device: Any,
    n_shots: int = 2000,
    *,
    bounds: Any = None,
    journal: Any = None,
    random_state: Any = 0,
    wait: float | None = None,
) -> DeviceReport:
    """Measure whether a device is suitable for training, and say why or why not.

    Parameters
    ----------
    device : Device
        A copy of it is used, through a :class:`skpat.lab.Session`: only legal settings are sent.
    n_shots : int, default=2000
        Most shots to spend, at least 200. Repeats after a fault count. The report's ``n_shots`` says how many were spent.
    bounds : (low, high) or array-like of shape (n_controls, 2), default=None
        Stricter bounds than the device's, in its units: the region to look at.
    journal : str, path or Journal, default=None
        Where every answer is recorded, and taken from if it is there already.
    random_state : int, RandomState instance or None, default=0
        For the settings.
    wait : float, default=None
        Seconds to wait for an address that somebody else holds. None: until it is free.

    Returns
    -------
    DeviceReport
        ``verdict`` is one of "suitable", "linear", "dead", "saturated", "drifting" and "noisy". Print it, or ``plot()`` it.

    Raises
    ------
    ValueError
        If ``n_shots`` is below 200.
    DeviceContractError
        If ``device`` is no device. Run :func:`skpat.check_device` on a new driver first.
    DeviceOutputError
        If the device goes on returning a wrong shape or readings that are not finite.
    ShotBudgetError
        If repeats after faults have used up what ``n_shots`` leaves for them.

    Notes
    -----
    With 2,000 shots: 8 reference settings are measured twice in a row in each of 12 rounds (192 shots); differences
    of the two are the noise, or, where they are the same in every round, what the row before has left; differences between
    rounds are the drift. About 620 settings drawn uniformly within the bounds are
    measured in two passes of different order. Pairs of settings in which one channel moves show which channels have
    an effect; channels without one are tested again in groups.

    Noise of the two passes is independent. Products of the two therefore estimate the variance of the response, the part of it
    that is linear in the controls misses, and its covariance between outputs without a bias by noise, whether or not the noise
    depends on the setting. The linear model is fitted by least squares, and the missed part is divided by the degrees
    of freedom that are left, which removes the bias by overfitting. With more channels than a quarter of the settings,
    channels are moved together in random groups, with random signs: a response that is linear in the channels is linear in
    the groups, but channels of one group are not told apart.

    Slow channels (``slow_controls``) stand still: nothing is known of them. Where all channels are slow they move, and every
    change is waited for.

    The order of precedence, when several are true: dead, saturated, noisy, drifting, linear. Time is reported and
    decides nothing.

    Examples
    --------
    >>> from skpat import characterize
    >>> from skpat.devices import IdentityDevice, SecondHarmonicLaser
    >>> characterize(SecondHarmonicLaser(10, 5)).verdict
    'suitable'
    >>> report = characterize(IdentityDevice(4, 3, [[0, 1]] * 4), n_shots=400)
    >>> report.verdict, report.n_shots <= 400
    ('linear', True)
    """
    if not is_int(n_shots, _FEWEST_SHOTS):
        raise ValueError(f"'n_shots' must be an int of at least {_FEWEST_SHOTS}. Got {n_shots!r}.")
    check_device_specification(device)
    rng = check_random_state(random_state)
    own = copy_to_work_with(device, lambda: _own_copy(device, rng))
    bench = _Bench(own, int(n_shots), rng, bounds, journal, wait)
    with bench.session:
        readings = bench.measure_all()
    return summarize(readings, bench.about(device_name(device)))


def _own_copy(device: Any, rng: np.random.RandomState) -> Any:
    """A clone, its own noise seeded where it is not."""
    own = clone(device, safe=False)
    if hasattr(own, "get_params"):
        params = own.get_params(deep=True)
        names = sorted(name for name in params if name.split("__")[-1] == "random_state" and params[name] is None)
        own.set_params(**{name: int(rng.randint(LARGEST_SEED)) for name in names})
    return own


class _Unfiltered:
    """The device, with saturated readings let through, and no repeats at the cost of what is still to be measured."""

    def __init__(self, device: Any, ledger: Ledger, n_shots: int):
        self.device = self.stands_for = device  # the latter for journals: it is no other device
        self.ledger, self.n_shots = ledger, n_shots
        self.rows_in_call, self.rows_to_come = 1, 0
        self.seconds = 0.0
        self.output_range = None

    def __getattr__(self, name: str) -> Any:
        if name == "device":
            raise AttributeError(name)
        return getattr(self.device, name)

    @property
    def name(self) -> str:
        return device_name(self.device)

    @property
    def max_retries(self) -> int:
        room = self.n_shots - self.ledger.asked_in_all - self.rows_in_call - self.rows_to_come
        return max(0, min(getattr(self.device, "max_retries", 0) or 0, room // self.rows_in_call))

    def measure(self, batch: ControlBatch) -> Any:
        begun = time.perf_counter()
        answer = call_hook(self.device, "measure", batch)
        self.seconds += time.perf_counter() - begun
        return answer

    def set_shared(self, batch: ControlBatch) -> None:
        call_hook(self.device, "set_shared", batch)

    def safe_state(self) -> None:
        call_hook(self.device, "safe_state")


class _Bench:
    """What is measured, in which order. Settings are places from -1 to 1 on units: channels, or groups of channels."""

    def __init__(
        self, device: Any, n_shots: int, rng: np.random.RandomState, bounds: Any, journal: Any, wait: float | None
    ):
        self.device, self.n_shots, self.rng = device, n_shots, rng
        self.ledger = Ledger.of(device)
        self.unfiltered = _Unfiltered(device, self.ledger, n_shots)
        self.slow, self.still = slow_channels(device), slow_beside_others(device)
        self.legal = LegalSettings(device, rng, bounds, self.still)
        self.session = Session(self.unfiltered, ledger=self.ledger, journal=journal, bounds=bounds, wait=wait)
        n_controls = len(self.legal.low)
        share = n_shots / 2000
        self.n_rounds = _N_ROUNDS if n_shots >= 1000 else 6
        n_references = 2 * _N_REFERENCES * self.n_rounds if n_shots >= 600 else 2 * 4 * self.n_rounds
        self.n_references = n_references // (2 * self.n_rounds)
        self.n_group_shots = int(160 * share)
        n_pairs = int(200 * share)
        self.n_probes = (n_shots - n_references - self.n_group_shots - 2 * n_pairs) // 2
        moving = np.setdiff1d(np.arange(n_controls), self.still)
        n_units = len(moving) if len(moving) <= self.n_probes // 4 else max(2, self.n_probes // 12)
        single = n_units == len(moving)
        self.unit_of = np.full(n_controls, -1)  # of none: its box is a point
        self.unit_of[moving] = np.arange(n_units) if single else rng.permutation(len(moving)) % n_units
        self.sign = np.ones(n_controls) if single else rng.choice([-1.0, 1.0], n_controls)
        self.n_units = n_units
        self.n_named = self.n_measured = 0
        self.rows_per_call = max(8, self.n_group_shots // 8)  # a repeat is paid from the shots for groups
        self.moved = rng.permutation(np.arange(n_pairs) % n_units)

    def about(self, name: str) -> dict[str, Any]:
        """What the report says besides the numbers."""
        seconds = self.unfiltered.seconds
        return {
            "device": name,
            "n_controls": len(self.legal.low),
            "n_outputs": int(self.device.n_outputs),
            "n_shots": self.ledger.total,
            "unit_of": self.unit_of,
            "restrictions": list(self.legal.restrictions),
            "still": self.still,
            "output_units": getattr(self.device, "output_units", ""),
            "output_range": getattr(self.device, "output_range", None),
            "shots_per_second": self.ledger.total / seconds if seconds > 0 else None,
        }

    def controls(self, places: np.ndarray) -> np.ndarray:
        return self.legal.from_unit((1 + self.sign * places[:, self.unit_of]) / 2)

    def draw(self, n: int) -> np.ndarray:
        """Places (n, n_units) whose settings are not vetoed."""
        return self.accept(self.rng.uniform(-1, 1, (n, self.n_units)), lambda: self.rng.uniform(-1, 1, self.n_units))

    def accept(self, places: np.ndarray, another: Callable[[], np.ndarray]) -> np.ndarray:
        if getattr(self.device, "check_controls", None) is None:
            return places
        for i in range(len(places)):
            for _ in range(60):
                if self.legal.veto(self.controls(places[i : i + 1])[0]) is None:
                    break
                places[i] = another()
        return places

    def with_moved(self, places: np.ndarray, units: list[np.ndarray]) -> np.ndarray:
        """The places, some units of each row moved by a quarter of the range or more; where it is vetoed, less far."""
        moved = places.copy()
        for row, of_row in enumerate(units):
            for _ in range(20):
                shift = self.rng.uniform(0.5, 1.5, len(of_row))
                moved[row, of_row] = (places[row, of_row] + shift + 1) % 2 - 1
                if self.legal.veto(self.controls(moved[row : row + 1])[0]) is None:
                    break
            else:
                moved[row] = places[row]
        return moved

    def measure(self, places: np.ndarray) -> np.ndarray:
        """Outputs (n, n_outputs), in calls that fit into the memory and are not too long to be repeated."""
        limits = self.rows_per_call, _MOST_NUMBERS // len(self.unit_of), getattr(self.device, "max_batch", None)
        most = max(1, min(limit for limit in limits if limit is not None))
        pieces = []
        for start in range(0, len(places), most):
            controls = self.controls(places[start : start + most])
            self.unfiltered.rows_in_call = len(controls)
            self.unfiltered.rows_to_come -= len(controls)
            names = np.arange(self.n_named, self.n_named + len(controls), dtype=np.uint64)
            self.n_named += len(controls)  # a name for each row: a setting twice in a call has its noise twice
            batch = ControlBatch.from_dense(controls).named(splitmix64(names))
            wanted, possible = getattr(self.device, "max_retries", 0) or 0, self.unfiltered.max_retries
            try:
                measure = partial(self.session.measure, purpose="calibration", shot=self.n_measured)
                outputs = measured_in_runs(measure, batch, self.slow)
            except (DeviceOutputError, DeviceConnectionError) as error:
                policy = getattr(self.device, "on_bad_output", "raise")
                if possible or not wanted or (policy == "raise" and isinstance(error, DeviceOutputError)):
                    raise
                raise ShotBudgetError(
                    f"'n_shots' must allow for the repeats that the device's faults ask for. Got {self.n_shots:,}, of which "
                    f"too few are left for another. The last fault: {error} Use a larger n_shots, or a lower "
                    "max_batch: a repeat takes a whole call.",
                    max_shots=self.n_shots,
                ) from error
            pieces.append(outputs.astype(np.float64))
        self.n_measured += 1
        return np.concatenate(pieces)

    def measure_all(self) -> Readings:
        """All shots, round by round; in the end channels without an effect, in groups."""
        references, probes = self.draw(self.n_references), self.draw(self.n_probes)
        bases = self.draw(len(self.moved))
        partners = self.with_moved(bases, [self.moved[i : i + 1] for i in range(len(self.moved))])
        n_first = self.n_rounds // 2
        order = np.concatenate([np.arange(self.n_probes), self.n_probes + self.rng.permutation(self.n_probes)])
        halves = np.split(order, 2)
        slices = [*np.array_split(halves[0], n_first), *np.array_split(halves[1], self.n_rounds - n_first)]
        pair_slices = np.array_split(np.arange(len(self.moved)), self.n_rounds)
        twice = np.repeat(np.arange(self.n_references), 2)
        n_outputs = int(self.device.n_outputs)
        probe_outputs, at = np.empty((2 * self.n_probes, n_outputs)), np.empty(2 * self.n_probes, dtype=int)
        reference_outputs, pair_outputs = [], []
        keys: list[np.ndarray] = []
        sent: list[np.ndarray] = []
        before = np.full(2 * self.n_probes, -1)
        self.unfiltered.rows_to_come = self.n_rounds * len(twice) + len(order) + 2 * len(self.moved)
        for number in range(self.n_rounds):
            of_probes, of_pairs = slices[number], pair_slices[number]
            interleaved = np.stack([bases[of_pairs], partners[of_pairs]], axis=1).reshape(-1, self.n_units)
            first, others = np.split(of_probes, [number * (number + 1) // 2 % 11])  # a hum meets others
            block = [probes[first % self.n_probes], references[twice], probes[others % self.n_probes], interleaved]
            rows = np.concatenate(block)
            outputs = self.measure(rows)
            keys.append(hash_rows(outputs))
            sent.append(hash_rows(rows))
            parts = np.split(outputs, np.cumsum([len(part) for part in block[:-1]]))
            reference_outputs.append(parts[1].reshape(self.n_references, 2, n_outputs))
            probe_outputs[of_probes], at[of_probes] = np.concatenate([parts[0], parts[2]]), number
            for in_a_row in (first, others):
                before[in_a_row[1:]] = in_a_row[:-1] % self.n_probes
            pair_outputs.append(parts[3].reshape(-1, 2, n_outputs))
        readings = Readings(
            references=np.stack(reference_outputs),
            places=probes,
            first=probe_outputs[: self.n_probes],
            second=probe_outputs[self.n_probes :],
            rounds=at.reshape(2, -1),
            before=before.reshape(2, -1),
            moved=self.moved,
            pairs=np.concatenate(pair_outputs),
            n_stale=0
            if has_masked(self.device, self.ledger)
            else count_stale(np.concatenate(keys), np.diff(np.concatenate(sent)) != 0),
        )
        self._look_again(readings)
        readings.silent_groups, readings.untested = self._test_groups(readings)
        return readings

    def _look_again(self, readings: Readings) -> None:
        """Measure a few settings twice in a row whose two answers were far apart: is it noise that is larger there?"""
        unsteady = np.flatnonzero(readings.is_unsteady)
        if (
            len(unsteady) <= MOST_UNSTEADY * len(readings.places)
            or self.n_shots - self.ledger.asked_in_all < 2 * _N_SUSPECTS
        ):
            return
        suspects = self.rng.permutation(unsteady)[:_N_SUSPECTS]
        self.unfiltered.rows_to_come = 2 * len(suspects)
        outputs = self.measure(np.repeat(readings.places[suspects], 2, axis=0))
        readings.suspects, readings.suspected = suspects, outputs.reshape(len(suspects), 2, -1)

    def _test_groups(self, readings: Readings) -> tuple[list[np.ndarray], np.ndarray]:
        """Move units without an effect together; halve the groups that answer. Those that do not are silent.

        The silent groups, and the units that were suspected, and not tested.
        """
        silent: list[np.ndarray] = []
        suspects = silent_units(readings)
        queue = [suspects] if len(suspects) else []
        n_pairs = np.ceil(max(_FEWEST_PAIRS, readings.pairs_to_see(_SMALLEST_SHARE)))  # may be infinite
        while queue and self.n_shots - self.ledger.asked_in_all >= 2 * n_pairs:
            group = queue.pop(0)
            n = int(n_pairs)
            bases = self.draw(n)
            partners = self.with_moved(bases, [group] * n)
            self.unfiltered.rows_to_come = 2 * n
            outputs = self.measure(np.stack([bases, partners], axis=1).reshape(-1, self.n_units))
            if readings.effect(outputs.reshape(n, 2, -1)) < _CERTAIN:
                silent.append(group)
            elif len(group) > 1:
                cut = len(group) // 2
                queue += [group[:cut], group[cut:]]
                queue.sort(key=len, reverse=True)
        return silent, np.sort(np.concatenate(queue)) if queue else np.empty(0, dtype=int)
