"""A frozen model answers, is differentiated, is a specification, and refuses what is no model."""

from __future__ import annotations

import pickle
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import cloudpickle
import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import nn

from skpat import ControlBatch, ControlSplit, PhysicalNetworkClassifier
from skpat.devices import FrozenModel
from skpat.devices import frozen_model as room
from skpat.exceptions import NoExactGradientError

from .frozen_network import N_DATA, N_OUTPUTS, N_PROMPT, asked, frozen, network, recall, rows

ROOT = Path(room.__file__).parents[2]

pytestmark = pytest.mark.usefixtures("nothing_built")


# ---- the answers ----


def test_the_outputs_are_those_of_the_module_in_evaluation_mode() -> None:
    controls = rows()
    reference = network().double().eval()
    with torch.no_grad():
        expected = reference(torch.from_numpy(controls)).numpy()
    np.testing.assert_array_equal(frozen().measure(controls), expected)
    np.testing.assert_array_equal(frozen().measure(controls), expected)  # no unit was dropped, nothing averaged


def test_the_outputs_are_those_of_the_function() -> None:
    controls = rows()
    np.testing.assert_array_equal(asked().measure(controls), recall(controls))


@pytest.mark.parametrize("model", [frozen, asked])
def test_a_row_does_not_depend_on_its_company(model) -> None:
    controls = rows(40)
    together = model().measure(controls)
    alone = np.concatenate([model().measure(row[None]) for row in controls])
    np.testing.assert_allclose(alone, together, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("model", [frozen, asked])
def test_the_size_of_the_chunks_does_not_show(model) -> None:
    controls = rows(23)
    np.testing.assert_allclose(model(chunk_rows=5).measure(controls), model().measure(controls), rtol=1e-12, atol=1e-14)


def test_the_model_is_given_no_more_than_a_chunk() -> None:
    sizes = []

    def counting(inputs: np.ndarray) -> np.ndarray:
        sizes.append(len(inputs))
        return recall(inputs)

    asked(function=counting, chunk_rows=10).measure(rows(23))
    assert sizes == [10, 10, 3]


def test_shared_channels_are_put_in_their_place() -> None:
    controls = rows()
    controls[:, N_DATA:] = [0.3, -0.4]
    batch = ControlBatch(controls[:, :N_DATA], np.arange(N_DATA), np.array([-0.4, 0.3]), np.array([4, 3]))
    for model in (frozen(chunk_rows=3), asked(chunk_rows=3)):
        np.testing.assert_array_equal(model.measure(batch), model.measure(controls))


@pytest.mark.parametrize("model", [frozen, asked])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_outputs_have_the_precision_of_the_controls(model, dtype: type) -> None:
    controls = rows().astype(dtype)
    outputs = model().measure(controls)
    assert outputs.dtype == dtype
    np.testing.assert_allclose(outputs, model().measure(controls.astype(np.float64)), rtol=2e-5, atol=1e-6)
    assert model().measure(controls[:0]).shape == (0, N_OUTPUTS)
    assert model().measure(controls[:0]).dtype == dtype


def test_a_module_is_computed_in_the_precision_it_is_told() -> None:
    controls = rows()
    narrow = frozen(dtype="float32").measure(controls)
    assert narrow.dtype == np.float64
    np.testing.assert_array_equal(narrow, frozen().measure(controls.astype(np.float32)))
    coarse = frozen(dtype="bfloat16").measure(controls)
    assert 1e-4 < np.abs(coarse - narrow).max() < 0.1


def test_whole_numbers_are_legal_controls() -> None:
    ones = np.ones((2, N_DATA + N_PROMPT), dtype=int)
    for model in (frozen(), asked()):
        np.testing.assert_array_equal(model.measure(ones), model.measure(ones.astype(float)))


def test_controls_are_handed_on_in_the_shape_the_model_wants() -> None:
    shapes = []

    def tokens(inputs: np.ndarray) -> np.ndarray:
        shapes.append(inputs.shape)
        return inputs.sum(axis=2)

    device = FrozenModel(function=tokens, n_data=4, n_prompt=2, n_outputs=3, input_shape=(3, 2))
    controls = rows(5, 6)
    np.testing.assert_array_equal(device.measure(controls), controls.reshape(5, 3, 2).sum(axis=2))
    assert shapes == [(5, 3, 2)]

    def image() -> nn.Module:
        return nn.Sequential(nn.Conv1d(3, 2, 2), nn.Flatten())

    device = FrozenModel(image, n_data=4, n_prompt=2, n_outputs=2, input_shape=[3, 2])
    assert device.measure(controls).shape == (5, 2)


def test_a_function_may_work_in_place() -> None:
    def doubling(inputs: np.ndarray) -> np.ndarray:
        inputs *= 2
        return inputs[:, :N_OUTPUTS]

    controls = rows()
    before = controls.copy()
    asked(function=doubling).measure(ControlBatch.from_dense(controls).read_only())
    np.testing.assert_array_equal(controls, before)


def test_which_channel_is_what() -> None:
    device = frozen()
    np.testing.assert_array_equal(device.data_index, [0, 1, 2])
    np.testing.assert_array_equal(device.prompt_index, [3, 4])
    assert device.n_controls == 5
    split = ControlSplit((device.data_index, device.prompt_index)).resolve(device.n_controls)
    np.testing.assert_array_equal(split.input_index, device.data_index)
    np.testing.assert_array_equal(split.weight_index, device.prompt_index)


# ---- the gradient ----


def test_forward_is_what_is_measured() -> None:
    controls = rows()
    outputs = frozen().forward(torch.from_numpy(controls))
    np.testing.assert_array_equal(outputs.numpy(), frozen().measure(controls))


def test_the_exact_gradient_is_autograds_through_the_module() -> None:
    ours, theirs = (torch.from_numpy(rows()).requires_grad_() for _ in range(2))
    frozen().forward(ours).square().sum().backward()
    network().double().eval()(theirs).square().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=0)
    assert (theirs.grad != 0).all()
    assert torch.autograd.gradcheck(frozen().forward, (ours,))


