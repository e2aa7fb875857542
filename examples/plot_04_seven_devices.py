"""
One task, seven physical systems
================================

Light in a crystal, a metal plate, a transistor, pendulums, a photonic chip, a dish of neurons and a frozen model: to skpat each
is channels in and numbers out. Here they all learn the same task, with the same network around them.

The task is the exclusive or: the class of a point in a square is the sign of x0 x1. A linear model stays near chance. The best
sum of functions of single features gets three points of four right, so the same network with the device replaced by the
identity, whose input channels saturate, ends somewhere between a half and that. Whatever is reached above the identity, the
device has computed.

Features go straight to the input channels, each with a gain and an offset; the readout is a linear map of the outputs. The rows
to compare with stand beside: the exact gradient (for the neurons, which have none, SPSA), training in silico, the identity,
and logistic regression. The twin is learned from the shots, but for the plate, the pendulums and the chip: they state their
equations, so the twin is the same system without its errors, with constants that are fitted.

A quick look with one split, one seed and few shots; ``tests/benchmarks/accuracy.py`` takes five seeds and longer.
"""

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from skpat import ControlSplit, PhysicalNetworkClassifier
from skpat.devices import (
    AnalogCircuit,
    CoupledOscillators,
    FrozenModel,
    IdentityDevice,
    MachZehnderMesh,
    NeuralTissue,
    OscillatingPlate,
    SecondHarmonicLaser,
)

X = np.random.default_rng(0).uniform(-1, 1, size=(600, 2))
y = X[:, 0] * X[:, 1] > 0
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=300, random_state=0)

plate = OscillatingPlate(thickness_error=0.02, quality_error=-0.1)
pendulums, chip, model = CoupledOscillators(coupling_error=0.2), MachZehnderMesh(phase_error=0.1), FrozenModel()
devices = {
    "laser": (SecondHarmonicLaser(), {}),
    "plate": (plate, {}),
    "circuit": (AnalogCircuit(), {}),
    "pendulums": (pendulums, dict(control_split=ControlSplit(pendulums.amplitude_index))),
    "photonic chip": (chip, dict(control_split=ControlSplit(chip.amplitude_index))),
    "neurons": (NeuralTissue(), {}),
    "frozen model": (model, dict(control_split=ControlSplit(model.data_index))),
}

# %%
# Train. What differs from row to row is the device; from column to column, ``gradient``, or the identity.


def train(device, setting, **how):
    """Accuracy on the test points, and the shots of the fit."""
    common = dict(encoder="direct", learning_rate_init=0.02, max_iter=10, n_calibration_shots=600, random_state=0)
    network = PhysicalNetworkClassifier(device, **(common | setting | how))
    network.fit(X_train, y_train)
    return network.score(X_test, y_test), sum(network.shots_.values())


columns = ["physics-aware", "exact (or SPSA)", "in silico", "identity"]
table = {}
print(f"{'':<14}" + "".join(f"{column:>17}" for column in columns) + f"{'shots':>9}")
for name, (device, setting) in devices.items():
    if hasattr(device, "forward"):
        reference, _ = train(device, setting, gradient="exact")
    else:  # spike counts have no gradient
        reference, _ = train(device, setting, gradient="spsa", max_iter=60, learning_rate_init=0.003)
    aware, shots = train(device, setting, gradient="physics_aware")
    silico, _ = train(device, setting, gradient="in_silico")
    identity, _ = train(IdentityDevice.like(device, **setting), setting, gradient="exact")
    table[name] = aware, reference, silico, identity
    print(f"{name:<14}" + "".join(f"{value:>17.1%}" for value in table[name]) + f"{shots:>9,}", flush=True)
logistic = LogisticRegression().fit(X_train, y_train).score(X_test, y_test)
print(f"logistic regression on the features: {logistic:.1%}")

# %%
# The figure: what each system answers to three settings, and what it learned.

figure, axes = plt.subplots(2, len(devices), figsize=(16, 6.5), layout="constrained", sharey="row")
rng = np.random.default_rng(1)
for (name, (device, _)), above, below in zip(devices.items(), *axes, strict=True):
    low, high = np.broadcast_to(np.asarray(device.bounds, dtype=float), (device.n_controls, 2)).T
    answers = device.measure(low + (high - low) * rng.uniform(0.2, 0.8, size=(3, device.n_controls)))
    above.plot(((answers - answers.min()) / np.ptp(answers)).T, lw=1)
    above.set(title=name, xlabel="output")
    below.bar(range(4), table[name], color=["C0", "0.5", "C3", "C2"])
    below.axhline(logistic, color="k", ls="--", lw=1)
    below.set_xticks(range(4), columns, rotation=60, ha="right")
axes[0, 0].set(ylabel="answer to three random settings\n(scaled to its range)")
axes[1, 0].set(ylabel="accuracy on test points\n(dashed: logistic regression)", ylim=(0, 1))

path = Path(__file__).with_suffix(".png") if "__file__" in globals() else Path("plot_04_seven_devices.png")
figure.savefig(path, dpi=110)
print(f"\nThe figure is in {path}")
