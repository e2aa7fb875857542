"""The parameters and attributes that both estimators document, written once."""

from __future__ import annotations

from typing import TypeVar

__all__ = ["describe"]

Class = TypeVar("Class", bound=type)

_TEXT = {
    "parameters": """\
device : Device, default=None
    The apparatus: what is trained. A :class:`skpat.Device`, or a lab's own function through :func:`skpat.as_device`.
    None: a simulated :class:`skpat.devices.SecondHarmonicLaser`. (Where tensors live is ``torch_device``.)
twin : Twin, default=None
    The unfitted digital twin for the backward pass. None: a :class:`skpat.twins.PhysicsTwin` of the device's ``equations``
    where it states them (:class:`skpat.twins.ResidualTwin`, if they leave out what the shots of the calibration tell), else a
    :class:`skpat.twins.NeuralTwin`.
control_split : ControlSplit or {"interleaved", "contiguous", "random"}, default="interleaved"
    Which control channels carry data and which are weights.
n_layers : int, default=1
    Device calls in a row; each has its own weights.
n_units : int, default=1
    Device calls side by side in each layer; each has its own weights.
encoder : {"auto", "linear", "direct", "patch"} or PatchEncoder, default="auto"
    From features to input channels. "linear" (and "auto"): a trainable linear map. "direct": features, scaled to the
    range of the training data and repeated in turn; nothing digital is trained before the device. "patch": images and signals
    that are too large for one call, cut into patches, each measured with the same weights on the device
    (:class:`skpat.network.PatchEncoder` has the parameters; the first layer then makes ``n_patches * n_units`` calls).
skip : {"input", "previous"} or None, default=None
    What is added to the inputs of every layer after the first: the first layer's inputs, the previous layer's, or
    nothing.
readout : {"linear", "bins"}, default="linear"
    From the last outputs to scores. "linear": a trainable linear map. "bins": each score is the mean of a fixed group of
    outputs, times one common gain.
gradient : str or GradientEstimator, default="physics_aware"
    Where gradients come from: "physics_aware", "in_silico", "in_silico_refitted", "exact", "spsa",
    "finite_differences", "evolution_strategy", "forward_forward", "asymmetric", "direct_feedback_alignment" or
    "sharpness_aware", or an object of ``skpat.training`` with its own parameters.
n_calibration_shots : int or "auto", default="auto"
    Settings measured before the training for the twin to learn from, where ``gradient`` uses a twin. "auto": as few as the
    twin needs to predict new ones, with a twin that learns on during the training (the default) or knows the equations; else,
    and at most, two for each row, layer and unit, at least 200 and at most 10,000; with ``max_shots`` no more than a quarter of
    it, unless the training leaves more. 0: none. (Some further ones, at most 256 for each layer and unit, with ``max_shots``
    about an eighth of it unless the training leaves more, set the first output statistics; a twin that learns on begins
    with these where there are no others. One that does not, and learns from nothing else, is refused with 0.)
n_shots : int, default=1
    Shots averaged for each row, in calibration, training and prediction.
max_shots : int or None, default=None
    Budget of a fit, all purposes and repeats after faults together. It is never exceeded: the fit ends with the best
    weights so far (without validation data the last ones), and its step size falls in time. The resource of
    :class:`~sklearn.model_selection.HalvingGridSearchCV`. None: no limit but ``max_iter``.
batch_size : int or "auto", default="auto"
    Rows per step. "auto": all up to 64 rows, else 32. Larger batches take fewer steps, and less of the computer's time, for
    each epoch: with a fast device and many rows try 256 or more.
max_iter : int, default=30
    Most passes over the data. The step size falls over them along half a cosine, to a hundredth.
learning_rate_init : float, default=0.01
    First step size of Adam; in ``partial_fit`` the only one.
alpha : float, default=1.0
    Strength of the L2 penalty on the digital matrices (encoder, readout), on the scale of
    :class:`~sklearn.linear_model.Ridge`: 1 / C of :class:`~sklearn.linear_model.LogisticRegression`.
tol : float, default=1e-4
    What counts as progress of the loss, or of the validation score with ``early_stopping``.
shuffle : bool, default=True
    Whether the rows are shuffled in every epoch.
early_stopping : bool, default=False
    Whether to hold out a part of the data, keep the weights of the best validation score, and stop when it no
    longer improves. With ``X_val`` given to ``fit`` nothing is held out. With ``warm_start`` the same rows are held out again.
validation_fraction : float, default=0.1
    Share of the data held out by ``early_stopping``.
n_iter_no_change : int, default=10
    Epochs without progress before the training stops.
warm_start : bool, default=False
    Whether ``fit`` goes on from where the last one ended (twin, weights and shot counts included). What the network was built
    from (``device`` to ``gradient`` in this list) must have stayed the same, as for ``partial_fit`` and (but for ``device``)
    ``recalibrate``; other parameters may change. A pickle, and so another process, keeps the twin and not the shots it has
    learned from: what goes on there collects new ones, and comes to somewhat other weights.
journal : str, path or Journal, default=None
    File that every answer of the device is written to in ``fit``, before it is used. The same ``fit`` again (same data,
    parameters and seeds), after a crash or a Ctrl-C, takes what is there without a shot and goes on from the next one, to
    the very weights of an uninterrupted run. See :class:`skpat.lab.Journal`.
torch_device : str, default="cpu"
    Where the tensors of the training live, for example "cuda"; with ``twin=None`` the twin's, too. A twin that is given lives
    where its own ``torch_device`` (of a model: the device's) says, and what it is asked travels there and back.
random_state : int, RandomState instance or None, default=None
    Seeds everything: first weights, order of rows, the twin, and the noise of a simulated device that has no seed of its
    own. None: everything anew in every fit (with a ``journal``: the seed that the same fit was begun with).
verbose : int, default=0
    1: a line where the calibration begins, one where it has ended, and one for every epoch, with shots, their rate, the time
    left and the faults survived.""",
    "attributes": """\
device_ : Device
    The estimator's own copy of the device.
twin_ : Twin or None
    The fitted twin; None where ``gradient`` uses none.
twin_score_ : float or None
    R² of the twin on held-out calibration shots.
control_split_ : ChannelSplit
    The channels of inputs, weights and fixed ones.
weights_ : dict of str to ndarray
    All weights; ``layers.0.theta`` (n_units, n_weights) are the device's own, before they are squashed into its bounds.
    (Patches with weights of their own have n_patches * n_units of them.)
n_iter_ : int
    Epochs of the last ``fit``, and one for each ``partial_fit`` since. So are the curves.
loss_ : float
    Mean loss of the last epoch.
loss_curve_ : list of float
    Mean loss of each epoch.
validation_scores_ : list of float or None
    Accuracy or R² on the validation data after each epoch, on the device; weighted as the training is, by ``sample_weight``
    (of ``X_val``: ``sample_weight_val``) and ``class_weight``. None without such data. Where the training runs in
    silico they are the twin's, and say nothing of the device: compare methods by ``score``, which measures.
best_validation_score_ : float or None
    The best of them; too high on average, for that reason. Score rows that had no part in the choice.
shots_curve_ : list of int
    Shots spent, calibration included and predictions not, after each epoch (answers from the journal count as shots here).
    What follows the last epoch, a check of the twin or the refit of ``"in_silico_refitted"``, is in ``shots_`` only.
shots_ : dict of str to int
    Shots so far by purpose: calibration, training, validation, prediction, and, once there was one, recalibration.
ledger_ : Ledger
    The same with seconds and joules, what the journal answered, and the faults.
alignments_ : list of skpat.training.alignment.Alignment
    How well the gradients agreed with the device, measured at the start, in the course and at the end of a fit with a twin
    (where that takes at most a tenth of the training's shots; they are counted as calibration). A
    :class:`skpat.exceptions.UselessTwinWarning` tells if they hardly did.
pretrained_ : bool
    Whether the training on the device went on from weights that were found in silico.
recalibration_ : skpat.training.recalibration.Recalibration
    What the last ``recalibrate`` found and changed; absent before the first.
n_features_in_ : int
    Number of features.
feature_names_in_ : ndarray of shape (``n_features_in_``,)
    Their names, where X had any.""",
    "notes": """\
In each layer the inputs are scaled by a trainable gain and offset each, squashed smoothly into the device's bounds, and
measured; outputs are normalised by running statistics. A fit takes n_samples * max_iter * n_layers * n_units *
n_shots shots at most, and those of the calibration; with patches, or a method that measures a row several times in
a step (SPSA, finite differences, an evolution strategy and others), so many times more; ``plan(X)`` tells. Prediction uses
the device alone: neither torch nor the twin.

scikit-learn's callbacks (``set_callbacks``) are called around ``fit`` and around each of its epochs. One that predicts takes
shots, which ``plan`` leaves out: they count as prediction, and ``max_shots`` holds for them too.

A prediction on a simulated device is the same in any company: its noise is a function of the row, not of the batch.""",
    "references": """\
Wright, Onodera et al., "Deep physical neural networks trained with backpropagation", Nature 601, 549 (2022),
doi:10.1038/s41586-021-04223-6.""",
}


def describe(cls: Class) -> Class:
    """Put the shared text where the class's docstring has {parameters}, {attributes}, {notes} and {references}."""
    if cls.__doc__:  # absent under python -OO
        indented = {key: text.replace("\n", "\n    ").replace("    \n", "\n") for key, text in _TEXT.items()}
        cls.__doc__ = cls.__doc__.format(**indented)
    return cls
