"""The measured agreement of gradients, and the verdict on a twin."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import make_classification

from skpat import ControlSplit, PhysicalNetworkClassifier
from skpat.devices import MachZehnderMesh, Quantized, SecondHarmonicLaser
from skpat.devices.simulated import SimulatedDevice
from skpat.exceptions import UselessTwinWarning
from skpat.lab import Session
from skpat.row_keys import hash_rows
from skpat.training import ExactGradient, GradientEstimator, PhysicsAware, bridge
from skpat.training.alignment import Alignment, Slopes, _measure_group, measure_alignment, pooled
from skpat.training.loss_probe import LossProbe
from skpat.training.trainer import Data, Trainer
from skpat.training.useless_twin import check_alignment, count_check_shots, is_useless, warn_if_useless
from skpat.twins import NeuralTwin, PhysicsTwin, ResidualTwin
from skpat.twins.base import Twin
from tests.combinations import mostly_slow

LASER = SecondHarmonicLaser(16, 12, n_steps=3)
TWO_LAYERS = {"n_layers": 2, "n_units": 2, "skip": "input"}


class Tilted(GradientEstimator):
    """The device's equations with gradients that are partly those of a random linear map."""

    def __init__(self, share: float = 0.0):
        self.share = share

    def run(self, apparatus: Any) -> Any:
        device = apparatus.device
        generator = torch.Generator().manual_seed(0)
        matrix = torch.randn(device.n_controls, device.n_outputs, generator=generator, dtype=torch.float64)

        def model(controls: torch.Tensor) -> torch.Tensor:
            wrong = controls @ matrix.to(controls.dtype)
            return (1 - self.share) * device.forward(controls) + self.share * wrong

        return bridge(apparatus.measure, model)


@contextmanager
def training(
    device: Any = LASER, gradient: Any = None, dtype: Any = np.float64, seed: int = 0, n: int = 80, **shape: Any
) -> Iterator[tuple[Trainer, Data]]:
    """A network before its training."""
    X = np.random.RandomState(seed).uniform(-1, 1, (n, 4)).astype(dtype)
    y = (X[:, 0] * X[:, 1] > 0) + 2 * (X[:, 2] > 0)
    network = PhysicalNetworkClassifier(
        device,
        gradient=ExactGradient() if gradient is None else gradient,
        max_iter=1,
        learning_rate_init=1e-12,
        random_state=seed,
        **shape,
    )
    network.fit(X, y)
    with Session(network.device_, n_shots=network.n_shots, ledger=network.ledger_) as session:
        trainer = network._make_trainer(session, n)
        targets = network._encode_targets(y, None, first=False)
        yield trainer, Data(X, targets, np.ones(n, dtype=dtype), hash_rows(X))


def flat(probe: LossProbe, names: list[str]) -> np.ndarray:
    return np.concatenate([probe.gradient[name].ravel() for name in names])


def true_cosines(trainer: Trainer, data: Data) -> tuple[float, list[float]]:
    """Of the method's gradient on the device as it is, and the exact one of the device without noise."""
    method = LossProbe(trainer, data)
    silent = copy.copy(trainer)
    silent.gradient, device = ExactGradient(), copy.copy(trainer.session.device)
    device.set_params(**{name: 0.0 for name in ("noise", "energy_jitter", "shot_noise") if hasattr(device, name)})
    with Session(device) as silent.session:
        exact = LossProbe(silent, data)

    def cosine(names: list[str]) -> float:
        a, b = flat(method, names), flat(exact, names)
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    return cosine([name for names in exact.layer_names for name in names]), [cosine(n) for n in exact.layer_names]


