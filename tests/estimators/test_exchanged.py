"""Another instrument in the place of the one that a network was trained on is told, where the user asked for something."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from skpat import PhysicalNetworkClassifier, PhysicalNetworkRegressor
from skpat.exceptions import ExchangedDeviceWarning
from tests.estimators.noisy_bank import NoisyBank
from tests.estimators.small_network import IRIS, small

X, Y = IRIS


class Named(NoisyBank):
    """Says who it is."""

    answers_as: str | None = "number 1"

    def identify(self) -> str | None:
        return self.answers_as


@pytest.fixture(autouse=True)
def _the_first_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Named, "answers_as", "number 1")


USES: dict[str, Callable[[Any], Any]] = {
    "predict": lambda network: network.predict(X),
    "predict_proba": lambda network: network.predict_proba(X),
    "score": lambda network: network.score(X, Y),
    "partial_fit": lambda network: network.partial_fit(X, Y),
    "warm_start": lambda network: network.set_params(warm_start=True).fit(X, Y),
}


@pytest.mark.parametrize("use", USES)
def test_another_instrument_is_told(use: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = pickle.loads(pickle.dumps(small(device=Named(), max_iter=1).fit(X, Y)))
    monkeypatch.setattr(Named, "answers_as", "number 2")
    said = r"Named should be the one .*'number 1'. Got 'number 2'. .*recalibrate"
    with pytest.warns(ExchangedDeviceWarning, match=said) as caught:
        USES[use](network)
    assert caught[0].filename == __file__


@pytest.mark.parametrize("kind", [PhysicalNetworkClassifier, PhysicalNetworkRegressor])
@pytest.mark.parametrize("names", [("number 1", "number 1"), ("number 1", None), (None, "number 2"), ("", "number 2")])
def test_the_same_one_and_those_that_say_nothing_are_not(
    kind: type, names: tuple[str | None, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Named, "answers_as", names[0])
    network = small(kind, device=Named(), max_iter=1).fit(X, Y)
    monkeypatch.setattr(Named, "answers_as", names[1])
    with warnings.catch_warnings():
        warnings.simplefilter("error", ExchangedDeviceWarning)
        network.predict(X)
        network.partial_fit(X, Y)


@pytest.mark.parametrize("adapt", ["recalibrate", "partial_fit", "fit"])
def test_a_network_adapted_to_it_is_a_network_of_it(adapt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = small(device=Named(), max_iter=1).fit(X, Y)
    monkeypatch.setattr(Named, "answers_as", "number 2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if adapt == "partial_fit" else "error", ExchangedDeviceWarning)
        getattr(network, adapt)(X, Y, **({"max_shots": 200} if adapt == "recalibrate" else {}))
    with warnings.catch_warnings():
        warnings.simplefilter("error", ExchangedDeviceWarning)
        assert np.isin(network.predict(X), Y).all()
