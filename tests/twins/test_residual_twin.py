"""ResidualTwin: better than the equations alone and than the network alone, and a twin like any other."""

from __future__ import annotations

import copy
import pickle
import pickletools
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV

from skpat import ControlBatch, PhysicalNetworkClassifier
from skpat.devices import CoupledOscillators, MachZehnderMesh, SecondHarmonicLaser, SimulatedDevice
from skpat.devices.specification import channel_periods
from skpat.devices.wrapper import DeviceWrapper
from skpat.exceptions import TwinError
from skpat.twins import NeuralTwin, PhysicsTwin, ResidualTwin, gradient_cosine

N, M = 12, 6
SMALL = {"hidden_layer_sizes": (16,), "max_iter": 10, "n_refine_steps": 2}


class Saturating(DeviceWrapper):
    """Read by a detector that saturates: an effect that no model here knows."""

    def transform_outputs(self, outputs: np.ndarray, batch: ControlBatch) -> np.ndarray:
        return outputs - 0.4 * outputs**2 / 30


def real(**parameters: Any) -> Saturating:
    return Saturating(
        SecondHarmonicLaser(N, M, n_steps=2, **{"coupling": 28.0, "walk_off": 230.0, "random_state": 0} | parameters)
    )


def believed() -> SecondHarmonicLaser:
    return SecondHarmonicLaser(N, M, n_steps=2)  # coupling 25, walk-off 200


def shots(
    n_rows: int = 80, dtype: Any = np.float64, seed: int = 0, device: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    controls = np.random.default_rng(seed).uniform(size=(n_rows, N)).astype(dtype)
    return controls, (real() if device is None else device).measure(controls)


def small(constants: Any = (), seed: int | None = 0, **parameters: Any) -> ResidualTwin:
    return ResidualTwin(PhysicsTwin(believed(), constants), NeuralTwin(**SMALL), random_state=seed, **parameters)


# ---- what it is for ----


def test_it_is_better_than_either_part_alone() -> None:
    device = real()
    new, answers = shots(300, seed=1)
    found: dict[str, list[tuple[float, float]]] = {}
    for seed in range(2):
        controls, outputs = shots(500, seed=10 + seed, device=device)
        for name, twin in {
            "physics": PhysicsTwin(believed(), random_state=seed),
            "network": NeuralTwin(random_state=seed),
            "plain": ResidualTwin(PhysicsTwin(believed()), feed_physics=False, random_state=seed),
            "both": ResidualTwin(PhysicsTwin(believed()), random_state=seed),
            "fitted": ResidualTwin(PhysicsTwin(believed(), ["coupling", "walk_off"]), random_state=seed),
        }.items():
            twin.fit(controls, outputs)
            cosine = gradient_cosine(twin, device.measure, new[:60], device.bounds)
            found.setdefault(name, []).append((twin.score(new, answers), cosine))
    score, cosine = ({name: np.mean(pairs, axis=0)[i] for name, pairs in found.items()} for i in (0, 1))
    for value in (1 - np.array([score[name] for name in ("physics", "network")])).tolist():
        assert 1 - score["both"] < 0.5 * value  # of the unexplained variance not even half is left
        assert 1 - score["plain"] < value
    for name in ("physics", "network"):
        assert cosine["both"] > cosine[name] + 0.01
        assert cosine["fitted"] > cosine[name] + 0.01
    assert score["both"] > score["plain"]


def test_an_error_that_follows_the_answer_is_learned_from_few_shots() -> None:
    controls, outputs = shots(100)
    new, answers = shots(200, seed=1)
    physics = PhysicsTwin(believed(), ["coupling", "walk_off"])
    fed, unfed = (
        ResidualTwin(physics, feed_physics=feed, random_state=0).fit(controls, outputs).score(new, answers)
        for feed in (True, False)
    )
    assert 1 - fed < 0.7 * (1 - unfed)


@pytest.mark.parametrize("unit", [1.0, 1e-9])
def test_hardly_anything_is_corrected_where_the_model_is_right(unit: float) -> None:
    class InOtherUnits(SecondHarmonicLaser):
        def forward(self, controls: Any, constants: Any = None) -> Any:
            return unit * super().forward(controls, constants)

    model = InOtherUnits(N, M, noise=0, noise_floor=0, energy_jitter=0)
    controls, outputs = shots(device=model)
    twin = ResidualTwin(PhysicsTwin(model), NeuralTwin(**SMALL), random_state=0).fit(controls, outputs)
    assert twin.score_ > 0.99
    assert (twin.trust_ > 0.99).all()


# ---- the score, and the parts ----


def test_the_score_is_of_shots_that_no_part_has_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray] = []
    for kind in (PhysicsTwin, NeuralTwin):
        own = kind.fit

        def noted(self: Any, controls: Any, outputs: Any, sample_weight: Any = None, own: Any = own) -> Any:
            seen.append(controls[:, 0])
            return own(self, controls, outputs, sample_weight)

        monkeypatch.setattr(kind, "fit", noted)
    controls, outputs = shots(100)
    twin = small(["coupling"], validation_fraction=0.2).fit(controls, outputs)
    assert [len(part) for part in seen] == [80, 80]
    np.testing.assert_array_equal(*seen)
    held_out = ~np.isin(controls[:, 0], seen[0])
    assert twin.score_ == pytest.approx(twin.score(controls[held_out], outputs[held_out]), rel=1e-12)
    residual = np.square(outputs[held_out] - twin.predict(controls[held_out])).mean(axis=0)
    np.testing.assert_allclose(twin.trust_, 1 - residual / outputs[held_out].var(axis=0), rtol=1e-9)
    assert np.isnan(small(validation_fraction=0).fit(controls, outputs).score_)


