"""The displays: what they show, in which units, what it costs, and what they leave alone."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

from skpat import ControlSplit, Device, PhysicalNetworkClassifier, as_device, characterize
from skpat.devices import IdentityDevice, Noisy
from skpat.exceptions import ControlBoundsError
from skpat.inspection import (
    ControlMapDisplay,
    DeviceResponseDisplay,
    GradientAlignmentDisplay,
    TrainingCurveDisplay,
    TwinFidelityDisplay,
    gradient_alignment,
)
from skpat.inspection.comparison_report import BaselineComparison, ComparisonRow
from skpat.training.alignment import Alignment
from skpat.twins import NeuralTwin

BOUNDS = np.column_stack([np.linspace(-2, -1, 8), np.linspace(1, 3, 8)])
WIRING = np.random.default_rng(3).normal(size=(8, 6))
X = np.random.default_rng(0).uniform(-1, 1, (50, 3))
Y = (X[:, 0] * X[:, 1] > 0).astype(int)


def currents(volts: np.ndarray) -> np.ndarray:
    return np.tanh(volts @ WIRING / 2)


BANK = as_device(currents, n_controls=8, n_outputs=6, bounds=BOUNDS, control_units="V", output_units="mA")


def network(**params: Any) -> PhysicalNetworkClassifier:
    defaults: dict[str, Any] = {
        "twin": NeuralTwin((4,), max_iter=5, n_refine_steps=1),
        "n_calibration_shots": 40,
        "max_iter": 3,
    }
    return PhysicalNetworkClassifier(params.pop("device", BANK), random_state=0, **(defaults | params))


def axes(n: int = 1) -> Any:
    return Figure().subplots(1, n)


@pytest.fixture(scope="module")
def deep() -> PhysicalNetworkClassifier:
    """Two layers, two units, a fixed channel."""
    return network(n_layers=2, n_units=2, control_split=ControlSplit(fixed={2: 0.25})).fit(X, Y)


# ---- training curve ----


def test_the_training_curve_shows_loss_and_validation_against_shots() -> None:
    est = network().fit(X, Y, X_val=X[:9], y_val=Y[:9])
    display = TrainingCurveDisplay.from_estimator(est, ax=axes(), linewidth=3)
    np.testing.assert_array_equal(display.line_.get_xdata(), est.shots_curve_)
    np.testing.assert_array_equal(display.line_.get_ydata(), est.loss_curve_)
    np.testing.assert_array_equal(display.score_line_.get_ydata(), est.validation_scores_)
    assert display.line_.get_linewidth() == 3
    assert display.ax_.get_xlabel() == "shots"
    assert display.score_ax_.get_ylabel() == "validation accuracy"
    assert display.figure_ is display.ax_.figure


def test_training_that_takes_no_shots_is_drawn_against_epochs() -> None:
    display = TrainingCurveDisplay.from_estimator(network(gradient="in_silico").fit(X, Y), ax=axes())
    np.testing.assert_array_equal(display.line_.get_xdata(), [1, 2, 3])
    assert display.ax_.get_xlabel() == "epoch"
    assert display.score_ax_ is None


def test_scores_of_the_twin_are_called_so() -> None:
    silico = network(gradient="in_silico").fit(X, Y, X_val=X[:9], y_val=Y[:9])
    display = TrainingCurveDisplay.from_estimator(silico, ax=axes())
    assert display.score_ax_.get_ylabel() == display.score_line_.get_label() == "validation accuracy on the twin"


def test_an_interrupted_training_may_lack_the_last_validation() -> None:
    display = TrainingCurveDisplay([3.0, 2.0, 1.0], [0.4, 0.6], [10, 20, 30]).plot(ax=axes())
    np.testing.assert_array_equal(display.score_line_.get_xdata(), [10, 20])


def test_the_first_of_the_best_scores_is_marked_as_kept() -> None:
    display = TrainingCurveDisplay([4.0, 3.0, 2.0, 1.0], [0.4, 0.8, 0.8, 0.6], [10, 20, 30, 40]).plot(ax=axes())
    (star,) = (line for line in display.score_ax_.lines if line.get_label() == "best, kept")
    assert (star.get_xdata().tolist(), star.get_ydata().tolist()) == ([20], [0.8])


def test_partial_fit_keeps_the_losses_and_so_does_its_curve() -> None:
    est = network().partial_fit(X, Y).partial_fit(X, Y)
    display = TrainingCurveDisplay.from_estimator(est, ax=axes())
    np.testing.assert_array_equal(display.line_.get_ydata(), est.loss_curve_)


# ---- twin ----


def test_fidelity_is_that_of_the_settings_the_network_sends(deep: PhysicalNetworkClassifier) -> None:
    before = deep.shots_
    display = TwinFidelityDisplay.from_estimator(deep, X, n_rows=20, ax=axes(2))
    assert deep.shots_["calibration"] - before["calibration"] == 20 * 4
    assert {name: deep.shots_[name] - before[name] for name in before if name != "calibration"} == dict.fromkeys(
        ["training", "validation", "prediction"], 0
    )
    assert display.measured.shape == display.predicted.shape == (80, 6)
    expected = [r2_score(display.measured[:, i], display.predicted[:, i]) for i in range(6)]
    np.testing.assert_allclose(display.r2, expected)
    assert display.ax_[0].get_xlabel() == "measured (mA)"
    points, equal = display.ax_[0].lines
    np.testing.assert_array_equal(points.get_xdata(), display.measured.ravel())
    np.testing.assert_array_equal(points.get_ydata(), display.predicted.ravel())
    ends = [display.measured.min(), display.measured.max()]
    np.testing.assert_array_equal(equal.get_data(), [ends, ends])
    bars = [bar.get_height() for bar in display.ax_[1].patches]
    np.testing.assert_allclose(bars, np.clip(expected, 0, 1))


def test_a_perfect_twin_is_shown_as_one_and_a_pipeline_is_led_through() -> None:
    pipeline = make_pipeline(MinMaxScaler(), network()).fit(100 * X, Y)
    pipeline[-1].twin_ = SimpleNamespace(predict=lambda batch: currents(np.asarray(batch)))
    display = TwinFidelityDisplay.from_estimator(pipeline, 100 * X, ax=axes())
    np.testing.assert_allclose(display.r2, 1)
    assert display.ax_.get_ylabel() == "predicted by the twin (mA)"


def test_an_output_that_does_not_change_has_no_r2() -> None:
    measured = np.column_stack([np.ones(5), np.arange(5.0)])
    display = TwinFidelityDisplay(measured, measured).plot(ax=axes(2))
    np.testing.assert_array_equal(display.r2, [np.nan, 1])
    assert display.ax_[1].get_title() == "R² of each output\n(0 below 0.9; 1 constant)"  # nothing is hatched


def test_what_has_no_twin_or_too_few_rows_is_refused(deep: PhysicalNetworkClassifier) -> None:
    exact = network(device=IdentityDevice.like(BANK), gradient="exact").fit(X, Y)
    with pytest.raises(ValueError, match=r"must have a twin\. Got one trained with gradient='exact'"):
        TwinFidelityDisplay.from_estimator(exact, X)
    with pytest.raises(ValueError, match=r"needs at least two rows\. Got n_rows=1 and 50 rows"):
        TwinFidelityDisplay.from_estimator(deep, X, n_rows=1)


# ---- gradient alignment ----


def test_the_alignment_has_a_bar_for_each_layer_and_one_for_all(deep: PhysicalNetworkClassifier) -> None:
    found = Alignment(0.9, 0.03, 1.0, layer_cosines=(0.95, -0.4), layer_standard_errors=(0.02, 0.1))
    display = GradientAlignmentDisplay.from_alignment(found, ax=axes())
    np.testing.assert_allclose([bar.get_height() for bar in display.bars_], [0.95, -0.4, 0.9])
    segments = display.bars_.errorbar.lines[2][0].get_segments()
    np.testing.assert_allclose([np.ptp(segment[:, 1]) / 2 for segment in segments], [0.02, 0.1, 0.03])
    assert [text.get_text() for text in display.ax_.get_xticklabels()] == ["layer 0", "layer 1", "all"]
    assert display.ax_.get_ylim()[0] < -0.5


def test_the_alignment_of_an_estimator_is_the_measured_one(deep: PhysicalNetworkClassifier) -> None:
    pipeline = make_pipeline(MinMaxScaler(), network()).fit(100 * X, Y)
    display = GradientAlignmentDisplay.from_estimator(pipeline, 100 * X, Y, n_rows=16, n_directions=2, ax=axes())
    found = gradient_alignment(pipeline[-1], pipeline[:-1].transform(100 * X), Y, n_rows=16, n_directions=2)
    assert display.alignment.cosine == pytest.approx(found.cosine)
    assert display.labels == ["layer 0", "all"]
    some = np.arange(len(X)) % 2
    how = {"n_rows": len(X), "n_directions": 2}
    weighted = GradientAlignmentDisplay.from_estimator(pipeline, 100 * X, Y, some, ax=axes(), **how)
    assert weighted.alignment.n_rows == some.sum()


# ---- control map ----


def test_the_map_shows_every_channel_and_the_weights_on_the_device(deep: PhysicalNetworkClassifier) -> None:
    display = ControlMapDisplay.from_estimator(deep, ax=axes(2))
    split = deep.control_split_
    for layer, axis in enumerate(display.ax_):
        data, weights = (collection.get_paths() for collection in axis.collections)
        for index, paths in ((split.input_index, data), (split.weight_index, weights)):
            corners = np.array([[path.vertices[:, 1].min(), path.vertices[:, 1].max()] for path in paths])
            np.testing.assert_allclose(corners, BOUNDS[index])
        for unit, line in enumerate(axis.get_lines()[:2]):
            theta = deep.weights_[f"layers.{layer}.theta"][unit]
            np.testing.assert_allclose(line.get_ydata(), deep._network.weights_on_device(theta))
            np.testing.assert_array_equal(np.round(line.get_xdata()), split.weight_index)
            assert (line.get_ydata() >= BOUNDS[split.weight_index, 0]).all()
        fixed = axis.get_lines()[2]
        assert (fixed.get_xdata().tolist(), fixed.get_ydata().tolist()) == ([2], [0.25])
        assert "setting (V)" in axis.get_ylabel()
        low, high = axis.get_ylim()
        assert low < BOUNDS.min()
        assert high > BOUNDS.max()


def test_a_map_needs_axes_for_each_layer(deep: PhysicalNetworkClassifier) -> None:
    with pytest.raises(ValueError, match=r"'ax' must be 2 Axes in an array here\. Got 1"):
        ControlMapDisplay.from_estimator(deep, ax=axes())


def test_more_units_than_colours_are_one_cloud() -> None:
    split = ControlSplit("contiguous").resolve(4)
    display = ControlMapDisplay(split, [[0, 1]] * 4, np.full((1, 9, 2), 0.5)).plot(ax=axes())
    assert len(display.ax_.get_lines()) == 9
    assert [text.get_text() for text in display.ax_.get_legend().get_texts()][-1] == "weights of all units"


# ---- response of a device ----


class Bench(Device):
    """Doubles its controls, within limits, and keeps what it was sent."""

    n_controls, n_outputs = 3, 3
    bounds = np.array([[0.0, 1.0], [-1.0, 1.0], [0.0, 4.0]])
    sent: list[np.ndarray] = []

    def __init__(self, control_steps=None, max_change=None, largest_sum=None):
        self.control_steps = control_steps
        self.max_change = max_change
        self.largest_sum = largest_sum

    def check_controls(self, batch: Any) -> None:
        if self.largest_sum is not None and np.asarray(batch).sum(axis=1).max() > self.largest_sum:
            raise ControlBoundsError("The sum is too large. Nothing was sent.")

    def measure(self, batch: Any) -> np.ndarray:
        Bench.sent.append(np.array(batch))
        return 2 * np.asarray(batch)


@pytest.mark.parametrize("n_repeats", [1, 3, 4])
@pytest.mark.parametrize(
    "bench",
    [
        Bench(),
        Bench(max_change=0.11),
        Bench(control_steps=[0, 0.1, 0.5], max_change=[0.5, 0.2, 0.7]),
        Bench(control_steps=[0, 0.1, 0.5], max_change=[0.5, 0.27, 0.9]),
        Bench(largest_sum=3.5),
    ],
    ids=["free", "slow", "stepped and slow", "slow between steps", "vetoing"],
)
def test_a_sweep_is_legal_and_what_it_shows_is_what_was_set(bench: Bench, n_repeats: int) -> None:
    Bench.sent.clear()
    display = DeviceResponseDisplay.from_device(bench, channels=[1, 2], n_points=9, n_repeats=n_repeats, ax=axes(2))
    sent = np.concatenate(Bench.sent)
    assert len(sent) == display.n_shots
    if bench.max_change is not None:
        assert (np.abs(np.diff(sent, axis=0)) <= np.asarray(bench.max_change) * (1 + 1e-9)).all()
    else:
        assert display.n_shots == n_repeats * sum(map(len, display.settings))
    for channel, settings, means, deviations in zip(
        display.channels, display.settings, display.means, display.deviations, strict=True
    ):
        np.testing.assert_allclose(
            means[:, channel], 2 * settings
        )  # repeats in both directions are put together rightly
        np.testing.assert_allclose(deviations, 0, atol=1e-12)
        assert settings[0] == Bench.bounds[channel, 0]
        assert settings[-1] == Bench.bounds[channel, 1] or bench.largest_sum is not None
        others = np.delete(means, channel, axis=1)
        assert np.ptp(others, axis=0).max() == 0


def test_the_band_is_the_noise_of_one_reading() -> None:
    noisy = Noisy(IdentityDevice(2, 2, [[0, 1]] * 2), noise_floor=0.1)
    display = DeviceResponseDisplay.from_device(noisy, channels=1, n_points=40, n_repeats=20, ax=axes())
    assert np.sqrt(np.mean(display.deviations[0] ** 2)) == pytest.approx(0.1, rel=0.15)
    again = DeviceResponseDisplay.from_device(noisy, channels=1, n_points=40, n_repeats=20, ax=axes())
    np.testing.assert_array_equal(display.means[0], again.means[0])  # one random_state


def test_the_band_of_two_sweeps_is_what_they_tell_of_one_reading() -> None:
    two = as_device(lambda c: c + np.repeat([0.0, 0.2], 5)[:, None], n_controls=1, n_outputs=1, bounds=(0, 1))
    display = DeviceResponseDisplay.from_device(two, n_points=5, n_repeats=2, ax=axes())
    np.testing.assert_allclose(display.deviations[0], 0.2 / np.sqrt(2))
    np.testing.assert_allclose(display.means[0][:, 0], display.settings[0] + 0.1)


def test_narrower_bounds_a_base_and_outputs_are_obeyed() -> None:
    Bench.sent.clear()
    display = DeviceResponseDisplay.from_device(
        Bench(), channels=[0], base=[0.5, 0.9, 3.0], outputs=[2], bounds=(0.25, 3.5), n_points=5, n_repeats=1, ax=axes()
    )
    sent = np.concatenate(Bench.sent)
    assert (sent[:, 0].min(), sent[:, 0].max()) == (0.25, 1.0)
    np.testing.assert_array_equal(sent[:, 1:], [[0.9, 3.0]] * 5)
    assert [line.get_label() for line in display.ax_.get_lines()] == ["output 2"]
    narrow = DeviceResponseDisplay.from_device(BANK, channels=[3], n_points=3, ax=axes())
    assert narrow.ax_.get_xlabel() == "channel 3 (V)"
    assert narrow.ax_.get_ylabel() == "output (mA)"
    assert len(narrow.ax_.get_lines()) == 4
    assert "the 4 outputs that move most" in narrow.ax_.get_title(loc="left").replace("\n", " ")
    assert "move most" not in display.ax_.get_title(loc="left")


def test_many_channels_stand_in_rows() -> None:
    many = as_device(lambda c: c, n_controls=6, n_outputs=6, bounds=(0, 1))
    import matplotlib.pyplot as plt

    display = DeviceResponseDisplay.from_device(many, channels=list(range(6)), n_points=3, n_repeats=1)
    assert [axis.get_xlabel() for axis in display.ax_] == [f"channel {channel}" for channel in range(6)]
    assert len(display.figure_.axes) == 6
    assert len({axis.get_position().y0 for axis in display.ax_}) == 2
    assert [bool(axis.get_ylabel()) for axis in display.ax_] == [True, False, False, False, True, False]
    plt.close(display.figure_)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"channels": [3]}, ValueError, r"'channels' must be whole numbers from 0 to 2\. Got \[3\]"),
        ({"channels": []}, ValueError, "'channels' must be whole numbers"),
        ({"outputs": [0.5]}, ValueError, "'outputs' must be whole numbers from 0 to 2"),
        ({"n_points": 1}, ValueError, "'n_points' must be an int of at least 2"),
        ({"n_repeats": 0}, ValueError, "'n_repeats' must be an int of at least 1"),
        ({"base": [0.5, 0.5]}, ValueError, "'base' must have one value for each of the 3 channels"),
        ({"base": [0.5, 0.5, 9.0]}, ControlBoundsError, "must lie within its bounds. Got 9 in channel 2"),
    ],
)
def test_a_wrong_sweep_sends_nothing(wrong: dict[str, Any], error: type, message: str) -> None:
    Bench.sent.clear()
    with pytest.raises(error, match=message):
        DeviceResponseDisplay.from_device(Bench(), **wrong)
    assert not Bench.sent


def test_a_channel_with_one_legal_setting_or_none_cannot_be_swept() -> None:
    Bench.sent.clear()
    with pytest.raises(ValueError, match="must leave at least two settings of channel 2"):
        DeviceResponseDisplay.from_device(
            Bench(control_steps=[0, 0, 0.5]), channels=[2], bounds=[[0, 1], [0, 1], [0.4, 0.6]]
        )
    with pytest.raises(ControlBoundsError, match="The sum is too large"):
        DeviceResponseDisplay.from_device(Bench(largest_sum=0.0), channels=[2], base=[0.0, 0.0, 0.0])
    assert not Bench.sent


# ---- all of them ----


def every_display(est: PhysicalNetworkClassifier) -> dict[str, Any]:
    """Each display, as a function of its axes."""
    alignment = Alignment(0.9, 0.03, 1.0, layer_cosines=(0.95,), layer_standard_errors=(0.02,))
    return {
        "TrainingCurveDisplay": lambda ax: TrainingCurveDisplay.from_estimator(est, ax=ax),
        "TwinFidelityDisplay": lambda ax: TwinFidelityDisplay.from_estimator(est, X, ax=ax),
        "GradientAlignmentDisplay": lambda ax: GradientAlignmentDisplay.from_alignment(alignment, ax=ax),
        "ControlMapDisplay": lambda ax: ControlMapDisplay.from_estimator(est, ax=ax),
        "DeviceResponseDisplay": lambda ax: DeviceResponseDisplay.from_device(BANK, n_points=3, ax=ax),
    }


@pytest.fixture(scope="module")
def plain() -> PhysicalNetworkClassifier:
    return network().fit(X, Y)


NAMES = list(every_display(network()))


@pytest.mark.parametrize("name", NAMES)
def test_with_axes_there_is_no_pyplot_and_without_there_is(
    name: str, plain: PhysicalNetworkClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    matplotlib.use("agg")
    settings = dict(matplotlib.rcParams)
    display = every_display(plain)[name](None)
    import matplotlib.pyplot as plt

    assert plt.get_fignums()
    display.figure_.canvas.draw()  # warnings are errors
    for axis in np.atleast_1d(display.ax_):
        assert axis.get_xlabel() or name == "GradientAlignmentDisplay"
        assert axis.get_ylabel() or axis is not np.atleast_1d(display.ax_)[0]
    plt.close(display.figure_)
    assert dict(matplotlib.rcParams) == settings
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    axis = axes()
    given = every_display(plain)[name](axis)
    assert given.ax_ is axis
    assert given.plot(ax=axes()) is given
    given.figure_.canvas.draw()
    with pytest.raises(ImportError, match=r'pip install "skpat\[plot\]"'):
        given.plot()


@pytest.mark.parametrize("make", ["TrainingCurveDisplay", "TwinFidelityDisplay", "ControlMapDisplay"])
def test_what_is_not_a_fitted_network_is_refused(make: str) -> None:
    display = {kind.__name__: kind for kind in (TrainingCurveDisplay, TwinFidelityDisplay, ControlMapDisplay)}[make]
    more = (X,) if make == "TwinFidelityDisplay" else ()
    with pytest.raises(NotFittedError, match="not fitted yet"):
        display.from_estimator(network(), *more)
    with pytest.raises(TypeError, match="must be a PhysicalNetworkClassifier or PhysicalNetworkRegressor"):
        display.from_estimator(LogisticRegression(), *more)


def test_importing_the_displays_imports_neither_matplotlib_nor_torch() -> None:
    code = """
    import sys
    from skpat.inspection import (
        ControlMapDisplay, DeviceResponseDisplay, GradientAlignmentDisplay, TrainingCurveDisplay, TwinFidelityDisplay,
        compare_baselines,
    )
    print([name for name in ("matplotlib", "torch") if name in sys.modules])
    """
    root = Path(__file__).parents[2]
    setup = f"import sys; sys.path.insert(0, {str(root)!r})\n"
    done = subprocess.run([sys.executable, "-c", setup + textwrap.dedent(code)], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


# ---- odd names, numbers and sizes ----

LONG = "the camera of the second laboratory while the modulator holds its voltages and the shutter is open " * 2


def cut_texts(figure: Any) -> list[str]:
    """What is drawn beyond the edges of the figure, ticks aside."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    width, height = figure.bbox.size
    ticks = {id(label) for ax in figure.axes for label in (*ax.get_xticklabels(), *ax.get_yticklabels())}
    texts = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible() and id(text) not in ticks]
    extents = [text.get_window_extent(renderer) for text in texts]
    return [
        text.get_text()
        for text, box in zip(texts, extents, strict=True)
        if box.x0 < -2 or box.y0 < -2 or box.x1 > width + 2 or box.y1 > height + 2
    ]


