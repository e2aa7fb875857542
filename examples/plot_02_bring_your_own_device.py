"""
Bring your own device
=====================

Anything that takes numbers and gives numbers back can be trained. Here a laboratory's own function sets 24 voltages of a
driven transistor bank and reads 12 currents. It is ten lines long, it is noisy, and nobody has written down a model of it.
``as_device`` makes it a device; the digital twin for the backward pass is learned from its answers.
"""

# %%
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score

from skpat import PhysicalNetworkClassifier, as_device
from skpat.devices import IdentityDevice

WIRING = np.random.default_rng(7).normal(size=(24, 12)) / 3
THRESHOLD = np.random.default_rng(8).uniform(-0.5, 0.5, 12)
detector = np.random.default_rng(9)


def transistor_bank(voltages):
    """Set 24 voltages (one row each), read 12 currents in mA."""
    drive = voltages @ WIRING - THRESHOLD
    neighbours = np.roll(drive, 1, axis=1)
    current = np.log1p(np.exp(4 * drive)) * (1 + 0.5 * np.tanh(neighbours))
    return current * (1 + 0.02 * detector.normal(size=current.shape)) + 0.01 * detector.normal(size=current.shape)


bank = as_device(
    transistor_bank,
    n_controls=24,
    n_outputs=12,
    bounds=(-1, 1),
    control_units="V",
    output_units="mA",
    max_batch=256,
    seconds_per_shot=1e-3,
)

# %%
# The task is one that no linear model can do: do two numbers have the same sign? One line says what training will take.

X = np.random.default_rng(0).uniform(-1, 1, size=(300, 2))
y = np.where(X[:, 0] * X[:, 1] > 0, "same sign", "opposite")
network = PhysicalNetworkClassifier(
    bank, encoder="direct", readout="bins", n_layers=2, learning_rate_init=0.05, max_iter=30, random_state=0
)
print(network.plan(X), "\n")

# %%
# Train and compare. ``encoder="direct"`` and ``readout="bins"`` leave nothing digital but gains and offsets, so the rows
# show what the bank itself contributes: the identity in its place is the same network without it.

rows = {
    "the bank, physics-aware": network,
    "the bank, in silico": PhysicalNetworkClassifier(**{**network.get_params(deep=False), "gradient": "in_silico"}),
    "identity in place of the bank": PhysicalNetworkClassifier(
        **{**network.get_params(deep=False), "gradient": "exact", "device": IdentityDevice.like(bank)}
    ),
    "logistic regression": LogisticRegression(),
}
print(f"{'same sign? 3-fold cross-validation':<36}{'accuracy':>10}")
for name, model in rows.items():
    scores = cross_val_score(model, X, y, cv=3)
    print(f"{name:<36}{scores.mean():>9.1%} ± {scores.std(ddof=1) / np.sqrt(3):.1%}")

# %%
# What was spent:

network.fit(X, y)
print(f"\nShots of one fit: {network.shots_}; on the device {network.ledger_.seconds:.1f} s")
