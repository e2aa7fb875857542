"""
Watch a training
================

A callback follows a fit and ends it when a target is reached. Afterwards four displays show what the training has cost, how far
to trust the twin, which channel carries what, and how the device answers.

The device is a simulated laser with nothing digital around it but gains: pixels and weights are settings of one pulse.
"""

# %%
from pathlib import Path

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from skpat import PhysicalNetworkClassifier
from skpat.devices import SecondHarmonicLaser
from skpat.inspection import ControlMapDisplay, DeviceResponseDisplay, TrainingCurveDisplay, TwinFidelityDisplay

X, y = load_digits(n_class=4, return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
X_train, X_val, y_train, y_val = train_test_split(X_train, y_train, random_state=0)

# %%
# A callback is a class of four methods. It costs no shots of its own: the accuracy on the validation rows is measured anyway.


class StopAtTarget:
    """Ends the training when the validation accuracy reaches a target."""

    def __init__(self, target):
        self.target = target

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
        if context.task_name != "epoch":
            return False
        print(f"epoch {context.task_id}: validation accuracy {fitted_estimator.validation_scores_[-1]:.3f}")
        return fitted_estimator.validation_scores_[-1] >= self.target


classifier = PhysicalNetworkClassifier(
    SecondHarmonicLaser(n_controls=128, n_outputs=48),
    encoder="direct",
    readout="bins",
    learning_rate_init=0.03,
    batch_size=16,
    max_iter=20,
    random_state=0,
).set_callbacks(StopAtTarget(0.85))
classifier.fit(X_train, y_train, X_val=X_val, y_val=y_val)
print(f"stopped after {classifier.n_iter_} epochs, test accuracy {classifier.score(X_test, y_test):.3f}")
print(classifier.shots_)

# %%
# The first and the third display send nothing; the others measure a few hundred rows.

figure, axes = plt.subplots(2, 2, figsize=(12, 9), layout="constrained")
TrainingCurveDisplay.from_estimator(classifier, ax=axes[0, 0])
TwinFidelityDisplay.from_estimator(classifier, X_test, ax=axes[0, 1])
ControlMapDisplay.from_estimator(classifier, ax=axes[1, 0])
DeviceResponseDisplay.from_device(classifier.device_, channels=[64], ax=axes[1, 1])

path = Path(globals().get("__file__", "plot_08_watch_a_training.py")).with_suffix(".png")
figure.savefig(path, dpi=110)
print(f"The figure is in {path}")
