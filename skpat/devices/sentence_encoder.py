"""A pretrained sentence encoder behind the frozen model's interface: token embeddings and a soft prompt in, numbers out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from skpat.devices.frozen_model import FrozenModel

__all__ = ["SentenceEncoder", "embed_sentences", "sentence_device", "sentence_encoder"]


class SentenceEncoder(torch.nn.Module):
    r"""A transformer encoder that takes continuous tokens, with the prompt in front of the sentence.

    With :math:`h_t` the last hidden states of all tokens and :math:`C` the first cosine functions over the model's width,

    .. math:: y = C^T \bar h / \lVert \bar h \rVert, \qquad \bar h = \frac 1 T \sum_t h_t .

    Parameters
    ----------
    encoder : transformers.PreTrainedModel
        With ``get_input_embeddings()`` and ``inputs_embeds``.
    n_prompt_tokens : int
        How many tokens are prompt: the last ones of the input.
    n_outputs : int
        How many cosine functions the sentence vector is projected on; at most the model's width.

    Attributes
    ----------
    scale : float
        Largest number in the model's token embeddings: inputs of 1 become that.
    """

    def __init__(self, encoder: Any, n_prompt_tokens: int, n_outputs: int):
        super().__init__()
        self.encoder = encoder
        self.n_prompt_tokens = n_prompt_tokens
        table = encoder.get_input_embeddings().weight
        self.scale = float(table.detach().abs().max())
        width = table.shape[1]
        place = (np.arange(width)[:, None] + 0.5) * np.arange(n_outputs) * np.pi / width
        cosines = np.cos(place) * np.sqrt(np.where(np.arange(n_outputs) == 0, 1.0, 2.0) / width)
        self.register_buffer("cosines", torch.from_numpy(cosines).to(table.dtype))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Inputs (n_rows, n_tokens, width), data first and prompt last, from -1 to 1; outputs (n_rows, n_outputs)."""
        n_data = inputs.shape[1] - self.n_prompt_tokens
        tokens = torch.cat([inputs[:, n_data:], inputs[:, :n_data]], dim=1) * self.scale
        hidden = self.encoder(inputs_embeds=tokens).last_hidden_state
        return torch.nn.functional.normalize(hidden.mean(dim=1), dim=1) @ self.cosines


def sentence_encoder(
    path: str, n_prompt_tokens: int, n_outputs: int, loading: dict[str, Any] | None = None
) -> SentenceEncoder:
    """Load an encoder; the factory of :func:`sentence_device`.

    Parameters
    ----------
    path : str
        A folder with a saved model, or a name that transformers can load.
    n_prompt_tokens, n_outputs : int
        See :class:`SentenceEncoder`.
    loading : dict, default=None
        Keyword arguments for ``from_pretrained``, ``{"local_files_only": True}`` say.

    Raises
    ------
    ImportError
        If transformers is not installed.
    """
    encoder = _transformers().AutoModel.from_pretrained(path, **(loading or {}))
    return SentenceEncoder(encoder, n_prompt_tokens, n_outputs)


def embed_sentences(
    path: str, sentences: Sequence[str], n_tokens: int, loading: dict[str, Any] | None = None
) -> np.ndarray:
    """The model's own embeddings of the words of some sentences, as data for :func:`sentence_device`.

    Parameters
    ----------
    path : str
        As in ``sentence_encoder``.
    sentences : sequence of str
    n_tokens : int
        Longer sentences are cut; shorter ones are filled with the embedding of the padding token.
    loading : dict, default=None
        As in ``sentence_encoder``.

    Returns
    -------
    ndarray of shape (n_sentences, n_tokens * width)
        From -1 to 1.

    Raises
    ------
    ImportError
        If transformers is not installed.
    """
    transformers = _transformers()
    tokenizer = transformers.AutoTokenizer.from_pretrained(path, **(loading or {}))
    table = transformers.AutoModel.from_pretrained(path, **(loading or {})).get_input_embeddings().weight.detach()
    found = tokenizer(list(sentences), padding="max_length", truncation=True, max_length=n_tokens, return_tensors="pt")
    return (table[found["input_ids"]] / table.abs().max()).reshape(len(sentences), -1).numpy()


def sentence_device(
    path: str,
    *,
    n_tokens: int = 16,
    n_prompt_tokens: int = 4,
    n_outputs: int = 16,
    loading: dict[str, Any] | None = None,
) -> FrozenModel:
    """A frozen sentence encoder as a device: the words of a sentence are the data, a soft prompt in front is trained.

    Parameters
    ----------
    path : str
        A folder with a saved encoder, or a name that transformers can load, such as
        "sentence-transformers/all-MiniLM-L6-v2".
    n_tokens : int, default=16
        Tokens of a sentence; data come from :func:`embed_sentences` with as many.
    n_prompt_tokens : int, default=4
        Tokens of the soft prompt.
    n_outputs : int, default=16
        Outputs. Few leave the work to the prompt; a readout of the whole sentence vector would do without it.
    loading : dict, default=None
        Keyword arguments for ``from_pretrained``.

    Returns
    -------
    FrozenModel
        With ``(n_tokens + n_prompt_tokens) * width`` channels, bounds -1 to 1.

    Raises
    ------
    ImportError
        If transformers is not installed.

    Notes
    -----
    All tokens are attended to, the padding too. Features of ``embed_sentences`` are scaled anew by the network's direct
    encoder, so the model meets its embeddings bent by the squash into the bounds.

    References
    ----------
    Reimers, Gurevych, "Sentence-BERT", EMNLP (2019), doi:10.18653/v1/D19-1410, for mean pooling.
    """
    width = int(_transformers().AutoConfig.from_pretrained(path, **(loading or {})).hidden_size)
    return FrozenModel(
        factory=sentence_encoder,
        factory_params={"path": path, "n_prompt_tokens": n_prompt_tokens, "n_outputs": n_outputs, "loading": loading},
        n_data=n_tokens * width,
        n_prompt=n_prompt_tokens * width,
        n_outputs=n_outputs,
        input_shape=(n_tokens + n_prompt_tokens, width),
        name="SentenceEncoder",
    )


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ImportError(
            'A sentence encoder needs transformers. Install it with: pip install "skpat[encoder]"'
        ) from error
    return transformers
