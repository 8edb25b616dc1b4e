"""A tokenizer read as data: the spelling of its entries, and the words into which it cuts the texts of a template.

Both are read from the tokenizer's own serialization, so that statements about them hold for all texts and not only for
a sample.

A fast tokenizer first normalizes a text and splits it, writing spaces as "▁" or bytes as letters; its entries are
spelled in that *rendered* alphabet. `TokenSurfaces` renders a text with the tokenizer's own code and gives the entries
in the same alphabet, so that both can be compared symbol by symbol; no token is ever decoded. If a tokenizer marks the
entries that continue a word ("##" of WordPiece), all others get a leading sign instead.

`TokenizerReading` has the normalizer and the pre-tokenizer as a `SplitMachine`, which reads one character at a time,
and checks the other preconditions of a proof: no added token in the texts, no code of a subclass, and the same words
as the tokenizer's own code on some texts.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache
from itertools import zip_longest
from typing import Any

from tokenizers import models

from hf_exposure.canaries import CanaryTemplate
from hf_exposure.errors import InputError, described
from hf_exposure.extraction.split_machine import SplitMachine
from hf_exposure.extraction.split_pattern import UnknownSplit
from hf_exposure.scoring import Encoder

WORD_STARTS = "\ue000"  # a private-use character, which occurs in no text
FIRST_BYTE = 0xF0000  # 256 symbols for the bytes of characters that have no entry

MOST_STEPS = 100_000  # about a second
_COMPARED_TEXTS = 300
_ENCODING_METHODS = ("__call__", "_encode_plus", "_tokenizer", "backend_tokenizer")
# Slow tokenizers with known rules: the text between added tokens becomes its bytes, or its characters.
_ONE_BY_ONE = frozenset(
    f"transformers.models.{name}" for name in ("byt5.tokenization_byt5", "perceiver.tokenization_perceiver")
)
_SPOTS = 256
_SETTINGS = (
    *("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"),
    *("fuse_unk", "byte_fallback", "ignore_merges", "max_input_chars_per_word"),
)


def serialized_model(tokenizer: Any) -> dict[str, Any]:
    """A fast tokenizer's model as plain values: its kind, vocabulary and merges.

    Raises:
        InputError: the tokenizer has no backend.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        rule = "must be a fast one to search a large space whose characters it merges"
        remedy = "Load it with AutoTokenizer, or use method='sample'."
        raise InputError("tokenizer", rule, type(tokenizer).__name__, remedy)
    return dict(json.loads(backend.to_str())["model"])


