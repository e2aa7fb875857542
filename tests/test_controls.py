"""ControlSplit partitions the channels; ControlBatch puts every value on its channel and copies nothing unasked."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone

from skpat import ControlBatch, ControlSplit
from skpat.controls import ChannelSplit
from skpat.exceptions import ControlSplitError

NO_CHANNELS = np.empty(0, dtype=np.intp)


@st.composite
def splits(draw: st.DrawFn) -> tuple[ControlSplit, int]:
    """A legal ControlSplit of any kind, and the number of channels it is for."""
    n_controls = draw(st.integers(1, 12))
    channels = draw(st.permutations(range(n_controls)))
    n_fixed = draw(st.integers(0, n_controls - 1))
    held, free = channels[:n_fixed], channels[n_fixed:]
    fixed = {channel: draw(st.floats(-5, 5)) for channel in held} or draw(st.sampled_from([None, {}]))
    n_inputs = draw(st.integers(1, len(free)))
    kind = draw(st.sampled_from(["fraction", "count", "inputs", "pair"]))
    if kind in ("inputs", "pair"):
        inputs, weights = free[:n_inputs], free[n_inputs:]
        return ControlSplit(inputs if kind == "inputs" else (inputs, weights), fixed=fixed), n_controls
    layout = draw(st.sampled_from(["interleaved", "contiguous", "random"]))
    seed = draw(st.integers(0, 9))
    if kind == "count":
        return ControlSplit(layout, n_inputs=n_inputs, fixed=fixed, random_state=seed), n_controls
    fraction = draw(st.floats(0, 1, exclude_min=True))
    return ControlSplit(layout, input_fraction=fraction, fixed=fixed, random_state=seed), n_controls


def a_batch(split: ChannelSplit, n_rows: int, seed: int, dtype: str = "float64") -> tuple[np.ndarray, np.ndarray]:
    """Inputs and weights for a split."""
    rng = np.random.default_rng(seed)
    return rng.random((n_rows, split.n_inputs)).astype(dtype), rng.random(split.n_weights).astype(dtype)


def of_kind(kind: str, *arrays: np.ndarray) -> list:
    return [torch.from_numpy(array) if kind == "torch" else array for array in arrays]


# ---- ControlSplit ----


@given(splits())
def test_a_split_partitions_the_channels(drawn: tuple[ControlSplit, int]) -> None:
    split, n_controls = drawn
    made = split.resolve(n_controls)
    parts = [made.input_index, made.weight_index, made.fixed_index]
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(n_controls))
    assert dict(zip(made.fixed_index.tolist(), made.fixed_values.tolist(), strict=True)) == (split.fixed or {})
    assert (made.n_inputs, made.n_weights) == (len(made.input_index), len(made.weight_index))
    assert made.n_inputs >= 1
    assert made.n_controls == n_controls


@given(st.sampled_from(["interleaved", "contiguous", "random"]), st.integers(1, 30), st.floats(0, 1, exclude_min=True))
def test_the_number_of_inputs_is_the_one_asked_for(layout: str, n_controls: int, fraction: float) -> None:
    by_fraction = ControlSplit(layout, input_fraction=fraction).resolve(n_controls)
    assert by_fraction.n_inputs == max(1, round(fraction * n_controls))
    n_inputs = by_fraction.n_inputs
    assert ControlSplit(layout, n_inputs=n_inputs, input_fraction=0.123).resolve(n_controls).n_inputs == n_inputs


def test_the_fraction_counts_free_channels_only() -> None:
    assert ControlSplit(input_fraction=0.5, fixed={0: 0.0, 1: 0.0}).resolve(6).n_inputs == 2


@given(st.integers(1, 40), st.data())
def test_interleaved_inputs_are_evenly_spread(n_controls: int, data: st.DataObject) -> None:
    n_inputs = data.draw(st.integers(1, n_controls))
    gaps = np.diff(ControlSplit("interleaved", n_inputs=n_inputs).resolve(n_controls).input_index)
    assert set(gaps.tolist()) <= {n_controls // n_inputs, -(-n_controls // n_inputs)}


def test_contiguous_inputs_come_first() -> None:
    made = ControlSplit("contiguous", n_inputs=2, fixed={0: 0.5}).resolve(5)
    assert made.input_index.tolist() == [1, 2]
    assert made.weight_index.tolist() == [3, 4]


def test_a_random_layout_is_named_by_its_seed() -> None:
    first, again, other = (ControlSplit("random", random_state=seed).resolve(40).input_index for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert first.tolist() != other.tolist()
    assert first.tolist() != ControlSplit("interleaved").resolve(40).input_index.tolist()


def test_explicit_channels_keep_their_order() -> None:
    inputs_only = ControlSplit([4, 0], fixed={5: 0.1}).resolve(6)
    assert inputs_only.input_index.tolist() == [4, 0]
    assert inputs_only.weight_index.tolist() == [1, 2, 3]
    pair = ControlSplit((np.array([2, 0]), [3, 1])).resolve(4)
    assert pair.input_index.tolist() == [2, 0]
    assert pair.weight_index.tolist() == [3, 1]
    assert ControlSplit((2, 0)).resolve(3).input_index.tolist() == [2, 0]  # two numbers are not a pair of arrays


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (ControlSplit("diagonal"), r"'layout' must be one of 'interleaved', .*arrays of channel numbers.* 'diagonal'"),
        (ControlSplit(None), r"'layout' must be a name .*Got None for the inputs"),
        (ControlSplit(np.array([True, False, True, False])), r"Use np\.flatnonzero\(mask\) for the numbers"),
        (ControlSplit(np.array([[0], [1], [2]])), r"Use numbers of shape \(3,\): \.ravel\(\) makes one row"),
        (ControlSplit([0.5, 1.5]), r"'layout' must be a name .*array of channel numbers.*Got \[0\.5, 1\.5\]"),
        (ControlSplit([True, False, True, False]), r"'layout' must be a name .*for the inputs"),
        (ControlSplit(np.array([[0, 1], [2, 3]])), r"'layout' must be a name .*pair of such arrays"),
        (ControlSplit(([0, 1], [0.5])), r"'layout' must be a name .*Got \[0\.5\] for the weights"),
        (ControlSplit([0, 4]), r"from 0 to 3\. Got 0 to 4 for the inputs\. Count channels from 0: the last is 3"),
        (ControlSplit([-1, 2]), r"channels from 0 to 3\. Got -1 to 2 for the inputs"),
        (ControlSplit(([0], [1, 9])), r"channels from 0 to 3\. Got 1 to 9 for the weights"),
        (ControlSplit([]), r"at least one input channel\. Got none\. Use layout=\[0\]"),
        (ControlSplit(([], [0, 1, 2, 3])), r"at least one input channel"),
        (ControlSplit([0, 2, 2]), r"each channel once\. Got channel 2 more than once\. Name it once"),
        (ControlSplit(([0, 1], [1, 2, 3])), r"each channel once\. Got channel 1 more than once\. Name it once"),
        (ControlSplit(([0], [1, 2])), r"Got neither for channel 3\. Add it .*fixed=\{3: value\}"),
        (ControlSplit([0, 3], fixed={3: 0.5}), r"must name free .*Got channel 3, which 'fixed' holds\. Remove it"),
        (ControlSplit(n_inputs=0), r"'n_inputs' must be an int from 1 to 4, .*or None\. Got 0"),
        (ControlSplit(n_inputs=5), r"'n_inputs' must be an int from 1 to 4.* Got 5\. Use n_inputs=None"),
        (ControlSplit(n_inputs=4, fixed={0: 0.5}), r"'n_inputs' must be an int from 1 to 3, the number of free"),
        (ControlSplit(n_inputs=2.0), r"'n_inputs' must be an int .*Got 2\.0"),
        (ControlSplit(n_inputs=True), r"'n_inputs' must be an int .*Got True"),
        (ControlSplit(input_fraction=0.0), r"'input_fraction' must be a float above 0 and at most 1\. Got 0\.0"),
        (ControlSplit(input_fraction=1.5), r"'input_fraction' must be .*Got 1\.5\. Use input_fraction=0\.5 .*n_inputs"),
        (ControlSplit(input_fraction=float("nan")), r"'input_fraction' must be .*Got nan"),
        (ControlSplit(input_fraction=True), r"'input_fraction' must be .*Got True"),
        (ControlSplit(input_fraction="half"), r"'input_fraction' must be .*Got 'half'"),
        (ControlSplit(fixed=[3]), r"'fixed' must be a dict of channel number to value\. Got \[3\]\. For example"),
        (ControlSplit(fixed={4: 0.5}), r"from 0 to 3\. Got channel 4\. Count channels from 0: the last is 3"),
        (ControlSplit(fixed={-1: 0.5}), r"'fixed' must name channels from 0 to 3\. Got channel -1"),
        (ControlSplit(fixed={"a": 0.5}), r"'fixed' must name channels .*Got channel 'a'"),
        (ControlSplit(fixed={1: float("inf")}), r"'fixed' must hold finite numbers\. Got inf for channel 1"),
        (ControlSplit(fixed={1: "high"}), r"finite numbers\. Got 'high' for channel 1\. .* fixed=\{1: 0\.5\}"),
        (
            ControlSplit(fixed=dict.fromkeys(range(4), 0.5)),
            r"'fixed' must leave .*Got values for all 4 channels\. Fix fewer",
        ),
    ],
)
def test_a_split_that_is_none_says_why(split: ControlSplit, message: str) -> None:
    with pytest.raises(ControlSplitError, match=message):
        split.resolve(4)


def test_a_ragged_layout_is_refused_by_name() -> None:
    with pytest.raises(ControlSplitError, match="'layout' must be a name"):
        ControlSplit([[0, 1], [2], [3]]).resolve(4)


def test_control_split_is_a_scikit_learn_estimator() -> None:
    split = ControlSplit([2, 0], fixed={3: 0.5}, random_state=4)
    assert clone(split) is not split
    assert clone(split).get_params() == split.get_params()
    parameters = {"layout": "random", "input_fraction": 0.25, "n_inputs": 3, "fixed": None, "random_state": 1}
    assert split.set_params(**parameters).get_params() == parameters
    assert repr(ControlSplit("random")) == "ControlSplit(layout='random')"


# ---- assembling and taking apart ----


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@given(drawn=splits(), n_rows=st.integers(0, 4), seed=st.integers(0, 99))
def test_taking_apart_undoes_assembling(
    kind: str, dtype: str, drawn: tuple[ControlSplit, int], n_rows: int, seed: int
) -> None:
    made = drawn[0].resolve(drawn[1])
    inputs, weights = of_kind(kind, *a_batch(made, n_rows, seed, dtype))
    batch = made.assemble(inputs, weights)
    assert (len(batch), batch.n_rows, batch.n_controls) == (n_rows, n_rows, made.n_controls)
    for found, given_ in zip(made.take_apart(batch), (inputs, weights), strict=True):
        assert type(found) is type(given_)
        assert found.dtype == given_.dtype
        np.testing.assert_array_equal(np.asarray(found), np.asarray(given_))


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@given(drawn=splits(), n_rows=st.integers(0, 4), seed=st.integers(0, 99))
def test_dense_puts_each_value_on_its_channel(
    kind: str, drawn: tuple[ControlSplit, int], n_rows: int, seed: int
) -> None:
    made = drawn[0].resolve(drawn[1])
    inputs, weights = a_batch(made, n_rows, seed)
    by_channel = dict(zip(made.input_index.tolist(), inputs.T, strict=True))
    by_channel |= {c: np.full(n_rows, w) for c, w in zip(made.weight_index.tolist(), weights, strict=True)}
    by_channel |= {c: np.full(n_rows, v) for c, v in (drawn[0].fixed or {}).items()}
    expected = np.stack([by_channel[channel] for channel in range(made.n_controls)], axis=1)
    batch = made.assemble(*of_kind(kind, inputs, weights))
    assert isinstance(batch.dense(), torch.Tensor if kind == "torch" else np.ndarray)
    np.testing.assert_array_equal(batch.dense(), expected)
    np.testing.assert_array_equal(np.asarray(batch), expected)


@given(splits(), st.integers(1, 4), st.integers(0, 99))
def test_dense_keeps_the_graph(drawn: tuple[ControlSplit, int], n_rows: int, seed: int) -> None:
    made = drawn[0].resolve(drawn[1])
    inputs, weights = (part.requires_grad_() for part in of_kind("torch", *a_batch(made, n_rows, seed)))
    slopes = torch.from_numpy(np.random.default_rng(seed).random((n_rows, made.n_controls)))
    (made.assemble(inputs, weights).dense() * slopes).sum().backward()
    torch.testing.assert_close(inputs.grad, slopes[:, made.input_index])
    torch.testing.assert_close(
        torch.zeros(0, dtype=torch.float64) if weights.grad is None else weights.grad,
        slopes[:, made.weight_index].sum(dim=0),
    )


def test_dense_does_not_truncate_a_shared_value() -> None:
    batch = ControlBatch(np.array([[0, 1]]), np.array([0, 2]), np.array([0.5]), np.array([1]))
    np.testing.assert_array_equal(np.asarray(batch), [[0, 0.5, 1]])
    narrow, wide = torch.zeros((1, 2)), torch.tensor([0.1], dtype=torch.float64)
    assert ControlBatch(narrow, np.array([0, 2]), wide, np.array([1])).dense()[0, 1].item() == 0.1


# ---- what is copied, and what is not ----


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_the_shared_part_is_never_copied_per_row(kind: str) -> None:
    made = ControlSplit("contiguous", n_inputs=2).resolve(5)
    inputs, weights = of_kind(kind, *a_batch(made, 100, seed=0))
    batch = made.assemble(inputs, weights)
    assert batch.varying is inputs
    assert batch.shared is weights
    some = batch.rows(slice(10, 20))
    assert some.shared is weights
    assert np.shares_memory(np.asarray(some.varying), np.asarray(inputs))
    assert batch.named(np.arange(100, dtype=np.uint64), shot=3).shared is weights
    assert batch.named_shot(7).shared is weights
    assert np.shares_memory(batch.numpy().shared, np.asarray(weights))
    assert np.shares_memory(batch.numpy().varying, np.asarray(inputs))


def test_fixed_values_join_the_weights_once_not_once_per_row() -> None:
    made = ControlSplit([0], fixed={2: 0.5}).resolve(4)
    batch = made.assemble(np.zeros((100, 1)), np.array([0.1, 0.2]))
    assert batch.shared.tolist() == [0.1, 0.2, 0.5]
    assert batch.shared_index.tolist() == [1, 3, 2]
    assert batch.rows(slice(0, 5)).shared is batch.shared


def test_dense_is_the_array_itself_where_every_channel_varies() -> None:
    controls = np.random.default_rng(0).random((4, 3))
    assert ControlBatch.from_dense(controls).dense() is controls
    permuted = ControlBatch(controls, np.array([2, 0, 1]), np.empty(0), NO_CHANNELS)
    np.testing.assert_array_equal(permuted.dense()[:, [2, 0, 1]], controls)
    assert not np.shares_memory(permuted.dense(), controls)


def test_a_numpy_batch_is_its_own_numpy_batch() -> None:
    batch = ControlBatch.from_dense(np.zeros((2, 3)))
    assert batch.numpy() is batch
    tensor = ControlBatch.from_dense(torch.zeros((2, 3), requires_grad=True)).numpy()
    assert isinstance(tensor.varying, np.ndarray)
    assert isinstance(tensor.shared, np.ndarray)


# ---- ControlBatch ----


def test_rows_and_names_select_together() -> None:
    batch = ControlBatch.from_dense(np.arange(12.0).reshape(4, 3)).named(np.arange(4, dtype=np.uint64), shot=5)
    some = batch.rows(slice(1, 3))
    np.testing.assert_array_equal(np.asarray(some), np.arange(12.0).reshape(4, 3)[1:3])
    assert some.row_keys is not None
    assert some.row_keys.tolist() == [1, 2]
    assert some.shot == 5
    assert ControlBatch.from_dense(np.zeros((4, 3))).rows(slice(1, 3)).row_keys is None


def test_naming_changes_the_names_alone() -> None:
    batch = ControlBatch.from_dense(np.zeros((2, 3)))
    named = batch.named(np.array([7, 8], dtype=np.uint64))
    assert (named.varying is batch.varying, named.shot, batch.row_keys) == (True, 0, None)
    assert named.named_shot(4).shot == 4
    assert named.named_shot(4).row_keys is named.row_keys
    assert named.named_shot(0) is named


def test_asarray_honours_dtype_and_copy() -> None:
    controls = np.random.default_rng(0).random((4, 3))
    batch = ControlBatch.from_dense(controls)
    assert not np.shares_memory(np.asarray(batch), controls)  # a driver may change it as it likes
    assert np.asarray(batch, dtype=np.float32).dtype == np.float32
    copied = np.array(batch)
    np.testing.assert_array_equal(copied, controls)
    assert not np.shares_memory(copied, controls)
    assert np.asarray(batch, copy=False) is controls


def test_asarray_detaches_a_tensor() -> None:
    tensor = torch.rand((4, 3), generator=torch.Generator().manual_seed(0), requires_grad=True)
    np.testing.assert_array_equal(np.asarray(ControlBatch.from_dense(tensor)), tensor.detach().numpy())


def test_a_copy_of_a_batch_that_wants_a_gradient() -> None:
    np.testing.assert_array_equal(np.array(ControlBatch.from_dense(torch.ones((4, 3), requires_grad=True))), 1.0)


def test_asarray_refuses_a_copy_that_was_forbidden() -> None:
    batch = ControlBatch(np.zeros((2, 1)), np.array([1]), np.array([0.5]), np.array([0]))
    with pytest.raises(ValueError, match="copy"):
        np.asarray(batch, copy=False)


def test_a_driver_cannot_change_what_the_next_shot_begins_with() -> None:
    varying, shared = np.zeros((2, 2)), np.ones(1)
    locked = ControlBatch(varying, np.array([0, 2]), shared, np.array([1])).read_only()
    for part in (locked.varying, locked.shared):
        with pytest.raises(ValueError, match="read-only"):
            part[...] = 9.0
    varying[...] = shared[...] = 5.0  # whose they are may change them


def test_from_dense_takes_what_a_user_has() -> None:
    batch = ControlBatch.from_dense([[0, 1], [2, 3]])
    np.testing.assert_array_equal(np.asarray(batch), [[0.0, 1.0], [2.0, 3.0]])
    assert ControlBatch.from_dense([[True, False]]).varying.dtype == np.float64
    assert ControlBatch.from_dense(batch) is batch
    empty = ControlBatch.from_dense(np.empty((0, 3)))
    assert (empty.n_rows, empty.n_controls, np.asarray(empty).shape) == (0, 3, (0, 3))
    with pytest.raises(ValueError, match=r"shape \(n_rows, n_controls\)\. Got shape \(3,\)\. Use controls\.reshape"):
        ControlBatch.from_dense([0.1, 0.2, 0.3])


def test_reversed_views_of_indices_serve_torch_too() -> None:
    torch = pytest.importorskip("torch")
    index = np.arange(4)
    split = ControlSplit(index[:2][::-1]).resolve(4)
    inputs, weights = torch.rand(3, 2), torch.rand(2)
    batch = split.assemble(inputs, weights)
    np.testing.assert_array_equal(batch.dense()[:, [1, 0, 2, 3]], torch.cat([inputs, weights.expand(3, 2)], dim=1))
    other = ControlBatch(inputs, index[:2][::-1], weights, index[2:][::-1])
    np.testing.assert_array_equal(other.dense()[:, [1, 0, 3, 2]], torch.cat([inputs, weights.expand(3, 2)], dim=1))


def test_channels_that_all_rows_share_are_those_of_the_first() -> None:
    controls = np.arange(12.0).reshape(3, 4)
    batch = ControlBatch.from_dense(controls, [3, 1])
    assert (batch.varying_index.tolist(), batch.shared_index.tolist(), batch.shared.tolist()) == (
        [0, 2],
        [3, 1],
        [3, 1],
    )
    assert ControlBatch.from_dense(controls[:0], [1]).n_rows == 0
    assert ControlBatch.from_dense(controls, range(4)).varying.shape == (3, 0)
