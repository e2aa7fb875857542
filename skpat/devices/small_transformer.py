"""A small transformer that was trained on a family of skills, each named by a code: the recipe behind FrozenModel."""

from __future__ import annotations

import math

import torch
from threadpoolctl import threadpool_limits
from torch import nn

__all__ = ["SkillFamily", "SmallTransformer", "small_transformer"]


def small_transformer(
    n_data: int = 64,
    n_outputs: int = 6,
    *,
    n_data_tokens: int = 4,
    n_prompt_tokens: int = 2,
    d_model: int = 32,
    n_heads: int = 4,
    n_layers: int = 2,
    n_steps: int = 400,
    random_state: int = 0,
) -> SmallTransformer:
    """A transformer, pre-trained for a few seconds on random skills of a :class:`SkillFamily`.

    At every step each row of the batch has data and a code of its own, drawn evenly from -1 to 1, and the transformer
    learns the outputs of the skill that the code names. A skill that it never met is then found as a code, with
    :class:`skpat.devices.FrozenModel`.

    Parameters
    ----------
    n_data : int, default=64
        Data channels; a multiple of ``n_data_tokens``.
    n_outputs : int, default=6
        Outputs.
    n_data_tokens, n_prompt_tokens : int, default=4 and 2
        Tokens that the data are cut into, and tokens of the prompt. The prompt has n_prompt_tokens * d_model channels.
    d_model : int, default=32
        Width of a token; a multiple of ``n_heads``.
    n_heads, n_layers : int, default=4 and 2
        Attention heads, and layers.
    n_steps : int, default=400
        Steps of pre-training. 0: random weights.
    random_state : int, default=0
        Seed of the weights, the skills and the pre-training. The same seed gives the same weights on one computer, in
        every process; on another, sums may be rounded in another order and the weights differ a little.

    Returns
    -------
    SmallTransformer
        In float32.

    Examples
    --------
    >>> from skpat.devices import FrozenModel
    >>> from skpat.devices.small_transformer import small_transformer
    >>> untrained = {"n_data": 6, "n_data_tokens": 3, "n_prompt_tokens": 1, "d_model": 8, "n_heads": 2, "n_steps": 0}
    >>> model = FrozenModel(small_transformer, factory_params=untrained, n_data=6, n_prompt=8)
    >>> model.measure([[0.1] * 14]).shape
    (1, 6)
    """
    generator = torch.Generator().manual_seed(random_state)
    model = SmallTransformer(
        n_data, n_outputs, n_data_tokens, n_prompt_tokens, d_model, n_heads, n_layers, generator=generator
    )
    skills = SkillFamily(n_data, model.n_prompt, n_outputs, random_state)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0, betas=(0.9, 0.98))
    with threadpool_limits(1, user_api="openmp"):  # arrays this small: more threads only wait for each other
        for step in range(n_steps):
            warm_up, cool_down = min(1.0, (step + 1) / 50), 0.5 + 0.5 * math.cos(math.pi * step / n_steps)
            optimizer.param_groups[0]["lr"] = 8e-3 * warm_up * cool_down
            channels = torch.rand((128, n_data + model.n_prompt), generator=generator) * 2 - 1
            loss = (model(channels) - skills(channels)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model


class SkillFamily:
    r"""Functions of the data, each named by a code: networks that differ in their thresholds,

    .. math::

        y = \tanh\bigl(W \tanh(2 U x + 3 V c)\bigr),

    with fixed random matrices :math:`U`, :math:`V` and :math:`W`, data :math:`x` and code :math:`c`. :math:`Ux` and
    :math:`Vc` have standard deviation 1 for data and codes spread evenly from -1 to 1.

    Parameters
    ----------
    n_data, n_code, n_outputs : int
        Channels of the data and of the code, and outputs.
    random_state : int, default=0
        Seed of the matrices.

    Examples
    --------
    >>> import torch
    >>> from skpat.devices.small_transformer import SkillFamily
    >>> SkillFamily(n_data=3, n_code=2, n_outputs=4)(torch.zeros(7, 5)).shape
    torch.Size([7, 4])
    """

    n_hidden = 8

    def __init__(self, n_data: int, n_code: int, n_outputs: int, random_state: int = 0):
        generator = torch.Generator().manual_seed(random_state + 1)
        self.n_data = n_data
        self.data = _normal((n_data, self.n_hidden), (3 / n_data) ** 0.5, generator)
        self.code = _normal((n_code, self.n_hidden), (3 / n_code) ** 0.5, generator)
        self.out = _normal((self.n_hidden, n_outputs), 1.5 / self.n_hidden**0.5, generator)

    def __call__(self, channels: torch.Tensor) -> torch.Tensor:
        """Outputs (n_rows, n_outputs) for rows of data and code (n_rows, n_data + n_code)."""
        data, code = channels[:, : self.n_data], channels[:, self.n_data :]
        hidden = torch.tanh(2 * (data @ self.data.to(data)) + 3 * (code @ self.code.to(code)))
        return torch.tanh(hidden @ self.out.to(hidden))


class SmallTransformer(nn.Module):
    """A pre-norm transformer encoder over prompt tokens and data tokens, read at the prompt's places.

    ``n_data`` channels are cut into tokens, each embedded by a linear map of its own; each prompt token is
    ``d_model`` channels, mixed by a linear map of its own. The outputs are a linear map of the prompt's tokens at the end.

    Parameters
    ----------
    n_data, n_outputs, n_data_tokens, n_prompt_tokens, d_model, n_heads, n_layers : int
        As in :func:`small_transformer`.
    generator : torch.Generator
        Where the weights are drawn from.

    Raises
    ------
    ValueError
        If the data cannot be cut into the tokens, or a token into the heads.
    """

    def __init__(
        self,
        n_data: int,
        n_outputs: int,
        n_data_tokens: int,
        n_prompt_tokens: int,
        d_model: int,
        n_heads: int,
        n_layers: int,
        *,
        generator: torch.Generator,
    ):
        if n_data % n_data_tokens:
            raise ValueError(
                f"'n_data' of small_transformer must be a multiple of n_data_tokens. Got {n_data} and {n_data_tokens}."
            )
        if d_model % n_heads:
            raise ValueError(
                f"'d_model' of small_transformer must be a multiple of n_heads. Got {d_model} and {n_heads}."
            )
        super().__init__()
        self.n_data, self.n_prompt = n_data, n_prompt_tokens * d_model
        self.n_prompt_tokens, self.d_model, self.n_heads, self.n_layers = n_prompt_tokens, d_model, n_heads, n_layers
        width = n_data // n_data_tokens

        def weight(*shape: int, scale: float) -> nn.Parameter:
            return nn.Parameter(_normal(shape, scale, generator))

        self.data_embedding = weight(n_data_tokens, width, d_model, scale=(3 / width) ** 0.5)
        self.prompt_embedding = weight(n_prompt_tokens, d_model, d_model, scale=(3 / d_model) ** 0.5)
        self.position = weight(n_prompt_tokens + n_data_tokens, d_model, scale=0.3)
        self.attention = weight(n_layers, d_model, 3 * d_model, scale=d_model**-0.5)
        self.mix = weight(n_layers, d_model, d_model, scale=d_model**-0.5)
        self.widen = weight(n_layers, d_model, 2 * d_model, scale=d_model**-0.5)
        self.narrow = weight(n_layers, 2 * d_model, d_model, scale=(2 * d_model) ** -0.5)
        self.read = weight(self.n_prompt, n_outputs, scale=self.n_prompt**-0.5)

    def forward(self, channels: torch.Tensor) -> torch.Tensor:
        """Outputs (n_rows, n_outputs) of rows of data and prompt (n_rows, n_data + n_prompt)."""
        n_rows, width = len(channels), self.data_embedding.shape[1]
        data = channels[:, : self.n_data].reshape(n_rows, -1, 1, width)
        prompt = channels[:, self.n_data :].reshape(n_rows, self.n_prompt_tokens, 1, self.d_model)
        embedded = torch.cat([prompt @ self.prompt_embedding, data @ self.data_embedding], dim=1)
        tokens = embedded.squeeze(2) + self.position
        for layer in range(self.n_layers):
            tokens = tokens + self._attend(_normalised(tokens), layer)
            hidden = nn.functional.gelu(_normalised(tokens) @ self.widen[layer])
            tokens = tokens + hidden @ self.narrow[layer]
        return _normalised(tokens[:, : self.n_prompt_tokens]).reshape(n_rows, -1) @ self.read

    def _attend(self, tokens: torch.Tensor, layer: int) -> torch.Tensor:
        n_rows, n_tokens, _ = tokens.shape
        parts = (tokens @ self.attention[layer]).reshape(n_rows, n_tokens, 3, self.n_heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        weight = torch.softmax(query @ key.transpose(-1, -2) / math.sqrt(key.shape[-1]), dim=-1)
        return (weight @ value).transpose(1, 2).reshape(tokens.shape) @ self.mix[layer]


def _normalised(tokens: torch.Tensor) -> torch.Tensor:
    return nn.functional.layer_norm(tokens, tokens.shape[-1:])


def _normal(shape: tuple[int, ...], scale: float, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(shape, generator=generator) * scale
