"""A sentence encoder behind the frozen model: tried on a tiny one that the test makes."""

from __future__ import annotations

import importlib.util
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.fft import dct
from sklearn.base import clone

from skpat import ControlSplit, PhysicalNetworkClassifier
from skpat.devices.sentence_encoder import SentenceEncoder, embed_sentences, sentence_device

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "rain", "sun", "wind", "bake", "boil", "salt", "the", "and"]
SENTENCES = ["the rain and the wind", "the sun", "boil and salt", "bake the salt"] * 5
WIDTH, N_TOKENS, N_PROMPT = 16, 6, 2
needs_transformers = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="transformers is not installed"
)


@pytest.fixture
def path(tmp_path: Path) -> str:
    import transformers

    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    transformers.BertTokenizerFast(vocab=str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.BertConfig(
            vocab_size=len(WORDS), hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
        )
        transformers.BertModel(config).save_pretrained(tmp_path)
    return str(tmp_path)


def device_of(path: str) -> Any:
    return sentence_device(path, n_tokens=N_TOKENS, n_prompt_tokens=N_PROMPT, n_outputs=5)


@needs_transformers
def test_the_device_is_the_encoder_with_the_prompt_in_front(path: str) -> None:
    import transformers

    device, X = device_of(path), embed_sentences(path, SENTENCES, N_TOKENS)
    assert X.shape == (20, N_TOKENS * WIDTH)
    assert np.abs(X).max() <= 1
    prompt = np.random.default_rng(0).uniform(-1, 1, N_PROMPT * WIDTH).astype(np.float32)
    controls = np.hstack([X, np.tile(prompt, (20, 1))])
    answers = device.measure(controls)
    assert answers.shape == (20, 5)
    assert (np.linalg.norm(answers, axis=1) <= 1 + 1e-6).all()  # a projection of a unit vector
    encoder = transformers.AutoModel.from_pretrained(path).eval()
    table = encoder.get_input_embeddings().weight
    words = transformers.AutoTokenizer.from_pretrained(path)(
        SENTENCES, padding="max_length", truncation=True, max_length=N_TOKENS, return_tensors="pt"
    )["input_ids"]
    front = torch.from_numpy(prompt).reshape(1, N_PROMPT, WIDTH).expand(20, -1, -1) * table.abs().max()
    with torch.no_grad():
        hidden = encoder(inputs_embeds=torch.cat([front, table[words]], dim=1)).last_hidden_state.mean(dim=1)
    unit = torch.nn.functional.normalize(hidden, dim=1).numpy()
    place = (np.arange(WIDTH)[:, None] + 0.5) * np.arange(WIDTH) * np.pi / WIDTH
    cosines = np.cos(place) * np.sqrt(np.where(np.arange(WIDTH) == 0, 1, 2) / WIDTH)
    np.testing.assert_allclose(cosines.T @ cosines, np.eye(WIDTH), atol=1e-12)
    np.testing.assert_allclose(answers, unit @ cosines[:, :5], atol=1e-5)
    other = device.measure(np.hstack([X, np.zeros((20, N_PROMPT * WIDTH), dtype=np.float32)]))
    assert np.abs(other - answers).max() > 1e-3


class Weighing(torch.nn.Module):
    """An encoder in which a token counts as much as its place, from 1, says."""

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(7, 4)

    def get_input_embeddings(self) -> torch.nn.Embedding:
        return self.table

    def forward(self, inputs_embeds: torch.Tensor) -> SimpleNamespace:
        place = torch.arange(1, inputs_embeds.shape[1] + 1)[:, None]
        return SimpleNamespace(last_hidden_state=place * inputs_embeds)


def test_the_prompt_stands_in_front_and_the_outputs_are_cosine_functions_of_the_mean() -> None:
    encoder = Weighing()
    inputs = torch.rand((5, 3, 4), generator=torch.Generator().manual_seed(0))  # two tokens of data, then the prompt
    mean = inputs[:, 2] + 2 * inputs[:, 0] + 3 * inputs[:, 1]  # but for a factor, which the norm takes away
    cosines = torch.from_numpy(dct(np.eye(4), norm="ortho", axis=0)).float()
    expected = torch.nn.functional.normalize(mean, dim=1) @ cosines.T
    with torch.no_grad():
        torch.testing.assert_close(SentenceEncoder(encoder, 1, 4)(inputs), expected)
        torch.testing.assert_close(SentenceEncoder(encoder, 1, 2)(inputs), expected[:, :2])
    assert SentenceEncoder(encoder, 1, 2).scale == encoder.table.weight.abs().max()


@needs_transformers
def test_it_is_a_device_like_any_other(path: str) -> None:
    device, X = device_of(path), embed_sentences(path, SENTENCES, N_TOKENS)
    y = np.arange(20) % 4 >= 2
    network = PhysicalNetworkClassifier(
        clone(device), control_split=ControlSplit(device.data_index), encoder="direct", gradient="exact", max_iter=30,
        learning_rate_init=0.05, random_state=0,
    )  # fmt: skip
    assert network.fit(X, y).score(X, y) > 0.9
    controls = np.zeros((2, device.n_controls))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(device)).measure(controls), device.measure(controls))


def test_without_transformers_it_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r'needs transformers. Install it with: pip install "skpat\[encoder\]"'):
        sentence_device("anywhere")
    with pytest.raises(ImportError, match="needs transformers"):
        embed_sentences("anywhere", ["a"], 3)