@pytest.mark.parametrize(
    ("shape", "share"),
    mostly_slow(
        [*(({}, share) for share in (0.0, 0.3, 0.9, 1.0)), (TWO_LAYERS, 0.3), (TWO_LAYERS, 1.0)],
        [{}, TWO_LAYERS],
        [0.0, 0.3, 0.9, 1.0],
    ),
    ids=str,
)
def test_the_cosine_agrees_with_the_true_one_within_its_error(shape: dict[str, Any], share: float) -> None:
    deviations = []
    for seed in range(3):
        with training(gradient=Tilted(share), seed=seed, n=24, **shape) as (trainer, data):
            found = measure_alignment(trainer, data, n_rows=24, n_directions=8, per_layer=True, random_state=seed)
            total, layers = true_cosines(trainer, data)
        assert len(found.layer_cosines) == len(layers)
        assert found.slopes is not None
        propagated = found.slopes.cosine_and_error()[1]
        assert propagated < 0.25
        assert found.standard_error >= propagated  # as far as noise allows
        for true, got, error in zip(
            [total, *layers],
            [found.cosine, *found.layer_cosines],
            [found.standard_error, *found.layer_standard_errors],
            strict=True,
        ):
            deviations.append((got - true) / max(error, 0.02))
    assert np.abs(deviations).max() < 4
    assert np.sqrt(np.mean(np.square(deviations))) < 1.7


def test_rows_count_by_their_weight() -> None:
    found = []
    for repeated in (False, True):
        still = SecondHarmonicLaser(16, 12, n_steps=3, noise=0.0, energy_jitter=0.0, noise_floor=0.0)
        with training(still, Tilted(0.5)) as (trainer, data):
            rows = np.arange(6)
            weight = np.array([1.0, 2.0, 3.0, 1.0, 1.0, 2.0])
            few = data.rows(np.repeat(rows, weight.astype(int)) if repeated else rows)
            if not repeated:
                few = Data(few.X, few.targets, weight, few.row_keys)
            found.append(measure_alignment(trainer, few, n_rows=20))
    assert np.isclose(found[0].cosine, found[1].cosine, atol=1e-3)
    assert np.isclose(found[0].slope, found[1].slope, atol=1e-3)


def test_all_directions_together_leave_nothing_to_chance() -> None:
    device = SecondHarmonicLaser(6, 5, n_steps=3, noise=0.0, energy_jitter=0.0, noise_floor=0.0)
    with training(device, Tilted(0.6), n=20, encoder="direct", control_split=ControlSplit(n_inputs=4)) as (
        trainer,
        data,
    ):
        true, _ = true_cosines(trainer, data)
        found = measure_alignment(trainer, data, n_rows=20, n_directions=1000)
    assert abs(found.cosine - true) < 0.01
    assert found.standard_error < 1e-6


def test_steps_are_small_where_the_device_is_steep() -> None:
    with training(MachZehnderMesh(6), encoder="direct", control_split=ControlSplit(np.arange(4))) as (trainer, data):
        assert measure_alignment(trainer, data, n_rows=40, n_directions=6).cosine > 0.8


def test_thousands_of_phases_in_a_row_are_moved_little() -> None:
    device = MachZehnderMesh(48)  # 6,768 phases in three layers
    settings = {"encoder": "direct", "readout": "bins", "n_layers": 3, "control_split": ControlSplit(np.arange(48))}
    with training(device, **settings) as (trainer, data):
        assert measure_alignment(trainer, data, n_rows=32, n_directions=4).cosine > 0.7


def test_without_noise_float32_is_precise_enough() -> None:
    still = SecondHarmonicLaser(16, 12, n_steps=3, noise=0.0, energy_jitter=0.0, noise_floor=0.0)
    with training(still, dtype=np.float32) as (trainer, data):
        found = measure_alignment(trainer, data, n_rows=20)
    assert found.cosine > 0.99
    assert 0.99 < found.slope < 1.01