def test_weights_reach_both_parts() -> None:
    controls, outputs = shots(160)
    spoilt, weight = np.where(np.arange(160)[:, None] < 80, outputs, 0), (np.arange(160) < 80).astype(float)
    twin = small(["coupling"], validation_fraction=0).fit(controls, spoilt, weight)
    assert twin.score(controls[:80], outputs[:80]) > 0.8
    alone = clone(twin.physics_).set_params(validation_fraction=0).fit(controls[:80], outputs[:80])
    assert twin.physics_.set_params(validation_fraction=0).constants_["coupling"] == pytest.approx(
        alone.constants_["coupling"], rel=0.05
    )
    without = small(["coupling"], validation_fraction=0).fit(controls, spoilt)
    assert without.score(controls[:80], outputs[:80]) < twin.score(controls[:80], outputs[:80]) - 0.2


def test_every_shot_has_its_weight_in_both_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[Any, Any]] = []
    for kind in (PhysicsTwin, NeuralTwin):
        own = kind.fit

        def noted(self: Any, controls: Any, outputs: Any, sample_weight: Any = None, own: Any = own) -> Any:
            given.append((controls[:, 0], sample_weight))
            return own(self, controls, outputs, sample_weight)

        monkeypatch.setattr(kind, "fit", noted)
    controls, outputs = shots(100)
    small(["coupling"]).fit(controls, outputs, 1 + controls[:, 0])
    assert len(given) == 2
    for channel, weight in given:
        np.testing.assert_array_equal(weight, 1 + channel)


@pytest.mark.parametrize("feed_physics", [True, False])
def test_the_specification_is_handed_on(feed_physics: bool) -> None:
    mesh = MachZehnderMesh(4, random_state=0)
    controls = np.random.default_rng(0).uniform(*mesh.bounds.T, size=(60, mesh.n_controls))
    twin = ResidualTwin(PhysicsTwin(mesh), NeuralTwin(**SMALL), feed_physics=feed_physics, random_state=0)
    twin.learn_specification(mesh.bounds, channel_periods(mesh))
    twin.fit(controls, mesh.measure(controls))
    turned = controls.copy()
    turned[:, mesh.phi_index] += 2 * np.pi
    np.testing.assert_allclose(twin.predict(turned), twin.predict(controls), atol=1e-9)
    forgotten = clone(twin).fit(controls, mesh.measure(controls))
    assert np.abs(forgotten.predict(turned) - forgotten.predict(controls)).max() > 1e-3


