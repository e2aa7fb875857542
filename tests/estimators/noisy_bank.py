"""A lab's own device, written in numpy: a noisy bank of multipliers that mixes its channels."""

from __future__ import annotations

import numpy as np

from skpat import ControlBatch, Device


class NoisyBank(Device):
    """Outputs are products of fixed mixtures of 24 voltages, with 2 % noise."""

    n_controls, n_outputs = 24, 12
    bounds = np.tile([-1.0, 1.0], (24, 1))
    control_units = "V"

    def __init__(self, noise=0.02, random_state=None):
        self.noise = noise
        self.random_state = random_state

    def measure(self, batch):
        batch = ControlBatch.from_dense(batch)
        voltages = np.asarray(batch)
        mixing = np.random.RandomState(5).standard_normal((24, 24)) / np.sqrt(6)
        mixed = voltages @ mixing
        clean = np.tanh(mixed[:, :12]) + mixed[:, :12] * mixed[:, 12:]
        return clean * (1 + self.noise * self.standard_normal(batch, 12))