def test_a_step_moves_the_controls_as_far_as_it_says() -> None:
    with training() as (trainer, data):
        probe = LossProbe(trainer, data)
        names = [name for layer in probe.layer_names for name in layer]
        unit = flat(probe, names) / np.linalg.norm(flat(probe, names))
        settings: list[np.ndarray] = []
        measure = probe._measure
        probe._measure = lambda batch, layer, unit: (  # type: ignore[method-assign]
            settings.append(np.asarray(batch)) or measure(batch, layer, unit)
        )
        reach = probe._reach(unit, names)
        for asked, moved in (
            ({"step": 1e-9}, 1e-5),
            ({"step": 1e-9, "least": 0.01}, 0.01),
            ({"step": 1e9}, 0.05),
            ({"step": 1e9, "most": 0.01}, 0.01),
            ({"step": 0.02 / reach}, 0.02),
        ):
            settings.clear()
            probe.slope(unit, names, **asked)
            up, down = (part / np.ptp(trainer.network.bounds, axis=1) for part in settings)
            inputs = trainer.network.split.input_index
            assert np.isclose(np.sqrt(np.square((up - down)[:, inputs] / 2).mean()), moved, rtol=0.1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_shots_are_counted_and_nothing_is_changed(dtype: Any) -> None:
    with training(dtype=dtype, n_layers=2, n_units=2, n_shots=2) as (trainer, data):
        before, counted = trainer.weights_now(), trainer.session.ledger.shots["calibration"]
        found = measure_alignment(trainer, data, n_rows=10, n_directions=3, per_layer=True)
        assert found.n_shots == trainer.session.ledger.shots["calibration"] - counted
        assert found.n_shots == 10 * (2 + 2 * 2 * 4) * 4 * 2
        assert all(weight.grad is None for weight in trainer.trainable)
        for name, value in trainer.weights_now().items():
            assert value.dtype == dtype
            np.testing.assert_array_equal(value, before[name])
        assert found.cosine > 0.5


def test_the_same_seed_gives_the_same_measurement() -> None:
    found = []
    for _ in range(2):
        with training() as (trainer, data):
            found.append(measure_alignment(trainer, data, n_rows=10, random_state=3))
    assert found[0] == found[1]
    assert pickle.loads(pickle.dumps(found[0])) == found[0]


def test_channels_with_steps_are_moved_by_whole_steps() -> None:
    reaches = []
    coarse = Quantized(SecondHarmonicLaser(16, 12, n_steps=3, noise=0.0, energy_jitter=0.0), control_bits=3)
    for device in (LASER, coarse):
        with training(device) as (trainer, data):
            probe = LossProbe(trainer, data)
            names = [name for layer in probe.layer_names for name in layer]
            direction = np.ones(len(flat(probe, names))) / np.sqrt(len(flat(probe, names)))
            reaches.append(probe._reach(direction, names))
            probe.loss_variance = 1.0  # the variance of a slope then tells its step
            _, variance = probe.slope(direction, names, step=1e-9)
    assert np.isclose(*reaches, rtol=0.1)
    assert np.isclose(np.sqrt(0.5 / variance) * reaches[1], 1 / 7)


def test_a_method_without_any_gradient_has_cosine_zero() -> None:
    class Still(GradientEstimator):
        def run(self, apparatus: Any) -> Any:
            return lambda batch, layer, unit: torch.from_numpy(apparatus.measure(batch, layer, unit))

    with training(gradient=Still()) as (trainer, data):
        found = measure_alignment(trainer, data, n_rows=20)
        assert (found.cosine, found.slope) == (0.0, 0.0)
        assert is_useless([found])


def test_rows_of_one_batch_are_drawn_by_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Data] = []

    class Watched(LossProbe):
        def __init__(self, trainer: Trainer, data: Data):
            seen.append(data)
            super().__init__(trainer, data)

    monkeypatch.setattr("skpat.training.alignment.LossProbe", Watched)
    with training() as (trainer, data):
        weighted = Data(data.X, data.targets, np.where(np.arange(80) < 40, 0.0, 2.0), data.row_keys)
        assert measure_alignment(trainer, weighted, n_rows=30, n_directions=2).n_rows == 30
        assert np.isin(seen[0].row_keys, data.row_keys[40:]).all()
        assert (seen[0].sample_weight == 1).all()  # drawn by weight, so not weighed again
        assert measure_alignment(trainer, weighted, n_rows=80, n_directions=2).n_rows == 80
        np.testing.assert_array_equal(seen[1].sample_weight, weighted.sample_weight)


