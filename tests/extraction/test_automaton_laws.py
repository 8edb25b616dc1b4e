"""The automaton chosen for a template accepts exactly the canonical encodings of its texts, under every tokenizer."""

from __future__ import annotations

import pytest
from tokenizer_styles import STYLES, tokenizer_in_style
from transformers import ByT5Tokenizer

from hf_exposure import CanaryTemplate, Choice, Digits, Letters, Words
from hf_exposure.extraction import build_automaton
from hf_exposure.extraction.character_automaton import character_automaton
from hf_exposure.extraction.sampled_encodings import SampledEncodings
from hf_exposure.scoring import Encoder
from hf_exposure.testing import check_automaton

TEMPLATES = [
    CanaryTemplate("the number is {a}.", a=Digits(2)),
    CanaryTemplate("say {a} {b}!", a=Words(2, words=["a", "ab", "b"]), b=Choice(["red", "reddish"])),
    CanaryTemplate("{a}{b} ok", a=Letters(1, alphabet="xy"), b=Digits(1)),
]


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.text)
@pytest.mark.parametrize("style", STYLES)
def test_the_laws(style: str, template: CanaryTemplate) -> None:
    encoder = Encoder.of(tokenizer_in_style(style))
    check_automaton(build_automaton(template, encoder), template, encoder)


def test_the_laws_where_a_character_is_several_tokens() -> None:
    encoder = Encoder.of(ByT5Tokenizer())
    template = CanaryTemplate("pin {a}{b}.", a=Letters(2, alphabet="éèab日"), b=Digits(1))
    automaton, _ = character_automaton(template, encoder, SampledEncodings.of(template, encoder))
    assert automaton is not None
    check_automaton(automaton, template, encoder)
