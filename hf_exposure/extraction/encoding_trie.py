"""Encodings as prefix trees, and token automata made from them, for every text or for one piece after another.

A trie is never built: its sequences are sorted rows of token ids, and a node is a range of rows that agree so far. For
the texts "red", "reddish" and "rose" under a tokenizer with the tokens re=5, d=6, dish=7, ro=8 and se=9:

    row   text      depth 0  1  2       node (low, high, depth)        sequences
    0     red             5  6 -1       (0, 3, 0)                      all
    1     reddish         5  6  7       (0, 2, 1) by token 5           red, reddish
    2     rose            8  9 -1       (0, 2, 2) by token 6           red ends here, reddish continues

The space of a template is then the product of one trie for each slot, which has the pieces that may occur at one
position (`ProductAutomaton`): the tokens of a text are those of its pieces, one after the other. The product is not
built either. A single slot with whole texts is right for any tokenizer, since nothing is assumed, and is used for
spaces that are small enough to encode (`trie_automaton`).

Shapes: N sequences of at most L tokens.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from hf_exposure.canaries import CanaryTemplate
from hf_exposure.errors import InputError
from hf_exposure.extraction.token_automaton import NO_TRANSITIONS, Exactness, OnePathPerText, State, Transitions
from hf_exposure.scoring import Encoder
from hf_exposure.scoring.encoding import LazyTexts
from hf_exposure.tokens import shared_length

LARGEST_TRIE = 10**6
"""The largest space that is encoded completely, which takes a quarter of a minute and under 50 MB."""

_CHUNK = 8192
_CACHED_STATES = 2**16
_ABSENT = -1


class EncodingTrie:
    """N distinct token sequences, each of a single text.

    A node is `(low, high, depth)`: rows `low <= i < high` agree in their first `depth` tokens. One sequence may begin
    another; the shorter one is then the first row of the node at its end.

    Attributes:
        rows_NL: int32, sorted, padded on the right with -1; 4 bytes a token.
        order_N: the number of each row before sorting.
        texts: the text of each sequence by its number before sorting.
        shared: the tokens with which all sequences begin, which are not in the rows.
        prefix_free: whether no sequence begins another.
    """

    def __init__(self, rows_NL: npt.NDArray[np.int32], texts: Sequence[str], shared: tuple[int, ...] = ()) -> None:
        columns = [rows_NL[:, column] for column in range(rows_NL.shape[1])]
        order = np.lexsort(columns[::-1]).astype(np.int32)
        for column in columns:  # one at a time, since a sorted copy of the whole would double the memory
            column[:] = column[order]
        self.rows_NL, self.order_N, self.texts, self.shared = rows_NL, order, texts, shared
        is_repeat = np.ones(max(len(order) - 1, 0), dtype=bool)  # whether a row equals the next one
        is_beginning = is_repeat.copy()  # whether it begins the next one
        for column in columns:
            is_repeat &= column[1:] == column[:-1]
            is_beginning &= (column[1:] == column[:-1]) | (column[:-1] == _ABSENT)
        if is_repeat.any():
            row = int(np.flatnonzero(is_repeat)[0])
            raise same_tokens_error(self.text_of(row), self.text_of(row + 1))
        self.prefix_free = not is_beginning.any()

    @classmethod
    def of(cls, texts: Sequence[str], encoder: Encoder, after: str = "", *, cut_shared: bool = False) -> EncodingTrie:
        """The tokens that each text appends to those of the text `after` before it.

        `cut_shared` moves the tokens with which all of them begin to `shared`.

        Raises:
            InputError: the tokens of `after` do not begin all encodings, a text adds none, or two add the same.
        """
        before = tuple(encoder.plain_ids([after])[0]) if after else ()
        shared: tuple[int, ...] | None = None
        blocks: list[list[np.ndarray]] = []
        for first in range(0, len(texts), _CHUNK):
            chunk = [after + texts[index] for index in range(first, min(first + _CHUNK, len(texts)))]
            encoded = encoder.plain_ids(chunk)
            if any(tuple(ids[: len(before)]) != before or len(ids) == len(before) for ids in encoded):
                rule = "must encode the text before a hole separately from it"
                raise InputError("tokenizer", rule, after, "Use a space of at most a million texts.")
            tails = [ids[len(before) :] for ids in encoded]
            common = shared_lead(tails) if cut_shared else ()
            if shared is not None:
                common = common[: shared_length([common, shared])]
                for block in blocks:
                    block[:0] = [np.full(len(block[0]), token, dtype=np.int32) for token in shared[len(common) :]]
            shared = common
            blocks.append(_columns([ids[len(common) :] for ids in tails]))
        return cls(_join(blocks), texts, shared or ())

    def __len__(self) -> int:
        return len(self.order_N)

    def text_of(self, row: int) -> str:
        """The text of a sorted row."""
        return self.texts[int(self.order_N[row])]

    def ends_at(self, low: int, depth: int) -> bool:
        """Whether the first row of a node ends there."""
        return depth == self.rows_NL.shape[1] or bool(self.rows_NL[low, depth] == _ABSENT)

    def children(self, low: int, high: int, depth: int) -> Iterable[tuple[int, int, int]]:
        """Yields (token, low, high) of each node one token further."""
        if depth == self.rows_NL.shape[1]:
            return []
        column = self.rows_NL[low:high, depth]
        cuts = [0, *(np.flatnonzero(column[1:] != column[:-1]) + 1).tolist(), high - low]
        tokens = column[cuts[:-1]].tolist()
        return [
            (token, low + start, low + stop)
            for token, start, stop in zip(tokens, cuts, cuts[1:], strict=False)
            if token != _ABSENT
        ]


def same_tokens_error(text: str, other: str) -> InputError:
    """The error for two texts that have the same tokens. It quotes only their difference, since either may be a
    canary.
    """
    pairs = itertools.zip_longest(text, other, fillvalue="")
    one, another = next((pair for pair in pairs if pair[0] != pair[1]), ("", ""))
    rule = (
        f"must distinguish the template's texts, but encodes two alike: one has {one!r} where the other has "
        f"{another!r}"
    )
    return InputError("tokenizer", rule, "the same tokens", "Use a space without one of them.")


def not_prefix_free_error(template: CanaryTemplate) -> InputError:
    """The error for a template in which one text begins another and no end token distinguishes them."""
    rule, remedy = (
        "must not have a text that begins another of its texts",
        "Add a fixed suffix, or pass end_token=True.",
    )
    return InputError("template", rule, template.text, remedy)


def shared_lead(sequences: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The leading tokens that all sequences share, excluding the last token of each.

    Example:
        >>> shared_lead([[5, 6], [5, 6, 7]])
        (5,)
    """
    return tuple(sequences[0][: shared_length([sequence[:-1] for sequence in sequences])])


