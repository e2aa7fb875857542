"""The twin contract, NeuralTwin, and how far to trust a twin."""

from __future__ import annotations

import pickle
import pickletools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.metrics import r2_score

from skpat import ControlBatch
from skpat.devices import SecondHarmonicLaser
from skpat.exceptions import TwinError
from skpat.twins import NeuralTwin, PhysicsTwin, ResidualTwin, gradient_cosine, neural_module
from skpat.twins.base import hold_out, respond
from skpat.twins.shot_memory import ShotMemory

BOUNDS = np.array([[-1.0, 1.0]] * 4)


def device(controls: Any) -> np.ndarray:
    c = np.asarray(controls)
    return np.column_stack([c[:, 0] * c[:, 1], np.sin(2 * c[:, 2]), 100 + c.sum(axis=1)])


def shots(n: int = 600, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    controls = np.random.default_rng(seed).uniform(-1, 1, (n, 4))
    return controls, device(controls)


@pytest.fixture(scope="module")
def twin() -> NeuralTwin:
    return NeuralTwin((64,), random_state=0).fit(*shots())


def test_learns_and_reports_an_honest_score(twin: NeuralTwin) -> None:
    fresh = shots(500, seed=1)
    assert twin.score(*fresh) > 0.97
    assert abs(twin.score_ - twin.score(*fresh)) < 0.03
    assert twin.output_scores_.shape == (3,)
    for weight in (None, np.linspace(0, 1, 500) ** 4):
        assert twin.score(*fresh, weight) == pytest.approx(
            r2_score(fresh[1], twin.predict(fresh[0]), sample_weight=weight, multioutput="variance_weighted")
        )


@pytest.mark.parametrize("unit", [1e-15, 1e-9, 1e9])
def test_units_do_not_matter(unit: float) -> None:
    (controls, outputs), (new_controls, new_outputs) = shots(200), shots(64, seed=1)
    outputs, new_outputs = (np.column_stack([part, np.full(len(part), 0.1)]) for part in (outputs, new_outputs))
    scaled, plain = (NeuralTwin((16,), max_iter=5, random_state=0).fit(controls, u * outputs) for u in (unit, 1.0))
    scaled.partial_fit(new_controls, unit * new_outputs)
    plain.partial_fit(new_controls, new_outputs)
    np.testing.assert_allclose(
        scaled.predict(controls)[:, :3] / unit, plain.predict(controls)[:, :3], rtol=1e-2, atol=1e-2
    )
    np.testing.assert_allclose(scaled.trust_[:3], plain.trust_[:3], rtol=1e-2)


@pytest.mark.parametrize("level", [0.1, 3.0])
def test_an_output_that_never_changes_is_trusted_if_it_is_predicted(level: float) -> None:
    controls, outputs = shots()
    outputs = np.column_stack([outputs, np.full(len(outputs), level)])
    twin = NeuralTwin((16,), max_iter=5, random_state=0).fit(controls, outputs)
    assert twin.trust_[3] == 1.0
    twin.partial_fit(controls, outputs)
    assert twin.trust_[3] > 0.98
    outputs[:, 3] += 100
    twin.partial_fit(controls, outputs)
    assert twin.trust_[3] < 0.92


def test_an_output_that_changes_little_is_judged_by_its_own_changes(twin: NeuralTwin) -> None:
    controls, outputs = shots(300)
    outputs = np.column_stack([outputs, 1e-7 * controls[:, 0] ** 3])
    learned = clone(twin).set_params(n_refine_steps=1).fit(controls, outputs)
    for seed in range(1, 30):
        controls, outputs = shots(60, seed)
        learned.partial_fit(controls, np.column_stack([outputs, 1e-7 * controls[:, 0] ** 3]))
    assert learned.trust_[-1] < 0.1
    assert learned.trust_[:-1].min() > 0.8


def test_a_linear_device_is_learned_by_the_linear_path_alone() -> None:
    controls, _ = shots()
    outputs = controls @ np.arange(12.0).reshape(4, 3)
    assert NeuralTwin((), random_state=0).fit(controls, outputs).score(controls, outputs) > 0.9999


def test_pure_noise_scores_nothing() -> None:
    controls, outputs = shots()
    noise = np.random.default_rng(5).standard_normal(outputs.shape)
    assert NeuralTwin((32,), random_state=0).fit(controls, noise).score_ < 0.1


@given(st.integers(0, 1000))
@settings(max_examples=5, deadline=None)
def test_the_module_passes_gradcheck(seed: int) -> None:
    twin = NeuralTwin((8,), max_iter=2, random_state=seed).fit(*shots(30))
    controls = torch.from_numpy(shots(3, seed)[0]).requires_grad_()
    assert torch.autograd.gradcheck(twin.module_, (controls,))


def test_batches_and_arrays_are_the_same(twin: NeuralTwin) -> None:
    controls, _ = shots(5)
    split = ControlBatch(controls[:, [0, 1]], np.array([0, 1]), controls[0, [2, 3]], np.array([2, 3]))
    np.testing.assert_array_equal(twin.predict(split), twin.predict(split.dense()))


def test_seeded_fits_repeat_and_leave_the_global_states_alone() -> None:
    before, torch_before = np.random.get_state()[1].copy(), torch.get_rng_state()
    a, b = (NeuralTwin((8,), max_iter=3, random_state=3).fit(*shots(50)) for _ in range(2))
    np.testing.assert_array_equal(a.predict(shots(9)[0]), b.predict(shots(9)[0]))
    assert (np.random.get_state()[1] == before).all()
    assert torch.equal(torch.get_rng_state(), torch_before)


def test_shots_may_be_weighted_like_repetitions() -> None:
    controls, outputs = shots(40)
    weight = np.random.RandomState(0).randint(1, 4, 40)
    full: dict[str, Any] = {"batch_size": 1000, "validation_fraction": 0.0, "max_iter": 5, "random_state": 0}
    a = NeuralTwin((8,), **full).fit(controls, outputs, sample_weight=weight)
    b = NeuralTwin((8,), **full).fit(np.repeat(controls, weight, 0), np.repeat(outputs, weight, 0))
    np.testing.assert_allclose(a.predict(controls), b.predict(controls), rtol=1e-7)


def test_what_is_trusted_at_first_goes_by_the_weights() -> None:
    controls, outputs = shots(200)
    spoiled = np.arange(200) % 2 == 0
    outputs[spoiled] = np.random.RandomState(1).standard_normal(outputs[spoiled].shape) * outputs.std()
    how: dict[str, Any] = {"validation_fraction": 0.5, "random_state": 0}
    equal, weighted = (
        NeuralTwin((8,), **how).fit(controls, outputs, sample_weight=np.where(spoiled, weight, 1.0))
        for weight in (1.0, 1e-6)
    )
    assert np.median(weighted.trust_) > 0.9 > 0.6 > np.median(equal.trust_)


def test_partial_fit_follows_a_drifted_device(twin: NeuralTwin) -> None:
    moved = pickle.loads(pickle.dumps(twin))
    controls, outputs = shots(200, seed=2)
    drifted = outputs + 0.5 * controls[:, :1]
    before = moved.score(controls, drifted)
    for _ in range(60):
        moved.partial_fit(controls, drifted)
    assert moved.score(controls, drifted) > max(before, 0.9)


def test_pickles_hold_no_tensors_and_predict_the_same(twin: NeuralTwin) -> None:
    blob = pickle.dumps(twin)
    modules = {
        argument.split()[0].split(".")[0]
        for code, argument, _ in pickletools.genops(pickle.dumps(twin, 0))
        if code.name == "GLOBAL"
    }
    assert "torch" not in modules
    assert "skpat" in modules
    copy = pickle.loads(blob)
    np.testing.assert_array_equal(copy.predict(shots(5)[0]), twin.predict(shots(5)[0]))
    assert not hasattr(clone(twin), "n_features_in_")


def test_single_precision_stays_single() -> None:
    controls, outputs = shots(50)
    twin = NeuralTwin((8,), max_iter=2, random_state=0).fit(controls.astype(np.float32), outputs)
    assert twin.predict(controls.astype(np.float32)).dtype == np.float32
    assert next(twin.module_.parameters()).dtype == torch.float32


def test_the_weights_of_a_twin_are_counted_once() -> None:
    NeuralTwin(()).check(4000, 5000)
    with pytest.raises(TwinError, match="would need 20,004,000 weights for 4,000 channels and 5,001 outputs"):
        NeuralTwin(()).check(4000, 5001)
    with pytest.raises(TwinError, match="would need 24,039,600 weights"):  # beside the linear part two hidden layers
        NeuralTwin((1000, 1980)).check(4000, 3020)
    with pytest.raises(ValueError, match=r"must be positive whole numbers\. Got \(True,\)"):
        NeuralTwin((True,)).check(4, 2)


def test_refuses_more_channels_than_it_can_hold_before_allocating() -> None:
    many = np.zeros((2, 200_000), dtype=np.float32)
    with pytest.raises(TwinError, match=r"200,000 channels.* Use PhysicsTwin.* fewer channels or outputs"):
        NeuralTwin().fit(many, np.zeros((2, 3)))


@pytest.mark.parametrize(
    ("controls", "outputs", "message"),
    [
        (np.zeros((3, 2)), np.zeros((4, 2)), r"Got \(3, 2\) and \(4, 2\)"),
        (np.zeros((3, 2)), np.zeros(3), r"Got \(3, 2\) and \(3,\)"),
        (np.zeros((0, 2)), np.zeros((0, 2)), "needs at least one shot. Got none"),
        (np.full((3, 2), np.nan), np.zeros((3, 2)), "Got NaN or infinity"),
    ],
)
def test_bad_shots_are_refused(controls: np.ndarray, outputs: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NeuralTwin().fit(controls, outputs)


def test_bad_parameters_are_refused_in_fit() -> None:
    with pytest.raises(ValueError, match="'max_iter' parameter of NeuralTwin"):
        NeuralTwin(max_iter=-1).fit(*shots(5))


def test_gradient_cosine_tells_a_good_twin_from_a_useless_one(twin: NeuralTwin) -> None:
    controls, _ = shots(50, seed=3)
    shuffled = NeuralTwin((64,), random_state=0).fit(shots()[0], np.random.RandomState(0).permutation(shots()[1]))
    assert gradient_cosine(twin, device, controls, BOUNDS) > 0.95
    assert abs(gradient_cosine(shuffled, device, controls, BOUNDS)) < 0.5


@pytest.mark.parametrize("level", [0.0, 0.1, 1e6])
def test_a_stuck_output_does_not_count_in_the_cosine(twin: NeuralTwin, level: float) -> None:
    controls = shots(100)[0]

    def stuck(batch: ControlBatch) -> np.ndarray:
        outputs = device(np.asarray(batch))
        outputs[:, 0] = level
        return outputs

    alone = gradient_cosine(twin, stuck, controls, [[-1, 1]] * 4)
    assert alone > 0.8


def test_the_units_of_an_output_do_not_count_in_the_cosine() -> None:
    """One output whose gradient is right and one whose gradient is the opposite."""

    def cosine(units: list[float]) -> float:
        half_right: Any = SimpleNamespace(predict=lambda c: units * np.column_stack([c[:, 0], -c[:, 1]]))
        return gradient_cosine(half_right, lambda b: units * np.asarray(b)[:, :2], shots(300)[0], BOUNDS)

    assert abs(cosine([1.0, 1.0])) < 0.1
    assert cosine([1.0, 1e3]) == pytest.approx(cosine([1e-6, 1.0])) == pytest.approx(cosine([1.0, 1.0]))


@pytest.mark.parametrize("asked", [torch.float32, torch.float64])
def test_a_module_answers_in_the_precision_in_which_it_is_asked(asked: torch.dtype) -> None:
    module = torch.nn.Linear(4, 3).to(torch.float64 if asked == torch.float32 else torch.float32)
    controls = torch.from_numpy(shots(5)[0]).to(asked)
    for question in (controls, ControlBatch.from_dense(controls)):
        assert respond(module, question).dtype == asked


@pytest.mark.parametrize("own", [False, True])
def test_no_gradient_is_computed_of_what_is_learned_from_shots_alone(twin: NeuralTwin, own: bool) -> None:
    laser = SecondHarmonicLaser(4, 3)
    physics = PhysicsTwin(laser, ["coupling"], max_iter=0).fit(np.abs(shots(20)[0]), np.ones((20, 3)))
    modules = [torch.nn.Linear(4, 3).double()] if own else [twin.module_, physics.module_]
    for module in modules:
        module.zero_grad()
        controls = torch.from_numpy(np.abs(shots(5)[0])).requires_grad_()
        respond(module, controls).sum().backward()
        assert controls.grad is not None
        # the parameters of a module of one's own may be anybody's
        assert all(p.requires_grad and (p.grad is not None) == own for p in module.parameters())


def test_gradient_cosine_measures_within_the_bounds_and_counts_as_it_says(twin: NeuralTwin) -> None:
    sent = []

    def measure(batch: Any) -> np.ndarray:
        sent.append(np.asarray(batch))
        return device(batch)

    corners = np.sign(shots(6)[0])  # on the bounds
    gradient_cosine(twin, measure, corners, BOUNDS, n_directions=3, step=0.2)
    assert len(sent[0]) == 2 * 6 * 3
    assert np.abs(sent[0]).max() <= 1
    up, down = np.split(sent[0], 2)  # to both sides, and as far as anywhere
    np.testing.assert_allclose(np.sqrt(np.square((up - down) / 2 / 2).mean(axis=1)), 0.2, rtol=1e-9)
    assert gradient_cosine(twin, lambda b: np.zeros((len(b), 3)), corners, BOUNDS) == 0


@pytest.mark.parametrize("kind", ["neural", "physics", "residual"])
def test_shots_without_weight_are_as_if_they_were_not_there(kind: str) -> None:
    made = {
        "neural": lambda: NeuralTwin((8,), max_iter=3, random_state=0),
        "physics": lambda: PhysicsTwin(SecondHarmonicLaser(4, 3), ["length"], max_iter=3, random_state=0),
        "residual": lambda: ResidualTwin(
            PhysicsTwin(SecondHarmonicLaser(4, 3)), NeuralTwin((8,), max_iter=3), random_state=0
        ),
    }[kind]
    controls, outputs = (
        np.random.default_rng(0).uniform(-0.5, 0.5, (60, 4)),
        np.random.default_rng(1).normal(size=(60, 3)),
    )
    weight = np.r_[np.zeros(45), np.ones(15)]
    whole, part = made().fit(controls, outputs, weight), made().fit(controls[45:], outputs[45:])
    np.testing.assert_array_equal(whole.predict(controls), part.predict(controls))
    assert whole.score_ == part.score_
    with pytest.raises(
        ValueError, match=r"'sample_weight' of a twin must have a positive entry.*Use sample_weight=None"
    ):
        made().fit(controls, outputs, np.zeros(60))
    with pytest.raises(
        ValueError,
        match=r"finite and not negative, one for each of the 60 shots.*the least -1.*and 0 for a shot to leave out",
    ):
        made().fit(controls, outputs, np.r_[-1.0, np.ones(59)])


@pytest.mark.parametrize("kind", ["neural", "physics", "residual"])
def test_a_twin_that_goes_on_learns_nothing_from_shots_without_weight(kind: str) -> None:
    laser = SecondHarmonicLaser(4, 3)
    made = {
        "neural": NeuralTwin((8,), max_iter=3, memory_size=20, random_state=0),
        "physics": PhysicsTwin(laser, ["coupling"], max_iter=3, random_state=0),
        "residual": ResidualTwin(PhysicsTwin(laser), NeuralTwin((8,), max_iter=3, memory_size=20), random_state=0),
    }[kind]
    controls = np.random.default_rng(0).uniform(-0.5, 0.5, (60, 4))
    outputs = SecondHarmonicLaser(4, 3, coupling=30.0, random_state=0).measure(controls)
    wrong = np.full((30, 3), 1e3)
    part = clone(made).fit(controls, outputs)
    whole = clone(made).fit(np.r_[controls, controls[:30]], np.r_[outputs, wrong], np.r_[np.ones(60), np.zeros(30)])
    for rows in np.split(np.arange(60), 4):
        mixed = np.r_[controls[rows], controls[:30]], np.r_[outputs[rows], wrong], np.r_[np.ones(15), np.zeros(30)]
        whole.partial_fit(*mixed)
        whole.partial_fit(controls[:30], wrong, np.zeros(30))
        part.partial_fit(controls[rows], outputs[rows])
    np.testing.assert_allclose(whole.predict(controls), part.predict(controls), rtol=1e-12)


@pytest.mark.parametrize("kind", ["neural", "physics", "residual"])
def test_other_channels_than_those_of_the_fit_are_refused(kind: str) -> None:
    physics = PhysicsTwin(SecondHarmonicLaser(4, 3), ["length"], max_iter=1)
    made = {"neural": NeuralTwin((8,), max_iter=1), "physics": physics, "residual": ResidualTwin(physics)}[kind]
    controls, outputs = np.random.default_rng(0).uniform(-0.5, 0.5, (20, 4)), np.zeros((20, 3))
    fitted = clone(made).fit(controls, outputs)
    with pytest.raises(ValueError, match=r"controls must have the shape \(n_shots, 4\).*Got \(20, 3\)"):
        fitted.predict(controls[:, :3])
    with pytest.raises(ValueError, match=r"controls must have the shape \(n_shots, 4\).*Got \(20, 3\)"):
        fitted.partial_fit(controls[:, :3], outputs)
    with pytest.raises(ValueError, match=r"outputs must have the shape \(n_shots, 3\).*Got \(20, 2\)"):
        fitted.partial_fit(controls, outputs[:, :2])
    with pytest.raises(ValueError, match=r"shape|at least one shot"):
        clone(made).fit([], [])


@given(st.integers(1, 300), st.floats(0, 1, exclude_max=True))
def test_what_is_held_out_and_what_is_learned_from_are_all_shots(n_shots: int, fraction: float) -> None:
    kept, held_out = hold_out(n_shots, fraction, np.random.RandomState(0))
    assert sorted([*kept, *held_out]) == list(range(n_shots))
    assert len(kept) >= min(n_shots, 5)
    assert len(held_out) == 0 or n_shots >= 10


def test_shots_are_held_out_at_random() -> None:
    """Shots in an order, of a scan say: the last ones would be judged by what lies beyond all others."""
    drawn = [hold_out(1000, 0.2, np.random.RandomState(seed))[1] for seed in range(2)]
    for held_out in drawn:
        assert abs(held_out.mean() - 499.5) < 4 * 1000 / np.sqrt(12 * 200)
    assert set(drawn[0]) != set(drawn[1])


@pytest.mark.parametrize("n_shots", [10, 60])
@pytest.mark.parametrize(
    "twin",
    [
        NeuralTwin((4,), max_iter=2, validation_fraction=0.99),
        PhysicsTwin(SecondHarmonicLaser(8, 4), ["length"], validation_fraction=0.99),
        ResidualTwin(PhysicsTwin(SecondHarmonicLaser(8, 4), []), validation_fraction=0.99),
    ],
    ids=lambda twin: type(twin).__name__,
)
def test_some_shots_are_left_to_learn_from(twin: Any, n_shots: int) -> None:
    controls = np.random.default_rng(0).uniform(size=(n_shots, 8))
    assert np.isfinite(clone(twin).fit(controls, SecondHarmonicLaser(8, 4).measure(controls)).score_)


@pytest.mark.parametrize(
    "twin", [NeuralTwin((4,), max_iter=2, random_state=0), PhysicsTwin(SecondHarmonicLaser(8, 4), [])]
)
def test_arrays_that_torch_cannot_take_are_copied(twin: Any) -> None:
    rng = np.random.default_rng(0)
    controls, weight = rng.uniform(size=(40, 8)), rng.uniform(size=40)
    outputs = SecondHarmonicLaser(8, 4).measure(controls)
    wanted = clone(twin).fit(controls, outputs, weight).partial_fit(controls, outputs, weight).predict(controls)
    swapped = [array.astype(array.dtype.newbyteorder()) for array in (controls, outputs, weight)]
    locked = [np.array(array) for array in (controls, outputs, weight)]
    for array in locked:
        array.flags.writeable = False
    for shots in (swapped, locked):
        found = clone(twin).fit(*shots).partial_fit(*shots).predict(shots[0])
        np.testing.assert_array_equal(found, wanted)


@given(size=st.integers(1, 6), pieces=st.lists(st.integers(1, 9), min_size=1, max_size=12))
def test_a_memory_holds_the_last_shots_and_never_shrinks(size: int, pieces: list[int]) -> None:
    memory, n_seen = ShotMemory(size), 0
    for n in pieces:
        numbers = torch.arange(n_seen, n_seen + n, dtype=torch.float64)[:, None]
        memory.add(numbers, 10 * numbers, np.ones(n))
        n_seen += n
        assert memory.n_shots == min(size, n_seen)
        x, y = memory.draw((np.arange(memory.n_shots) + 0.5) / memory.n_shots)  # each of them once
        assert sorted(x.ravel().tolist()) == list(range(n_seen - memory.n_shots, n_seen))
        torch.testing.assert_close(y, 10 * x)


def test_a_quarter_of_each_refining_step_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[tuple[torch.Tensor, torch.Tensor]] = []
    monkeypatch.setattr(neural_module, "refine_module", lambda module, optimizer, draws, rate: steps.extend(draws))
    twin = NeuralTwin((8,), max_iter=1, refine_batch_size=40, random_state=0).fit(*shots(1000))
    new = shots(1, seed=1)
    twin.partial_fit(*new)
    x, _, _ = neural_module.standard_tensors(twin.module_, (*new, np.ones(1)))
    assert len(steps) in (8, 16)
    assert {len(drawn) for drawn, _ in steps} == {40}
    assert np.median([int((drawn == x).all(dim=1).sum()) for drawn, _ in steps]) == 10  # by chance the memory has more
