"""Which rows are measured together, and that weights keep their meaning when there are many batches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skpat import PhysicalNetworkClassifier
from skpat.devices import IdentityDevice
from skpat.training.batches import batches_of


@given(st.integers(0, 2**32 - 1), st.integers(1, 90), st.integers(1, 9), st.sampled_from(["same", "few", "many"]))
def test_every_row_is_in_one_batch_and_the_weights_are_dealt_out(seed: int, n_rows: int, most: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    weights = {
        "same": np.full(n_rows, 0.3),
        "few": np.where(rng.random(n_rows) < 0.1, 20.0, 1.0),
        "many": rng.lognormal(size=n_rows),
    }[kind]
    n_batches = min(most, n_rows)
    batches = batches_of(weights, n_batches, np.random.RandomState(seed))
    np.testing.assert_array_equal(np.sort(np.concatenate(batches)), np.arange(n_rows))
    sizes = [len(rows) for rows in batches]
    assert len(batches) == n_batches
    assert max(sizes) - min(sizes) <= 1
    sums = [weights[rows].sum() for rows in batches]
    assert max(sums) - min(sums) <= 2 * weights.max() + 1e-9
    if (weights == weights[0]).all():
        plain = np.array_split(np.random.RandomState(seed).permutation(n_rows), n_batches)
        assert all(map(np.array_equal, batches, plain))
    in_order = batches_of(weights, n_batches, None)
    np.testing.assert_array_equal(np.concatenate(in_order), np.arange(n_rows))


def test_rows_and_batches_come_in_another_order_each_time() -> None:
    weights = np.where(np.arange(60) % 10 == 0, 9.0, 1.0)
    rng = np.random.RandomState(0)
    epochs = [batches_of(weights, 6, rng) for _ in range(20)]
    assert all(sum(row % 10 == 0 for row in rows) == 1 for batches in epochs for rows in batches)
    assert len({int(batches[0][np.flatnonzero(batches[0] % 10 == 0)[0]]) for batches in epochs}) > 3
    assert len({int(np.flatnonzero(batches[0] % 10 == 0)[0]) for batches in epochs}) > 3  # nor always in one place


@pytest.mark.parametrize("balanced", [False, True])
def test_a_rare_class_keeps_its_weight_in_small_batches(balanced: bool) -> None:
    rng = np.random.RandomState(1)
    X, y = rng.standard_normal((300, 3)), (np.arange(300) % 25 == 0).astype(int)
    X[y == 1, 0] += 0.7
    weight = np.where(y == 1, 24.0, 1.0)
    network = PhysicalNetworkClassifier(
        IdentityDevice(6, 3, [[-1, 1]] * 6),
        gradient="exact",
        batch_size=8,
        max_iter=30,
        random_state=0,
        n_calibration_shots=0,
    )
    if balanced:
        network.set_params(class_weight="balanced").fit(X, y)
    else:
        network.fit(X, y, sample_weight=weight)
    assert np.average(network.predict_proba(X)[:, 1], weights=weight) == pytest.approx(0.5, abs=0.06)
