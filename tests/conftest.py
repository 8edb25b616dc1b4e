"""Tiny models and tokenizers, built on the spot: no test needs the network or a download."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import AutoModelForCausalLM, ByT5Tokenizer, PreTrainedTokenizerFast

from hf_exposure import CanaryTemplate, Digits, draw_canaries

transformers.logging.set_verbosity_error()

_WIDTH = {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 384, "pad_token_id": 0}
_HEADS = {**_WIDTH, "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 128}
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 384, "n_positions": 128},
    "llama": {**_HEADS, "num_key_value_heads": 2},
    "mistral": {**_HEADS, "num_key_value_heads": 2, "sliding_window": 8},
    "gpt_neox": _HEADS,
    "opt": {**_HEADS, "ffn_dim": 64, "word_embed_proj_dim": 32},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 384},
    "mamba": {**_WIDTH, "state_size": 4, "expand": 1, "time_step_rank": 2},
}


class RecurrentModel(nn.Module):
    """An LSTM whose only Hugging Face interface is `input_ids` in and `.logits` out."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(384, 16)
        self.lstm = nn.LSTM(16, 32, batch_first=True)
        self.head = nn.Linear(32, 384)

    def forward(self, input_ids: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=4.0 * self.head(self.lstm(self.embedding(input_ids))[0]))


def tiny_model(family: str, *, seed: int = 0, scale: float = 0.3, **changes: Any) -> nn.Module:
    """A random model of `family` with weights so large that every token it sees changes its predictions."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if family == "lstm":
            return RecurrentModel().eval()
        attention = changes.pop("attn_implementation", "eager" if family in ("bloom", "mamba") else "sdpa")
        config = transformers.AutoConfig.for_model(family, **{**FAMILIES[family], **changes})
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and not name.endswith("A_log"):
                nn.init.normal_(parameter, std=scale)
    return model.eval()


def character_tokenizer(
    characters: str, *, special: bool = False, metaspace: bool = False, lowercase: bool = False
) -> PreTrainedTokenizerFast:
    """One token per character; `special` adds `<s>` before and `</s>` after a text, `metaspace` marks its start."""
    vocabulary = {"<s>": 0, "</s>": 1, "<unk>": 2}
    for character in dict.fromkeys(("\u2581" if metaspace else "") + characters):
        vocabulary[character] = len(vocabulary)
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    if metaspace:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    if lowercase:
        backend.normalizer = normalizers.Lowercase()
    if special:
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )


def merging_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE with a few hand-made merges: the end of a prefix may merge with the text that follows."""
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("1", "2"), ("12", "3"), ("i", "s"), ("\u0120", "1"), ("n", "o"), (".", "\u010a")]
    vocabulary = {symbol: index for index, symbol in enumerate([*symbols, *(a + b for a, b in merges)])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>", clean_up_tokenization_spaces=False)


@pytest.fixture(scope="session")
def byte_tokenizer() -> ByT5Tokenizer:
    return ByT5Tokenizer()


@pytest.fixture(scope="session")
def make_model() -> Callable[..., nn.Module]:
    return tiny_model


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and its tokenizer as `save_pretrained` leaves them."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.GPT2Config(vocab_size=384, n_layer=1, n_head=2, n_embd=16, n_positions=64)
        transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    ByT5Tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def canary_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four canaries to insert ten times in all, and three controls."""
    path = tmp_path_factory.mktemp("canaries") / "canaries.json"
    template = CanaryTemplate("number {number}.", number=Digits(6))
    draw_canaries(template, {1: 2, 4: 2}, controls=3, seed=918_273_645_546).save(path)
    return path


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
