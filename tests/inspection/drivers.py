"""A small sound driver, and drivers with one fault each."""

from __future__ import annotations

import io
import threading
import time
from typing import Any

import numpy as np

from skpat import ControlBatch, Device

_RNG = np.random.default_rng(20)
WEIGHTS = _RNG.normal(size=(5, 4))
PHASES = _RNG.uniform(0, 6, 4)


class Driver(Device):
    """Five voltages, four detectors: sines of mixtures, and noise of a stream of its own, as an instrument has."""

    n_controls, n_outputs = 5, 4
    bounds = np.array([[-2.0, 3.0]] * 5)
    control_units = "V"

    def __init__(self, noise=0.0, seed=0):
        self.noise = noise
        self.seed = seed

    def response(self, volts: np.ndarray) -> np.ndarray:
        return 2 + np.sin(0.35 * volts @ WEIGHTS + PHASES)

    def noisy(self, outputs: np.ndarray) -> np.ndarray:
        if not self.noise:
            return outputs
        if not hasattr(self, "_stream"):
            self._stream = np.random.default_rng(self.seed)
        return outputs + self.noise * self._stream.standard_normal(outputs.shape)

    def measure(self, batch: ControlBatch) -> np.ndarray:
        return self.noisy(self.response(np.asarray(batch)))


class ComesTwice(Driver):
    """Now and then gives the reading before once more; readings may have steps."""

    def __init__(self, noise=0.05, seed=0, share=0.1, step=0.0):
        super().__init__(noise, seed)
        self.share = share
        self.step = step

    def measure(self, batch):
        readings = super().measure(batch)
        readings = np.round(readings / self.step) * self.step if self.step else readings
        if not hasattr(self, "_chance"):
            self._chance, self._last = np.random.default_rng(self.seed + 1), readings[0]
        for reading in readings:
            reading[:] = self._last if self._chance.uniform() < self.share else reading
            self._last = reading.copy()
        return readings


class Transposed(Driver):
    def measure(self, batch):
        return super().measure(batch).T


class GuessesOrientation(Driver):
    def measure(self, batch):
        readings = super().measure(batch).T
        return readings if len(readings) == len(batch) else readings.T


class MasksAnOutput(Driver):
    def measure(self, batch):
        readings = super().measure(batch)
        masked = np.broadcast_to([False, False, False, True], readings.shape)
        return np.ma.array(np.where(masked, -9999.0, readings), mask=masked)


class Squeezed(Driver):
    def measure(self, batch):
        return super().measure(batch).squeeze()


class TruncatesControls(Driver):
    def measure(self, batch):
        return self.noisy(self.response(np.asarray(batch).astype(int)))


class RoundsControls(Driver):
    def measure(self, batch):
        return self.noisy(self.response(np.round(np.asarray(batch))))


class TruncatesUnitControls(Driver):
    """Bounds of 0 to 1, where a cast to int leaves nothing."""

    bounds = np.array([[0.0, 1.0]] * 5)

    def measure(self, batch):
        return self.noisy(self.response(np.asarray(batch).astype(int)))


class TruncatesOutputs(Driver):
    def measure(self, batch):
        return super().measure(batch).astype(int)


class CarriesState(Driver):
    _last = 0.0

    def measure(self, batch):
        outputs = self.response(np.asarray(batch))
        for i in range(len(outputs)):
            outputs[i] = self._last = 0.7 * outputs[i] + 0.3 * self._last
        return self.noisy(outputs)


class SettlesSlowly(Driver):
    """Voltages arrive with a few percent of those of the row before, at a system of many fringes."""

    _before = np.zeros((1, 5))

    def response(self, volts):
        return 2 + np.sin(2 * volts @ WEIGHTS + PHASES)

    def measure(self, batch):
        volts = np.asarray(batch)
        before = np.vstack([self._before, volts[:-1]])
        self._before = volts[-1:]
        return self.noisy(self.response(volts + 0.03 * (before - volts)))


