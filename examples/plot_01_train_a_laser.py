"""
Train a laser to read digits
============================

A shaped laser pulse crosses a crystal, and a spectrometer measures the light that comes out at twice the frequency. Some
spectral channels of the pulse carry the pixels of a handwritten digit, the others are trained. The laser here is
simulated, noise included; nothing in the code below knows that.

Two networks are trained:

- the default one, with a trainable linear map before and after the laser, and
- one in which the laser must do the work: pixels go straight to the channels, the score of a class is the light in its
  part of the spectrum, and nothing digital is trained but gains and offsets.

Each stands beside what it must be compared with: the same network trained *in silico*, the exact gradient (which only a
simulated device has), the same network with the laser replaced by the identity, and logistic regression.

Accuracies are those of one split and one seed; ``tests/benchmarks/digits.py`` repeats them.
"""

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import ConfusionMatrixDisplay
from sklearn.model_selection import train_test_split

from skpat import PhysicalNetworkClassifier
from skpat.devices import IdentityDevice, SecondHarmonicLaser

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.25, random_state=0)
X_fit, X_val, y_fit, y_val = train_test_split(X_train, y_train, test_size=100, random_state=0)

laser = SecondHarmonicLaser()
identity = IdentityDevice.like(laser)
networks = {
    "linear maps around the laser (defaults)": dict(max_iter=20),
    "nothing digital but gains": dict(
        encoder="direct", readout="bins", n_layers=2, n_units=2, learning_rate_init=0.03, max_iter=12
    ),
}
methods = {
    "physics-aware": dict(device=laser, gradient="physics_aware"),
    "exact gradient": dict(device=laser, gradient="exact"),
    "in silico": dict(device=laser, gradient="in_silico"),
    "identity in place of the laser": dict(device=identity, gradient="exact"),
}

# %%
# What will it cost? ``plan`` tells before anything is sent.

print(PhysicalNetworkClassifier(laser, **networks["nothing digital but gains"]).plan(X_fit), "\n")

# %%
# Train everything. A hundred rows are validated on after each epoch, for the curves below.

logistic = LogisticRegression(max_iter=5000).fit(X_train / 16, y_train)
print(f"{'':<32}{'test accuracy':>14}{'shots to train':>16}")
trained = {}
for network, shape in networks.items():
    print(network)
    for method, how in methods.items():
        classifier = PhysicalNetworkClassifier(**shape, **how, random_state=0).fit(
            X_fit, y_fit, X_val=X_val, y_val=y_val
        )
        shots = sum(classifier.shots_.values()) if classifier.device_.__class__ is SecondHarmonicLaser else 0
        accuracy = classifier.score(X_test, y_test)
        trained[network, method] = classifier, accuracy, shots
        print(f"  {method:<30}{accuracy:>13.1%}{shots:>16,}", flush=True)
print(f"{'logistic regression':<32}{logistic.score(X_test / 16, y_test):>13.1%}{0:>16,}")

# %%
# The figure: how accuracy grows with shots where the laser must do the work, what the laser does to one digit, and which
# digits are mistaken for which.

network = "nothing digital but gains"
colors = {"physics-aware": "C0", "exact gradient": "0.4", "in silico": "C3", "identity in place of the laser": "C2"}
figure, axes = plt.subplots(2, 2, figsize=(11, 8.5), layout="constrained")

ax = axes[0, 0]
for method in ("physics-aware", "exact gradient"):
    classifier, accuracy, shots = trained[network, method]
    label = f"{method}, validation rows (test: {accuracy:.0%})"
    ax.plot(classifier.shots_curve_, classifier.validation_scores_, color=colors[method], label=label)
classifier, accuracy, shots = trained[network, "in silico"]
ax.plot(shots, accuracy, "D", color=colors["in silico"], label=f"in silico, on the laser, test: {accuracy:.0%}")
accuracy = trained[network, "identity in place of the laser"][1]
label = f"identity in place of the laser, test: {accuracy:.0%}"
ax.axhline(accuracy, color=colors["identity in place of the laser"], ls="--", label=label)
ax.set(xlabel="shots", ylabel="accuracy", xlim=(0, None), ylim=(0, 1), title="Nothing digital but gains: learning")
ax.legend(loc="lower right", fontsize="small")

classifier = trained[network, "physics-aware"][0]
split = classifier.control_split_
row = X_test[:1]
calls = []


class Watched(SecondHarmonicLaser):
    """The laser, keeping what it was sent."""

    def measure(self, batch):
        spectrum = super().measure(batch)
        calls.append((np.asarray(batch)[0], spectrum[0]))
        return spectrum


watched = Watched(**classifier.device_.get_params())
learned_device, classifier.device_ = classifier.device_, watched
digit = classifier.predict(row)[0]
classifier.device_ = learned_device
controls, spectrum = calls[0]

ax = axes[0, 1]
ax.bar(split.input_index, controls[split.input_index], width=1.0, color="C0", label="pixels")
ax.bar(split.weight_index, controls[split.weight_index], width=1.0, color="C1", label="trained weights")
ax.set(
    xlabel="spectral channel of the pulse",
    ylabel="amplitude (of full)",
    ylim=(0, 1.4),
    title=f"A pulse going in (a {y_test[0]})",
)
ax.legend(loc="upper right", fontsize="small")
inset = ax.inset_axes([0.02, 0.74, 0.2, 0.24])
inset.imshow(row.reshape(8, 8), cmap="gray_r")
inset.set(xticks=[], yticks=[])

ax = axes[1, 0]
ax.plot(spectrum, color="C4", drawstyle="steps-mid")
ax.set(
    xlabel="spectrometer bin (second harmonic)",
    ylabel=f"energy ({laser.output_units})",
    title="The spectrum coming out (first layer, first unit)",
)

ConfusionMatrixDisplay.from_predictions(
    y_test, classifier.predict(X_test), ax=axes[1, 1], cmap="Blues", colorbar=False, text_kw={"fontsize": "small"}
)
axes[1, 1].set_title("Test digits, physics-aware training")

path = Path(__file__).with_suffix(".png") if "__file__" in globals() else Path("plot_01_train_a_laser.png")
figure.savefig(path, dpi=120)
print(f"\nThe figure is in {path}")