def test_the_models_answers_are_channels_as_wide_as_numbers_spread_evenly() -> None:
    class Ramp(SimulatedDevice):
        """One answer spread evenly from 3 to 5, and one that never changes."""

        n_controls, n_outputs, bounds = 2, 2, (0.0, 1.0)

        def forward(self, controls: Any, constants: Any = None) -> Any:
            return torch.stack([3 + 2 * controls[:, 0], 0 * controls[:, 0] + 7], dim=1)

    controls = np.column_stack([np.linspace(0, 1, 2001), np.random.default_rng(0).uniform(size=2001)])
    twin = ResidualTwin(PhysicsTwin(Ramp()), NeuralTwin((), max_iter=1), validation_fraction=0, random_state=0)
    twin.learn_specification(np.array([[0.0, 1.0], [-2.0, 2.0]]), np.array([0.0, 4.0]))
    twin.fit(controls, Ramp().measure(controls))
    np.testing.assert_allclose(twin.correction_._bounds, [[0, 1], [-2, 2], [3, 5], [6, 8]], atol=2e-3)
    np.testing.assert_array_equal(twin.correction_._periods, [0, 4, 0, 0])


@pytest.mark.parametrize("level", [0.0, 0.1, 1.0, 1e6])
def test_an_output_that_never_changes_does_no_harm(level: float) -> None:
    class Dead(SecondHarmonicLaser):
        def forward(self, controls: Any, constants: Any = None) -> Any:
            return super().forward(controls, constants) * controls.new_tensor([1.0] * (M - 1) + [0.0])

    controls, outputs = shots()
    outputs[:, -1] = level  # where the model has nothing
    outputs[:, 0] = level  # and where it has a response
    twin, without = (
        ResidualTwin(PhysicsTwin(device), NeuralTwin(**SMALL), random_state=0).fit(controls, answers)
        for device, answers in ((Dead(N, M), outputs), (believed(), shots()[1]))
    )
    assert np.isfinite(twin.predict(controls)).all()
    np.testing.assert_allclose(twin.trust_[1:-1], without.trust_[1:-1], atol=0.1)
    assert r2_score(outputs[:, 1:-1], twin.predict(controls)[:, 1:-1]) > 0.9


# ---- a twin like any other ----


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("feed_physics", [True, False])
def test_the_module_says_what_the_twin_says_and_is_differentiable(dtype: Any, feed_physics: bool) -> None:
    controls, outputs = shots(dtype=dtype)
    twin = small(["coupling"], feed_physics=feed_physics).fit(controls, outputs)
    assert twin.n_features_in_ == N
    predicted = twin.predict(controls)
    assert predicted.dtype == dtype
    with torch.no_grad():
        of_module = twin.module_(torch.from_numpy(controls))
    np.testing.assert_allclose(predicted, of_module.numpy(), rtol=1e-4 if dtype == np.float32 else 1e-12, atol=1e-5)
    np.testing.assert_allclose(twin.predict(ControlBatch.from_dense(controls)), predicted)
    tensor = torch.from_numpy(controls[:2].astype(np.float64)).requires_grad_()
    twin.module_.double()
    assert torch.autograd.gradcheck(twin.module_, tensor, atol=1e-4)


def test_the_gradient_is_that_of_what_is_predicted() -> None:
    twin = small(["coupling"]).fit(*shots())  # through both ways: the controls, and the model's answer
    controls = shots(5)[0]
    tensor = torch.from_numpy(controls).requires_grad_()
    (gradient,) = torch.autograd.grad(twin.module_(tensor).sum(), tensor)
    step = 1e-6 * np.eye(N)[:, None]
    differences = [(twin.predict(controls + d) - twin.predict(controls - d)).sum(axis=1) / 2e-6 for d in step]
    np.testing.assert_allclose(gradient.numpy(), np.transpose(differences), rtol=1e-5, atol=1e-5)


