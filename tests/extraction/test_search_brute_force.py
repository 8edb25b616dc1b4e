"""Search against scoring every text of a small space one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from conftest import character_tokenizer, tiny_model
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from hf_exposure.canaries import CanaryTemplate, Choice, Digits, Letters, LuhnDigits, Words
from hf_exposure.errors import InputError
from hf_exposure.extraction import build_automaton
from hf_exposure.scoring import CausalScorer
from hf_exposure.testing import brute_force_bits, check_likeliest, check_rank, check_search

COLORS = Choice(["red", "reddish", "blue"])
TEMPLATES = {
    "after a prefix": CanaryTemplate("pin {a}", a=Digits(2)),
    "no prefix": CanaryTemplate("{a}", a=Digits(2)),
    "suffix": CanaryTemplate("pin {a} it", a=Digits(2)),
    "no prefix, suffix": CanaryTemplate("{a}.", a=LuhnDigits(2)),
    "infix": CanaryTemplate("{a}-{b}", a=Digits(1), b=Letters(2, alphabet="xyz")),
    "holes side by side": CanaryTemplate("n {a}{b}{c}", a=Digits(1), b=Letters(1, alphabet="ab"), c=Digits(1)),
    "unequal lengths": CanaryTemplate("the {a} {b}.", a=COLORS, b=Digits(1)),
    "one filling begins another": CanaryTemplate("{a}{b}", a=COLORS, b=Letters(1, alphabet="XY")),
    "words": CanaryTemplate("say {a}!", a=Words(2, words=["a", "ab", "abc", "b"])),
    "luhn": CanaryTemplate("card {a}", a=LuhnDigits(4, prefix="4")),
    "bytes of unequal number": CanaryTemplate("n {a}{b}", a=Letters(2, alphabet="a\u00e9\u00e8\u65e5"), b=Digits(1)),
    "one text": CanaryTemplate("pin {a}", a=Choice(["1234"])),
}


class BagOfBytes(nn.Module):
    """A fast model: the next byte depends on the last two."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.table = nn.Parameter(3.0 * torch.randn(2, 384, 384, generator=generator))

    def forward(self, input_ids: torch.Tensor) -> Any:
        before = torch.nn.functional.pad(input_ids, (1, 0))[:, :-1]
        return type("Output", (), {"logits": self.table[0][input_ids] + self.table[1][before]})


def search(
    template: CanaryTemplate,
    model: nn.Module,
    tokenizer: Any,
    ids_of: Callable[[str], list[int]],
    *,
    end_token: bool = False,
    budgets: tuple[int, ...] = (1, 12),
) -> None:
    scorer = CausalScorer(model, tokenizer, end_token=end_token)
    texts = [template.text_at(index) for index in range(template.space_size)]
    costs = [brute_force_bits(model, ids_of(text), 1) for text in texts]
    check_search(scorer, build_automaton(template, scorer.encoder), texts, costs, budgets=budgets)


def byte_ids(text: str) -> list[int]:
    return [byte + 3 for byte in text.encode()]


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_under_a_byte_tokenizer(name: str, byte_tokenizer: ByT5Tokenizer) -> None:
    search(TEMPLATES[name], BagOfBytes(), byte_tokenizer, byte_ids)


@pytest.mark.parametrize("family", ["mistral", "bloom", "lstm"])
def test_families(family: str, byte_tokenizer: ByT5Tokenizer) -> None:
    search(TEMPLATES["unequal lengths"], tiny_model(family), byte_tokenizer, byte_ids)


@pytest.mark.parametrize(
    "template",
    [
        CanaryTemplate("the {a}", a=COLORS),
        CanaryTemplate("{a}", a=Words(2, words=["a", "ab", "b"])),
        CanaryTemplate("pin {a}", a=Digits(2)),
    ],
    ids=["begins another", "words", "fixed length"],
)
def test_the_end_token_ends_texts(template: CanaryTemplate, byte_tokenizer: ByT5Tokenizer) -> None:
    search(template, BagOfBytes(), byte_tokenizer, lambda text: [*byte_ids(text), 1], end_token=True)


def test_ten_thousand_texts(byte_tokenizer: ByT5Tokenizer) -> None:
    template, model = CanaryTemplate("{a}", a=Digits(4)), BagOfBytes()
    scorer = CausalScorer(model, byte_tokenizer)
    automaton = build_automaton(template, scorer.encoder)
    texts = [template.text_at(index) for index in range(10_000)]
    costs = np.array([brute_force_bits(model, byte_ids(text), 1) for text in texts])
    check_likeliest(scorer, automaton, texts, costs, 10, 1e-3)
    for place in (0, 9, 99, 9_999):
        check_rank(scorer, automaton, texts, costs, int(np.argsort(costs)[place]), budgets=(100,))


