"""The symbols of a tokenizer read back as characters: every text has one path, and nothing else has any."""

from __future__ import annotations

import pytest
from tokenizer_styles import tokenizer_in_style

from hf_exposure import CanaryTemplate, Choice, Digits, Pattern
from hf_exposure.errors import InputError
from hf_exposure.extraction.tokenizer_reading import TokenSurfaces, serialized_model
from hf_exposure.extraction.vocabulary_automaton import SymbolState, SymbolTransducer

TEMPLATES = {
    "bytes": CanaryTemplate("say {a}!", a=Choice(["é", "è", "ab é", "é1", "1"])),
    "spaces": CanaryTemplate("code {a} {b}", a=Choice(["x", "x y", "y  x"]), b=Digits(1)),
    "pattern": CanaryTemplate("id {a} ok", a=Pattern(r"[ab]{1,2}\d?")),
    "hole first": CanaryTemplate("{a} is", a=Digits(2)),
}
STYLES = ["gpt2", "unigram", "wordpiece cased", "wordpiece uncased", "sentencepiece"]
# One style strips accents, so two of the texts have the same symbols.
CASES = [(style, name) for style in STYLES for name in TEMPLATES if (style, name) != ("wordpiece uncased", "bytes")]


def surfaces_in_style(style: str) -> TokenSurfaces:
    tokenizer = tokenizer_in_style(style)
    return TokenSurfaces(tokenizer, serialized_model(tokenizer))


def spelled(transducer: SymbolTransducer, state: SymbolState) -> dict[tuple[str, str], int]:
    """How often each (symbols, text) is read from a state to the end of a text, whatever the symbols."""
    found: dict[tuple[str, str], int] = {}
    if not state.read and transducer.template.is_end(state.position):
        found["", ""] = 1
    for symbol in transducer.symbols:
        step = transducer.step(state, symbol)
        if step is not None:
            for (symbols, text), times in spelled(transducer, step.state).items():
                key = (symbol + symbols, step.text + text)
                found[key] = found.get(key, 0) + times
    return found


@pytest.mark.parametrize(("style", "name"), CASES)
def test_each_text_is_read_from_its_own_rendering_and_from_nothing_else(style: str, name: str) -> None:
    template, surfaces = TEMPLATES[name], surfaces_in_style(style)
    for prefix in {"", template.prefix.rstrip()}:
        rendered = {}
        for index in range(template.space_size):
            text = template.text_at(index)
            rendered[surfaces.render(text)[len(surfaces.render(prefix)) :], text[len(prefix) :]] = 1
        transducer = SymbolTransducer(template, surfaces, prefix)
        assert spelled(transducer, transducer.root) == rendered
        assert transducer.count(transducer.root) == template.space_size


def test_a_state_inside_a_character_knows_what_may_be_left() -> None:
    """Under byte-level symbols é and è share their first byte, and 1 has a different one."""
    template = TEMPLATES["bytes"]
    transducer = SymbolTransducer(template, surfaces_in_style("gpt2"), "say")
    space = transducer.step(transducer.root, "Ġ")
    assert space is not None and space.text == " " and transducer.count(space.state) == 5
    half = transducer.step(space.state, "Ã")
    assert half is not None and half.text == "" and transducer.count(half.state) == 3  # é!, è! and é1!
    whole = transducer.step(half.state, "¨")
    assert whole is not None and whole.text == "è" and transducer.count(whole.state) == 1
    assert transducer.rest(whole.state) == "!" and transducer.step(space.state, "¨") is None


def test_characters_that_render_alike_are_refused() -> None:
    template = CanaryTemplate("code {a}", a=Choice(["ax", "Ay"]))
    transducer = SymbolTransducer(template, surfaces_in_style("wordpiece uncased"), "code")
    with pytest.raises(InputError, match="encodes two alike: one has '[aA]' where the other has '[aA]'"):
        spelled(transducer, transducer.root)


def test_symbols_are_written_in_the_order_of_the_text() -> None:
    """The symbol after a space decides whether it is dropped; for a space at the end, the last symbol does."""
    template = CanaryTemplate("a {n} ", n=Digits(1))
    transducer = SymbolTransducer(template, surfaces_in_style("wordpiece cased"), "a")
    texts = {text for _, text in spelled(transducer, transducer.root)}
    assert texts == {f" {digit} " for digit in range(10)}