@pytest.mark.parametrize("name", [LONG, "ridge, $C=10^{-2$", "a < b & c"])
def test_names_are_drawn_whole_and_as_they_stand(name: str) -> None:
    device = as_device(currents, n_controls=8, n_outputs=6, bounds=(-1, 1), name=name)
    assert not cut_texts(characterize(device, 300).plot())
    assert not cut_texts(DeviceResponseDisplay.from_device(device, ax=Figure(layout="constrained").subplots()).figure_)
    rows = tuple(
        ComparisonRow(label, label, np.array([0.5, 0.6]), False, {}, 0, None, None, 0.5) for label in ("est", name)
    )
    comparison = BaselineComparison(device=name, metric="accuracy", rows=rows, test_to_train=0.5)
    figure = Figure(figsize=(7.2, 2.6), layout="constrained")
    drawn = comparison.plot(ax=figure.subplots())
    assert not cut_texts(figure)
    if name != LONG:
        assert (
            drawn.get_yticklabels()[1].get_text().replace(r"\$", "$") == name == drawn.get_title().replace(r"\$", "$")
        )


def whole_ticks(ax: Any) -> bool:
    low, high = ax.get_xlim()
    seen = [tick for tick in ax.get_xticks() if low <= tick <= high]
    return len(seen) > 0 and all(float(tick).is_integer() for tick in seen)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_channels_outputs_and_directions_have_whole_numbers(n: int) -> None:
    device = as_device(lambda c: np.tanh(c[:, :n]), n_controls=max(n, 1), n_outputs=n, bounds=(-1, 1))
    report = characterize(device, 200).plot()
    assert all(whole_ticks(ax) for ax in report.axes[:5])
    measured = np.random.default_rng(0).standard_normal((20, n))
    assert whole_ticks(TwinFidelityDisplay(measured, measured).plot(ax=axes(2)).ax_[1])
    split = ControlSplit("contiguous", n_inputs=1).resolve(n)
    weights = [np.zeros((1, len(split.weight_index)))]
    assert whole_ticks(ControlMapDisplay(split, [[-1, 1]] * n, weights).plot(ax=axes()).ax_)


