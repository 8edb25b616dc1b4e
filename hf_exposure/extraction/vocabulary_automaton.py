"""The token automaton for holes whose characters merge: the product of two machines over rendered symbols.

A tokenizer spells its vocabulary entries in an alphabet of its own: GPT-2 writes the two bytes of "é" as "Ã©" and a
space as "Ġ", WordPiece marks the entries that continue a word. On one side is the trie of the vocabulary, which reads
symbols and ends at tokens. On the other side is the `SymbolTransducer` of the template, which reads the same symbols
and writes the characters that they decide. A token leads from one state to another wherever a path through the trie
and a path through the transducer read the same symbols.

Example: "x{a}" with the fillings "é" (rendered "Ã©") and "è" ("Ã¨"), and the entries "Ã", "©", "¨" and "Ã©":

    transducer    root --Ã/""--> one symbol read --©/"é"--> end          symbol read / characters written
                                                 --¨/"è"--> end
    tokens        root --[Ã] ""--> one symbol read --[©] "é"--> leaf     token, the text that it adds
                                                   --[¨] "è"--> leaf
                  root --[Ã©] "é"--> leaf

"é" has two paths here, [Ã, ©] and [Ã©], of which the tokenizer uses one. Training saw that one, so each leaf is
encoded again and must equal its path. If beginnings of canonical encodings are canonical themselves (as for most
tokenizers, but not if digits are grouped from the right), open paths are judged early in the same way. `canonicity`
proves this if it can; otherwise the audit of sampled encodings decides.

States are expanded on demand, so the size of the space does not matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from hf_exposure.canaries import CanaryTemplate
from hf_exposure.canaries.word_spaces import WordTrie
from hf_exposure.extraction.canonicity import (
    Claims,
    Entries,
    ends_may_be_dropped,
    prove_claims,
    unbuildable_entries,
)
from hf_exposure.extraction.encoding_trie import not_prefix_free_error, same_tokens_error
from hf_exposure.extraction.sampled_encodings import SampledEncodings
from hf_exposure.extraction.split_pattern import UnknownSplit
from hf_exposure.extraction.token_automaton import (
    NO_TRANSITIONS,
    Exactness,
    ForcedTokens,
    Path,
    State,
    Transitions,
    follow_only_children,
)
from hf_exposure.extraction.tokenizer_reading import TokenizerReading, TokenSurfaces, position_after, serialized_model
from hf_exposure.scoring import Encoder

_CACHED_STATES = 2**14  # each state may have a thousand children
_LARGEST_ALPHABET = 128  # up to this size, characters after which all others render alike are merged


class SymbolState(NamedTuple):
    """A state of the transducer.

    Attributes:
        position: the template's state after the last decided character.
        before: a character after which all others render as after that one; "" at the root.
        read: the symbols read of the next, undecided character.
    """

    position: Any
    before: str
    read: str


class SymbolStep(NamedTuple):
    """The effect of one symbol: the characters that it decides, possibly none, and the state after it."""

    text: str
    state: SymbolState


class SymbolTransducer:
    """The template read symbol by symbol: maps the symbols of a tokenizer's entries to characters.

    The symbols of a character depend at most on the character before it. Every text has one path from the root, the
    symbols of its rendering after `prefix_text`.

    Args:
        template: the template of the texts.
        surfaces: renders a text like the tokenizer.
        prefix_text: the beginning of the template's prefix that is before the root.

    Attributes:
        root: the state after `prefix_text`.
        symbols: every symbol that may occur after it.

    Example:
        >>> from hf_exposure.canaries import CanaryTemplate, Choice
        >>> class Bytes:
        ...     def added(self, before, character):
        ...         return "".join(f"{byte:02x}"[1] for byte in character.encode())
        >>> transducer = SymbolTransducer(CanaryTemplate("x{a}", a=Choice(["é", "o"])), Bytes(), "x")
        >>> first = transducer.step(transducer.root, "3")  # c3 a9: the first half of a character
        >>> first.text, transducer.step(first.state, "9").text, transducer.step(transducer.root, "9")
        ('', 'é', None)
    """

    def __init__(self, template: CanaryTemplate, surfaces: TokenSurfaces, prefix_text: str) -> None:
        self.template, self._surfaces, self._prefix_text = template, surfaces, prefix_text
        self._letters = sorted(_letters_after(template, prefix_text))
        self._anchor = prefix_text or template.text_at(0)[0]
        self._class_of = lru_cache(maxsize=None)(self._first_like)
        self._steps = lru_cache(maxsize=_CACHED_STATES)(self._find_steps)
        self.root = SymbolState(position_after(template, template.start, prefix_text), "", "")
        rendered = (self._rendered(before, letter) for before in ["", *self._letters] for letter in self._letters)
        self.symbols = frozenset().union(*rendered)

    def step(self, state: SymbolState, symbol: str) -> SymbolStep | None:
        """Reads one more symbol; None if no text has it there."""
        return self._steps(state).get(symbol)

    def _find_steps(self, state: SymbolState) -> dict[str, SymbolStep]:
        """The step of each possible next symbol.

        Raises:
            InputError: two texts have the same symbols.
        """
        steps: dict[str, SymbolStep] = {}
        for character, after in self.template.moves(state.position).items():
            for symbol, step in self._steps_into(state, character, after):
                if steps.setdefault(symbol, step) != step:
                    raise same_tokens_error(step.text, steps[symbol].text)
        return steps

    def _steps_into(self, state: SymbolState, character: str, after: Any) -> Iterator[tuple[str, SymbolStep]]:
        """The possible next symbols if `character` is next."""
        rendered, read = self._rendered(state.before, character), len(state.read)
        if not rendered and not read:  # a dropped space: the symbol belongs to what follows
            behind = self._steps(SymbolState(after, self._class_of(character), ""))
            yield from ((symbol, SymbolStep(character + step.text, step.state)) for symbol, step in behind.items())
        elif rendered.startswith(state.read) and len(rendered) > read:
            if len(rendered) == read + 1:
                yield rendered[read], self._decided(character, after)
            else:
                yield rendered[read], SymbolStep("", SymbolState(state.position, state.before, rendered[: read + 1]))

    def _decided(self, text: str, position: Any) -> SymbolStep:
        """The step after a whole character, including forced characters that are dropped after it (a space at the
        very end).
        """
        while len(moves := self.template.moves(position)) == 1 and not self.template.is_end(position):
            ((character, after),) = moves.items()
            if self._rendered(self._class_of(text[-1]), character):
                break
            text, position = text + character, after
        return SymbolStep(text, SymbolState(position, self._class_of(text[-1]), ""))

    def ending(self, state: SymbolState) -> str | None:
        """The rest of the text that ends in a state, "" or characters that are dropped; None if none ends.

        Raises:
            InputError: several texts end, with the same symbols.
        """
        if state.read:
            return None
        endings = [""] if self.template.is_end(state.position) else []
        for character, after in self.template.moves(state.position).items():
            if not self._rendered(state.before, character):
                rest = self.ending(SymbolState(after, self._class_of(character), ""))
                endings += [] if rest is None else [character + rest]
        if len(endings) > 1:
            raise same_tokens_error(endings[0], endings[1])
        return endings[0] if endings else None

    def count(self, state: SymbolState) -> int:
        """The number of texts that continue from a state."""
        if not state.read:
            return self.template.count(state.position)
        return sum(self.template.count(after) for _, after in self._characters(state))

    def rest(self, state: SymbolState) -> str:
        """The rest of a text from a state on; if there are several texts, of the first one."""
        rest, position = "", state.position
        while not self.template.is_end(position):
            character, position = next(self._characters(state))
            rest, state = rest + character, SymbolState(position, "", "")
        return rest

    def _characters(self, state: SymbolState) -> Iterator[tuple[str, Any]]:
        """The possible next characters, given the symbols already read, with the template's states after them."""
        for character, after in self.template.moves(state.position).items():
            if not state.read or self._rendered(state.before, character).startswith(state.read):
                yield character, after

    def _rendered(self, before: str, character: str) -> str:
        return self._surfaces.added((self._anchor if before else self._prefix_text) + before, character)

    def _first_like(self, character: str) -> str:
        """The first character after which all others render as after this one: fewer states, the same steps."""
        if len(self._letters) > _LARGEST_ALPHABET:
            return character
        after = [self._rendered(character, other) for other in self._letters]
        return next(
            one
            for one in self._letters
            if one == character or after == [self._rendered(one, other) for other in self._letters]
        )