def test_forward_answers_where_and_as_it_was_asked() -> None:
    controls = torch.from_numpy(rows()).float().requires_grad_()
    outputs = frozen(dtype="float64").forward(controls)
    assert outputs.dtype == torch.float32
    outputs.sum().backward()
    assert controls.grad.dtype == torch.float32


def test_a_function_has_no_gradient() -> None:
    assert hasattr(frozen(), "forward")
    assert not hasattr(asked(), "forward")
    X = rows(20, N_DATA)
    with pytest.raises(NoExactGradientError, match=r"Got FrozenModel, which has none\. Use gradient="):
        PhysicalNetworkClassifier(asked(), gradient="exact").fit(X, X[:, 0] > 0)


def test_nothing_in_it_can_be_replaced() -> None:
    with pytest.raises(ValueError, match=r"'constants' of FrozenModel must be empty.*'weight'"):
        frozen().forward(torch.zeros(1, 5), {"weight": torch.zeros(1)})


# ---- a specification ----


@dataclass(frozen=True)
class Loader:
    """A factory that is an object."""

    seed: int

    def __call__(self) -> nn.Module:
        return network(self.seed)


@pytest.mark.parametrize("device", [frozen(), frozen(factory=Loader(2)), frozen(factory_params={"seed": 2}), asked()])
def test_clones_and_pickles_measure_the_same(device: FrozenModel) -> None:
    expected = device.measure(rows())
    data = pickle.dumps(device)
    assert len(data) < 3000  # a name, no weights
    for other in (clone(device), pickle.loads(data)):
        np.testing.assert_array_equal(other.measure(rows()), expected)
        assert repr(other) == repr(device)


def test_a_clone_is_independent_of_the_original() -> None:
    device = frozen(factory_params={"seed": 1}, bounds=np.tile([-1.0, 1.0], (5, 1)))
    other = clone(device)
    other.factory_params["seed"] = 2
    other.bounds[:] = 0
    assert device.factory_params == {"seed": 1}
    assert (device.bounds[:, 1] == 1).all()
    assert other.factory is device.factory


def test_a_factory_without_a_name_cannot_be_pickled_but_goes_to_workers() -> None:
    device = frozen(factory=lambda: network(seed=4))
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(device)
    other = cloudpickle.loads(cloudpickle.dumps(device))  # what joblib's workers use
    assert other.measure(rows()).shape == (7, N_OUTPUTS)


def test_a_function_is_asked_without_torch(tmp_path: Path) -> None:
    (tmp_path / "model_behind_an_interface.py").write_text(
        "import numpy as np\ndef answer(inputs):\n    return np.tanh(inputs[:, :2] * inputs[:, 2:])\n"
    )
    code = f"""
        import sys
        sys.path[:0] = [{str(ROOT)!r}, {str(tmp_path)!r}]
        import pickle
        import numpy as np
        from model_behind_an_interface import answer
        from skpat.devices import FrozenModel
        device = pickle.loads(pickle.dumps(FrozenModel(function=answer, n_data=2, n_prompt=2, n_outputs=2)))
        print(device.measure(np.full((1, 4), 0.5)).shape, hasattr(device, "forward"), "torch" in sys.modules)
        """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(1, 2) False False"


# ---- what is refused ----


class Pair(nn.Module):
    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return inputs, inputs