@pytest.mark.parametrize("n", [40, 300])
def test_badly_predicted_outputs_are_seen_however_many_there_are(n: int) -> None:
    rng = np.random.default_rng(0)
    measured = rng.standard_normal((200, n))
    predicted = measured + rng.standard_normal((200, n)) * np.where(np.arange(n) < n // 2, 0.1, 0.7)
    measured[:, 0] = predicted[:, 0] = 2.0
    figure = Figure(figsize=(9, 4), layout="constrained")
    display = TwinFidelityDisplay(measured, predicted).plot(ax=figure.subplots(1, 2))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    colours = np.asarray(canvas.buffer_rgba())[..., :3].astype(int)
    of_warning = np.abs(colours - [0xD5, 0x5E, 0x00]).sum(axis=2) < 120
    assert of_warning.sum() > 5000
    title = display.ax_[1].get_title()
    assert f"({n // 2} below 0.9" in title
    assert "1 constant" in title


def test_no_noise_is_drawn_as_such_and_a_dead_output_has_nothing_to_explain() -> None:
    def bank(controls: np.ndarray) -> np.ndarray:
        return np.column_stack([np.tanh(controls[:, :3] * controls[:, 3:]), np.ones(len(controls))])

    report = characterize(as_device(bank, n_controls=6, n_outputs=4, bounds=(-1, 1)), 400)
    snr, _, explained = report.plot().axes[:3]
    heights = {round(bar.get_x() + bar.get_width() / 2): bar.get_height() for bar in snr.patches}
    assert min(heights[output] for output in range(3)) > 1.5
    assert heights[3] == 0
    assert "infinite: no noise" in [text.get_text() for text in snr.get_legend().get_texts()]
    assert {round(bar.get_x() + bar.get_width() / 2) for bar in explained.patches} == {0, 1, 2}


def test_channels_of_unequal_bounds_are_drawn_between_them() -> None:
    split = ControlSplit("contiguous").resolve(4)
    bounds = [[0, 1], [0, 5000], [-1e-3, 1e-3], [0, 1e-9]]
    display = ControlMapDisplay(split, bounds, [[[5e-4, 2.5e-10]]], "V").plot(ax=axes())
    assert display.ax_.get_ylabel() == "place between the bounds"
    (weights,) = (line for line in display.ax_.lines if line.get_label() == "weight")
    np.testing.assert_allclose(weights.get_ydata(), [0.75, 0.25])
    held = ControlSplit("contiguous", fixed={1: 4000.0}).resolve(4)
    display = ControlMapDisplay(held, bounds, [[[2.5e-10]]], "V").plot(ax=axes())
    (fixed,) = (line for line in display.ax_.lines if line.get_label() == "fixed")
    np.testing.assert_allclose(fixed.get_data(), [[1], [0.8]])
    without = ControlMapDisplay(ControlSplit(n_inputs=4).resolve(4), bounds, [np.zeros((1, 0))]).plot(ax=axes())
    assert "weight" not in [text.get_text() for text in without.ax_.get_legend().get_texts()]