def test_the_seed_decides_everything() -> None:
    controls, outputs = shots()
    first, again, other = (small(["coupling"], seed).fit(controls, outputs) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.predict(controls), again.predict(controls))
    assert (first.predict(controls) != other.predict(controls)).any()
    twin = ResidualTwin(PhysicsTwin(believed()), NeuralTwin(**SMALL, random_state=3), random_state=0)
    assert twin.fit(controls, outputs).correction_.random_state == 3
    assert twin.correction.random_state == 3
    assert not hasattr(twin.correction, "n_features_in_")  # the specification stays unfitted


def test_clone_pickle_and_deep_copy() -> None:
    controls, outputs = shots()
    twin = small(["coupling"]).fit(controls, outputs)
    twin.partial_fit(controls[:16], outputs[:16])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(twin)).predict(controls), twin.predict(controls))
    named = {argument for _, argument, _ in pickletools.genops(pickle.dumps(twin)) if isinstance(argument, str)}
    assert not {name for name in named if name.split(".")[0] == "torch"}  # numpy arrays alone
    assert clone(twin).get_params()["correction__hidden_layer_sizes"] == (16,)
    copied = copy.deepcopy(twin)  # goes on as the twin does: with shots and optimizers
    for each in (twin, copied):
        each.partial_fit(controls[16:32], outputs[16:32])
    np.testing.assert_array_equal(copied.predict(controls), twin.predict(controls))
    state = copy.deepcopy(vars(twin))
    before = twin.predict(controls)
    twin.partial_fit(controls, outputs)
    twin.__dict__.update(state)
    np.testing.assert_array_equal(twin.predict(controls), before)
    twin.partial_fit(controls[:16], outputs[:16])
    with torch.no_grad():
        of_module = twin.module_(torch.from_numpy(controls)).numpy()
    np.testing.assert_allclose(of_module, twin.predict(controls), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "twin",
    [NeuralTwin(**SMALL), PhysicsTwin(believed(), ["coupling"]), small(["coupling"])],
    ids=lambda t: type(t).__name__,
)
def test_a_twin_that_was_pickled_goes_on_as_if_it_had_not_been(twin: Any) -> None:
    controls, outputs = shots()
    went_on = []
    for pickled in (False, True):
        learning = clone(twin).set_params(random_state=0).fit(controls, outputs)
        learning.partial_fit(controls[:16], outputs[:16])
        if pickled:
            pickle.dumps(learning)
        learning.partial_fit(controls[16:32], outputs[16:32])
        went_on.append(learning.predict(controls))
    np.testing.assert_array_equal(*went_on)


# ---- going on learning ----


def test_it_goes_on_learning_in_both_parts() -> None:
    device = real()
    physics = PhysicsTwin(believed(), ["coupling"], learning_rate_init=5e-3)
    twin = ResidualTwin(physics, random_state=0).fit(*shots(100, device=device))
    device.device.coupling = 33.0  # something has moved
    new, answers = shots(200, seed=1, device=device)
    before, constant = twin.score(new, answers), twin.physics_.constants_["coupling"]
    trusted = twin.trust_
    for seed in range(2, 42):
        twin.partial_fit(*shots(32, seed=seed, device=device))
    assert 1 - twin.score(new, answers) < 0.3 * (1 - before)
    assert twin.physics_.constants_["coupling"] > constant + 0.1
    assert (twin.trust_ > trusted).any()
    assert twin.score(new, answers) > twin.physics_.score(new, answers)


