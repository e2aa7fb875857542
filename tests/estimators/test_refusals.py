"""What cannot be fitted is refused before a shot, in words; a plan refuses what a fit refuses."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_diabetes
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV

from skpat import (
    ControlSplit,
    Device,
    PhysicalNetworkClassifier,
    PhysicalNetworkRegressor,
    as_device,
    characterize,
    check_device,
)
from skpat.devices import Noisy, SecondHarmonicLaser
from skpat.estimators.plan import time_on_device
from skpat.exceptions import (
    ControlBoundsError,
    ControlSplitError,
    DeadDeviceWarning,
    DeviceContractError,
    DeviceOutputError,
    NestedParameterError,
    TwinError,
)
from skpat.inspection import DeviceResponseDisplay, compare_baselines, gradient_alignment
from skpat.training import PhysicsAware, SharpnessAware
from skpat.twins import NeuralTwin, PhysicsTwin, ResidualTwin, Twin
from tests.estimators.noisy_bank import NoisyBank
from tests.estimators.small_network import IRIS, Watched, same, small


@pytest.mark.parametrize(
    "rows", [slice(24, None), slice(0, 75, 8)], ids=["a class of one row", "two rows for three classes"]
)
def test_too_few_rows_to_hold_out_are_refused(rows: slice, watched: Watched) -> None:
    network = small(device=watched, early_stopping=True)
    with pytest.raises(
        ValueError, match=r"'early_stopping' holds out validation_fraction=0\.1 of .*Nothing was sent\. Give"
    ):
        network.fit(IRIS[0][rows], IRIS[1][rows])
    assert not watched.sent


@pytest.mark.parametrize(("label", "classes"), [(0, None), ("ill", None), (0, [0])])
def test_one_class_leaves_nothing_to_learn(label: Any, classes: Any, watched: Watched) -> None:
    network, y = small(device=watched), np.full(len(IRIS[0]), label)
    name = "y" if classes is None else "classes"
    with pytest.raises(
        ValueError, match=rf"'{name}' must hold two classes or more\. Got one class only, .*{label}.*Nothing was"
    ):
        network.fit(IRIS[0], y) if classes is None else network.partial_fit(IRIS[0], y, classes)
    assert not watched.sent


@pytest.mark.parametrize("y", [IRIS[1], IRIS[1].tolist(), IRIS[1].astype(str)])
def test_a_plan_needs_no_labels_and_says_so(y: Any, watched: Watched) -> None:
    with pytest.raises(
        ValueError, match=r"'X_val' of plan must be rows like X, \(n_val, 4\)\. Got 75 single values.* use plan\(X\)"
    ):
        small(device=watched).plan(IRIS[0], y)


@pytest.mark.parametrize("constant", [None, "1e-9", True, -1, np.nan, np.inf])
def test_a_constant_of_a_cost_report_is_a_number(constant: Any) -> None:
    network = small(max_iter=1).fit(*IRIS)
    before = network.shots_
    with pytest.raises(
        ValueError, match=r"'joules_per_operation' must be a finite number of at least 0\. Got .*Nothing was"
    ):
        network.cost_report(IRIS[0], joules_per_operation=constant)
    assert network.shots_ == before


def test_a_search_is_led_to_its_best_estimator_and_scores_are_asked_for_one_by_one() -> None:
    search = GridSearchCV(small(max_iter=1), {"alpha": [0.1]}, cv=2).fit(*IRIS)
    with pytest.raises(TypeError, match=r"Got GridSearchCV\. Give its best_estimator_\."):
        gradient_alignment(search, *IRIS)
    with pytest.raises(
        ValueError, match=r"'scoring' must be one name, one callable or None\. Got \['accuracy', 'f1_macro'\]"
    ):
        compare_baselines(small(), *IRIS, scoring=["accuracy", "f1_macro"])


def test_a_hint_that_cannot_help_is_not_given(watched: Watched) -> None:
    X, y = load_diabetes(return_X_y=True)
    network = small(PhysicalNetworkRegressor, device=watched, early_stopping=True)
    with pytest.raises(
        ValueError, match=r"at least 2 of the 2 rows.* Nothing was sent\. Give more rows, or X_val and y_val\."
    ):
        network.fit(X[:2], y[:2])


def test_r2_of_a_single_held_out_row_is_refused(watched: Watched) -> None:
    X, y = load_diabetes(return_X_y=True)
    network = small(PhysicalNetworkRegressor, device=watched, early_stopping=True)
    with pytest.raises(ValueError, match=r"at least 2 of the 10 rows: R² is of several\. Got 0\.1, which holds out 1"):
        network.fit(X[:10], y[:10])
    with pytest.raises(
        ValueError, match=r"'X_val' must have at least 2 rows of positive weight: R² is of several\. Got 1"
    ):
        network.fit(X[:10], y[:10], X_val=X[10:11], y_val=y[10:11])
    with pytest.raises(ValueError, match=r"at least 2 rows of positive weight: R² is of several\. Got 1"):
        network.fit(X[:10], y[:10], X_val=X[10:13], y_val=y[10:13], sample_weight_val=[0, 2, 0])
    assert not watched.sent
    assert np.isfinite(network.fit(X[:11], y[:11]).validation_scores_).all()


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.zeros(4), "Expected 2D array|'X_val' of plan must be rows like X"),
        (np.zeros((0, 4)), r"Found array with 0 sample"),
        (np.zeros((2, 0)), r"0 feature\(s\)"),
        ([[0.0, np.nan, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]], "contains NaN"),
        ([["a"] * 4, ["b"] * 4], "could not convert string"),
    ],
    ids=["1-D", "no rows", "no features", "NaN", "words"],
)
@pytest.mark.parametrize("given", ["X", "X_val"])
def test_the_plan_refuses_what_a_fit_refuses(X: Any, message: str, given: str, watched: Watched) -> None:
    network = small(device=watched)
    with pytest.raises(ValueError, match=message):
        network.fit(X, np.arange(len(X)) % 2)
    with pytest.raises(ValueError, match=message):
        network.plan(**{"X": IRIS[0]} | {given: X})
    assert not hasattr(network, "n_features_in_")
    assert not watched.sent


@pytest.mark.parametrize(
    ("twin", "message"),
    [
        (NeuralTwin((0,)), "hidden_layer_sizes"),
        (NeuralTwin(max_iter=-1), "max_iter"),
        (PhysicsTwin(SecondHarmonicLaser(16, 12), ["charm"]), "charm"),
    ],
    ids=["no width", "no steps", "no such constant"],
)
def test_the_plan_refuses_a_twin_that_a_fit_refuses(twin: Any, message: str) -> None:
    network = small(device=SecondHarmonicLaser(16, 12), twin=twin)
    for attempt in (network.plan, lambda X: network.fit(X, IRIS[1])):
        with pytest.raises(ValueError, match=message):
            attempt(IRIS[0])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_change", 0.05),
        ("max_batch", 10),
        ("address", "GPIB::7"),
        ("bounds", (0.0, 0.5)),
        ("control_steps", 0.25),
        ("check_controls", lambda batch: None),
        ("name", "rig 2"),
        ("control_units", "parts"),
        ("equations", None),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("wrap", [lambda device: device, Noisy], ids=["plain", "wrapped"])
def test_limits_that_a_copy_would_not_have_are_refused(name: str, value: Any, wrap: Any, watched: Watched) -> None:
    network = small(device=watched)
    setattr(watched, name, value)
    network.set_params(device=wrap(watched))
    for attempt in (
        lambda: network.fit(*IRIS), lambda: network.plan(IRIS[0]), lambda: characterize(network.device, n_shots=200),
        lambda: DeviceResponseDisplay.from_device(network.device),
    ):  # fmt: skip
        with pytest.raises(DeviceContractError, match=rf"'{name}' of .* must come from a parameter of __init__"):
            attempt()
    assert not watched.sent
    report = check_device(watched, on_fail=None)
    assert f"lacks what was set: {name}" in str(report["clone"])
    assert not report.passed
    if name == "max_batch":
        assert max(watched.sent) <= 10  # what is checked is the object with its limits


def test_costs_may_be_unknown_or_learned_by_hand(watched: Watched) -> None:
    class Learning(Watched):
        joules_per_shot = property(lambda self: float("nan"))

    device = Learning()
    device.seconds_per_shot = 0.1
    small(device=device, max_iter=1).fit(*IRIS)


def test_a_twin_without_its_own_module_is_refused(watched: Watched) -> None:
    class Bare(Twin):
        def fit(self, controls: Any, outputs: Any, sample_weight: Any = None) -> Twin:
            self.module_ = None
            return self

    with pytest.raises(ValueError, match=r"must define the property module_.*Add a property"):
        small(device=watched, twin=Bare()).fit(*IRIS)
    assert not watched.sent


@pytest.mark.parametrize("max_shots", [None, 50])
def test_the_plan_of_a_fit_that_goes_on_counts_no_calibration(max_shots: int | None) -> None:
    X, y = IRIS
    network = small(warm_start=True, max_iter=1).fit(X, y)
    before = dict(network.shots_)
    plan = network.set_params(max_shots=max_shots).plan(X)
    network.fit(X, y)
    spent = network.shots_["training"] - before["training"]
    assert plan.training == (max_shots or len(X))
    assert spent == plan.training if max_shots is None else plan.training - 32 < spent <= plan.training  # whole batches
    assert network.shots_["calibration"] - before["calibration"] == plan.calibration == 0
    with pytest.raises(ValueError, match=r"'X_val' must have the 4 features of X\. Got 3"):
        network.plan(X, X[:, :3])
    with pytest.raises(ValueError, match=r"X has 3 features, but PhysicalNetworkClassifier is expecting 4"):
        network.plan(X[:, :3])


@pytest.mark.parametrize("kind", [PhysicalNetworkClassifier, PhysicalNetworkRegressor])
@pytest.mark.parametrize("journal", [False, True])
def test_a_refused_fit_leaves_the_estimator_as_it_was(kind: type, journal: bool, tmp_path: Any) -> None:
    X, y = IRIS
    network = small(kind, max_iter=1, journal=tmp_path / "run.db" if journal else None).fit(X, y)
    before, state = network.predict(X), dict(vars(network))
    other = np.array(["dog", "cat", "cow"])[y] if kind is PhysicalNetworkClassifier else np.column_stack([y, y])
    for new_X, new_y, held_out, params in (
        (X, other, {"X_val": X[:5], "y_val": other[:4]}, {}),
        (X, other, {}, {"max_shots": 1}),
        (X[:, :3], y, {}, {"max_shots": 1}),
        (X, other, {}, {"encoder": "direct", "control_split": ControlSplit(n_inputs=1)}),
    ):
        with pytest.raises(ValueError, match=r"inconsistent|'max_shots'|input channel"):
            network.set_params(**params).fit(new_X, new_y, **held_out)
        network.set_params(**{name: state[name] for name in params})
        assert vars(network).keys() == state.keys()
        assert all(vars(network)[name] is value for name, value in state.items())
        np.testing.assert_array_equal(network.predict(X), before)


@pytest.mark.parametrize(
    ("dtype", "refused", "taken", "told"),
    [
        (np.float32, [1e19], [1e14], r"\d.* larger unit"),
        (np.float64, [1e155], [1e150], r"\d.* larger unit"),
        (np.float64, [1e300, 1e295], [], r"\d.* larger unit"),
        (np.float32, [1e-24], [1e-16], r"changes of \d.* smaller unit"),
        (np.float64, [1e-160], [1e-152], r"changes of \d.* smaller unit"),
    ],
)
def test_outputs_too_large_or_too_small_to_be_squared_are_refused(
    dtype: type, refused: list[float], taken: list[float], told: str
) -> None:
    X, y = IRIS[0].astype(dtype), IRIS[1]

    def network(size: float) -> Any:
        device = as_device(lambda c: size * np.tanh(c[:, :4]), n_controls=12, n_outputs=4, bounds=(-1, 1))
        return small(device=device, max_iter=1)

    for size in refused:
        with pytest.raises(DeviceOutputError, match=rf"squares that {dtype.__name__} can hold\. Got {told}"):
            network(size).fit(X, y)
    for size in taken:
        network(size).fit(X, y)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", [PhysicalNetworkClassifier, PhysicalNetworkRegressor])
@pytest.mark.parametrize("n_layers", [1, 2])
def test_a_device_that_answers_the_same_to_everything_is_told(dtype: type, kind: type, n_layers: int) -> None:
    X, y = IRIS[0].astype(dtype), IRIS[1]
    offsets = np.array([0.1, -1e4, 0.2, 0.0])

    def device(of_controls: float) -> Device:
        def measure(controls: np.ndarray) -> np.ndarray:
            return offsets + of_controls * controls.mean(axis=1, keepdims=True) * [0, 0, 0.1, 0]

        return as_device(measure, n_controls=12, n_outputs=4, bounds=(0, 1))

    told = "same 4 outputs for 75 different rows, in layer 0 \\(the first is 0\\): "
    with pytest.warns(DeadDeviceWarning, match=told) as caught:
        small(kind, device(0.0), n_layers=n_layers, max_iter=1).fit(X, y)
    assert [warning.filename for warning in caught] == [__file__]
    small(kind, device(1.0), n_layers=n_layers, max_iter=1).fit(X, y)  # one output moves, a little: no warning
    if dtype is np.float64:  # a clear response on a large offset, in hertz, say
        far = as_device(lambda c: 1e10 + 50 * c[:, :4], n_controls=12, n_outputs=4, bounds=(0, 1))
        small(kind, far, n_layers=n_layers, max_iter=1).fit(X, y)
    small(kind, device(0.0), n_layers=n_layers, max_iter=1).fit(np.ones_like(X), y)  # nor where all rows are the same


@pytest.mark.parametrize("incremental", [False, True])
@pytest.mark.parametrize(
    ("params", "named"),
    [
        ({"device": Watched()}, "'device'"),
        ({"device__noise": 0.5}, "'device__noise'"),
        ({"gradient": "spsa"}, "'gradient'"),
        ({"gradient": "magic"}, "'gradient'"),
        ({"n_layers": 2, "n_units": 3}, "'n_layers', 'n_units'"),
        ({"twin": None}, "'twin'"),
        ({"twin__hidden_layer_sizes": (7,)}, "'twin__hidden_layer_sizes'"),
        ({"control_split": ControlSplit("contiguous")}, "'control_split'"),
        ({"encoder": "direct"}, "'encoder'"),
        ({"readout": "bins"}, "'readout'"),
        ({"skip": "input"}, "'skip'"),
    ],
    ids=lambda value: None if isinstance(value, str) else "-".join(value),
)
def test_a_fit_that_goes_on_refuses_parameters_that_it_would_ignore(
    params: dict[str, Any], named: str, incremental: bool, watched: Watched
) -> None:
    X, y = IRIS
    twin = NeuralTwin((8,), max_iter=5, n_refine_steps=1)
    network = small(device=NoisyBank(), twin=twin, warm_start=True, max_iter=1).fit(X, y)
    before, spent = network.weights_, network.shots_
    earlier = {name: value for name, value in network.get_params().items() if name in params}
    network.set_params(**params)
    goes_on = [network.partial_fit if incremental else network.fit]
    if not named.startswith("'device"):  # to another device it carries the network over
        goes_on.append(lambda X, y: network.recalibrate(X, y, 100))
    for go_on in goes_on:
        with pytest.raises(ValueError, match=r"that it was built from. Got others since: " + named):
            go_on(X, y)
    assert not watched.sent
    assert network.shots_ == spent
    assert same(network.weights_, before)
    network.set_params(**earlier)  # the same again, by value
    twice = pickle.loads(pickle.dumps(network.set_params(twin=clone(twin), max_iter=2, alpha=0.5, n_shots=2)))
    for one in (network, twice):
        one.partial_fit(X, y) if incremental else one.fit(X, y)
    assert network.shots_["training"] > spent["training"]


class Unlimited(NoisyBank):
    """Has a parameter that is not set, as some labs write it."""

    def __init__(self, noise=0.02, random_state=None, limit=np.nan):
        super().__init__(noise, random_state)
        self.limit = limit


def test_a_parameter_that_is_not_a_number_is_the_same_after_pickling() -> None:
    network = pickle.loads(pickle.dumps(small(device=Unlimited(), max_iter=1).fit(*IRIS)))
    network.partial_fit(*IRIS)
    with pytest.raises(ValueError, match=r"Got others since: 'device__limit'"):
        network.set_params(device__limit=1.0).partial_fit(*IRIS)


def test_partial_fit_refuses_other_classes_than_those_of_the_first_call(watched: Watched) -> None:
    X, y = IRIS
    network = small(device=watched).partial_fit(X[:20], y[:20], classes=[0, 1, 2])
    watched.sent.clear()
    with pytest.raises(ValueError, match=r"'classes' must be those of the first call, \[0, 1, 2\]. Got \[0, 1, 2, 3\]"):
        network.partial_fit(X, y, classes=[0, 1, 2, 3])
    assert not watched.sent
    network.partial_fit(X, y, classes=[2, 1, 0])


@pytest.mark.parametrize("gradient", ["in_silico", "in_silico_refitted", "asymmetric", PhysicsAware(refine=False)])
@pytest.mark.parametrize("twin", [NeuralTwin(), ResidualTwin(NeuralTwin())])
def test_a_twin_that_has_nothing_to_learn_from_is_refused_before_a_shot(
    gradient: Any, twin: Any, watched: Watched
) -> None:
    network = small(device=watched, gradient=gradient, twin=twin, n_calibration_shots=0)
    for call in (lambda: network.plan(IRIS[0]), lambda: network.fit(*IRIS)):
        with pytest.raises(
            ValueError, match=r"'n_calibration_shots' must be at least 1 for .*Twin with .*Got 0. Nothing"
        ):
            call()
    assert not watched.sent


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("control_split__layout", r"control_split=ControlSplit\(\)"),
        ("device__noise", "device=SecondHarmonicLaser"),
        ("twin__max_iter", r"twin=NeuralTwin\(\)"),
        ("gradient__refine", r"gradient=PhysicsAware\(\)"),
    ],
)
def test_nested_parameters_of_plain_values_tell_the_fix(name: str, fix: str) -> None:
    with pytest.raises(NestedParameterError, match=f"{name!r} cannot be set.*{fix}"):
        PhysicalNetworkClassifier().set_params(**{name: 1})


def test_nested_parameters_of_parts_that_are_none_tell_the_fix() -> None:
    network = PhysicalNetworkClassifier(
        twin=ResidualTwin(PhysicsTwin(SecondHarmonicLaser())), gradient=SharpnessAware(), control_split=ControlSplit()
    )
    for name, fix in (
        ("twin__correction__alpha", r"NeuralTwin\(\)"),
        ("gradient__gradient__refine", r"PhysicsAware\(\)"),
    ):
        with pytest.raises(NestedParameterError, match=f"cannot be set.*{fix}"):
            network.set_params(**{name: 1})
    network.set_params(twin__physics__max_iter=3, gradient__rho=0.1)
    assert (network.twin.physics.max_iter, network.gradient.rho) == (3, 0.1)


class Unattached(Device):
    """A device whose line is dead."""

    n_controls, n_outputs, bounds = 4, 4, [[0, 1]] * 4
    max_retries = 1

    def open(self) -> None:
        raise OSError("no instrument answers at GPIB0::7")

    def measure(self, batch: Any) -> np.ndarray:
        raise AssertionError("nothing may be sent")


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"device": "cuda"}, DeviceContractError, r"Got 'cuda'.*use torch_device='cuda'"),
        ({"device": NoisyBank}, DeviceContractError, r"not a class. .*Use NoisyBank\(\)"),
        ({"device": np.tanh}, DeviceContractError, r"Wrap a plain function with skpat.as_device"),
        ({"device": Unattached()}, OSError, r"no instrument answers"),
        ({"twin": 3}, ValueError, r"'twin' must be a twin such as skpat.twins.NeuralTwin\(\).*Got 3\. Use twin=None"),
        ({"gradient": "magic"}, ValueError, r"'gradient' must be one of 'physics_aware', 'in_silico', 'exact'"),
        ({"gradient": "magic"}, ValueError, r"Got 'magic'\. Use gradient='physics_aware', the default"),
        ({"gradient": PhysicsAware}, ValueError, r"Got <class .*Use gradient=PhysicsAware\(\.\.\.\)"),
        (
            {"torch_device": "moon"},
            ValueError,
            r"'torch_device' must be a place where .* of float64. Got 'moon': .*'cpu'",
        ),
        ({"twin": NeuralTwin(torch_device="moon")}, ValueError, r"'twin__torch_device' must be a place where torch"),
        ({"twin": NeuralTwin(alpha=-1)}, ValueError, r"'alpha' parameter of NeuralTwin"),
        ({"twin": NeuralTwin((8, 0))}, ValueError, r"'hidden_layer_sizes' of NeuralTwin .* Got \(8, 0\). Use"),
        ({"twin": NeuralTwin((10**8,))}, TwinError, r"would need 3,\d+,\d+,\d+ weights for 24 channels.*PhysicsTwin"),
        ({"twin": PhysicsTwin()}, TwinError, r"'device' of PhysicsTwin must be a simulated device"),
        ({"twin": PhysicsTwin(SecondHarmonicLaser(24, 8))}, TwinError, r"of the device, \(24, 12\). Got \(24, 8\)"),
        ({"twin": PhysicsTwin(SecondHarmonicLaser(24, 12), ["charm"])}, TwinError, r"Got charm"),
        (
            {"twin": PhysicsTwin(SecondHarmonicLaser(24, 12), ["noise"])},
            ValueError,
            r"be among length.*Got \['noise'\]",
        ),
        ({"twin": ResidualTwin()}, TwinError, r"'physics' of ResidualTwin must be an unfitted twin"),
        ({"twin": ResidualTwin(NeuralTwin(), NeuralTwin(alpha=-1))}, ValueError, r"'alpha' parameter of NeuralTwin"),
        ({"control_split": 0.5}, ControlSplitError, r"'control_split' must be a ControlSplit or the name"),
        ({"control_split": 0.5}, ControlSplitError, r"Use control_split=ControlSplit\(layout=\.\.\.\)\."),
        ({"control_split": [0, 1, 2]}, ControlSplitError, r"Use control_split=ControlSplit\(layout=\[0, 1, 2\]\)\."),
        ({"control_split": "diagonal"}, ControlSplitError, r"'layout' must be one of"),
        ({"control_split": ControlSplit(fixed={0: 3.0})}, ControlBoundsError, r"'fixed' must lie within the bounds"),
        ({"max_iter": 0}, ValueError, r"'max_iter' parameter of PhysicalNetworkClassifier"),
        ({"n_layers": 1.5}, ValueError, r"'n_layers' parameter"),
        ({"encoder": "quadratic"}, ValueError, r"'encoder' parameter"),
        ({"readout": "none"}, ValueError, r"'readout' parameter"),
        ({"skip": "all"}, ValueError, r"'skip' parameter"),
        ({"n_calibration_shots": -1}, ValueError, r"'n_calibration_shots' parameter"),
        ({"class_weight": "even"}, ValueError, r"'class_weight' parameter of PhysicalNetworkClassifier"),
        ({"class_weight": {0: 1, 1: 1, 2: -1}}, ValueError, r"'class_weight' must be finite and not negative"),
        ({"class_weight": {0: np.nan, 1: 1, 2: 1}}, ValueError, r"'class_weight' must be finite and not negative"),
        (
            {"class_weight": [1, 2, 3]},
            ValueError,
            r"'class_weight' must be a dict, 'balanced' or None .*Use \{label: weight",
        ),
        ({"class_weight": {0: 0, 1: 0, 2: 0}}, ValueError, r"Weights of the rows, .* must have a positive entry"),
        ({"encoder": "direct", "control_split": ControlSplit(n_inputs=2)}, ValueError, r"encoder='direct' needs"),
        ({"readout": "bins", "device": SecondHarmonicLaser(8, 2)}, ValueError, r"readout='bins' needs"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else None,
)
def test_bad_parameters_give_one_clear_error_in_fit_and_nothing_is_sent(
    params: dict[str, Any], error: type, message: str, watched: Watched
) -> None:
    network = small(**({"device": watched} | params))
    with pytest.raises(error, match=message):
        network.fit(*IRIS)
    assert not watched.sent


@pytest.mark.parametrize(
    ("X", "y", "kwargs", "message"),
    [
        (np.full((10, 3), np.nan), np.arange(10) % 2, {}, "contains NaN"),
        (np.zeros((10, 3)), np.arange(9) % 2, {}, "inconsistent numbers of samples"),
        (np.zeros(10), np.arange(10) % 2, {}, "Expected 2D array"),
        (np.zeros((10, 3)), np.linspace(0, 1, 10), {}, "Unknown label type"),
        (np.zeros((10, 3)), np.arange(10) % 2, {"sample_weight": -np.ones(10)}, "[Nn]egative values"),
        (np.zeros((10, 3)), np.arange(10) % 2, {"sample_weight": np.zeros(10)}, "at least one non-zero number"),
        (np.zeros((10, 3)), np.arange(10) % 2, {"X_val": np.zeros((2, 3))}, "must be given together"),
    ],
)
def test_bad_data_give_one_clear_error_and_nothing_is_sent(
    X: np.ndarray, y: np.ndarray, kwargs: dict[str, Any], message: str, watched: Watched
) -> None:
    with pytest.raises(ValueError, match=message):
        small(device=watched).fit(X, y, **kwargs)
    assert not watched.sent


def test_the_plan_tells_shots_seconds_and_joules() -> None:
    device = as_device(np.tanh, n_controls=8, n_outputs=8, bounds=(0, 1), seconds_per_shot=0.5, joules_per_shot=2.0)
    text = str(small(device=device).plan(np.zeros((100, 4))))
    assert "460 shots" in text
    assert "230 s on the device alone\n" in text
    assert "920 J" in text
    unknown = str(small().plan([[0.0], [1.0]]))
    assert "time        unknown (the device states no seconds_per_shot)" in unknown
    assert "energy      unknown (the device states no joules_per_shot)" in unknown


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.0, "           0 s on the device alone"),
        (7100.0, "        7100 s on the device alone"),
        (9000.0, "        9000 s (2.5 hours) on the device alone"),
        (172000.0, "    1.72e+05 s (48 hours) on the device alone"),
        (538200.0, "   5.382e+05 s (6.2 days) on the device alone"),
        (1e8, "       1e+08 s (1,157 days) on the device alone"),
    ],
)
def test_a_long_plan_is_told_in_hours_and_days(seconds: float, said: str) -> None:
    assert time_on_device(seconds) == said


class Guarded(Device):
    """Allows no more in all than ``most``, if that is not None."""

    n_controls, n_outputs, bounds, control_steps = 8, 4, (0.0, 1.0), 0.25

    def __init__(self, most=None):
        self.most = most
        self.sent: list[int] = []

    def check_controls(self, batch: Any) -> None:
        if self.most is not None and float(np.asarray(batch).sum(axis=1).max()) > self.most:
            raise ControlBoundsError("Too much in all. Nothing was sent.")

    def measure(self, batch: Any) -> np.ndarray:
        self.sent.append(batch.n_rows)
        controls = np.asarray(batch)
        return np.tanh(controls[:, :4] - controls[:, 4:])


def test_fixed_values_between_the_steps_of_a_channel_are_refused_before_the_first_shot() -> None:
    split = {"control_split": ControlSplit(fixed={3: 0.5, 5: 0.6})}
    network = small(device=Guarded(), **split)
    for attempt in (lambda: network.fit(*IRIS), lambda: network.plan(IRIS[0])):
        with pytest.raises(
            ControlBoundsError,
            match=r"'fixed' must be at whole steps of Guarded\. Got 0\.6 for channel 5 \(step 0\.25 from 0",
        ) as caught:
            attempt()
        assert (caught.value.channel, caught.value.value) == (5, 0.6)
    network.set_params(control_split=ControlSplit(fixed={3: 0.5, 5: 0.75}), max_iter=1).fit(*IRIS)


@pytest.mark.parametrize("journal", [False, True])
def test_a_fit_whose_first_batch_is_refused_leaves_the_earlier_one(journal: bool, tmp_path: Path) -> None:
    network = small(device=Guarded(), max_iter=1, n_calibration_shots=20).fit(*IRIS)
    before, shots, state = network.predict(IRIS[0]), network.ledger_.asked_in_all, vars(network).copy()
    network.set_params(device__most=0.5, journal=tmp_path / "run.db" if journal else None)
    with pytest.raises(ControlBoundsError, match="Too much in all"):
        network.fit(*IRIS)
    assert vars(network).keys() == state.keys()
    assert all(value is state[name] for name, value in vars(network).items() if name.endswith("_"))
    np.testing.assert_array_equal(network.predict(IRIS[0]), before)
    assert network.ledger_.asked_in_all == shots + len(IRIS[0])


def test_a_failed_fit_leaves_nothing_to_predict_with_or_to_go_on_from() -> None:
    class Flaky(NoisyBank):
        """Fails while it is being trained on."""

        broken = False

        def measure(self, batch: Any) -> np.ndarray:
            if Flaky.broken:
                raise RuntimeError("a bug in the driver")
            return super().measure(batch)

    network = small(device=Flaky()).fit(*IRIS)
    Flaky.broken = True
    with pytest.raises(RuntimeError, match="a bug in the driver"):
        network.fit(*IRIS)
    Flaky.broken = False
    with pytest.raises(NotFittedError):
        network.predict(IRIS[0])
    network.set_params(warm_start=True).fit(*IRIS).predict(IRIS[0])