def single_digit_tokenizer() -> PreTrainedTokenizerFast:
    """Words merge and digits are single tokens, as in Llama 2 and Qwen; a mark precedes a text's first character."""
    symbols = ["<unk>", "\u2581", *"0123456789abcdefghijklmnopqrstuvwxyz.-"]
    merges = [("i", "s"), ("\u2581", "is"), ("o", "k"), ("\u2581", "ok")]
    vocabulary = {symbol: index for index, symbol in enumerate([*symbols, *(a + b for a, b in merges)])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>"))
    split = [pre_tokenizers.Metaspace(prepend_scheme="first"), pre_tokenizers.Digits(individual_digits=True)]
    backend.pre_tokenizer = pre_tokenizers.Sequence(split)
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


@pytest.mark.parametrize(
    "text", ["it is {a}", "it is {a} is ok", "it is {a} is {b}.", "{a}", "{a}.", "it is {a}{b} ok", "it is {a} {b}"]
)
def test_single_digits_under_a_subword_tokenizer(text: str) -> None:
    """Fixed texts keep their tokens in context: `is ok` is two tokens, not six."""
    tokenizer = single_digit_tokenizer()
    spaces = {"a": Choice(["3", "7"]), "b": LuhnDigits(2)} if "{b}" in text else {"a": LuhnDigits(2)}
    ids_of = lambda known: tokenizer(known)["input_ids"]  # noqa: E731
    search(CanaryTemplate(text, **spaces), BagOfBytes(), tokenizer, ids_of)


@pytest.mark.parametrize("metaspace", [True, False])
@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("text", ["a {a}", "{a}", "{a} a", " {a}"])
def test_character_tokenizers(text: str, special: bool, metaspace: bool) -> None:
    tokenizer = character_tokenizer(" 0123456789ab", special=special, metaspace=metaspace)
    ids_of = lambda known: tokenizer(known)["input_ids"][: -1 if special else None]  # noqa: E731
    search(CanaryTemplate(text, a=LuhnDigits(2)), BagOfBytes(), tokenizer, ids_of)


def test_words_after_a_mark() -> None:
    tokenizer = character_tokenizer(" abc", metaspace=True)
    template = CanaryTemplate("{a}", a=Words(2, words=["a", "bc", "ab"]))
    ids_of = lambda known: [*tokenizer(known)["input_ids"], 1]  # noqa: E731
    search(template, BagOfBytes(), tokenizer, ids_of, end_token=True)


def test_lowercased_fixed_texts() -> None:
    tokenizer = character_tokenizer(" 0123456789pin", lowercase=True)
    search(
        CanaryTemplate("PIN {a}", a=Digits(2)), BagOfBytes(), tokenizer, lambda known: tokenizer(known)["input_ids"]
    )


def test_texts_that_a_tokenizer_cannot_tell_apart() -> None:
    tokenizer = character_tokenizer(" abpin", lowercase=True)
    template = CanaryTemplate("PIN {a}", a=Letters(3, alphabet="aAb"))
    with pytest.raises(
        InputError,
        match=r"^tokenizer: must distinguish the template's texts, but encodes two alike: one has '[aA]' where",
    ):
        build_automaton(template, CausalScorer(BagOfBytes(), tokenizer).encoder)


@pytest.mark.parametrize("alphabet", ["ab?", "a?!"])
def test_characters_that_a_tokenizer_does_not_know(alphabet: str) -> None:
    tokenizer = character_tokenizer(" abpin")
    template = CanaryTemplate("pin {a}", a=Letters(2, alphabet=alphabet))
    with pytest.raises(
        InputError, match=r"^tokenizer: must encode every character .*unknown token.*another tokenizer"
    ):
        build_automaton(template, CausalScorer(BagOfBytes(), tokenizer).encoder)


def test_a_template_that_ends_in_variable_length(byte_tokenizer: ByT5Tokenizer) -> None:
    template = CanaryTemplate("the {a}", a=COLORS)
    with pytest.raises(InputError, match=r"^template: must not end in a hole of variable length.*end_token=True"):
        build_automaton(template, CausalScorer(BagOfBytes(), byte_tokenizer).encoder)
