"""One trie of encodings after another: the space is their product, and so is what is built of it never."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from hf_exposure.canaries import CanaryTemplate
from hf_exposure.errors import InputError
from hf_exposure.extraction.encoding_trie import EncodingTrie
from hf_exposure.extraction.token_automaton import NO_MOVES, Exactness, Moves, OnePathPerText, State

__all__ = ["ProductAutomaton", "text_begins_another"]

_REMEMBERED_STATES = 2**16


class ProductAutomaton(OnePathPerText):
    """Every way to take one sequence of each slot, one slot after the other.

    A state is (slot, depth, low, high), a node of the slot's trie; the last slot's end is the leaf.

    Args:
        name: as `TokenAutomaton.name`.
        prefix: tokens before the first slot, special ones included.
        prefix_text: what `prefix` stands for; "" where the first slot's texts hold it.
        slots: at least one.
        ending: tokens after each text (an end token), or ().

    Raises:
        InputError: a text's tokens begin another's, and no end token tells them apart; or, while walking, where the
            tokens do not say which slot they belong to.
    """

    def __init__(
        self,
        name: str,
        template: CanaryTemplate,
        prefix: tuple[int, ...],
        prefix_text: str,
        slots: Sequence[EncodingTrie],
        ending: tuple[int, ...],
    ) -> None:
        self.name, self.prefix, self.prefix_text = name, prefix, prefix_text
        self.exactness: Exactness = "proven"
        self.unproven = ""
        if ending:
            slots = [*slots, EncodingTrie(np.array([ending], dtype=np.int32, order="F"), [""])]
        elif not slots[-1].prefix_free:
            raise text_begins_another(template)
        self._template_text, self._slots = template.text, slots
        self._texts_after = [prod(len(slot) for slot in slots[index + 1 :]) for index in range(len(slots))]
        self.root: State = (0, 0, 0, len(slots[0]))
        self.moves = lru_cache(maxsize=_REMEMBERED_STATES)(self._moves)

    def count(self, state: Any) -> int:
        slot, _, low, high = state
        return 1 if slot == len(self._slots) else int(high - low) * self._texts_after[slot]

    def is_leaf(self, state: Any) -> bool:
        return bool(state[0] == len(self._slots))

    def _moves(self, state: Any) -> Moves:
        slot, depth, low, high = state
        if slot == len(self._slots):
            return NO_MOVES
        found = list(self._onward(slot, depth, low, high, ()))
        if self._slots[slot].ends_at(depth, low) and depth:
            found += self._onward(slot + 1, 0, 0, len(self._slots[slot + 1]), ((slot, low),))
            found.sort(key=lambda move: move[0])
            if any(one[0] == other[0] for one, other in zip(found, found[1:], strict=False)):
                rule = "must keep the pieces of a text apart"
                raise InputError("tokenizer", rule, self._template_text, "Use a space of at most a million texts.")
        tokens = np.array([token for token, _, _ in found], dtype=np.int64)
        return Moves(tokens, _Pieces(self._slots, [taken for _, taken, _ in found]), tuple(to for _, _, to in found))

    def _onward(self, slot: int, depth: int, low: int, high: int, taken: tuple[tuple[int, int], ...]) -> Any:
        """(token, rows that are decided with it, state) of each way on inside a slot."""
        trie = self._slots[slot]
        for token, first, last in trie.children(depth, low, high):
            if last - first > 1 or not trie.ends_at(depth + 1, first):
                yield token, taken, (slot, depth + 1, first, last)
            else:
                following = slot + 1
                rows = len(self._slots[following]) if following < len(self._slots) else 0
                yield token, (*taken, (slot, first)), (following, 0, 0, rows)


class _Pieces(Sequence[str]):
    """What tokens spell, looked up only when asked: rendering a text costs more than walking to it."""

    def __init__(self, slots: Sequence[EncodingTrie], rows: list[tuple[tuple[int, int], ...]]) -> None:
        self._slots, self._rows = slots, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return _Pieces(self._slots, self._rows[index])
        return "".join(self._slots[slot].text_of(row) for slot, row in self._rows[index])


def text_begins_another(template: CanaryTemplate) -> InputError:
    """The refusal of a template whose texts no end tells apart."""
    rule, remedy = (
        "must not have a text that begins another of its texts",
        "Add a fixed suffix, or pass end_token=True.",
    )
    return InputError("template", rule, template.text, remedy)