def test_each_part_learns_what_the_other_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    learned: dict[type, tuple[np.ndarray, ...]] = {}
    for kind in (PhysicsTwin, NeuralTwin):
        own = kind.partial_fit

        def noted(self: Any, *shots: np.ndarray, own: Any = own, kind: type = kind, **how: Any) -> Any:
            learned[kind] = shots
            return own(self, *shots, **how)

        monkeypatch.setattr(kind, "partial_fit", noted)
    controls, outputs = shots()
    physics = PhysicsTwin(believed(), ["coupling"], learning_rate_init=0.05)
    twin = ResidualTwin(physics, NeuralTwin(**SMALL), random_state=0).fit(controls, outputs)
    before = twin.physics_.predict(controls)
    correction = twin.predict(controls) - before
    assert np.abs(correction).max() > 0.1
    new = outputs + 1.0
    twin.partial_fit(controls, new)
    np.testing.assert_allclose(learned[PhysicsTwin][1], new - correction, rtol=1e-9, atol=1e-9)
    after = twin.physics_.predict(controls)  # with the constants that have just moved
    assert np.abs(after - before).max() > 0.01
    np.testing.assert_allclose(learned[NeuralTwin][0], np.hstack([controls, after]), rtol=1e-9)
    np.testing.assert_allclose(twin._unit * learned[NeuralTwin][1], new - after, rtol=1e-9, atol=1e-9)


def test_a_model_without_constants_stays() -> None:
    controls, outputs = shots()
    twin = small().fit(controls, outputs)
    fixed, before = twin.physics_.predict(controls), twin.predict(controls)
    twin.partial_fit(controls, outputs, np.zeros(len(controls)))
    np.testing.assert_array_equal(twin.predict(controls), before)  # nothing has any weight
    twin.partial_fit(controls, outputs)
    np.testing.assert_array_equal(twin.physics_.predict(controls), fixed)
    assert (twin.predict(controls) != before).any()


def test_an_unfitted_twin_is_fitted_by_partial_fit() -> None:
    controls, outputs = shots()
    np.testing.assert_array_equal(
        small().partial_fit(controls, outputs).predict(controls), small().fit(controls, outputs).predict(controls)
    )


def test_the_pace_slows_the_correction() -> None:
    controls, outputs = shots()
    moved = []
    for pace in (1.0, 0.1):
        twin = small().fit(controls, outputs)
        before = twin.predict(controls)
        moved.append(np.abs(twin.partial_fit(controls, outputs, pace=pace).predict(controls) - before).mean())
    assert moved[1] < 0.5 * moved[0]


def test_trust_falls_where_new_shots_are_not_predicted() -> None:
    controls, outputs = shots()
    twin = small().fit(controls, outputs)
    before = twin.trust_
    twin.partial_fit(controls, -10 * outputs)
    np.testing.assert_allclose(twin.trust_, 0.9 * before + 0.1 * 0.02)


# ---- batches in parts ----


class Static(NeuralTwin):
    """A correction that wants no displaced shots."""

    explores = False
    partial_fit = None  # type: ignore[assignment]

    def __getattribute__(self, name: str) -> Any:
        if name == "partial_fit":
            raise AttributeError(name)
        return super().__getattribute__(name)


def test_a_model_that_takes_batches_gets_them_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = MachZehnderMesh(4, random_state=0)
    controls = np.random.default_rng(0).uniform(*mesh.bounds.T, size=(40, mesh.n_controls))
    outputs = mesh.measure(controls)
    index = np.arange(mesh.n_controls)
    batch = ControlBatch(controls[:, :4], index[:4], controls[0, 4:], index[4:])
    twin = ResidualTwin(PhysicsTwin(mesh, ["loss"]), Static(**SMALL), random_state=0).fit(controls, outputs)
    tensors = batch.changed(varying=torch.from_numpy(batch.varying), shared=torch.from_numpy(batch.shared))
    expected = twin.predict(np.asarray(batch))
    with torch.no_grad():
        np.testing.assert_allclose(twin.module_.forward_batch(tensors).numpy(), expected, rtol=1e-10)
    sizes = []
    own = MachZehnderMesh.forward_batch

    def noted(self: Any, batch: Any, constants: Any = None) -> Any:
        sizes.append(len(batch.shared_index))
        return own(self, batch, constants)

    monkeypatch.setattr(MachZehnderMesh, "forward_batch", noted)
    np.testing.assert_allclose(twin.predict(batch), expected, rtol=1e-10)
    before = twin.physics_.constants_["loss"]
    twin.partial_fit(batch, mesh.measure(batch))
    assert set(sizes) == {len(batch.shared_index)}
    assert twin.physics_.constants_["loss"] != before
    # displaced shots share nothing: then everything is dense
    assert not hasattr(
        ResidualTwin(PhysicsTwin(mesh), NeuralTwin(**SMALL)).fit(controls, outputs).module_, "forward_batch"
    )