def fingerprint(tokenizer: Any) -> Hashable | None:
    """A value that changes if a tokenizer is changed in place, computed in milliseconds; None if that is impossible.

    It contains all settings and added tokens. For the vocabulary and its merges, which may have half a million lines,
    it has the size and some entries, each with its merges.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return repr(tokenizer.added_tokens_decoder) if encodes_one_by_one(tokenizer) else None
    model, size = backend.model, backend.get_vocab_size(with_added_tokens=False)
    entries = [backend.id_to_token(index * size // _SPOTS) for index in range(min(size, _SPOTS))]
    try:
        parts = [part and part.__getstate__() for part in (backend.normalizer, backend.pre_tokenizer)]
        built = [[token.id for token in model.tokenize(entry)] for entry in entries if entry]
    except Exception:  # a part is custom code, or an entry that no merge builds
        return None
    settings = [getattr(model, name, None) for name in _SETTINGS]
    added = sorted(backend.get_added_tokens_decoder().items(), key=lambda item: item[0])
    return repr((type(model), size, entries, built, parts, settings, added))


def encodes_one_by_one(tokenizer: Any) -> bool:
    """Whether this is a slow tokenizer of `transformers` that encodes every character separately."""
    return type(tokenizer).__module__ in _ONE_BY_ONE


class TokenSurfaces:
    """Entries of a fast tokenizer in its rendered alphabet.

    Args:
        tokenizer: a tokenizer of `transformers` with a `backend_tokenizer`.
        model: the result of `serialized_model`.

    Raises:
        InputError: the tokenizer marks the ends of words.
    """

    def __init__(self, tokenizer: Any, model: Mapping[str, Any]) -> None:
        backend = tokenizer.backend_tokenizer
        self._normalizer, self._pre_tokenizer = backend.normalizer, backend.pre_tokenizer
        if model.get("end_of_word_suffix"):
            rule = "must not mark the ends of words to search a large space whose characters it merges"
            raise InputError("tokenizer", rule, model["end_of_word_suffix"], "Use method='sample'.")
        self._continuation = model.get("continuing_subword_prefix") or ""
        vocabulary: dict[str, int] = tokenizer.get_vocab()
        special = {int(index) for index, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._falls_back = bool(model.get("byte_fallback"))
        # Some tokenizers mark the entries for single bytes as special.
        self._ids = {
            entry: index for entry, index in vocabulary.items() if index not in special or self._is_byte(entry)
        }
        self.render = lru_cache(maxsize=2**16)(self._render)

    def matching(self, symbols: frozenset[str]) -> dict[str, int]:
        """Token ids by surface, for the entries that consist of `symbols` only."""
        surfaces = ((self._surface(entry), index) for entry, index in self._ids.items())
        return {surface: index for surface, index in surfaces if surface and symbols.issuperset(surface)}

    def added(self, before: str, character: str) -> str:
        """The symbols that `character` adds to the rendered `before`; "" if it is dropped.

        Raises:
            InputError: it changes the symbols before it.
        """
        known, longer = self.render(before), self.render(before + character)
        if not longer.startswith(known):
            rule = "must render a text from left to right"
            raise InputError("tokenizer", rule, described(before + character), "Use method='sample'.")
        return longer[len(known) :]

    def _is_byte(self, entry: str) -> bool:
        return self._falls_back and len(entry) == 6 and entry.startswith("<0x") and entry.endswith(">")

    def _surface(self, entry: str) -> str:
        if self._is_byte(entry):
            return chr(FIRST_BYTE + int(entry[3:5], 16))
        if not self._continuation:
            return entry
        return entry[len(self._continuation) :] if entry.startswith(self._continuation) else WORD_STARTS + entry

    def _render(self, text: str) -> str:
        if self._normalizer is not None:
            text = self._normalizer.normalize_str(text)
        words = [text]
        if self._pre_tokenizer is not None and text:
            words = [word for word, _ in self._pre_tokenizer.pre_tokenize_str(text)]
        rendered = "".join((WORD_STARTS if self._continuation and word else "") + word for word in words)
        if not self._falls_back:
            return rendered
        return "".join(
            symbol if symbol in self._ids else "".join(chr(FIRST_BYTE + byte) for byte in symbol.encode())
            for symbol in rendered
        )


class TokenizerReading:
    """Normalizer, pre-tokenizer and added tokens of a fast tokenizer, for the texts of one template.

    Args:
        template: the template of the texts.
        encoder: the encoder of the tokenizer.
        prefix_text: the text of `prefix`, with which every text begins.
        prefix: its tokens, including special ones and those of a context.
        sample: texts of the template that are also read by the tokenizer's own code, as a check.

    Attributes:
        machine: the machine that cuts a text into words, one character at a time.
        section: the fixed text that is encoded together with a filling, from the last added token of a context on.
        added: the tokens that were added to the tokenizer.

    Raises:
        UnknownSplit: nothing can be proven; the message says why.
    """

    def __init__(
        self,
        template: CanaryTemplate,
        encoder: Encoder,
        prefix_text: str,
        prefix: tuple[int, ...],
        sample: Sequence[str],
    ) -> None:
        tokenizer = encoder.tokenizer
        _check_class(tokenizer)
        self.template, self.prefix_text = template, prefix_text
        self._backend = tokenizer.backend_tokenizer
        self._apart: dict[tuple[str, str], bool] = {}
        self._entries: str | None = None
        self._joins_bytes = False
        self.added = dict(self._backend.get_added_tokens_decoder())
        if getattr(self._backend.model, "dropout", None):
            raise UnknownSplit("the tokenizer leaves out merges at random")
        self.section, is_first = self._find_section(encoder.before + prefix_text, prefix)
        alphabet = frozenset(self.section).union(_letters(template), *sample[:_COMPARED_TEXTS])
        normalizer, pre_tokenizer = (
            None if part is None else json.loads(part.__getstate__())
            for part in (self._backend.normalizer, self._backend.pre_tokenizer)
        )
        self.machine = SplitMachine(normalizer, pre_tokenizer, alphabet, is_first=is_first)
        alone = self.machine if is_first else SplitMachine(normalizer, pre_tokenizer, alphabet)
        self._compare(alone, sample[:_COMPARED_TEXTS])
        self._check_added_tokens(alphabet)

    def stay_apart(self, before: str, after: str) -> bool:
        """Whether no token can contain two neighboring characters, even inside a word.

        This is so if no entry has one after the other. The encoding of a word is then that of its two parts.
        """
        if (before, after) not in self._apart:
            self._apart[before, after] = self._find_apart(before, after)
        return self._apart[before, after]

    def _find_apart(self, before: str, after: str) -> bool:
        model = self._backend.model
        is_plain = isinstance(model, models.BPE) and not model.ignore_merges and not model.continuing_subword_prefix
        if not is_plain and not isinstance(model, models.Unigram):
            return False
        if self._entries is None:
            vocabulary = self._backend.get_vocab(with_added_tokens=False)
            self._joins_bytes = any("><0x" in entry for entry in vocabulary)
            symbols = set().union(*map(self.machine.rendered, self.machine.map.symbols))
            # Other entries occur in no text.
            self._entries = "\n".join(["", *filter(symbols.issuperset, vocabulary), ""])
        last, first = self.machine.rendered(before)[-1], self.machine.rendered(after)[0]
        if f"\n{last}\n" in self._entries and f"\n{first}\n" in self._entries:
            return last + first not in self._entries
        return not self._joins_bytes  # because a character without an entry becomes bytes

    def check_entries(self) -> None:
        """Raises `UnknownSplit` if the model may lack an entry for a symbol of a text after the prefix.

        Neighbors without entries may become one token, or none, depending on what is next to them.
        """
        model = self._backend.model
        if not isinstance(model, (models.BPE, models.Unigram)):
            return  # then each word is encoded alone, and is one unknown token
        around = [
            (before, after)
            for before in ("", getattr(model, "continuing_subword_prefix", None) or "")
            for after in ("", getattr(model, "end_of_word_suffix", None) or "")
        ]
        for character in _letters(self.template, self.prefix_text).union(self.section[-1:]):
            steps = self.machine.step(self.machine.start, character)
            for image, step in zip_longest(self.machine.map.images[character], steps):
                if step is None or step.kind != "dropped":
                    symbols = self.machine.rendered(image)
                    forms = [before + symbol + after for symbol in symbols for before, after in around]
                    if None in map(model.token_to_id, forms) and not self._becomes_bytes(symbols):
                        raise UnknownSplit("a character has no entry")

    def _becomes_bytes(self, symbols: str) -> bool:
        """Whether symbols without entries become their bytes."""
        entries = [f"<0x{byte:02X}>" for byte in symbols.encode()]
        falls_back = json.loads(self._backend.to_str())["model"].get("byte_fallback")
        return bool(falls_back) and None not in map(self._backend.model.token_to_id, entries)

    @property
    def root(self) -> Any:
        """The template's state after the prefix."""
        return position_after(self.template, self.template.start, self.prefix_text)

    def _find_section(self, fixed: str, prefix: tuple[int, ...]) -> tuple[str, bool]:
        encoding = self._backend.encode(fixed, add_special_tokens=False)
        if tuple(encoding.ids) != prefix[len(prefix) - len(encoding.ids) :]:
            raise UnknownSplit("the end of the context is encoded with the text after it")
        start = 0
        for token, (_, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if token in self.added:
                added = self.added[token]
                if added.rstrip or added.content not in fixed:
                    raise UnknownSplit("a token of the context may include the text after it")
                if added.single_word and end == len(fixed):
                    raise UnknownSplit("a token of the context depends on the text after it")
                start = max(start, end)
        return fixed[start:], start == 0

    def _compare(self, machine: SplitMachine, texts: Sequence[str]) -> None:
        """Checks the reading: the tokenizer's own code must cut some texts in the same way."""
        for text in texts:
            normalizer, pre_tokenizer = self._backend.normalizer, self._backend.pre_tokenizer
            normalized = text if normalizer is None else normalizer.normalize_str(text)
            words, _ = machine.read(text)
            if pre_tokenizer is None:
                agree = words == [normalized]
            else:
                own = [len(word) for word, _ in pre_tokenizer.pre_tokenize_str(normalized)]
                agree = machine.map(text) == normalized and own == [machine.rendered_length(word) for word in words]
            if not agree:
                raise UnknownSplit("the tokenizer cuts a text differently from its serialization", may_move=True)

    def _check_added_tokens(self, alphabet: frozenset[str]) -> None:
        """Added tokens are split off before anything else, so none may occur in these texts."""
        normalizer, images = self._backend.normalizer, self.machine.map
        changes = bool(images.before) or any(images.images[character] != character for character in alphabet)
        for added in self.added.values():
            forms = [added.content]
            if added.normalized and normalizer is not None:  # then it is matched in the normalized text
                forms.append(normalizer.normalize_str(added.content).removeprefix(images.before))
            in_raw = alphabet.issuperset(added.content)
            in_normalized = len(forms) > 1 and any(images.symbols.issuperset(form) for form in forms)
            if added.content and (
                (in_normalized and changes)
                or (
                    (in_raw or in_normalized)
                    and may_hold(self.template, self.prefix_text, self.section, added.content)
                )
            ):
                raise UnknownSplit("a token that was added to the tokenizer may occur in a text")


def position_after(template: CanaryTemplate, position: Any, text: str) -> Any:
    """The template's state after `text`, read from `position` on."""
    for character in text:
        position = template.moves(position)[character]
    return position


def may_hold(template: CanaryTemplate, prefix_text: str, section: str, content: str) -> bool:
    """Whether a text of a template may contain `content`.

    Args:
        template: the template of the texts.
        prefix_text: the beginning of the template's prefix that ends `section`.
        section: the fixed text up to there, including the text before it.
        content: the content to search for.

    Raises:
        UnknownSplit: the template has too many states.
    """
    failures = _failures(content)

    def after(matched: int, character: str) -> int:
        while matched and content[matched] != character:
            matched = failures[matched - 1]
        return matched + (content[matched] == character)

    matched = 0
    for character in section:
        matched = after(matched, character)
        if matched == len(content):
            return True
    seen = {(position_after(template, template.start, prefix_text), matched)}
    open_states = list(seen)
    while open_states:
        position, matched = open_states.pop()
        for character, following in template.moves(position).items():
            reached = after(matched, character)
            if reached == len(content):
                return True
            if (following, reached) not in seen:
                seen.add((following, reached))
                open_states.append((following, reached))
        if len(seen) > MOST_STEPS:
            raise UnknownSplit("the template has too many states")
    return False


def check_one_by_one(template: CanaryTemplate, encoder: Encoder, prefix_text: str) -> None:
    """Raises `UnknownSplit` if a token that was added to such a tokenizer may occur in a text."""
    fixed = encoder.before + prefix_text
    for added in encoder.tokenizer.added_tokens_decoder.values():
        if may_hold(template, prefix_text, fixed, added.content):
            raise UnknownSplit("a token that was added to the tokenizer may occur in a text")


def _check_class(tokenizer: Any) -> None:
    """Refuses slow tokenizers, whose rules are code, and subclasses, which may encode in any way."""
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise UnknownSplit("it is a slow tokenizer, whose rules are code")
    for kind in type(tokenizer).__mro__:
        own = kind.__module__.partition(".")[0] == "transformers"
        if not own and any(name in vars(kind) for name in _ENCODING_METHODS):
            raise UnknownSplit(f"{kind.__name__} has its own encoding code")


def _letters(template: CanaryTemplate, after: str = "") -> frozenset[str]:
    """The characters of the texts, behind the beginning `after` of the template's prefix."""
    parts = list(template.segments)
    if after:
        parts[0] = str(parts[0]).removeprefix(after)
    return frozenset().union(*(set(part) if isinstance(part, str) else part[1].alphabet for part in parts))


def _failures(content: str) -> list[int]:
    """The failure function of Knuth, Morris and Pratt 1977: for each beginning, its longest proper beginning that
    is also its end.
    """
    failures = [0] * len(content)
    for place in range(1, len(content)):
        matched = failures[place - 1]
        while matched and content[matched] != content[place]:
            matched = failures[matched - 1]
        failures[place] = matched + (content[matched] == content[place])
    return failures