class LagsOneRow(Driver):
    _last = 2.0 * np.ones(4)

    def measure(self, batch):
        outputs = self.response(np.asarray(batch))
        lagging = np.vstack([self._last, outputs[:-1]])
        self._last = outputs[-1]
        return self.noisy(lagging)


class StaleBuffer(Driver):
    def measure(self, batch):
        now = super().measure(batch)
        before, self._buffer = getattr(self, "_buffer", now), now
        return before


class RepeatsFirstRow(Driver):
    def measure(self, batch):
        outputs = self.response(np.asarray(batch))
        return self.noisy(np.tile(outputs[0], (len(outputs), 1)))


class AveragesOverBatch(Driver):
    def measure(self, batch):
        outputs = self.response(np.asarray(batch))
        return self.noisy(np.tile(outputs.mean(axis=0), (len(outputs), 1)))


class NormalisesBatch(Driver):
    def measure(self, batch):
        outputs = self.response(np.asarray(batch))
        return self.noisy(outputs - outputs.mean(axis=0))


class ReversesRows(Driver):
    def measure(self, batch):
        return super().measure(batch)[::-1]


class SortsRows(Driver):
    def measure(self, batch):
        volts = np.asarray(batch)
        return self.noisy(self.response(volts[np.argsort(volts[:, 0])]))


class ShiftsRows(Driver):
    def measure(self, batch):
        return np.roll(super().measure(batch), 1, axis=0)


class ReseedsEveryCall(Driver):
    def measure(self, batch):
        outputs = self.response(np.asarray(batch))
        return outputs + 0.2 * np.random.default_rng(3).standard_normal(outputs.shape)


class ClipsControls(Driver):
    def measure(self, batch):
        return self.noisy(self.response(np.clip(np.asarray(batch), -1.2, 2.2)))


class ClipsTheLowEnd(Driver):
    def measure(self, batch):
        return self.noisy(self.response(np.maximum(np.asarray(batch), -1.2)))


class ClipsTheHighEnd(Driver):
    def measure(self, batch):
        return self.noisy(self.response(np.minimum(np.asarray(batch), 2.2)))


class ClipsOneChannel(Driver):
    def measure(self, batch):
        volts = np.asarray(batch)
        volts[:, 3] = np.minimum(volts[:, 3], 2.0)
        return self.noisy(self.response(volts))


class DeadOutput(Driver):
    def measure(self, batch):
        outputs = super().measure(batch)
        outputs[:, 2] = 0.0
        return outputs


class AllDead(Driver):
    def measure(self, batch):
        return np.ones((len(batch), 4))


class IgnoresLastChannel(Driver):
    def measure(self, batch):
        volts = np.asarray(batch)
        volts[:, -1] = 0.0
        return self.noisy(self.response(volts))


class IgnoresMostChannels(Driver):
    def measure(self, batch):
        volts = np.asarray(batch)
        volts[:, :4] = 0.0
        return self.noisy(self.response(volts))


class ReadsVaryingOnly(Driver):
    def measure(self, batch):
        return self.noisy(self.response(batch.varying))


class PadsVarying(Driver):
    def measure(self, batch):
        volts = np.zeros((len(batch), 5))
        volts[:, batch.varying_index] = batch.varying
        return self.noisy(self.response(volts))


class ForgetsShared(Driver):
    """Sends the shared channels once, and thinks that they stay."""

    def measure(self, batch):
        volts = np.asarray(batch)
        if len(batch.shared):
            known = self.__dict__.setdefault("_known", np.array(batch.shared))
            volts[:, batch.shared_index] = known
        return self.noisy(self.response(volts))


class IgnoresIndexOrder(Driver):
    def measure(self, batch):
        volts = np.empty((len(batch), 5))
        volts[:, np.sort(batch.varying_index)] = batch.varying
        volts[:, np.sort(batch.shared_index)] = batch.shared
        return self.noisy(self.response(volts))


class ModifiesControls(Driver):
    def measure(self, batch):
        volts = batch.varying
        volts *= 1.0001
        return super().measure(batch)