def test_the_gradient_estimator_itself_is_not_asked() -> None:
    class Counting(ExactGradient):
        n_asked = 0

        def run(self, apparatus: Any) -> Any:
            self.n_asked += 1
            return super().run(apparatus)

    with training(gradient=Counting()) as (trainer, data):
        before = trainer.gradient.n_asked
        measure_alignment(trainer, data, n_rows=10)
        assert trainer.gradient.n_asked == before > 0


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_the_noise_along_the_gradient_is_taken_off_what_stands_across(noise: float) -> None:
    method, device = np.array([1.0, 2.0]), np.array([3.0, -1.0])
    unit = method / np.linalg.norm(method)
    found = []
    for error in (noise, -noise):  # whose mean is what is expected

        class Probe:
            gradient, second_gradient, loss_variance = {"w": method}, None, 0.0

            def slope(self, direction: np.ndarray, names: Any, *a: Any, error: float = error, **k: Any) -> Any:
                along = np.allclose(direction, unit)
                return device @ direction + error * along, noise**2 * along

            def foreseen_share(self, *args: Any) -> float:
                return 1.0

        found.append(_measure_group(Probe(), ["w"], 2, np.random.RandomState(0)))
    assert np.isclose(np.mean([made.along for made in found]), device @ unit)
    assert np.isclose(np.mean([made.across for made in found]), device @ device - (device @ unit) ** 2)
    assert {made.along_variance for made in found} == {noise**2}


def test_errors_are_propagated_through_the_sums_of_groups() -> None:
    groups = [Slopes(0.9, 0.02, 1.0, 0.0, 1.0), Slopes(-0.3, 0.01, 2.0, 0.0, 2.0), Slopes(1.5, 0.05, 0.5, 0.0, 0.5)]
    together = Slopes.together(groups)
    variance = {"along": 0.0, "across": 0.0}
    for number, group in enumerate(groups):
        up, down = (
            Slopes.together([replace(g, along=g.along + step) if g is group else g for g in groups])
            for step in (1e-5, -1e-5)
        )
        for name in variance:
            slope = (getattr(up, name) - getattr(down, name)) / 2e-5
            variance[name] += slope**2 * groups[number].along_variance
    assert np.isclose(together.along_variance, variance["along"])
    assert np.isclose(together.across_variance, variance["across"])
    assert np.isclose(together.noise_across, variance["across"])


@pytest.mark.parametrize(("along", "across"), [(0.9, 0.3), (0.2, 1.5), (-0.6, 0.6)])
def test_the_error_of_a_cosine_is_that_of_what_it_is_made_of(along: float, across: float) -> None:
    def cosine(along: float, across: float) -> float:
        return along / np.sqrt(along**2 + across)

    step, deviations = 1e-6, (1e-4, 3e-4)
    slopes_of = [
        (cosine(along + step, across) - cosine(along - step, across)) / (2 * step),
        (cosine(along, across + step) - cosine(along, across - step)) / (2 * step),
    ]
    for shown in ((1, 0), (0, 1), (1, 1)):
        variances = np.square(deviations) * shown
        found, error = Slopes(along, variances[0], across, variances[1], 1.0).cosine_and_error()
        assert np.isclose(found, cosine(along, across), rtol=1e-5)
        assert np.isclose(error, np.sqrt(np.square(slopes_of) @ variances), rtol=1e-3)


# ---- several checks, and the verdict ----


def slopes(along: float, across: float, promised: float = 1.0, error: float = 1e-3) -> Alignment:
    made = Slopes(along, error**2, across, error**2, promised)
    return Alignment(*made.cosine_and_error(), slope=made.slope, n_shots=160, n_rows=16, slopes=made)


def test_pooling_strings_the_gradients_together() -> None:
    rng = np.random.RandomState(0)
    methods, devices = rng.standard_normal((2, 4, 30))
    devices += methods * [[1.0], [0.3], [-0.2], [2.0]]
    made = []
    for method, device in zip(methods, devices, strict=True):
        length = np.linalg.norm(method)
        along = device @ method / length
        made.append(slopes(along, device @ device - along**2, length, error=1e-9))
    lengths = np.linalg.norm(methods, axis=1, keepdims=True)
    u, v = (methods / lengths).ravel(), (devices / lengths).ravel()
    assert np.isclose(pooled(made).cosine, u @ v / np.linalg.norm(u) / np.linalg.norm(v))
    assert pooled(made).n_shots == 640
    assert np.isclose(pooled(made).slope, np.mean([m.slope for m in made]))
    assert np.isclose(pooled(made[:1]).cosine, made[0].cosine)


