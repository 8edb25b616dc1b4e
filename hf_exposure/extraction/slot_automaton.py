"""The token automaton for holes whose pieces are tokenized separately: words, whole fillings, groups of digits.

The assumption is that a text can be cut into slots whose pieces are encoded independently. Each piece is encoded once,
in the context of the text before it, and the space is the product of the slots (`encoding_trie`). Tokenizers encode "
word" as one token, so texts are cut before spaces, not after them. Digits and letters are tried in groups of three
from the left, in groups of three from the right, and whole.

Example: "say {a}, pin {b}" with two words and four digits, in groups of three from the left:

    prefix    slots
    "say"     " red", " blue"  x  " red", " blue"  x  ", pin"  x  " 000" ... " 999"  x  "0" ... "9"
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from hf_exposure.canaries import CanaryTemplate, Choice, Digits, Letters, Space, Words
from hf_exposure.errors import InputError
from hf_exposure.extraction.canonicity import prove_slots
from hf_exposure.extraction.encoding_trie import EncodingTrie, ProductAutomaton
from hf_exposure.extraction.sampled_encodings import SampledEncodings
from hf_exposure.extraction.tokenizer_reading import TokenizerReading
from hf_exposure.scoring import Encoder
from hf_exposure.scoring.encoding import LazyTexts

_LARGEST_LIST = 10**6  # words are given one by one, so encoding each adds no work
_LARGEST_HOLE = 10**4  # fillings of another hole in one slot, as much work as an audit
_GROUP = 3  # \p{N}{1,3}, as in GPT-4's and Llama 3's tokenizers, from the left or from the right


@dataclass(frozen=True)
class _Slot:
    """The pieces that may occur at one position; slots with the same `kind` share their encodings."""

    pieces: Sequence[str]
    kind: object = None


def slot_automaton(
    template: CanaryTemplate, encoder: Encoder, sample: SampledEncodings
) -> tuple[ProductAutomaton | None, str | None]:
    """The product if it contains every sampled encoding, else None and a text that it lacks.

    Raises:
        InputError: two pieces have the same tokens, or no way of cutting applies.
    """
    cuts: dict[tuple[Any, ...], Cut] = {}  # one for each different way of cutting
    for cut in (_groups_from_left, _groups_from_right, _whole):
        spaces = [space for space in template.spaces.values() if isinstance(space, (Digits, Letters))]
        cuts.setdefault(tuple(tuple(cut(space)) for space in spaces), cut)
    automaton, missed = sample.first_fitting(partial(_build, template, encoder, cut) for cut in cuts.values())
    if automaton is not None:
        sample.set_exactness(automaton, partial(_prove, template, encoder, automaton, sample.texts))
    return automaton, missed


def _prove(template: CanaryTemplate, encoder: Encoder, automaton: ProductAutomaton, texts: Sequence[str]) -> None:
    reading = TokenizerReading(template, encoder, automaton.prefix_text, automaton.prefix, texts)
    prove_slots(reading, automaton.pieces)


Cut = Callable[[Space], list[int]]


def _groups_from_left(space: Space) -> list[int]:
    length = space.fixed_length or 0
    return [_GROUP] * (length // _GROUP) + [length % _GROUP] * (length % _GROUP > 0)


def _groups_from_right(space: Space) -> list[int]:
    return _groups_from_left(space)[::-1]


def _whole(space: Space) -> list[int]:
    return [space.fixed_length or 0]


def cut_before_space(text: str) -> tuple[str, str]:
    """A fixed text without its trailing whitespace, and that whitespace."""
    kept = text.rstrip()
    return kept, text[len(kept) :]


def _build(template: CanaryTemplate, encoder: Encoder, cut: Cut) -> ProductAutomaton:
    kept, _ = cut_before_space(template.prefix)
    context, tries = kept, []
    of_kind: dict[object, EncodingTrie] = {}
    for slot in _slots(template, cut):
        trie = of_kind.get(slot.kind) or EncodingTrie.of(slot.pieces, encoder, context)
        if slot.kind is not None:
            of_kind[slot.kind] = trie
        tries.append(trie)
        context += slot.pieces[0]
    plain = encoder.plain_ids([kept])[0] if kept else []
    return ProductAutomaton("slots", template, (*encoder.leading, *plain), kept, tries, encoder.ending)


def _slots(template: CanaryTemplate, cut: Cut) -> Iterator[_Slot]:
    space_before = ""
    for index, segment in enumerate(template.segments):
        if isinstance(segment, str):
            is_last = index == len(template.segments) - 1
            fixed, space_before = (segment, "") if is_last else cut_before_space(segment)
            if fixed and index:
                yield _Slot([fixed])
            continue
        yield from _slots_of_hole(segment[1], space_before, cut)
        space_before = ""


def _slots_of_hole(space: Space, before: str, cut: Cut) -> Iterator[_Slot]:
    if isinstance(space, Words):
        fixed, space_between = cut_before_space(space.separator)
        yield _piece(before, len(space.words), space.words.__getitem__, most=_LARGEST_LIST)
        for _ in range(space.number - 1):
            if fixed:
                yield _Slot([fixed])
            yield _piece(space_between, len(space.words), space.words.__getitem__, (space, "later"), _LARGEST_LIST)
    elif isinstance(space, (Digits, Letters)):
        for length in cut(space):
            group = Digits(length) if isinstance(space, Digits) else Letters(length, space.letters)
            yield _piece(before, group.size, group.text_at)
            before = ""
    elif isinstance(space, Choice):
        yield _piece(before, space.size, space.options.__getitem__, most=_LARGEST_LIST)
    else:
        yield _piece(before, space.size, space.text_at)


def _piece(
    before: str, count: int, text_at: Callable[[int], str], kind: object = None, most: int = _LARGEST_HOLE
) -> _Slot:
    if count > most:
        rule = f"must come in pieces of at most {most} fillings"
        raise InputError("template", rule, count, "Use a smaller space.")
    return _Slot(LazyTexts(count, lambda index: before + text_at(index)), kind)
