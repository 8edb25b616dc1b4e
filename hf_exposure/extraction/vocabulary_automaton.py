"""The token automaton for holes whose characters merge: vocabulary entries against the template's characters.

A state is expanded when it is asked for: every entry that spells the characters that may come next is a child. One
text then has many paths, of which one is canonical. Training saw that one, so each leaf is encoded again and must
equal its path. Where beginnings of canonical encodings are canonical themselves (they are for most tokenizers, though
not where digits are grouped from the right), open paths are judged in the same way, early. `canonical_prefixes` proves
it where it can; else the audit decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from hf_exposure.canaries import CanaryTemplate
from hf_exposure.canaries.word_spaces import WordTrie
from hf_exposure.extraction.canonicity import Claims, Entries, prove_claims, unbuildable_entries
from hf_exposure.extraction.encoding_trie import alike, text_begins_another
from hf_exposure.extraction.sampled_encodings import SampledEncodings
from hf_exposure.extraction.split_pattern import UnknownSplit
from hf_exposure.extraction.token_automaton import (
    NO_MOVES,
    Exactness,
    Moves,
    Path,
    Run,
    State,
    follow_forced_run,
)
from hf_exposure.extraction.tokenizer_reading import TokenizerReading, TokenSurfaces, position_after, serialized_model
from hf_exposure.scoring import Encoder

_REMEMBERED_STATES = 2**14  # each may have a thousand children
_LARGEST_ALPHABET = 128  # up to it, characters after which all others render alike are treated as one
_END = ("end", "", "")


class VocabularyAutomaton:
    """All token paths that spell a text of the template, the canonical ones told apart by encoding again.

    A state is (template state, the character before, symbols already taken of the next character's rendering).

    Args:
        template: the texts.
        encoder: of the tokenizer.
        prefix_text: the beginning of the template's prefix whose tokens begin every encoding.
        model: the tokenizer's model, serialized.

    Attributes:
        prunes: whether open paths are judged too, and not only leaves.
        is_sampled: whether it is a sample, and no proof, that says that open paths may be judged.
        unproven: why it is not proven that every encoding is found; "" where it is.
    """

    exactness: Exactness = "audited"
    unproven = ""

    def __init__(self, template: CanaryTemplate, encoder: Encoder, prefix_text: str, model: Mapping[str, Any]) -> None:
        self.template, self._encoder, self.prefix_text = template, encoder, prefix_text
        self._plain_prefix = tuple(encoder.plain_ids([prefix_text])[0]) if prefix_text else ()
        self.prefix: Path = (*encoder.leading, *self._plain_prefix)
        self._surfaces = TokenSurfaces(encoder.tokenizer, model)
        self._letters = sorted(_letters_after(template, prefix_text))
        self._anchor = prefix_text or template.text_at(0)[0]
        self._kind_of = lru_cache(maxsize=None)(self._first_like)
        added = (self._added(a, b) for a in ["", *self._letters] for b in self._letters)
        self._symbols = frozenset().union(*added)
        self._token_of = self._surfaces.matching(self._symbols)
        self._entries = WordTrie(self._token_of or [" "], "tokenizer")
        self._undecided: set[int] = set()
        self.prunes, self.is_sampled, self.name = True, False, "vocabulary"
        self._unbuildable = unbuildable_entries(model, self._token_of)
        self._unbuildable_lengths = sorted(set(map(len, self._unbuildable)))
        self.root: State = (position_after(template, template.start, prefix_text), "", "")
        self.moves = lru_cache(maxsize=_REMEMBERED_STATES)(self._moves)
        self._steps = lru_cache(maxsize=_REMEMBERED_STATES)(self._find_steps)

    def judge_leaves_only(self) -> None:
        """For tokenizers of which a canonical encoding may have a beginning that is not."""
        self.prunes, self.name = False, "vocabulary, judging leaves only"

    def claims(self, model: Mapping[str, Any], texts: Sequence[str]) -> Claims:
        """What can be proven of this walk under the serialized `model`; `texts` are some of the template."""
        try:
            reading = TokenizerReading(self.template, self._encoder, self.prefix_text, self.prefix, texts)
        except UnknownSplit as error:
            return Claims(str(error), str(error), not error.may_move)
        surface_of = {index: surface for surface, index in self._token_of.items()}
        before = self._encoder.tokenizer.convert_ids_to_tokens(list(self.prefix[-1:]))
        first = [surface_of[token] for token in self.moves(self.root).tokens.tolist() if token in surface_of]
        return prove_claims(reading, Entries(model, self._token_of, self._symbols, "".join(before), first))

    def count(self, state: Any) -> int:
        position, before, taken = state
        if state == _END:
            return 1
        if not taken:
            return self.template.count(position)
        return sum(
            self.template.count(after)
            for character, after in self.template.moves(position).items()
            if self._added(before, character).startswith(taken)
        )

    def is_leaf(self, state: Any) -> bool:
        position, _, taken = state
        if state == _END:
            return True
        ended = not self._encoder.ending and not taken and self.template.is_end(position)
        return ended and not self.template.moves(position)

    def canonical(self, paths: Sequence[Path], texts: Sequence[str], ends: Sequence[bool]) -> list[bool]:
        verdicts = [True] * len(paths)
        judged = [at for at, path in enumerate(paths) if ends[at] or (self.prunes and self._is_decided(path))]
        found = self._paths_of([texts[at] for at in judged])
        for at, path in zip(judged, found, strict=True):
            ending = self._encoder.ending if ends[at] else ()
            is_own = path is not None and (*path, *ending) == paths[at]
            verdicts[at] = is_own or (not ends[at] and self._ends_unbuildable(texts[at]))
        return verdicts

    def _ends_unbuildable(self, text: str) -> bool:
        """Whether a word that goes on may be encoded otherwise than the same word alone."""
        if not self._unbuildable:
            return False
        rendered = self._surfaces.render(text)
        return any(rendered[-length:] in self._unbuildable for length in self._unbuildable_lengths)

    def runs(self, paths: Sequence[Path], texts: Sequence[str], states: Sequence[State]) -> list[Run | None]:
        """Where one text is left, its encoding says the rest; elsewhere what has one child is followed."""
        rests = [self._rest(state) for state in states]
        runs: list[Run | None] = [None] * len(states)
        alone = [at for at, rest in enumerate(rests) if rest is not None]
        found = self._paths_of([texts[at] + str(rests[at]) for at in alone])
        for at, path in zip(alone, found, strict=True):
            whole = None if path is None else (*path, *self._encoder.ending)
            if whole is not None and whole[: len(paths[at])] == paths[at]:
                runs[at] = (whole[len(paths[at]) :], str(rests[at]), _END, NO_MOVES)
        several = [at for at, rest in enumerate(rests) if rest is None]
        followed = [follow_forced_run(self, states[at]) for at in several]
        # Without moves a state is the end of a text, or one that the vocabulary cannot go on from.
        leading_on = [
            (at, run) for at, run in zip(several, followed, strict=True) if len(run[3]) > 0 or self.is_leaf(run[2])
        ]
        verdicts = self.canonical(
            [(*paths[at], *run[0]) for at, run in leading_on],
            [texts[at] + run[1] for at, run in leading_on],
            [not len(run[3]) for _, run in leading_on],
        )
        for (at, run), verdict in zip(leading_on, verdicts, strict=True):
            # Beginnings of one text are judged with it, whole.
            is_one = len(run[3]) > 0 and self.count(run[2]) <= 1
            runs[at] = run if verdict or is_one else None
        return runs

    def _is_decided(self, path: Path) -> bool:
        """Whether a path ends between characters, so that its text can be encoded."""
        return not path or path[-1] not in self._undecided

    def _paths_of(self, texts: list[str]) -> list[Path | None]:
        length = len(self._plain_prefix)
        encoded = self._encoder.plain_ids(texts)
        return [tuple(ids[length:]) if tuple(ids[:length]) == self._plain_prefix else None for ids in encoded]

    def _rest(self, state: Any) -> str | None:
        """The text that is left, where it is just one."""
        if state == _END or self.count(state) > 1:
            return None
        position, before, taken = state
        rest: list[str] = []
        while not self.template.is_end(position):
            ways = self.template.moves(position)
            character = next(one for one in ways if not taken or self._added(before, one).startswith(taken))
            rest.append(character)
            position, taken = ways[character], ""
        return "".join(rest)

    def _moves(self, state: Any) -> Moves:
        if state == _END:
            return NO_MOVES
        found: dict[int, tuple[str, Any]] = {}
        position, _, taken = state
        if not taken and self.template.is_end(position):
            if self._encoder.ending:
                found[self._encoder.ending[0]] = ("", _END)
            elif self.template.moves(position):
                raise text_begins_another(self.template)
        open_nodes = [(self._entries.root, "", state)]
        while open_nodes:
            node, text, reached = open_nodes.pop()
            if reached is not state and self._entries.is_word(node):
                token = self._token_of[self._entries.words[node[0]]]
                if reached[2]:
                    self._undecided.add(token)
                if found.setdefault(token, (text, reached)) != (text, reached):
                    raise alike(text, found[token][0])
            children = self._entries.children(node)
            for symbol, (piece, following) in self._steps(reached).items():
                if symbol in children:
                    open_nodes.append((children[symbol], text + piece, following))
        order = sorted(found)
        tokens = np.array(order, dtype=np.int64)
        return Moves(tokens, tuple(found[t][0] for t in order), tuple(found[t][1] for t in order))

    def _find_steps(self, state: Any) -> dict[str, tuple[str, Any]]:
        """By rendered symbol: the text that it decides and the state after it."""
        position, before, taken = state
        steps: dict[str, tuple[str, Any]] = {}
        for character, after in self.template.moves(position).items():
            added = self._added(before, character)
            found: Iterator[tuple[str, tuple[str, Any]]] = iter(())
            if not added and not taken:  # a dropped space: what follows comes at once
                following = self._steps((after, self._kind_of(character), ""))
                found = ((symbol, (character + piece, to)) for symbol, (piece, to) in following.items())
            elif added.startswith(taken) and len(added) > len(taken):
                decided = len(added) == len(taken) + 1
                step = (
                    self._settled(character, after) if decided else ("", (position, before, added[: len(taken) + 1]))
                )
                found = iter([(added[len(taken)], step)])
            for symbol, step in found:
                if steps.setdefault(symbol, step) != step:
                    raise alike(step[0], steps[symbol][0])
        return steps

    def _settled(self, text: str, position: Any) -> tuple[str, Any]:
        """After a whole character, with what is forced and dropped behind it (a space at the very end)."""
        while len(moves := self.template.moves(position)) == 1 and not self.template.is_end(position):
            ((character, after),) = moves.items()
            if self._added(self._kind_of(text[-1]), character):
                break
            text, position = text + character, after
        return text, (position, self._kind_of(text[-1]), "")

    def _added(self, before: str, character: str) -> str:
        return self._surfaces.added((self._anchor if before else self.prefix_text) + before, character)

    def _first_like(self, character: str) -> str:
        """The first character after which all others render as after this one: fewer states, the same moves."""
        if len(self._letters) > _LARGEST_ALPHABET:
            return character
        after = [self._added(character, other) for other in self._letters]
        return next(
            one for one in self._letters if one == character or after == [self._added(one, c) for c in self._letters]
        )


def vocabulary_automaton(
    template: CanaryTemplate, encoder: Encoder, sample: SampledEncodings
) -> tuple[VocabularyAutomaton | None, str | None]:
    """The automaton if it holds every sampled encoding, else None and one that it lacks.

    Raises:
        InputError: a tokenizer that cannot be walked, or that gives two texts the same tokens.
    """
    model = serialized_model(encoder.tokenizer)
    automaton = VocabularyAutomaton(template, encoder, _separable_prefix(template, encoder, sample), model)
    missed = sample.first_missed(automaton, encoder)
    if missed is not None:
        return None, missed
    is_whole = sample.exactness == "proven"
    claims = Claims() if is_whole else automaton.claims(model, sample.texts)
    sample.vouch_for(automaton, lambda: claims.complete)
    automaton.is_sampled = bool(claims.prefixes)
    is_asked = is_whole or automaton.is_sampled  # else it is proven
    if not claims.may_prune or (is_asked and not sample.beginnings_are_kept(automaton, encoder)):
        automaton.judge_leaves_only()
    return automaton, None


def _separable_prefix(template: CanaryTemplate, encoder: Encoder, sample: SampledEncodings) -> str:
    """The longest beginning of the template's prefix whose tokens begin every sampled encoding.

    All of it, or cut at a space, which most tokenizers write with what follows.
    """
    prefix = template.prefix
    cuts = {cut for at, letter in enumerate(prefix) if letter == " " for cut in (at, at + 1)} | {len(prefix)}
    for cut in sorted(cuts - {0}, reverse=True):
        tokens = tuple(encoder.plain_ids([prefix[:cut]])[0])
        if tokens and all(ids[: len(tokens)] == tokens and len(ids) > len(tokens) for ids in sample.ids):
            return prefix[:cut]
    return ""


def _letters_after(template: CanaryTemplate, prefix_text: str) -> set[str]:
    """Every character that may stand after the prefix."""
    letters = set(template.prefix[len(prefix_text) :])
    for segment in template.segments[bool(template.prefix) :]:
        letters |= set(segment if isinstance(segment, str) else segment[1].alphabet)
    return letters