@pytest.mark.parametrize(("cosine", "useless"), [(0.1, True), (-0.9, True), (0.8, False), (1.0, False)])
def test_the_verdict_follows_the_pooled_cosine(cosine: float, useless: bool) -> None:
    assert is_useless([slopes(cosine, 1 - cosine**2)] * 3) == useless


def test_noise_alone_is_not_called_a_useless_twin() -> None:
    assert not is_useless([slopes(0.3, 0.1, promised=1.0, error=1.0)] * 2)
    assert is_useless([slopes(0.3, 0.1, promised=10.0, error=1.0)] * 2)  # so large a slope would have been seen
    for seed in range(3):
        with training(SecondHarmonicLaser(16, 12, n_steps=3, noise=2.0), seed=seed) as (trainer, data):
            checks = [check_alignment(trainer, data, random_state=number) for number in range(3)]
        assert not is_useless(checks)
        assert pooled(checks).standard_error > 0.3


@pytest.mark.parametrize(
    ("along", "error", "useless"),
    [(1.0, 0.3, False), (0.6, 0.2, False), (0.6, 0.1, True), (0.3, 0.1, True), (-0.5, 0.1, True)],
)
def test_a_cosine_that_noise_hides_is_judged_by_what_a_step_gains(along: float, error: float, useless: bool) -> None:
    made = Slopes(along, error**2, 0.0, 100.0, 1.0)  # nothing is known of what stands across
    hidden = Alignment(*made.cosine_and_reach(), slope=made.slope, slopes=made)
    assert hidden.cosine < 0.5 < hidden.cosine + hidden.standard_error
    assert is_useless([hidden] * 2) == useless
    kept = replace(
        made, held=0.1
    )  # noise, or a bend, has made the promise: a step that gains something does not break it
    assert is_useless([replace(hidden, slopes=kept)] * 2) == (along < 0)


@pytest.mark.parametrize(
    ("cosine", "gain", "useless"),
    [
        (0.79, 0.05, True),
        (0.81, 0.05, False),  # a good cosine, whatever the gain
        (0.61, 0.29, True),
        (0.61, 0.31, False),
        (0.59, 0.31, True),
        (0.46, 0.46, False),  # poor, but it leads downhill
        (0.44, 0.46, True),
        (0.46, 0.44, True),
    ],
)
def test_where_noise_hides_nothing_cosine_and_gain_decide(cosine: float, gain: float, useless: bool) -> None:
    assert is_useless([slopes(cosine, 1 - cosine**2, promised=cosine / gain)] * 2) == useless


@pytest.mark.parametrize(("n_checks", "error", "useless"), [(1, 0.46, True), (2, 0.4, True), (3, 0.26, False)])
def test_a_poor_twin_leads_downhill_only_where_that_is_known(n_checks: int, error: float, useless: bool) -> None:
    made = Slopes(0.5, 0.0, 0.6, 0.8**2, 1.0)  # a step keeps half of its promise, for certain
    checks = [Alignment(*made.cosine_and_error(), slope=made.slope, slopes=made)] * n_checks
    assert 0.45 < pooled(checks).cosine < 0.6
    assert pooled(checks).standard_error == pytest.approx(error, abs=0.01)
    assert is_useless(checks) == useless


def test_no_gradient_is_useless_in_noise_too() -> None:
    assert is_useless([slopes(0.0, 0.1, promised=0.0, error=1.0)] * 2)


class Noisy(SimulatedDevice):
    """Sines and squares of sums of its controls, with noise of half of their spread."""

    n_controls, n_outputs, bounds = 12, 5, (0.0, 1.0)

    def __init__(self, noise: float = 0.4, random_state: Any = None):
        self.noise = noise
        self.random_state = random_state

    @property
    def n_noise_values(self) -> int:
        return 5 if self.noise else 0

    def simulate(self, batch: Any, normal: Any) -> torch.Tensor:
        outputs = self.forward(batch.dense())
        return outputs if normal is None else outputs + self.noise * normal

    def forward(self, controls: torch.Tensor, constants: Any = None) -> torch.Tensor:
        first, second = (
            torch.from_numpy(np.random.RandomState(seed).standard_normal((12, 5))).to(controls) for seed in (0, 1)
        )
        return torch.sin(2 * controls @ first) + 0.3 * (controls @ second) ** 2


