"""The recipe of the small transformer: a function of its seed, trained on skills that codes name."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from skpat.devices import FrozenModel
from skpat.devices.small_transformer import SkillFamily, small_transformer

from .frozen_network import all_weights, rows

pytestmark = pytest.mark.usefixtures("nothing_built")

LITTLE = {"n_data": 6, "n_data_tokens": 3, "n_prompt_tokens": 1, "d_model": 8, "n_heads": 2, "n_outputs": 2}


def little(**parameters) -> FrozenModel:
    return FrozenModel(factory_params=LITTLE | {"n_steps": 3} | parameters, n_data=6, n_prompt=8, n_outputs=2)


def test_the_default_is_the_small_transformer() -> None:
    untrained = FrozenModel(factory_params={"n_steps": 0})
    controls = rows(3, untrained.n_controls)
    with torch.no_grad():
        expected = small_transformer(n_steps=0).double()(torch.from_numpy(controls)).numpy()
    np.testing.assert_array_equal(untrained.measure(controls), expected)


def test_the_recipe_is_a_function_of_its_seed() -> None:
    state = torch.get_rng_state()
    first, second, other = (all_weights(small_transformer(**LITTLE, n_steps=5, random_state=s)) for s in (1, 1, 2))
    assert first == second
    assert first != other
    assert torch.equal(torch.get_rng_state(), state)


def test_pretraining_learns_the_skills_that_codes_name() -> None:
    channels = torch.from_numpy(rows(2000, 14)).float()
    skills = SkillFamily(6, 8, 2)(channels)

    def error(n_steps: int) -> float:
        answers = small_transformer(**LITTLE, n_steps=n_steps)(channels).detach()
        return float((answers - skills).square().mean() / skills.var())

    assert error(150) < 0.4 < 1 < error(0)


def test_another_code_names_another_skill() -> None:
    channels = torch.from_numpy(rows(500, 14)).float()
    swapped = torch.cat([channels[:, :6], channels.flip(0)[:, 6:]], dim=1)
    skills = SkillFamily(6, 8, 2)
    change = (skills(channels) - skills(swapped)).square().mean() / (2 * skills(channels).var())
    assert change > 0.4


def test_gradients_of_the_transformer() -> None:
    controls = torch.from_numpy(rows(2, 14)).requires_grad_()
    assert torch.autograd.gradcheck(little().forward, (controls,))


def test_every_channel_of_the_transformer_counts() -> None:
    controls = torch.from_numpy(rows(2, 14)).requires_grad_()
    little().forward(controls).square().sum().backward()
    assert controls.grad.abs().min() > 1e-6


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_row_of_the_transformer_does_not_depend_on_its_company(dtype: type) -> None:
    controls = rows(40, 14).astype(dtype)
    together = little().measure(controls)
    alone = np.concatenate([little().measure(row[None]) for row in controls])
    np.testing.assert_allclose(alone, together, rtol=0, atol=50 * np.finfo(dtype).eps)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_data_tokens": 4}, r"'n_data' of small_transformer must be a multiple of n_data_tokens\. Got 6 and 4"),
        ({"n_heads": 3}, r"'d_model' of small_transformer must be a multiple of n_heads\. Got 8 and 3"),
    ],
)
def test_sizes_that_do_not_divide_are_refused(parameters: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_transformer(**LITTLE | parameters)