class Spectrum(nn.Module):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.fft.fft(inputs[:, :N_OUTPUTS])


@pytest.mark.parametrize(
    ("factory", "got"),
    [
        (lambda: nn.Linear(5, 3), r"= \(7, 4\)\. Got torch\.float64 of shape \(7, 3\)\. Set n_outputs"),
        (lambda: nn.Unflatten(1, (5, 1)), r"Got torch\.float64 of shape \(7, 5, 1\)"),
        (Pair, r"Got tuple"),
        (Spectrum, r"Got torch\.complex128 of shape \(7, 4\)"),
    ],
)
def test_a_module_that_returns_something_else_is_refused(factory, got: str) -> None:
    with pytest.raises(ValueError, match=r"The model of FrozenModel must return numbers of shape .*" + got):
        frozen(factory=factory).measure(rows())


@pytest.mark.parametrize(
    ("function", "got"),
    [
        (lambda inputs: inputs[:, :2], r"Got float64 of shape \(7, 2\)"),
        (lambda inputs: inputs[0, :4], r"Got float64 of shape \(4,\)"),
        (lambda inputs: None, r"Got object of shape \(\)"),
        (lambda inputs: inputs[:, :4].astype(str), r"Got <U32 of shape \(7, 4\)"),
        (lambda inputs: 1j * inputs[:, :4], r"Got complex128 of shape \(7, 4\)"),
    ],
)
def test_a_function_that_returns_something_else_is_refused(function, got: str) -> None:
    with pytest.raises(ValueError, match=r"The model of asker must return numbers of shape .*" + got):
        asked(function=function, name="asker").measure(rows())


def test_what_a_function_masks_is_not_a_number() -> None:
    masked = asked(function=lambda inputs: np.ma.array(inputs[:, :4], mask=inputs[:, :4] > 0))
    inputs = rows()
    outputs = masked.measure(inputs)
    assert np.isnan(outputs).any()
    np.testing.assert_array_equal(np.isnan(outputs), inputs[:, :4] > 0)


def test_lists_and_tensors_are_numbers() -> None:
    for convert in (np.ndarray.tolist, torch.from_numpy):
        device = asked(function=lambda inputs, convert=convert: convert(recall(inputs)))
        np.testing.assert_array_equal(device.measure(rows()), recall(rows()))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_data": 0, "n_prompt": 5}, r"'n_data' of FrozenModel must be an int of at least 1\. Got 0"),
        ({"n_data": 5.5}, r"'n_data' of FrozenModel must be an int of at least 1\. Got 5\.5"),
        ({"n_prompt": -1}, r"'n_prompt' of FrozenModel must be an int of at least 0\. Got -1"),
        ({"n_outputs": True}, r"'n_outputs' of FrozenModel must be an int of at least 1\. Got True"),
        ({"chunk_rows": 0}, r"'chunk_rows' of FrozenModel must be an int of at least 1\. Got 0"),
        (
            {"n_prompt": 4},
            r"'controls' of FrozenModel must have n_data \+ n_prompt = 3 \+ 4 channels\. Got 5\. Give one column",
        ),
        ({"input_shape": (2, 3)}, r"'input_shape' of FrozenModel must be .* = 5\. Got \(2, 3\)\. Use input_shape=None"),
        ({"input_shape": 5}, r"'input_shape' of FrozenModel must be whole numbers .*Got 5"),
        ({"input_shape": (-5, -1)}, r"'input_shape' of FrozenModel must be whole numbers .*Got \(-5, -1\)"),
        ({"function": 3}, r"'function' of FrozenModel must be callable .*Got 3"),
        ({"function": recall}, r"'factory' of FrozenModel must be None where a function is the model.*not both"),
        (
            {"function": recall, "factory": None, "dtype": "float32"},
            r"'dtype' of FrozenModel must be None where .*'float32'",
        ),
        (
            {"factory": nn.Tanh()},
            r"'factory' of FrozenModel must be a function that returns the module.*Got the module Tanh",
        ),
        ({"factory": 3}, r"'factory' of FrozenModel must be callable and hashable.*Got 3"),
        ({"factory": dict}, r"'factory' of FrozenModel must return a torch\.nn\.Module\. Got dict"),
        ({"factory_params": [1]}, r"'factory_params' of FrozenModel must be a dict .*Got \[1\]\. Use factory_params="),
        ({"dtype": "double"}, r"'dtype' of FrozenModel must be 'float32', .*Got 'double'"),
        ({"dtype": torch.float32}, r"'dtype' of FrozenModel must be 'float32', .*Got torch\.float32\. Give the name"),
    ],
)
def test_wrong_parameters_are_refused(parameters: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        frozen(**parameters).measure(rows())