class ForcesModification(Driver):
    def measure(self, batch):
        outputs = super().measure(batch)
        owner = batch.varying.base
        if owner is not None and owner.flags.writeable:
            owner[:] = 0.0
        return outputs


class OneBuffer(Driver):
    def measure(self, batch):
        if not hasattr(self, "_buffer"):
            self._buffer = np.empty((64, 4))
        self._buffer[: len(batch)] = super().measure(batch)
        return self._buffer[: len(batch)]


class NotANumber(Driver):
    def measure(self, batch):
        outputs = super().measure(batch)
        outputs[np.asarray(batch)[:, 0] > 0.5, 1] = np.nan
        return outputs


class SometimesNotANumber(Driver):
    _calls = 0

    def measure(self, batch):
        outputs = super().measure(batch)
        self._calls += 1
        if self._calls == 3:
            outputs[0, 1] = np.nan
        return outputs


class Objects(Driver):
    def measure(self, batch):
        return super().measure(batch).astype(object)


class Complex(Driver):
    def measure(self, batch):
        return np.exp(1j * super().measure(batch))


class SmallBuffer(Driver):
    """An instrument for 3 rows that does not say so."""

    def measure(self, batch):
        return super().measure(batch)[:3]


class OpensInInit(Driver):
    def __init__(self, noise=0.0, seed=0):
        super().__init__(noise, seed)
        self.open()

    def open(self):
        self._file = io.BytesIO()

    def close(self):
        self._file.close()


class HoldsAHandle(Driver):
    def __init__(self, noise=0.0, seed=0):
        super().__init__(noise, seed)
        self.lock = threading.Lock()


class ComputesInInit(Driver):
    def __init__(self, noise=0.0, seed=0):
        super().__init__(noise, seed)
        self.gain = 1 + noise


class ChangesParameters(Driver):
    def __init__(self, noise=0.0, seed=0, gains=(1.0, 2.0)):
        super().__init__(noise, seed)
        self.gains = np.array(gains)


class OpensForPrinting(Driver):
    def open(self):
        self._opened = True

    def __repr__(self):
        self.open()
        return "Driver"


class SafeStateFails(Driver):
    def safe_state(self):
        raise AttributeError("no attribute 'ramp'")


class CannotBeOpenedAgain(Driver):
    _closed = False

    def open(self):
        if self._closed:
            raise RuntimeError("the library was shut down")

    def close(self):
        self._closed = True


class AnotherAnswerAfterOpening(Driver):
    _opened = 0

    def open(self):
        self._opened += 1

    def response(self, volts):
        return super().response(volts) + 0.5 * self._opened


class NotForOtherThreads(Driver):
    def open(self):
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("call me from the main thread")


class NeedsItsPast(Driver):
    """What it was told after its construction does not reach a pickled copy."""

    def __getstate__(self):
        return {"noise": self.noise, "seed": 99, "lost": True}

    def response(self, volts):
        return super().response(volts) * (3.0 if getattr(self, "lost", False) else 1.0)


class Raises(Driver):
    def measure(self, batch):
        raise KeyError("detector 3")


class NoiseByCall(Driver):
    """Says random_state, and lets its noise depend on the company of a row."""

    def __init__(self, noise=0.05, random_state=None):
        self.noise = noise
        self.random_state = random_state

    def measure(self, batch):
        outputs = self.response(np.asarray(batch))
        names = () if batch.row_keys is None else (int(batch.row_keys.sum() % 1000), batch.shot)
        rng = np.random.default_rng((self.random_state, *names))
        return outputs + self.noise * rng.standard_normal(outputs.shape)


class NoiseWithoutName(NoiseByCall):
    def measure(self, batch):
        return self.noisy(self.response(np.asarray(batch)))

    seed = 0


class Breaks(Driver):
    """The line breaks once."""

    _calls = 0

    def measure(self, batch):
        self._calls += 1
        if self._calls == 4:
            raise ConnectionResetError("the line is dead")
        return super().measure(batch)


