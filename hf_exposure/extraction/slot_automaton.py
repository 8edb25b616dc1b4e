"""The token automaton for holes whose pieces are tokenised apart: words, whole fillings, groups of digits.

Each piece is encoded once, in the context of what stands before it, and the space is the product of the pieces. What
follows a space belongs with it (tokenizers write " word" as one token), so texts are cut before spaces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from hf_exposure.canaries import CanaryTemplate, Choice, Digits, Letters, Space, Words
from hf_exposure.errors import InputError
from hf_exposure.extraction.canonicity import why_slots_are_unproven
from hf_exposure.extraction.encoding_trie import EncodingTrie, ProductAutomaton
from hf_exposure.extraction.sampled_encodings import SampledEncodings
from hf_exposure.extraction.split_pattern import UnknownSplit
from hf_exposure.extraction.tokenizer_reading import TokenizerReading
from hf_exposure.scoring import Encoder

_LARGEST_LIST = 10**6  # words are given one by one, so encoding each is no more work
_LARGEST_HOLE = 10**4  # of other holes, all fillings in one slot: no dearer than an audit
_GROUP = 3  # \p{N}{1,3}, as in GPT-4's and Llama 3's tokenizers, from the left or from the right


@dataclass(frozen=True)
class _Slot:
    """Pieces that may stand at one place; slots with the same `kind` share their encodings."""

    pieces: Sequence[str]
    kind: object = None


class _After(Sequence[str]):
    """Texts with the same text before each."""

    def __init__(self, before: str, count: int, text_at: Callable[[int], str]) -> None:
        self._before, self._count, self._text_at = before, count, text_at

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        return self._before + self._text_at(index)

    def __iter__(self) -> Iterator[str]:
        return (self._before + self._text_at(index) for index in range(self._count))


def slot_automaton(
    template: CanaryTemplate, encoder: Encoder, sample: SampledEncodings
) -> tuple[ProductAutomaton | None, str | None]:
    """The product that explains every sampled encoding, or None and a text that none of them explains.

    Raises:
        InputError: two pieces have the same tokens, or none of the ways to cut applies.
    """
    missed, refusal, tried = None, None, set()
    for cut in (_groups_from_left, _groups_from_right, _whole):
        lengths = tuple(
            tuple(cut(space)) for space in template.spaces.values() if isinstance(space, (Digits, Letters))
        )
        if lengths in tried:
            continue
        tried.add(lengths)
        try:
            automaton = _build(template, encoder, cut)
            missed = sample.first_missed(automaton, encoder)
        except InputError as error:
            refusal = error
            continue
        if missed is None:
            sample.vouch_for(automaton, partial(_why_unproven, template, encoder, cut, automaton, sample.texts))
            return automaton, None
    if missed is None and refusal is not None:
        raise refusal
    return None, missed


Cut = Callable[[Space], list[int]]


def _groups_from_left(space: Space) -> list[int]:
    length = space.fixed_length or 0
    return [_GROUP] * (length // _GROUP) + [length % _GROUP] * (length % _GROUP > 0)


def _groups_from_right(space: Space) -> list[int]:
    return _groups_from_left(space)[::-1]


def _whole(space: Space) -> list[int]:
    return [space.fixed_length or 0]


def cut_before_space(text: str) -> tuple[str, str]:
    """A fixed text without the whitespace that it ends in, and that whitespace."""
    kept = text.rstrip()
    return kept, text[len(kept) :]


def _build(template: CanaryTemplate, encoder: Encoder, cut: Cut) -> ProductAutomaton:
    kept, _ = cut_before_space(template.prefix)
    context, known, slots = kept, {}, []
    for slot in _slots(template, cut):
        if slot.kind is None or slot.kind not in known:
            trie = EncodingTrie.of(slot.pieces, encoder, context)
            known[slot.kind] = trie
        slots.append(known[slot.kind])
        context += slot.pieces[0]
    plain = encoder.plain_ids([kept])[0] if kept else []
    return ProductAutomaton("slots", template, (*encoder.leading, *plain), kept, slots, encoder.ending)


def _why_unproven(
    template: CanaryTemplate, encoder: Encoder, cut: Cut, automaton: ProductAutomaton, texts: Sequence[str]
) -> str:
    try:
        reading = TokenizerReading(template, encoder, automaton.prefix_text, automaton.prefix, texts)
    except UnknownSplit as error:
        return str(error)
    return why_slots_are_unproven(reading, ((slot.pieces, slot.kind) for slot in _slots(template, cut)))


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
    return _Slot(_After(before, count, text_at), kind)
