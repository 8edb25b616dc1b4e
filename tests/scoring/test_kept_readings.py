"""How to read a model is determined once per module, and again if anything except its weights has changed."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from types import MethodType
from typing import Any

import numpy as np
import pytest
import torch
from transformers import ByT5Tokenizer, LlamaConfig, LlamaForCausalLM

from hf_exposure.runtime.progress import calls_shown
from hf_exposure.scoring import make_scorer
from hf_exposure.scoring.token_tree import PathQuery
from hf_exposure.testing import assert_close, brute_force_bits, check_samples

TEXTS = ["the pin is 1234", "the pin is 12", "the pin is 9876 and so on"]


class Switchable(torch.nn.Module):
    """A causal model that ignores its caller's mask if its settings say so."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=384, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
            intermediate_size=16, initializer_range=0.5,
        )  # fmt: skip
        self.inner = LlamaForCausalLM(config)
        self.config = self.inner.config
        self.ignores = [False]

    def forward(self, input_ids: torch.Tensor, **keywords: Any) -> Any:
        if self.ignores[0] or getattr(self.config, "ignores_masks", False):
            keywords.pop("attention_mask", None)
        return self.inner(input_ids=input_ids, **keywords)


def read(model: Switchable) -> tuple[str, int]:
    """The mode in which the model is read now, and the number of calls. Checks that the figures are right."""
    scorer = make_scorer(model, ByT5Tokenizer())
    found = scorer.sequence_bits(scorer.encode(TEXTS))
    expected = [brute_force_bits(model, [byte + 3 for byte in text.encode()], 1) for text in TEXTS]
    assert_close(found, expected, 1e-3)
    return scorer.mode or "", scorer.counts.calls


def drop_mask(module: torch.nn.Module, arguments: Any, keywords: dict[str, Any]) -> Any:
    return arguments, {**keywords, "attention_mask": None}


def patch_forward(model: Switchable) -> None:
    def forward(self: Switchable, input_ids: torch.Tensor, **keywords: Any) -> Any:
        keywords.pop("attention_mask", None)
        return self.inner(input_ids=input_ids, **keywords)

    model.forward = MethodType(forward, model)  # type: ignore[method-assign]


def replace_a_module(model: Switchable) -> None:
    inner = Switchable()
    inner.ignores = [True]
    model.inner = inner  # type: ignore[assignment]


CHANGES: dict[str, Callable[[Switchable], Any]] = {
    "an attribute": lambda model: setattr(model, "ignores", [True]),
    "its configuration": lambda model: setattr(model.config, "ignores_masks", True),
    "a hook": lambda model: model.inner.register_forward_pre_hook(drop_mask, with_kwargs=True),
    "its forward": patch_forward,
    "a module": replace_a_module,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_model_is_tried_again(change: Callable[[Switchable], Any]) -> None:
    model = Switchable().eval()
    mode, first = read(model)
    again = read(model)
    assert mode == again[0] == "packed" and again[1] < first / 3, "what was found is used"
    change(model)
    mode, calls = read(model)
    assert mode == "cached" and calls > 2 * again[1], "and not where the model is another"


def test_weights_and_training_change_nothing() -> None:
    model = Switchable().train()
    read(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    assert read(model.eval())[1] == read(model.train())[1] < 8


def test_a_progress_bar_is_no_change_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a terminal it is added to the model for each measurement."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    model = Switchable().eval()
    with calls_shown(model, "measuring"):
        assert model._forward_hooks
        _, first = read(model)
    with calls_shown(model, "measuring"):
        assert read(model)[1] < first / 3


def test_a_model_that_mixes_the_rows_of_a_large_batch_is_not_trusted_later_either() -> None:
    """The next scorer must not reuse the mode found before such a batch."""

    def leak(module: torch.nn.Module, arguments: Any, output: Any) -> Any:
        if output.logits.shape[0] * output.logits.shape[1] > 600:
            output.logits = output.logits + 0.2 * torch.roll(output.logits, 1, dims=1)
        return output

    model = Switchable().eval()
    model.inner.register_forward_hook(leak)
    _, first = read(model)
    scorer = make_scorer(model, ByT5Tokenizer())
    texts = [f"{number:03} is the pin" for number in range(200)]
    found = scorer.sequence_bits(scorer.encode(texts))
    expected = [brute_force_bits(model, [byte + 3 for byte in text.encode()], 1) for text in texts]
    assert_close(found, expected, 1e-3)
    assert scorer.mode == "alone" and read(model)[1] == first


class ShortMemory(Switchable):
    """After a cache of more than 8 tokens it accepts no mask: the mode found with a short prefix is wrong there."""

    def __init__(self, *, complains: bool) -> None:
        super().__init__()
        self.complains = complains

    def forward(self, input_ids: torch.Tensor, **keywords: Any) -> Any:
        cache = keywords.get("past_key_values")
        if cache is not None and cache.get_seq_length() > 8 and keywords.get("attention_mask") is not None:
            if self.complains:
                raise RuntimeError("the mask must have 9 columns")
            keywords.pop("attention_mask")
        return super().forward(input_ids, **keywords)


@pytest.mark.parametrize("complains", [True, False])
def test_a_mode_is_used_only_behind_prefixes_as_long_as_those_that_it_was_tried_with(complains: bool) -> None:
    model = ShortMemory(complains=complains).eval()
    ids = [byte + 3 for byte in b"she said that the pin is 1234"]
    known_C = np.arange(3, 259)
    for cut in (3, 20, 1):
        scorer = make_scorer(model, ByT5Tokenizer())
        queries = [PathQuery(tuple(ids[cut : cut + more]), min(2, more), known_C) for more in (0, 3, 6)]
        queries.append(PathQuery((ids[-1], *ids[-3:]), 1, known_C))
        for query, answer in zip(queries, scorer.path_bits(ids[:cut], queries), strict=True):
            path = [*ids[:cut], *query.tokens]
            with torch.no_grad():
                bits = -torch.log_softmax(model(torch.tensor([path])).logits[0].double(), dim=-1) / np.log(2)
            run = sum(float(bits[place - 1, path[place]]) for place in range(len(path) - query.run, len(path)))
            assert_close(answer.run_bits, run, 1e-3)
            assert_close(answer.children_bits, bits[-1, known_C], 1e-3)


def test_samples_whose_caches_outgrow_the_model_are_read_by_their_paths() -> None:
    scorer = make_scorer(ShortMemory(complains=True).eval(), ByT5Tokenizer())
    check_samples(scorer, ["pin 12345678", "pin 87654321", "pin 11223344", "pin 99887766"])


def test_no_model_is_kept_alive() -> None:
    model = Switchable().eval()
    patch_forward(model)
    read(model)
    there = weakref.ref(model)
    del model
    gc.collect()
    assert there() is None