_END = SymbolState("end", "", "")  # after the end token


class VocabularyAutomaton:
    """All token paths that spell a text of the template; encoding texts again shows which are canonical.

    A state is one of the `SymbolTransducer`.

    Args:
        template: the template of the texts.
        encoder: the encoder of the tokenizer.
        prefix_text: the beginning of the template's prefix whose tokens begin every encoding.
        model: the tokenizer's serialized model.

    Attributes:
        prunes: whether open paths are judged, and not only leaves.
        is_sampled: whether only a sample, and not a proof, shows that open paths may be judged.
    """

    exactness: Exactness = "audited"
    unproven = ""
    one_path = False

    def __init__(self, template: CanaryTemplate, encoder: Encoder, prefix_text: str, model: Mapping[str, Any]) -> None:
        self.template, self._encoder, self.prefix_text = template, encoder, prefix_text
        self._plain_prefix = tuple(encoder.plain_ids([prefix_text])[0]) if prefix_text else ()
        self.prefix: Path = (*encoder.leading, *self._plain_prefix)
        self._surfaces = TokenSurfaces(encoder.tokenizer, model)
        self._transducer = SymbolTransducer(template, self._surfaces, prefix_text)
        self.root: State = self._transducer.root
        self._token_of = self._surfaces.matching(self._transducer.symbols)
        self._entries = WordTrie(self._token_of or [" "], "tokenizer")
        self._undecided: set[int] = set()
        self.prunes, self.is_sampled, self.name = True, False, "vocabulary"
        # An entry may begin within the prefix; it then has symbols that do not occur after the prefix.
        symbols = self._transducer.symbols.union(self._surfaces.render(prefix_text))
        self._unbuildable = unbuildable_entries(model, self._surfaces.matching(symbols))
        self._unbuildable_lengths = sorted(set(map(len, self._unbuildable)))
        self.transitions = lru_cache(maxsize=_CACHED_STATES)(self._transitions)

    def judge_leaves_only(self) -> None:
        """Judges only leaves, for tokenizers whose canonical encodings may have non-canonical beginnings."""
        self.prunes, self.name = False, "vocabulary, judging leaves only"

    def claims(self, model: Mapping[str, Any], texts: Sequence[str]) -> Claims:
        """The claims that can be proven about this search under the serialized `model`; `texts` are some texts of
        the template.
        """
        try:
            reading = TokenizerReading(self.template, self._encoder, self.prefix_text, self.prefix, texts)
        except UnknownSplit as error:
            return Claims(str(error), str(error), not error.may_move)
        surface_of = {index: surface for surface, index in self._token_of.items()}
        before = self._encoder.tokenizer.convert_ids_to_tokens(list(self.prefix[-1:]))
        tokens = self.transitions(self.root).tokens_C.tolist()
        first = [surface_of[token] for token in tokens if token in surface_of]
        entries = Entries(model, self._token_of, self._transducer.symbols, "".join(before), first)
        claims = prove_claims(reading, entries)
        if claims.complete or self._encoder.ending or not ends_may_be_dropped(reading):
            return claims
        return replace(claims, complete="a text may end in characters that leave no token")

    def count(self, state: Any) -> int:
        return 1 if state == _END else self._transducer.count(state)

    def is_leaf(self, state: Any) -> bool:
        if state == _END:
            return True
        ended = not self._encoder.ending and not state.read and self.template.is_end(state.position)
        return ended and not self.template.moves(state.position)

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
        """Whether a word may be encoded differently once it continues."""
        if not self._unbuildable:
            return False
        rendered = self._surfaces.render(text)
        return any(rendered[-length:] in self._unbuildable for length in self._unbuildable_lengths)

    def forced_tokens(
        self, paths: Sequence[Path], texts: Sequence[str], states: Sequence[Any]
    ) -> list[ForcedTokens | None]:
        """If one text is left, the rest of its encoding; otherwise states with only one child are followed."""
        forced: list[ForcedTokens | None] = [None] * len(states)
        rests = {at: self._transducer.rest(state) for at, state in enumerate(states) if self._has_one_text(state)}
        found = self._paths_of([texts[at] + rest for at, rest in rests.items()])
        for (at, rest), path in zip(rests.items(), found, strict=True):
            whole = None if path is None else (*path, *self._encoder.ending)
            if whole is not None and whole[: len(paths[at])] == paths[at]:
                forced[at] = ForcedTokens(whole[len(paths[at]) :], rest, _END, NO_TRANSITIONS)
        followed = {at: follow_only_children(self, state) for at, state in enumerate(states) if at not in rests}
        # A state without children is the end of a text, or a dead end if no entry of the vocabulary continues.
        alive = {at: one for at, one in followed.items() if len(one.transitions) or self.is_leaf(one.state)}
        verdicts = self.canonical(
            [(*paths[at], *one.tokens) for at, one in alive.items()],
            [texts[at] + one.text for at, one in alive.items()],
            [not len(one.transitions) for one in alive.values()],
        )
        for (at, one), verdict in zip(alive.items(), verdicts, strict=True):
            # Beginnings of a single text are judged together with the whole text.
            is_one_text = len(one.transitions) > 0 and self.count(one.state) <= 1
            forced[at] = one if verdict or is_one_text else None
        return forced

    def _has_one_text(self, state: Any) -> bool:
        return state != _END and self.count(state) <= 1

    def _is_decided(self, path: Path) -> bool:
        """Whether a path ends between characters, so that its text can be encoded."""
        return not path or path[-1] not in self._undecided

    def _paths_of(self, texts: list[str]) -> list[Path | None]:
        length = len(self._plain_prefix)
        encoded = self._encoder.plain_ids(texts)
        return [tuple(ids[length:]) if tuple(ids[:length]) == self._plain_prefix else None for ids in encoded]

    def _transitions(self, state: Any) -> Transitions:
        """The tokens whose symbols the transducer reads from `state`, found by traversing trie and transducer
        together.
        """
        if state == _END:
            return NO_TRANSITIONS
        found: dict[int, tuple[str, SymbolState]] = {}
        if (rest := self._transducer.ending(state)) is not None:
            if self._encoder.ending:
                found[self._encoder.ending[0]] = (rest, _END)
            elif self.template.moves(state.position):
                raise not_prefix_free_error(self.template)
        open_nodes = [(self._entries.root, "", state)]
        while open_nodes:
            node, text, reached = open_nodes.pop()
            if reached is not state and self._entries.is_word(node):
                token = self._token_of[self._entries.words[node[0]]]
                if reached.read:
                    self._undecided.add(token)
                if found.setdefault(token, (text, reached)) != (text, reached):
                    raise same_tokens_error(text, found[token][0])
            for symbol, child in self._entries.children(node).items():
                if step := self._transducer.step(reached, symbol):
                    open_nodes.append((child, text + step.text, step.state))
        order = sorted(found)
        pieces, states = tuple(found[token][0] for token in order), tuple(found[token][1] for token in order)
        return Transitions(np.array(order, dtype=np.int64), pieces, states, self)


