"""Texts of a template and their encodings, on which a guess about the tokenizer is tried before it is believed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hf_exposure.canaries import CanaryTemplate
from hf_exposure.extraction.token_automaton import Exactness, Path, TokenAutomaton, follow_tokens
from hf_exposure.scoring import Encoder

AUDITED_ENCODINGS = 10_000
"""No miss among them bounds the share of misses by 3 / 10,000 = 0.03 % with 95 % confidence."""

_AUDIT_SEED = 20190814
_PLACES_TRIED, _MOST_ADDED_TOKENS = 3, 200
_MOST_MOVES, _MOVES_WALKED = 2_000, 20_000


@dataclass(frozen=True)
class SampledEncodings:
    """N texts with their plain token ids.

    Attributes:
        texts: all texts of a small template, else a fixed random sample with the first and the last, texts through
            each of the template's moves and around the tokens that were added to the tokenizer, and those that the
            caller knows to matter.
        ids: their tokens, without special ones.
        exactness: of what holds for all of them.
    """

    texts: tuple[str, ...] = field(repr=False)
    ids: tuple[tuple[int, ...], ...] = field(repr=False)
    exactness: Exactness

    @classmethod
    def of(cls, template: CanaryTemplate, encoder: Encoder, also: Sequence[str] = ()) -> SampledEncodings:
        """The sample of `template`, `also` in it.

        Raises:
            InputError: the tokenizer maps part of a text to its unknown token, or leaves a text without any token that
                a model predicts.
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
        """These texts and no others; raises as `of` does."""
        first, last = len(encoder.leading), len(encoder.ending)
        ids = tuple(found[first : len(found) - last] for found in encoder.encode(texts).ids)
        return cls(tuple(texts), ids, exactness)

    def first_missed(self, automaton: TokenAutomaton, encoder: Encoder) -> str | None:
        """The first text whose encoding is no path of the automaton, or another text's path; None: there is none."""
        length = len(automaton.prefix)
        for text, ids in zip(self.texts, self.ids, strict=True):
            whole = (*encoder.leading, *ids, *encoder.ending)
            if whole[:length] != automaton.prefix or follow_tokens(automaton, whole[length:]) != text:
                return text
        return None

    def vouch_for(self, automaton: Any, why_unproven: Callable[[], str]) -> None:
        """Says of an automaton that holds all of these encodings how certain it is that it holds every one.

        `why_unproven` is asked where these are not all: why no proof is known, or "".
        """
        automaton.unproven = "" if self.exactness == "proven" else why_unproven()
        automaton.exactness = "audited" if automaton.unproven else "proven"

    def beginnings_are_kept(self, automaton: TokenAutomaton, encoder: Encoder) -> bool:
        """Whether pruning keeps every encoding, all of which must be paths of the automaton: a single miss says no."""
        beginnings: dict[Path, str] = {}
        for ids in self.ids:
            path = (*encoder.leading, *ids)[len(automaton.prefix) :]
            state, text = automaton.root, automaton.prefix_text
            for depth, token in enumerate(path, start=1):
                moves = automaton.moves(state)
                child = int(np.searchsorted(moves.tokens, token))
                state, text = moves.states[child], text + moves.pieces[child]
                if automaton.count(state) > 1:  # where one text is left, it is encoded whole
                    beginnings[path[:depth]] = text
        return all(automaton.canonical(list(beginnings), list(beginnings.values()), [False] * len(beginnings)))


def _through_each_move(template: CanaryTemplate, draw: random.Random) -> list[str]:
    """A text through each character of each state of the template, with a random end; some where they are many.

    A branch of few texts may be encoded in a way of its own, and no uniform sample may show it.
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
    """Texts of the template that hold a token which was added to the vocabulary.

    Such a token is cut out before anything else, however rare it is among random texts; and one that was added for a
    secret stands in just that secret.
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