def _columns(sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
    width = max(map(len, sequences))
    block = np.full((len(sequences), width), _ABSENT, dtype=np.int32)
    for row, sequence in enumerate(sequences):
        block[row, : len(sequence)] = sequence
    return [np.ascontiguousarray(column) for column in block.T]


def _join(blocks: list[list[np.ndarray]]) -> npt.NDArray[np.int32]:
    """One matrix in column-major order; the blocks are consumed, so that both are never in memory at once."""
    rows, width = sum(len(block[0]) for block in blocks), max(map(len, blocks))
    joined = np.full((rows, width), _ABSENT, dtype=np.int32, order="F")
    at = 0
    while blocks:
        block = blocks.pop(0)
        for column, values in enumerate(block):
            joined[at : at + len(values), column] = values
        at += len(block[0])
    return joined


class ProductAutomaton(OnePathPerText):
    """All combinations of one sequence from each slot, one slot after the other.

    A state is (slot, low, high, depth): a node of that slot's trie. The state after the last slot is the leaf. If a
    sequence begins another of its slot, its end has both kinds of children: those that continue in the slot, and those
    of the next one.

    Args:
        name: as `TokenAutomaton.name`.
        prefix: tokens before the first slot, including special ones.
        prefix_text: the text of `prefix`; "" if it is part of the first slot's texts.
        slots: at least one.
        ending: tokens after each text (an end token), or ().

    Attributes:
        pieces: the texts of each slot; slots that share their encodings share the object.

    Raises:
        InputError: a text's tokens begin another's and no end token distinguishes them; or, during the search, the
            tokens do not show to which slot they belong.
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
        self.pieces = tuple(slot.texts for slot in slots)
        if ending:
            slots = [*slots, EncodingTrie(np.array([ending], dtype=np.int32, order="F"), [""])]
        elif not slots[-1].prefix_free:
            raise not_prefix_free_error(template)
        self._template_text, self._slots = template.text, slots
        self._texts_after = [prod(len(slot) for slot in slots[index + 1 :]) for index in range(len(slots))]
        self.root: State = (0, 0, len(slots[0]), 0)
        self.transitions = lru_cache(maxsize=_CACHED_STATES)(self._transitions)

    def count(self, state: Any) -> int:
        slot, low, high, _ = state
        return 1 if slot == len(self._slots) else int(high - low) * self._texts_after[slot]

    def is_leaf(self, state: Any) -> bool:
        return bool(state[0] == len(self._slots))

    def _transitions(self, state: Any) -> Transitions:
        slot, low, high, depth = state
        if slot == len(self._slots):
            return NO_TRANSITIONS
        found = list(self._onward(slot, low, high, depth, ()))
        if self._slots[slot].ends_at(low, depth) and depth:
            found += self._onward(slot + 1, 0, len(self._slots[slot + 1]), 0, ((slot, low),))
            found.sort(key=lambda transition: transition[0])
            if any(one[0] == other[0] for one, other in zip(found, found[1:], strict=False)):
                rule = "must encode the pieces of a text separately"
                raise InputError("tokenizer", rule, self._template_text, "Use a space of at most a million texts.")
        tokens = np.array([token for token, _, _ in found], dtype=np.int64)
        rows = [taken for _, taken, _ in found]
        pieces = LazyTexts(len(rows), lambda child: self._spelled(rows[child]))
        return Transitions(tokens, pieces, tuple(to for _, _, to in found), self)

    def _spelled(self, rows: tuple[tuple[int, int], ...]) -> str:
        return "".join(self._slots[slot].text_of(row) for slot, row in rows)

    def _onward(self, slot: int, low: int, high: int, depth: int, taken: tuple[tuple[int, int], ...]) -> Any:
        """Yields (token, rows that are decided with it, state) of each token that may follow inside a slot."""
        trie = self._slots[slot]
        for token, first, last in trie.children(low, high, depth):
            if last - first > 1 or not trie.ends_at(first, depth + 1):
                yield token, taken, (slot, first, last, depth + 1)
            else:
                following = slot + 1
                rows = len(self._slots[following]) if following < len(self._slots) else 0
                yield token, (*taken, (slot, first)), (following, 0, rows, 0)


def trie_automaton(template: CanaryTemplate, encoder: Encoder) -> ProductAutomaton:
    """One trie of all texts of `template`.

    Raises:
        InputError: the space is larger than `LARGEST_TRIE`, or two texts have the same tokens.
    """
    if template.space_size > LARGEST_TRIE:
        rule = f"must have at most {LARGEST_TRIE} texts to be encoded one by one"
        raise InputError("template", rule, template.space_size, "Use a smaller space.")
    trie = EncodingTrie.of(LazyTexts(template.space_size, template.text_at), encoder, cut_shared=True)
    return ProductAutomaton("trie", template, (*encoder.leading, *trie.shared), "", [trie], encoder.ending)
