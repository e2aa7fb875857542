"""Devices drawn at random, of six kinds, with a margin between the kinds."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import norm

from skpat import ControlBatch, Device
from skpat.devices import SecondHarmonicLaser

KINDS = ("suitable", "linear", "dead", "saturated", "drifting", "noisy")
NONLINEARITIES = ("tanh", "quadratic", "sine", "interference", "laser")


class RandomDevice(Device):
    """A response drawn from a seed, in random units, with what makes its kind.

    Parameters
    ----------
    kind : str
        One of ``KINDS``.
    seed : int
    """

    def __init__(self, kind, seed):
        self.kind = kind
        self.seed = seed

    # ---- what is drawn ----

    @property
    def _drawn(self) -> dict[str, Any]:
        if getattr(self, "_cache", (None,))[0] != (self.kind, self.seed):
            self._cache = (self.kind, self.seed), self._draw()
        return self._cache[1]

    def _draw(self) -> dict[str, Any]:
        rng = np.random.default_rng([KINDS.index(self.kind), self.seed])
        n_controls, n_outputs = int(rng.integers(4, 121)), int(rng.integers(3, 61))
        low = rng.normal(0, 3, n_controls) * 10.0 ** rng.integers(-2, 3)
        width = np.exp(rng.normal(0, 0.5, n_controls)) * 10.0 ** rng.integers(-3, 3)
        drawn: dict[str, Any] = {
            "n_controls": n_controls,
            "n_outputs": n_outputs,
            "bounds": np.column_stack([low, low + width]),
            "gain": 10.0 ** rng.integers(-6, 6) * np.exp(rng.normal(0, 1, n_outputs)),
            "offset": rng.normal(0, 3, n_outputs),
            "nonlinearity": NONLINEARITIES[rng.integers(len(NONLINEARITIES))],
            "weights": rng.normal(size=(n_controls, n_outputs)) / np.sqrt(n_controls),
            "more": rng.normal(size=(n_controls, 2 * n_outputs)) / np.sqrt(n_controls),
            "readout": rng.normal(size=(2 * n_outputs, n_outputs)) / np.sqrt(2 * n_outputs),
            "phase": rng.uniform(0, 2 * np.pi, 2 * n_outputs),
            "noise": float(np.exp(rng.uniform(np.log(0.003), np.log(0.3)))) if rng.uniform() < 0.85 else 0.0,
            "multiplicative": bool(rng.uniform() < 0.3),
            "dead": "none",
            "share": 0.0,
            "drift": 0.0,
        }
        if self.kind in ("linear", "dead", "drifting", "noisy", "saturated") and rng.uniform() < 0.5:
            drawn["nonlinearity"] = "linear" if self.kind != "linear" else "nearly linear"
        elif self.kind == "linear":
            drawn["nonlinearity"] = "linear"
        if drawn["nonlinearity"] == "laser" and n_outputs > 2 * n_controls:
            drawn["nonlinearity"] = "sine"  # a spectrum of so few lines leaves bins of the spectrometer empty: dead
        if self.kind == "dead":
            drawn["dead"] = str(rng.choice(["constant outputs", "outputs", "channels"]))
            drawn["share"] = float(rng.choice([1.0, rng.uniform(0.75, 0.97)]))
        if self.kind == "noisy":
            drawn["noise"], drawn["multiplicative"] = 1 / rng.uniform(0.15, 0.3), False
        if self.kind == "drifting":
            drawn["noise"] = min(drawn["noise"], 0.2)
            drawn["drift"] = float(max(rng.uniform(0.2, 2.0), drawn["noise"] * rng.uniform(4, 8)))
            drawn["course"] = str(rng.choice(["steady", "leap", "wander"]))
            drawn["common"] = bool(rng.uniform() < 0.5)
            drawn["direction"] = np.abs(rng.normal(1, 0.5, n_outputs)) * rng.choice([-1, 1], n_outputs)
            drawn["walk"] = np.cumsum(rng.normal(size=4000))
        if self.kind == "saturated":
            drawn["noise"] = min(drawn["noise"], 0.1)
            drawn["share"] = float(rng.uniform(0.55, 0.9))
            drawn["limit"] = str(rng.choice(["hard", "hard, then noise", "soft", "one side"]))
        drawn["stream"] = np.random.default_rng([7, self.seed])
        drawn["dead channels"] = np.zeros(n_controls, bool)
        drawn["dead outputs"] = np.zeros(n_outputs, bool)
        if drawn["dead"] == "channels":
            n_dead = min(int(np.ceil(drawn["share"] * n_controls)), n_controls - (drawn["share"] < 1))
            drawn["dead channels"][rng.permutation(n_controls)[:n_dead]] = True
        elif drawn["dead"] != "none":
            drawn["dead outputs"][rng.permutation(n_outputs)[: int(np.ceil(drawn["share"] * n_outputs))]] = True
        return drawn

    n_controls = property(lambda self: self._drawn["n_controls"])
    n_outputs = property(lambda self: self._drawn["n_outputs"])
    bounds = property(lambda self: self._drawn["bounds"])

    # ---- the response ----

    def _raw(self, unit: np.ndarray) -> np.ndarray:
        """The response to controls from -1 to 1, about one in size."""
        d = self._drawn
        kind = d["nonlinearity"]
        if kind in ("linear", "nearly linear"):
            linear = unit @ d["weights"] * np.sqrt(3)
            bent = np.sin(3 * unit @ d["more"] + d["phase"]) @ d["readout"]
            return linear + (0.08 * bent if kind == "nearly linear" else 0.0)
        if kind == "tanh":
            return np.tanh(4 * unit @ d["more"]) @ d["readout"]
        if kind == "sine":
            return np.sin(4 * unit @ d["more"] + d["phase"]) @ d["readout"]
        if kind == "quadratic":
            return unit @ d["weights"] + np.square(2 * unit @ d["more"]) @ d["readout"]
        if kind == "interference":
            field = (0.5 + unit) @ (d["more"][:, : d["n_outputs"]] + 1j * d["more"][:, d["n_outputs"] :])
            return np.square(np.abs(field))
        laser = SecondHarmonicLaser(d["n_controls"], d["n_outputs"], noise=0, noise_floor=0, energy_jitter=0)
        return laser.measure((unit + 1) / 2)

    @property
    def _spread(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of each output over the bounds."""
        if "spread" not in self._drawn:
            unit = np.random.default_rng(5).uniform(-1, 1, (2000, self.n_controls))
            unit[:, self._drawn["dead channels"]] = 0.0
            sample = self._raw(unit)
            spread = sample.std(axis=0)
            self._drawn["spread"] = sample.mean(axis=0), np.where(spread > 0, spread, 1.0)
        return self._drawn["spread"]

    def measure(self, batch: ControlBatch) -> np.ndarray:
        d = self._drawn
        low, high = d["bounds"].T
        unit = 2 * (np.asarray(batch) - low) / (high - low) - 1
        unit[:, d["dead channels"]] = 0.0
        mean, spread = self._spread
        outputs = (self._raw(unit) - mean) / spread
        normal = d["stream"].standard_normal(outputs.shape)
        size = d["noise"] * (np.abs(outputs) if d["multiplicative"] else 1.0)
        clock = self.in_time(batch).clock
        if d["drift"]:
            outputs = outputs + self._drift(clock)
        if d["dead"] in ("outputs", "constant outputs"):
            outputs[:, d["dead outputs"]] = 0.0
            if d["dead"] == "constant outputs":
                normal[:, d["dead outputs"]] = 0.0
        if self.kind == "saturated":
            outputs = self._saturated(outputs, size * normal)
        else:
            outputs = outputs + size * normal
        return (outputs + d["offset"]) * d["gain"]

    def _drift(self, clock: np.ndarray) -> np.ndarray:
        d = self._drawn
        if d["course"] == "steady":
            course = clock / 2000
        elif d["course"] == "leap":
            course = (clock > 1000).astype(float)
        else:
            walk = d["walk"][clock.clip(max=3999)]
            course = walk / np.ptp(d["walk"][:2000])
        return d["drift"] * course[:, None] * (1.0 if d["common"] else d["direction"])

    def _saturated(self, outputs: np.ndarray, noise: np.ndarray) -> np.ndarray:
        d = self._drawn
        # for about normal outputs: the level beyond which the share lies
        if d["limit"] == "one side":
            level = norm.ppf(1 - d["share"])
            return np.minimum(outputs + noise, level)
        level = norm.ppf(1 - d["share"] / 2)
        if d["limit"] == "hard":
            return np.clip(outputs + noise, -level, level)
        if d["limit"] == "soft":
            return np.tanh((outputs + noise) * 2.6 / level)
        return np.clip(outputs, -level, level) + 0.02 * level * noise
