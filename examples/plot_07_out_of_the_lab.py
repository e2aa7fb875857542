"""
Out of the laboratory
=====================

A device has been trained. What did the device add, and what does a prediction cost? Then it goes to where it is needed, without
torch and without the twin, predicts a stream, drifts, and is recalibrated with 1,500 shots.

The device is a bank of transistors, a Python object with a method that sets 24 voltages and reads 12 currents. Its offsets
wander with every row that it answers. Nothing in skpat knows that.
"""

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from skpat import PhysicalNetworkClassifier, as_device, deployment
from skpat.inspection import compare_baselines


class TransistorBank:
    """24 voltages in, 12 currents out; offsets drift by ``drift`` volts in 1,000 rows, as a random walk."""

    def __init__(self, drift):
        self.drift = drift
        self.random = np.random.default_rng(1)
        self.wiring = np.random.default_rng(7).normal(size=(24, 12)) / 3
        self.offsets = np.zeros(24)

    def read(self, voltages):
        self.offsets += self.drift * np.sqrt(len(voltages) / 1000) * self.random.normal(size=24)
        drive = (voltages + self.offsets) @ self.wiring
        current = np.log1p(np.exp(4 * drive)) * (1 + 0.5 * np.tanh(np.roll(drive, 1, axis=1)))
        return current * (1 + 0.02 * self.random.normal(size=current.shape))


bank = TransistorBank(drift=0.0)
device = as_device(
    bank.read,
    n_controls=24,
    n_outputs=12,
    bounds=(-1, 1),
    control_units="V",
    output_units="mA",
    seconds_per_shot=1e-4,
    joules_per_shot=2e-9,
    name="transistor bank",
)
rows = np.random.default_rng(0).uniform(-1, 1, size=(50_400, 2))
labels = np.where(rows[:, 0] * rows[:, 1] > 0, "same sign", "opposite")
X, y, stream, truth = rows[:400], labels[:400], rows[400:], labels[400:]
network = PhysicalNetworkClassifier(
    device, encoder="direct", n_layers=2, learning_rate_init=0.03, max_iter=12, random_state=0
)

# %%
# What does the device add? Everything is scored on the same folds. The difference is taken fold by fold. This task is so small
# that random weights and a fitted readout do nearly as well, and the table says so.

print(compare_baselines(network, X, y, cv=5, baselines=["linear", "untrained", "identity", "in_silico"]), "\n")

# %%
# Train on all rows. What does a prediction take, and what did the training? Each figure says where it comes from; what a
# digital operation costs is assumed, and can be set. The score to be equalled is measured on rows that are new.

network.fit(X, y)
print(network.cost_report(stream[:400], truth[:400], measure=True), "\n")

# %%
# Deploy: one file, and wherever the device is, numpy reads it.

folder = tempfile.TemporaryDirectory()
path = Path(folder.name) / "same_sign.skpat"
network.deploy().save(path)
deployed = deployment.load(path, device)
print(f"The file has {path.stat().st_size:,} bytes.\n")

# %%
# Predict a stream, in chunks of 1,000 rows, while the bank drifts. Only one chunk is ever in the memory.


def chunks(rows):
    for start in range(0, len(rows), 1000):
        yield rows[start : start + 1000]


def watch(deployed, rows, truth):
    """Accuracy of each chunk of a stream."""
    return [
        float(np.mean(predicted == true))
        for predicted, true in zip(deployed.predict_stream(chunks(rows)), chunks(truth), strict=True)
    ]


bank.drift = 0.05
before = watch(deployed, stream[:30_000], truth[:30_000])

# %%
# Recalibrate with the labelled rows of the training and at most 1,500 shots: the readout first, and the weights only if that
# is not enough. Rows that had no part in a change decide whether it is kept. A deployed network cannot be trained, so the
# estimator is recalibrated, and deployed again.

network.recalibrate(X, y, max_shots=1500)
print(network.recalibration_)
print(f"Shots of the recalibration: {network.shots_['recalibration']:,}")
after = watch(network.deploy(), stream[30_000:], truth[30_000:])
print(f"Accuracy: at first {before[0]:.1%}, drifted {before[-1]:.1%}, recalibrated {after[0]:.1%}")
folder.cleanup()

# %%
# The figure: what the stream saw.

plt.rcParams.update({"font.size": 12})
figure, ax = plt.subplots(figsize=(9, 4), layout="constrained")
ax.plot(np.arange(1, 31), np.multiply(before, 100), color="C3", lw=2.5, label="as it was trained")
ax.plot(np.arange(31, 51), np.multiply(after, 100), color="C0", lw=2.5, label="recalibrated")
ax.axvline(30.5, color="0.5", ls=":")
ax.text(30.8, 53, f"{network.shots_['recalibration']:,} shots", ha="left", va="bottom", color="0.4")
ax.axhline(50, color="0.7", ls=":")
ax.text(1, 49, "chance", va="top", color="0.4")
ax.set(xlabel="thousands of rows predicted", ylabel="accuracy of 1,000 rows (%)", ylim=(40, 100))
ax.set_title("The bank drifts, and is recalibrated", loc="left")
ax.legend(loc="lower left", bbox_to_anchor=(0, 0.17), frameon=False)
ax.spines[["top", "right"]].set_visible(False)

figure_path = Path(__file__).with_suffix(".png") if "__file__" in globals() else Path("plot_07_out_of_the_lab.png")
figure.savefig(figure_path, dpi=120)
print(f"\nThe figure is in {figure_path}")
