"""A nested parameter may be set together with what it belongs to; one of a plain value is refused, with the fix."""

from __future__ import annotations

from typing import Any

import pytest
from sklearn.base import clone

from skpat import ControlSplit, PhysicalNetworkClassifier
from skpat.devices import SecondHarmonicLaser
from skpat.exceptions import NestedParameterError
from skpat.twins import NeuralTwin, PhysicsTwin, ResidualTwin

OWNERS = [
    (PhysicalNetworkClassifier(), "control_split", ControlSplit(), "layout", "random"),
    (PhysicalNetworkClassifier(), "twin", NeuralTwin(), "alpha", 1e-3),
    (ResidualTwin(PhysicsTwin(SecondHarmonicLaser())), "correction", NeuralTwin(), "alpha", 1e-3),
]


@pytest.mark.parametrize(("owner", "outer", "part", "inner", "value"), OWNERS)
def test_what_counts_is_what_is_set_at_the_same_time(owner: Any, outer: str, part: Any, inner: str, value: Any) -> None:
    owner, nested = clone(owner), {f"{outer}__{inner}": value}
    plain = owner.get_params()[outer]
    with pytest.raises(
        NestedParameterError, match=rf"'{outer}__{inner}' cannot be set: '{outer}' is {plain!r}, which has no"
    ):
        owner.set_params(**nested)
    owner.set_params(**{outer: part}, **nested)
    assert owner.get_params()[f"{outer}__{inner}"] == value
    with pytest.raises(NestedParameterError, match=r"which has no parameters\. Construct the"):
        owner.set_params(**{outer: plain}, **nested)
