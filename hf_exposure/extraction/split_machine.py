"""How a fast tokenizer cuts a text into words before its model sees it, read one character at a time.

Normalizer and pre-tokenizer are read from the tokenizer's own serialization. Those that treat each character in a
known way, independently of its surroundings, become a map of characters and a chain of splits; others raise
`UnknownSplit`.
"""

from __future__ import annotations

import string
import unicodedata
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from tokenizers import pre_tokenizers

from hf_exposure.extraction.split_pattern import MOVED, PatternSplit, Step, UnknownSplit

# The built-in pattern of the ByteLevel pre-tokenizer.
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_SPACES = frozenset(" \t\n\v\f\r")
_JAMO = ((0x1100, 0x11FF), (0xA960, 0xA97F), (0xD7B0, 0xD7FF))


class _Split(Protocol):
    @property
    def start(self) -> object: ...

    def step(self, configuration: object, character: str) -> Step: ...

    def read(self, text: str) -> tuple[list[str], object]: ...


@dataclass(frozen=True)
class _KindSplit:
    """Words are runs of one kind of character.

    Attributes:
        kind_of: returns the kind of a character; None for one that is dropped.
        alone: kinds whose characters are separate words.
    """

    kind_of: Callable[[str], Hashable]
    alone: frozenset[Hashable] = frozenset()
    start: object = None

    def step(self, configuration: object, character: str) -> Step:
        kind = self.kind_of(character)
        if kind is None:
            return Step("dropped", None)
        is_same = kind == configuration and kind not in self.alone
        return Step("continues" if is_same else "starts", kind)

    def read(self, text: str) -> tuple[list[str], object]:
        return _read_stepwise(self, text)


@dataclass(frozen=True)
class _MarkSplit:
    """Words begin at a mark, or end with one.

    Attributes:
        marks: the characters.
        ends: whether a mark ends the word before it, and is a separate word after another mark.
    """

    marks: frozenset[str]
    ends: bool = False
    start: object = None

    def step(self, configuration: object, character: str) -> Step:
        is_mark = character in self.marks
        if configuration is None:
            return Step("starts", is_mark)
        starts = configuration if self.ends else is_mark
        return Step("starts" if starts else "continues", is_mark)

    def read(self, text: str) -> tuple[list[str], object]:
        return _read_stepwise(self, text)


def _read_stepwise(split: _Split, text: str) -> tuple[list[str], object]:
    words: list[str] = []
    configuration = split.start
    for character in text:
        kind, configuration = split.step(configuration, character)
        if kind == "starts":
            words.append(character)
        elif kind == "continues":
            words[-1] += character
    return words, configuration


@dataclass(frozen=True)
class CharacterMap:
    """A normalizer that treats each character separately.

    Attributes:
        images: the image of each character of the alphabet.
        before: the text added before a text.
    """

    images: Mapping[str, str]
    before: str

    @classmethod
    def of(cls, specification: Any, alphabet: frozenset[str]) -> CharacterMap:
        """The normalizer of a serialized tokenizer, for texts of an alphabet.

        Raises:
            UnknownSplit: its effect on a character may depend on others.
        """
        images, before = {character: character for character in alphabet}, ""
        for part in _flattened(specification, "normalizers"):
            kind = part["type"]
            if kind == "Prepend":
                before = part["prepend"] + before
                continue
            change = _change(part, set(before).union(*images.values()))
            images = {character: "".join(map(change, image)) for character, image in images.items()}
            before = "".join(map(change, before))
        if before and "" in images.values():
            raise UnknownSplit("the normalizer drops characters, and adds a mark before a text")
        return cls(images, before)

    def __call__(self, text: str) -> str:
        return self.before + "".join(self.images[character] for character in text) if text else ""

    @property
    def symbols(self) -> frozenset[str]:
        """Every character that a normalized text may have."""
        return frozenset(self.before).union(*self.images.values())


def _flattened(specification: Any, parts: str) -> list[dict[str, Any]]:
    if specification is None:
        return []
    if specification["type"] == "Sequence":
        return [inner for part in specification[parts] for inner in _flattened(part, parts)]
    return [specification]