def test_more_channels_than_the_correction_can_hold_are_refused() -> None:
    device = CoupledOscillators(400, 10)
    twin = ResidualTwin(PhysicsTwin(device), NeuralTwin((256,)))
    controls = np.zeros((3, device.n_controls))
    with pytest.raises(TwinError, match=r"NeuralTwin would need .* weights .*Use PhysicsTwin\(device, constants\)"):
        twin.fit(controls, np.zeros((3, 10)))


def test_the_models_answers_are_channels_that_the_correction_must_hold_too() -> None:
    class Wide(SimulatedDevice):
        n_controls, n_outputs, bounds = 3000, 4000, (0.0, 1.0)

    ResidualTwin(PhysicsTwin(Wide()), feed_physics=False).check(3000, 4000)
    with pytest.raises(TwinError, match="7,000 channels"):
        ResidualTwin(PhysicsTwin(Wide())).check(3000, 4000)


# ---- what is refused ----


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {},
            r"'physics' of ResidualTwin must be an unfitted twin\. Got None\. Use physics=PhysicsTwin\(device, constants\)",
        ),
        ({"physics": believed()}, r"'physics' .* Got SecondHarmonicLaser\(.*or NeuralTwin\(\) alone"),
        ({"physics": PhysicsTwin}, r"'physics' of ResidualTwin must be an unfitted twin\. Got <class"),
        (
            {"physics": PhysicsTwin(believed()), "correction": "neural"},
            r"'correction' of ResidualTwin must be an unfitted twin\. Got 'neural'\. Use correction=NeuralTwin\(\), or None",
        ),
        ({"physics": PhysicsTwin(SecondHarmonicLaser(N, M + 1))}, "must have the channels and outputs of the device"),
    ],
)
def test_what_is_no_part_is_refused(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(TwinError, match=message):
        ResidualTwin(**parts).fit(*shots())


def test_what_is_not_fitted_says_so() -> None:
    with pytest.raises(NotFittedError):
        small().predict(shots()[0])
    with pytest.raises(NotFittedError):
        _ = small().module_
    with pytest.raises(ValueError, match="needs at least one shot"):
        small().fit(np.empty((0, N)), np.empty((0, M)))
    with pytest.raises(ValueError, match="'feed_physics' parameter of ResidualTwin must be"):
        small(feed_physics="yes").fit(*shots())


# ---- in a network ----


def data() -> tuple[np.ndarray, np.ndarray]:
    X = np.random.default_rng(0).normal(size=(40, 4))
    return X, (X[:, 0] * X[:, 1] > 0).astype(int)


@pytest.mark.parametrize("gradient", ["physics_aware", "in_silico"])
def test_a_network_trains_with_it(gradient: str) -> None:
    X, y = data()
    network = PhysicalNetworkClassifier(
        real(), small(["coupling"], seed=None), gradient=gradient, max_iter=3, n_calibration_shots=80, random_state=0
    )
    network.fit(X, y)
    assert isinstance(network.twin_, ResidualTwin)
    assert network.twin_score_ == network.twin_.score_
    again = clone(network).fit(X, y)
    restored = pickle.loads(pickle.dumps(network))
    for other in (again, restored):
        np.testing.assert_array_equal(other.predict(X), network.predict(X))
    for name, value in network.weights_.items():
        np.testing.assert_array_equal(again.weights_[name], value)


def test_its_parts_can_be_searched() -> None:
    X, y = data()
    network = PhysicalNetworkClassifier(real(), small(seed=None), max_iter=1, n_calibration_shots=40, random_state=0)
    grid = {"twin__correction__hidden_layer_sizes": [(), (8,)], "twin__physics__constants": [(), ("coupling",)]}
    search = GridSearchCV(network, grid, cv=2, error_score="raise").fit(X, y)
    assert len(search.cv_results_["params"]) == 4
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
