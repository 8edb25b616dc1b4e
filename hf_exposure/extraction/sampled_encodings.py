"""The audit: encodings of sampled texts, on which an assumption about the tokenizer is tested before it is used.

A backend makes an assumption about how the tokenizer encodes the texts of a template, and builds an automaton from it.
The automaton must then contain the tokenizer's own encoding of each text of this sample; a single miss rejects it. For
a small space the sample is the whole space. For a larger space it has random texts, and texts that random samples
would miss: those through each transition of the template, those around tokens that were added to the vocabulary, and
those that the caller names (its canaries).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from hf_exposure.canaries import CanaryTemplate
from hf_exposure.errors import InputError
from hf_exposure.extraction.split_pattern import UnknownSplit
from hf_exposure.extraction.token_automaton import Exactness, Path, TokenAutomaton, follow_tokens
from hf_exposure.scoring import Encoder

AUDITED_ENCODINGS = 10_000
"""If none of them is missed, the share of misses is at most 3 / 10,000 = 0.03 % with 95 % confidence."""

Automaton = TypeVar("Automaton", bound=TokenAutomaton)

_AUDIT_SEED = 20190814
_PLACES_TRIED, _MOST_ADDED_TOKENS = 3, 200
_MOST_MOVES, _MOVES_WALKED = 2_000, 20_000


@dataclass(frozen=True)
class SampledEncodings:
    """N texts with their canonical encodings.

    Attributes:
        texts: all texts of a small template, else a fixed random sample with the first and the last, texts through
            each of the template's moves and around the tokens that were added to the tokenizer, and those that the
            caller names. ids: their token ids, including special tokens. exactness: the exactness of a claim that
            holds for all of them: "proven" if they are all texts of the template.
    """

    texts: tuple[str, ...] = field(repr=False)
    ids: tuple[tuple[int, ...], ...] = field(repr=False)
    exactness: Exactness

    @classmethod
    def of(cls, template: CanaryTemplate, encoder: Encoder, also: Sequence[str] = ()) -> SampledEncodings:
        """The sample of `template`, with the texts `also`.

        Raises:
            InputError: the tokenizer maps part of a text to its unknown token, or a text has no token that a model
                predicts.
        """
        size, whole = template.space_size, template.space_size <= AUDITED_ENCODINGS
        draw = random.Random(_AUDIT_SEED)
        places = range(size) if whole else [0, size - 1, *(draw.randrange(size) for _ in range(AUDITED_ENCODINGS))]
        texts = [template.text_at(index) for index in places]
        if not whole:
            texts += [*also, *_around_added_tokens(template, encoder, texts[:_PLACES_TRIED])]
            texts += _through_each_move(template, draw)
        return cls.among(texts, encoder, "proven" if whole else "audited")

    @classmethod
    def among(cls, texts: Sequence[str], encoder: Encoder, exactness: Exactness) -> SampledEncodings:
        """A sample of exactly these texts; raises like `of`."""
        return cls(tuple(texts), encoder.encode(texts).ids, exactness)

    def first_missed(self, automaton: TokenAutomaton) -> str | None:
        """The first text whose encoding is no path of the automaton, or the path of another text; None if there is
        none.
        """
        length = len(automaton.prefix)
        for text, ids in zip(self.texts, self.ids, strict=True):
            if ids[:length] != automaton.prefix or follow_tokens(automaton, ids[length:]) != text:
                return text
        return None

    def first_fitting(self, guesses: Iterable[Callable[[], Automaton]]) -> tuple[Automaton | None, str | None]:
        """The first automaton that contains every encoding; or None, and a text that one misses.

        Raises:
            InputError: the error of the last automaton that cannot be built or searched, if none misses a text.
        """
        missed: str | None = None
        refusal: InputError | None = None
        for guess in guesses:
            try:
                automaton = guess()
                missed = self.first_missed(automaton)
            except InputError as error:
                refusal = error
                continue
            if missed is None:
                return automaton, None
        if missed is None and refusal is not None:
            raise refusal
        return None, missed

    def set_exactness(self, automaton: TokenAutomaton, prove: Callable[[], None]) -> None:
        """Records whether it is proven or only audited that an automaton with these encodings has those of all texts.

        `prove` is called if these are not all texts; it raises `UnknownSplit` if it finds no proof.
        """
        automaton.exactness, automaton.unproven = "proven", ""
        try:
            if self.exactness != "proven":
                prove()
        except UnknownSplit as error:
            automaton.exactness, automaton.unproven = "audited", str(error)

    def beginnings_are_kept(self, automaton: TokenAutomaton) -> bool:
        """Whether no beginning of these encodings, which must be paths of the automaton, is rejected as not
        canonical.
        """
        beginnings: dict[Path, str] = {}
        for ids in self.ids:
            path = ids[len(automaton.prefix) :]
            state, text = automaton.root, automaton.prefix_text
            for depth, token in enumerate(path, start=1):
                transitions = automaton.transitions(state)
                child = int(np.searchsorted(transitions.tokens_C, token))
                state, text = transitions.states[child], text + transitions.pieces[child]
                if automaton.count(state) > 1:  # if one text is left, it is encoded whole
                    beginnings[path[:depth]] = text
        return all(automaton.canonical(list(beginnings), list(beginnings.values()), [False] * len(beginnings)))


def _through_each_move(template: CanaryTemplate, draw: random.Random) -> list[str]:
    """A text through each character of each state of the template, with a random end; a sample if there are many.

    A branch with few texts may be encoded in a special way that a uniform sample would miss.
    """
    reached = {template.start: ""}
    moves: list[tuple[str, str, Any]] = []
    for position in (waiting := [template.start]):  # grows while it is walked
        if len(moves) > _MOVES_WALKED:
            break
        for character, after in template.moves(position).items():
            moves.append((reached[position], character, after))
            if after not in reached:
                reached[after] = reached[position] + character
                waiting.append(after)
    texts = []
    for before, character, after in draw.sample(moves, min(len(moves), _MOST_MOVES)):
        rest, position = character, after
        while onward := list(template.moves(position).items()):
            if template.is_end(position) and draw.random() < 0.5:
                break
            further, position = draw.choice(onward)
            rest += further
        texts.append(before + rest)
    return texts


def _around_added_tokens(template: CanaryTemplate, encoder: Encoder, texts: list[str]) -> Iterator[str]:
    """Texts of the template that contain a token that was added to the vocabulary.

    Such a token is split off before anything else, however rare it is among random texts; and a token that was added
    for a secret occurs only in that secret.
    """
    added: dict[str, int] = getattr(encoder.tokenizer, "get_added_vocab", dict)()
    special = set(getattr(encoder.tokenizer, "all_special_tokens", ()))
    letters = {letter for space in template.spaces.values() for letter in space.alphabet}
    for token in list(added)[:_MOST_ADDED_TOKENS]:
        if len(token) < 2 or token in special or not letters.intersection(token):
            continue
        for text in texts:
            for at in range(len(text) - len(token) + 1):
                changed = text[:at] + token + text[at + len(token) :]
                if changed != text and template.contains(changed):
                    yield changed