def _change(part: dict[str, Any], characters: set[str]) -> Callable[[str], str]:
    """The effect of one normalizer on each character."""
    kind = part["type"]
    outside = sorted(character for character in characters if not character.isascii())
    if kind in ("NFC", "NFD", "NFKC", "NFKD"):
        for character in outside:
            if unicodedata.normalize(kind, character) != character or _may_compose(character):
                raise UnknownSplit(f"the normalizer ({kind}) may change {character!r} or its neighbors")
        return lambda c: c
    if kind == "StripAccents" and not any(map(_may_compose, outside)):
        return lambda c: c
    if kind == "Lowercase" and not any(c.lower() != c for c in outside):
        return str.lower
    if kind == "Precompiled" and characters <= set(string.printable) - set("\t\n\r\v\f") | {"▁"}:
        return lambda c: c  # this is compared with the normalizer itself before it is used
    if kind == "BertNormalizer" and not outside:
        return lambda c: _as_bert(c, part)
    if kind == "Replace" and len(part["pattern"].get("String", "")) == 1:
        pattern, content = part["pattern"]["String"], part["content"]
        return lambda c: content if c == pattern else c
    raise UnknownSplit(f"the normalizer {kind} may treat a character depending on its surroundings")


def _may_compose(character: str) -> bool:
    code = ord(character)
    return unicodedata.category(character)[0] in "MC" or any(low <= code <= high for low, high in _JAMO)


def _as_bert(character: str, part: dict[str, Any]) -> str:
    if part["clean_text"]:
        if character in "\t\n\r":
            return " "
        if ord(character) < 0x20 or character == "\x7f":
            return ""
    return character.lower() if part["lowercase"] else character