class Bench(Driver):
    """An instrument on a bench: steps, small changes only, shared channels sent apart, few rows at once."""

    max_batch = 5
    control_steps = np.array([0.001, 0.0, 0.01, 0.0, 0.001])
    max_change = 1.5

    def set_shared(self, batch):
        self._shared = np.array(batch.shared), np.array(batch.shared_index)

    def measure(self, batch):
        volts = np.empty((len(batch), 5))
        volts[:, batch.varying_index] = batch.varying
        volts[:, self._shared[1]] = self._shared[0]
        last = getattr(self, "_row", volts[0])
        assert np.abs(np.diff(np.vstack([last, volts]), axis=0)).max() <= 1.5 * (1 + 1e-6)
        self._row = volts[-1]
        return self.noisy(self.response(volts))


class Charged(Driver):
    """Vetoes settings of too high a power."""

    most = 8.0

    def check_controls(self, batch):
        from skpat.exceptions import ControlBoundsError

        power = np.square(np.asarray(batch)).sum(axis=1)
        if (power > self.most).any():
            raise ControlBoundsError(f"The power must not exceed {self.most:g}. Got {power.max():g}. Nothing was sent.")

    def measure(self, batch):
        assert (np.square(np.asarray(batch)).sum(axis=1) <= self.most).all()
        return super().measure(batch)


class Duck:
    """No skpat.Device, but it walks like one."""

    n_controls, n_outputs = 5, 4
    bounds = np.array([[-2.0, 3.0]] * 5)

    def measure(self, batch: Any) -> np.ndarray:
        return Driver().response(np.asarray(batch))


class Sluggish(Driver):
    def measure(self, batch):
        time.sleep(0.02 * len(batch))
        return super().measure(batch)


class Heaters(Driver):
    """Two of the voltages heat: they get nowhere unless somebody waits for them, as a session does where they are shared."""

    slow_controls, settling_seconds = (1, 3), 1e-6
    _heat, _waited = np.zeros(2), False

    def set_shared(self, batch):
        self._waited = np.isin(self.slow_controls, batch.shared_index).all()

    def measure(self, batch):
        volts = np.array(batch)
        for row in volts:
            self._heat = row[[1, 3]] if self._waited else self._heat + 0.1 * (row[[1, 3]] - self._heat)
            row[[1, 3]] = self._heat
        self._waited = False
        return self.noisy(self.response(volts))


class HeatersAlone(Heaters):
    """Without another channel that could be moved."""

    slow_controls = (0, 1, 2, 3, 4)


class TwoDark(Driver):
    """Two detectors more, which see nothing but their own noise."""

    n_outputs = 6

    def in_the_dark(self, readings):
        if not hasattr(self, "_dark"):
            self._dark = np.random.default_rng(self.seed + 1)
        return np.column_stack([readings, 2e-3 + 5e-4 * self._dark.standard_normal((len(readings), 2))])

    def measure(self, batch):
        return self.in_the_dark(super().measure(batch))


class TwoDarkAndTruncated(TwoDark):
    def measure(self, batch):
        return self.in_the_dark(self.noisy(self.response(np.asarray(batch).astype(int))))


class TwoDarkAndAveraged(TwoDark):
    def measure(self, batch):
        outputs = self.response(np.asarray(batch))
        return self.in_the_dark(self.noisy(outputs + 0.5 * outputs.mean(axis=0)))


class TwoDarkAndSlow(TwoDark):
    """Voltages arrive with some percent of those of the row before."""

    def __init__(self, noise=0.0, seed=0, share=0.1):
        super().__init__(noise, seed)
        self.share = share

    def measure(self, batch):
        volts = np.asarray(batch)
        before = np.vstack([self.__dict__.get("_before", volts[:1]), volts[:-1]])
        self._before = volts[-1:]
        return self.in_the_dark(self.noisy(self.response(volts + self.share * (before - volts))))


class AllDark(Driver):
    def response(self, volts):
        return np.zeros((len(volts), 4))