def noisy_fit(n_layers: int, seed: int) -> PhysicalNetworkClassifier:
    X, y = make_classification(
        400, 6, n_informative=4, n_redundant=0, n_classes=3, n_clusters_per_class=1, class_sep=1.5, random_state=seed
    )
    network = PhysicalNetworkClassifier(
        Noisy(), PhysicsTwin(Noisy(noise=0)), gradient=PhysicsAware(pretrain=False), n_layers=n_layers, max_iter=15,
        random_state=seed,
    )  # fmt: skip
    return network.fit(X, y)


@pytest.mark.parametrize("n_layers", [1, 2])
def test_the_equations_of_a_noisy_device_are_not_called_useless(n_layers: int) -> None:
    called = 0
    for seed in range(2):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            noisy_fit(n_layers, seed)
        called += any(issubclass(warning.category, UselessTwinWarning) for warning in caught)
    assert called == 0


@pytest.mark.parametrize("noise", [0.1, 0.4, 1.0])
def test_the_error_of_a_cosine_reaches_the_true_one_where_noise_hides_it(noise: float) -> None:
    twin = PhysicsTwin(Noisy(noise=0))
    inside = []
    for seed in range(10):
        device = Noisy(noise, random_state=seed)
        with training(device, PhysicsAware(pretrain=False), twin=twin, n=32) as (trainer, data):
            found = measure_alignment(trainer, data, n_directions=8, random_state=seed)
            true = true_cosines(trainer, data)[0]
        inside.append(abs(found.cosine - true) < 2 * found.standard_error)
    assert sum(inside) >= 9


def test_noise_that_makes_the_gradient_long_is_no_promise() -> None:
    with training(Noisy(1.0), PhysicsAware(pretrain=False), twin=PhysicsTwin(Noisy(noise=0)), n_layers=2) as (
        trainer,
        data,
    ):
        noisy = measure_alignment(trainer, data, n_directions=2).slopes
    with training(Noisy(0.0), PhysicsAware(pretrain=False), twin=PhysicsTwin(Noisy(noise=0)), n_layers=2) as (
        trainer,
        data,
    ):
        silent = measure_alignment(trainer, data, n_directions=2).slopes
    assert noisy is not None
    assert silent is not None
    assert noisy.to_hold < 0.8 * noisy.promised
    assert silent.to_hold == pytest.approx(silent.promised, rel=1e-3)


def test_a_bend_that_the_twin_foresees_is_not_its_fault() -> None:
    mesh = MachZehnderMesh(6, noise_floor=0.2, device_seed=0)
    with training(mesh, PhysicsAware(pretrain=False), twin=PhysicsTwin(mesh), n=32) as (trainer, data):
        checks = [check_alignment(trainer, data, random_state=number) for number in range(3)]
    assert not is_useless(checks)


def test_a_twin_foresees_a_part_of_the_slope_and_nothing_where_it_leads_the_other_way() -> None:
    with training(gradient=PhysicsAware(pretrain=False), twin=PhysicsTwin(LASER)) as (trainer, data):
        probe = LossProbe(trainer, data)
        names = probe.layer_names[0]
        direction = flat(probe, names) / np.linalg.norm(flat(probe, names))
        assert 0.9 < probe.foreseen_share(direction, names, 1e-3) <= 1
        assert 0 <= probe.foreseen_share(direction, names, 1e9) < 1
        assert probe.foreseen_share(-direction, names, 1e9) == 1
        trainer.twin = None
        assert probe.foreseen_share(direction, names, 1e9) == 1