def vocabulary_automaton(
    template: CanaryTemplate, encoder: Encoder, sample: SampledEncodings
) -> tuple[VocabularyAutomaton | None, str | None]:
    """The automaton if it contains every sampled encoding, else None and a text that it lacks.

    Raises:
        InputError: the tokenizer cannot be searched, or gives two texts the same tokens.
    """
    model = serialized_model(encoder.tokenizer)
    automaton = VocabularyAutomaton(template, encoder, _separable_prefix(template, encoder, sample), model)
    missed = sample.first_missed(automaton)
    if missed is not None:
        return None, missed
    is_whole = sample.exactness == "proven"
    claims = Claims() if is_whole else automaton.claims(model, sample.texts)
    automaton.unproven, automaton.exactness = claims.complete, "audited" if claims.complete else "proven"
    automaton.is_sampled = bool(claims.prefixes)
    is_asked = is_whole or automaton.is_sampled  # otherwise it is proven
    if not claims.may_prune or (is_asked and not sample.beginnings_are_kept(automaton)):
        automaton.judge_leaves_only()
    return automaton, None


def _separable_prefix(template: CanaryTemplate, encoder: Encoder, sample: SampledEncodings) -> str:
    """The longest beginning of the template's prefix whose tokens begin every sampled encoding.

    It is the whole prefix, or cut at a space, which most tokenizers encode with the text after it.
    """
    prefix = template.prefix
    cuts = {cut for at, letter in enumerate(prefix) if letter == " " for cut in (at, at + 1)} | {len(prefix)}
    for cut in sorted(cuts - {0}, reverse=True):
        plain = encoder.plain_ids([prefix[:cut]])[0]
        tokens = (*encoder.leading, *plain)
        shortest = len(tokens) + 1 + len(encoder.ending)
        if plain and all(ids[: len(tokens)] == tokens and len(ids) >= shortest for ids in sample.ids):
            return prefix[:cut]
    return ""


def _letters_after(template: CanaryTemplate, prefix_text: str) -> set[str]:
    """Every character that may occur after the prefix."""
    letters = set(template.prefix[len(prefix_text) :])
    for segment in template.segments[bool(template.prefix) :]:
        letters |= set(segment if isinstance(segment, str) else segment[1].alphabet)
    return letters
