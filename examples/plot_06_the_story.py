"""
Why train on the device?
========================

A network of a transistor circuit is trained in four ways. *In silico* the training runs on a digital twin, learned from
measurements, and never asks the circuit. *In silico, readout refitted* measures every row once afterwards, and fits the readout
to that. *Physics-aware* training measures forward and uses a twin only for the gradient. The *exact gradient* is what only a
simulated device has; it shows what there is to gain.

The figure shows what training in silico believes, and what the circuit then does. The twin is not bad: it predicts
shots that it has not seen, with the R² printed below. But the training moves the weights to where the twin was never tested.

The task is one for products: the class of a point is the pair of signs of x0 x1 and x2 x3. Features go straight to the
channels, and the readout is a linear map. A linear model stays near chance, 25 %, and so does the same network with the circuit
replaced by the identity.

This is one split and one seed; ``tests/benchmarks/accuracy.py`` repeats it with five.
"""

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.linear_model import LogisticRegression

from skpat import PhysicalNetworkClassifier
from skpat.devices import AnalogCircuit, IdentityDevice

X = np.random.default_rng(0).uniform(-1, 1, size=(1200, 4))
y = (X[:, 0] * X[:, 1] > 0) + 2 * (X[:, 2] * X[:, 3] > 0)
X_train, X_val, X_test = X[:500], X[500:700], X[700:]
y_train, y_val, y_test = y[:500], y[500:700], y[700:]

circuit = AnalogCircuit(n_controls=60, n_outputs=30)
network = PhysicalNetworkClassifier(
    circuit, encoder="direct", learning_rate_init=0.03, batch_size=32, max_iter=12, random_state=0
)

# %%
# Training in silico validates on its twin: it has no shots to do otherwise. So that we see what the circuit makes of it, a
# callback measures the validation rows after every epoch. It gets a copy of the estimator as it stands; what it measures is
# counted as prediction.


class OnTheDevice:
    """Keeps the accuracy on the device after every epoch."""

    def __init__(self, X, y):
        self.X, self.y = X, y
        self.scores = []

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
        if context.task_name == "epoch":
            self.scores.append(fitted_estimator.score(self.X, self.y))


def train(gradient, device=circuit, **validation):
    """A fitted copy of the network, its accuracy on the test rows, and the shots of its fit."""
    classifier = PhysicalNetworkClassifier(**{**network.get_params(deep=False), "device": device, "gradient": gradient})
    seen = OnTheDevice(X_val, y_val)
    classifier.set_callbacks(seen).fit(X_train, y_train, **validation)
    shots = classifier.shots_["calibration"] + classifier.shots_["training"]
    return classifier, classifier.score(X_test, y_test), shots, seen


# %%
# Train. Shots are those of calibration and training, the callback's left out.

labels = {
    "exact": "exact gradient",
    "physics_aware": "physics-aware",
    "in_silico_refitted": "in silico,\nreadout refitted",
    "in_silico": "in silico",
    "identity": "identity in place\nof the circuit",
    "linear": "logistic regression",
}
silico, *of_silico, seen_in_silico = train("in_silico", X_val=X_val, y_val=y_val)
aware, *of_aware, seen_aware = train("physics_aware")
exact, *of_exact, seen_exact = train("exact")
_, identity, *_ = train("exact", IdentityDevice.like(circuit))
found = {
    "exact": of_exact,
    "physics_aware": of_aware,
    "in_silico_refitted": train("in_silico_refitted")[1:3],
    "in_silico": of_silico,
    "identity": (identity, 0),
    "linear": (LogisticRegression().fit(X_train, y_train).score(X_test, y_test), 0),
}
print(f"{'':<34}{'test accuracy':>14}{'shots':>9}")
for name, (accuracy, shots) in found.items():
    print(f"{labels[name].replace(chr(10), ' '):<34}{accuracy:>14.1%}{shots:>9,}")
believed = silico.validation_scores_[-1]
print(
    f"\nIn silico believed {believed:.0%} on the validation rows; the circuit reached {seen_in_silico.scores[-1]:.0%}."
)
print(f"R² of its twin on shots held out: {silico.twin_score_:.2f}")

# %%
# The figure. On the left the accuracy after each epoch: what the circuit does, and, dashed, what the twin promised. On the
# right each method on rows that nothing was chosen by, with the standard error of 500 rows.

colors = dict(exact="0.45", physics_aware="C0", in_silico_refitted="C1", in_silico="C3", identity="C2", linear="C2")
plt.rcParams.update({"font.size": 12})
figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5), width_ratios=[1.25, 1], layout="constrained")
epochs = np.arange(1, network.max_iter + 1)
lines = {
    "exact gradient": (seen_exact.scores, "0.45", "-"),
    "physics-aware": (seen_aware.scores, "C0", "-"),
    "in silico: what the twin promised": (silico.validation_scores_, "C3", "--"),
    "in silico: what the circuit does": (seen_in_silico.scores, "C3", "-"),
}
for label, (scores, color, style) in lines.items():
    left.plot(epochs, np.multiply(scores, 100), color=color, ls=style, lw=2.5, label=label)
left.axhline(25, color="0.7", ls=":", lw=1.5)
left.text(network.max_iter, 24, "chance", ha="right", va="top", color="0.4")
promised, done = silico.validation_scores_[-1] * 100, seen_in_silico.scores[-1] * 100
left.annotate(
    "", (network.max_iter, done), (network.max_iter, promised), arrowprops=dict(arrowstyle="<->", color="C3", lw=1.5)
)
left.text(
    network.max_iter - 0.2,
    (promised + done) / 2,
    f"{promised - done:.0f} points\nmissing",
    ha="right",
    va="center",
    color="C3",
)
left.set(xlabel="epoch", ylabel="accuracy on 200 validation rows (%)", ylim=(0, 100), xticks=epochs[1::2])
left.legend(loc="lower left", bbox_to_anchor=(0, -0.02), frameon=False, fontsize=11, labelspacing=0.3)
left.set_title("Trained on its twin, the circuit does not keep the promise", loc="left", fontsize=13)

accuracies, shots = (np.array([found[name][i] for name in labels]) for i in range(2))
places = np.arange(len(labels))
errors = 100 * np.sqrt(accuracies * (1 - accuracies) / len(y_test))
right.barh(places, 100 * accuracies, xerr=errors, color=[colors[name] for name in labels], height=0.65, ecolor="0.2")
for place, accuracy, error, count in zip(places, accuracies, errors, shots, strict=True):
    right.text(100 * accuracy + error + 1.5, place, f"{accuracy:.0%}", va="center", weight="bold")
    right.text(2, place, f"{count:,} shots" if count else "no shots", va="center", color="white", fontsize=10)
right.axvline(25, color="0.7", ls=":", lw=1.5, zorder=0)
right.set(yticks=places, yticklabels=list(labels.values()), xlim=(0, 110), xticks=range(0, 101, 20))
right.set(xlabel="accuracy on 500 test rows (%)")
right.invert_yaxis()
right.set_title("In the end", loc="left", fontsize=13)
for ax in (left, right):
    ax.spines[["top", "right"]].set_visible(False)

path = Path(__file__).with_suffix(".png") if "__file__" in globals() else Path("plot_06_the_story.png")
figure.savefig(path, dpi=120)
print(f"\nThe figure is in {path}")