class SplitMachine:
    """Normalizer and pre-tokenizer for texts of one alphabet.

    A configuration contains everything about the words so far that affects later ones.

    Args:
        normalizer, pre_tokenizer: serialized; None for none.
        alphabet: every character of the texts, including those of a context.
        is_first: whether there is nothing before the texts, not even an added token.

    Attributes:
        map: the normalizer.
        is_local: whether a word's start depends on its first character and the one before it alone.

    Raises:
        UnknownSplit: a part of it is not supported.
    """

    def __init__(
        self, normalizer: Any, pre_tokenizer: Any, alphabet: frozenset[str], *, is_first: bool = True
    ) -> None:
        self.map = CharacterMap.of(normalizer, alphabet)
        self._splits: list[_Split] = []
        self._first_mark, self._space, self._bytes = "", " ", False
        for part in _flattened(pre_tokenizer, "pretokenizers"):
            if self._bytes:
                raise UnknownSplit("a pre-tokenizer works on bytes")
            self._add(part, is_first)
        self.is_local = all(not isinstance(split, PatternSplit) for split in self._splits)
        self.start: tuple[object, ...] = tuple(split.start for split in self._splits)

    def _add(self, part: dict[str, Any], is_first: bool) -> None:
        kind = part["type"]
        if kind == "ByteLevel":
            if part["add_prefix_space"]:
                self._put_mark(" ", kind)
            if part.get("use_regex", True):
                self._splits.append(PatternSplit(_GPT2))
            self._bytes = True
        elif kind == "Metaspace":
            if part["prepend_scheme"] == "always" or (part["prepend_scheme"] == "first" and is_first):
                self._put_mark(part["replacement"], kind)
            self._space = part["replacement"]
            if part.get("split", True):
                self._splits.append(_MarkSplit(frozenset((" ", part["replacement"]))))
        elif kind == "Split":
            self._add_split(part)
        elif kind == "WhitespaceSplit":
            self._splits.append(_KindSplit(lambda c: None if _ascii(c) in _SPACES else "word"))
        elif kind == "Whitespace":
            self._splits.append(_KindSplit(_whitespace_kind))
        elif kind == "BertPreTokenizer":
            self._splits.append(_KindSplit(_bert_kind, frozenset({"mark"})))
        elif kind == "Punctuation" and part.get("behavior", "Isolated") == "Isolated":
            self._splits.append(
                _KindSplit(lambda c: "mark" if _ascii(c) in string.punctuation else "other", frozenset({"mark"}))
            )
        elif kind == "Digits":
            alone = frozenset({"digit"} if part["individual_digits"] else ())
            self._splits.append(_KindSplit(lambda c: "digit" if unicodedata.category(c)[0] == "N" else "other", alone))
        elif kind == "CharDelimiterSplit":
            self._splits.append(_KindSplit(lambda c: None if c == part["delimiter"] else "word"))
        else:
            raise UnknownSplit(f"the pre-tokenizer {kind} is not supported")

    def _add_split(self, part: dict[str, Any]) -> None:
        pattern, behavior = part["pattern"], part["behavior"]
        if "Regex" in pattern:
            if (behavior, part["invert"]) not in (("Isolated", False), ("Removed", True)):
                raise UnknownSplit(f"the pre-tokenizer Split has the behavior {behavior}")
            self._splits.append(PatternSplit(pattern["Regex"], keeps_gaps=behavior == "Isolated"))
            return
        mark = pattern["String"]
        if not self.map.symbols.union(self._first_mark).issuperset(mark):
            return  # it never occurs in a text
        if len(mark) > 1 or part["invert"]:
            raise UnknownSplit("the pre-tokenizer Split looks for several characters")
        if behavior in ("MergedWithNext", "MergedWithPrevious"):
            self._splits.append(_MarkSplit(frozenset(mark), ends=behavior == "MergedWithPrevious"))
        elif behavior in ("Isolated", "Removed"):
            other = None if behavior == "Removed" else "mark"
            self._splits.append(_KindSplit(lambda c: other if c == mark else "word", frozenset({"mark"})))
        else:
            raise UnknownSplit(f"the pre-tokenizer Split has the behavior {behavior}")

    def _put_mark(self, mark: str, kind: str) -> None:
        if self._splits or self._first_mark:
            raise UnknownSplit(f"the pre-tokenizer {kind} adds a mark before each word")
        if "" in self.map.images.values():
            raise UnknownSplit("the normalizer drops characters, and the pre-tokenizer adds a mark before a text")
        self._first_mark = mark

    def read(self, text: str) -> tuple[list[str], tuple[object, ...] | None]:
        """The words of a whole text, normalized, and the configuration after it; None if that is not settled."""
        normalized = self.map(text)
        if normalized and self._first_mark and not normalized.startswith(self._marks):
            normalized = self._first_mark + normalized
        words, configurations = [normalized] if normalized else [], list(self.start)
        is_open, is_settled = bool(words), True
        for stage, split in enumerate(self._splits):
            cut: list[str] = []
            for number, word in enumerate(words):
                parts, configuration = split.read(word)
                cut += parts
                if is_open and number == len(words) - 1:
                    is_dropped = isinstance(split, _KindSplit) and configuration is None
                    is_settled = is_settled and (is_dropped or configuration is not None)
                    configurations[stage] = configuration
                    is_open = not is_dropped  # after a dropped character, the next one starts a word
            words = cut
        return words, tuple(configurations) if is_settled else None

    @property
    def _marks(self) -> tuple[str, ...]:
        return (self._first_mark, " ") if self._first_mark != " " else (" ",)

    @property
    def marks_starts(self) -> bool:
        """Whether something is added before a text."""
        return bool(self.map.before or self._first_mark)

    def rendered(self, normalized: str) -> str:
        """The text as spelled by the entries of the vocabulary."""
        if self._bytes:
            cut = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(normalized)
            return "".join(word for word, _ in cut)
        return normalized.replace(" ", self._space)

    def rendered_length(self, word: str) -> int:
        """The length in symbols of the vocabulary's alphabet, with separate bytes if it uses them."""
        return len(word.encode()) if self._bytes else len(word)

    def step(self, configuration: tuple[object, ...], character: str) -> list[Step]:
        """The steps of the normalized characters of one more character; nothing is known after "moved"."""
        steps: list[Step] = []
        for symbol in self.map.images[character]:
            step = self._step(configuration, symbol)
            steps.append(step)
            if step is MOVED:
                break
            configuration = step.configuration  # type: ignore[assignment]
        return steps

    def _step(self, configuration: tuple[object, ...], symbol: str) -> Step:
        after = list(self.start)
        what: Literal["continues", "starts", "dropped"] = "continues"
        for stage, (split, before) in enumerate(zip(self._splits, configuration, strict=True)):
            kind, after[stage] = split.step(split.start if what == "starts" else before, symbol)
            if kind == "moved":
                return MOVED
            what = kind if kind != "continues" else what
            if what == "dropped":
                break
        return Step(what, tuple(after))


def _ascii(character: str) -> str:
    if not character.isascii():
        raise UnknownSplit(f"the pre-tokenizer may count {character!r} as a letter or not")
    return character


def _whitespace_kind(character: str) -> Hashable:
    if _ascii(character) in _SPACES:
        return None
    return "word" if character.isalnum() or character == "_" else "other"


def _bert_kind(character: str) -> Hashable:
    if _ascii(character) in _SPACES:
        return None
    return "mark" if character in string.punctuation else "word"