@pytest.mark.parametrize("bits", [4, 5, 7])
def test_steps_of_the_channels_are_no_bend(bits: int) -> None:
    silent = SecondHarmonicLaser(16, 12, n_steps=3, noise=0.0, energy_jitter=0.0, noise_floor=0.0)
    quantized = Quantized(silent, control_bits=bits)
    with training(quantized, PhysicsAware(pretrain=False), twin=PhysicsTwin(silent), n=32) as (trainer, data):
        for number in range(3):
            slopes = measure_alignment(trainer, data, random_state=number).slopes
            assert slopes is not None
            assert slopes.to_hold > 0.8 * slopes.promised


def test_a_twin_needs_a_module_and_no_more() -> None:
    class Bare(Twin):
        @property
        def module_(self) -> Any:
            return self._made

        def fit(self, controls: Any, outputs: Any, sample_weight: Any = None) -> Bare:
            self._made = NeuralTwin((8,), max_iter=3, random_state=0).fit(controls, outputs).module_
            return self

    network = PhysicalNetworkClassifier(
        LASER, Bare(), gradient=PhysicsAware(pretrain=False), max_iter=40, random_state=0
    )
    X = np.random.RandomState(0).uniform(-1, 1, (150, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UselessTwinWarning)
        network.fit(X, X[:, 0] > 0)
    assert len(network.alignments_) == 3


def test_a_check_that_noise_hides_does_not_outweigh_the_others() -> None:
    hidden = slopes(0.0, 0.0, promised=1e-3, error=1.0)
    assert abs(pooled([slopes(0.9, 0.19), hidden]).cosine - 0.9) < 0.3


def test_the_warning_has_the_figures_and_the_remedies() -> None:
    with training() as (trainer, _):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warn_if_useless([], trainer)
            warn_if_useless([slopes(0.9, 0.19)], trainer)
        physics = PhysicsTwin(SecondHarmonicLaser(16, 12), [])
        for trainer.twin in (physics, ResidualTwin(physics)):
            with pytest.warns(UselessTwinWarning, match=r"Let more of its constants be found, use a larger"):
                warn_if_useless([slopes(0.1, 0.99)], trainer)
        trainer.twin = NeuralTwin()
        with pytest.warns(UselessTwinWarning, match=r"2 checks \(320 shots\).* was 0\.10 ± 0\.00 \(1 is") as caught:
            warn_if_useless([slopes(0.1, 0.99)] * 2, trainer)
    text = str(caught[0].message)
    for remedy in ("PhysicsTwin", "n_calibration_shots", "learning_rate_init", "gradient='spsa'"):
        assert remedy in text
    assert caught[0].filename == __file__
    assert np.isclose(caught[0].message.cosine, 0.1)
    again = pickle.loads(pickle.dumps(caught[0].message))
    assert (str(again), again.cosine) == (text, caught[0].message.cosine)


@pytest.mark.parametrize("n_rows", [7, 80])
@pytest.mark.parametrize("shape", [{}, {"n_layers": 2, "n_shots": 3}])
def test_a_check_costs_what_it_says(n_rows: int, shape: dict[str, Any]) -> None:
    with training(n=n_rows, **shape) as (trainer, data):
        n_calls = shape.get("n_layers", 1) * shape.get("n_shots", 1)
        found = check_alignment(trainer, data, random_state=1)
        assert found.n_shots == count_check_shots(n_rows, n_calls, n_rows * n_calls * trainer.settings.max_iter)
        assert 3 * found.n_shots <= 500 * n_calls


def test_a_long_training_affords_better_checks() -> None:
    few, many, most = (count_check_shots(1000, 1, n) for n in (1000, 40_000, 10_000_000))
    assert 3 * few <= 500
    assert few < many <= 0.02 * 40_000 / 3
    assert most == 384
    deep = [count_check_shots(1000, 6, 6 * n) for n in (1000, 40_000, 10_000_000)]  # six shots for each row
    assert deep == [6 * few, 6 * many, 6 * most]


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_check_tells_a_good_twin_from_a_useless_one(share: float) -> None:
    with training(gradient=Tilted(share)) as (trainer, data):
        checks = [check_alignment(trainer, data, random_state=number) for number in range(3)]
    assert is_useless(checks) == (share == 1.0)
