"""Claims about beginnings of encodings, against all texts encoded one by one.

The failure to exclude: under some tokenizer a few texts, too few for any sample, have an encoding whose beginning is
not canonical. Pruning such a beginning loses the text, and the certificate is wrong.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from token_models import BagOfTokens, entries_of
from tokenizer_styles import FROM_THE_RIGHT, GPT2, LLAMA3, QWEN, tokenizer_in_style
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch import nn
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from hf_exposure import CanaryTemplate, Choice, Digits, Letters, Pattern, Words, extract, rank_bounds
from hf_exposure.errors import InputError
from hf_exposure.extraction.canonicity import unbuildable_entries
from hf_exposure.extraction.character_automaton import character_automaton
from hf_exposure.extraction.sampled_encodings import SampledEncodings
from hf_exposure.extraction.slot_automaton import slot_automaton
from hf_exposure.extraction.split_machine import CharacterMap, SplitMachine
from hf_exposure.extraction.split_pattern import PatternSplit, UnknownSplit
from hf_exposure.extraction.token_automaton import follow_tokens
from hf_exposure.extraction.tokenizer_reading import TokenizerReading
from hf_exposure.extraction.vocabulary_automaton import vocabulary_automaton
from hf_exposure.scoring import Encoder

CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GAPS = r"\p{N}{1,2}|[.!]"
PATTERNS = {
    "gpt2": GPT2,
    "llama3": LLAMA3,
    "qwen": QWEN,
    "cl100k": CL100K,
    "o200k": O200K,
    "right": FROM_THE_RIGHT,
    "gaps": GAPS,
}


def byte_level(
    merges: Sequence[tuple[str, str]], pattern: str | None, *, entries: Sequence[str] = (), **model: Any
) -> PreTrainedTokenizerFast:
    """Byte-level BPE with just these merges, and further entries that no merge builds."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = dict.fromkeys([*alphabet, *(left + right for left, right in merges), *entries])
    vocabulary = {token: number for number, token in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=list(dict.fromkeys(merges)), **model))
    split = [] if pattern is None else [pre_tokenizers.Split(Regex(pattern), "isolated")]
    backend.pre_tokenizer = pre_tokenizers.Sequence([*split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False)


def like_llama3() -> PreTrainedTokenizerFast:
    """`Ġdikkat` is an entry that merges cannot build, as in Llama 3's vocabulary: `Ġdikkatb` begins with `Ġdi`."""
    merges = [("Ġ", "d"), ("Ġd", "i"), ("k", "k"), ("kk", "a"), ("t", "i"), ("k", "a")]
    return byte_level(merges, LLAMA3, entries=["Ġdikkat"], ignore_merges=True)


def texts_of(template: CanaryTemplate) -> list[str]:
    return [template.text_at(index) for index in range(template.space_size)]


def overfitted(tokenizer: Any, text: str) -> nn.Module:
    """A model that generates one text with certainty, token by token."""
    ids = tokenizer(text)["input_ids"]
    model = BagOfTokens(entries_of(tokenizer)).eval()
    with torch.no_grad():
        model.tables *= 0.5
        for before, token, following in zip([0, *ids], ids, ids[1:], strict=False):
            model.tables[0][token, following] += 12.0
            model.tables[1][before, following] += 12.0
    return model


def check_claims(template: CanaryTemplate, tokenizer: Any, few: int = 3) -> tuple[str, bool]:
    """Checks that the walk's claims after `few` texts hold for all; returns its exactness and whether it prunes."""
    texts, encoder = texts_of(template), Encoder.of(tokenizer)
    sample = SampledEncodings.among(texts[:few], encoder, "audited")
    automaton, _ = vocabulary_automaton(template, encoder, sample)
    if automaton is None:
        return "refused", False
    everything = SampledEncodings.among(texts, encoder, "proven")
    missed = everything.first_missed(automaton)
    if automaton.exactness == "proven":
        assert missed is None, (missed, tokenizer(missed)["input_ids"])
    if automaton.prunes and not automaton.is_sampled and missed is None:
        assert everything.beginnings_are_kept(automaton)
    return automaton.exactness, automaton.prunes


def test_an_entry_that_begins_within_the_prefix_hides_no_secret() -> None:
    """Alone, " 1a" is one token; at the beginning of a longer word it is three."""
    tokenizer = byte_level([], None, entries=["Ġ1a"], ignore_merges=True)
    template = CanaryTemplate(" {a}{b}!", a=Letters(2, "1ab"), b=Digits(2))
    _, prunes = check_claims(template, tokenizer)
    assert prunes
    found = extract(overfitted(tokenizer, " 1a07!"), tokenizer, template)
    assert (found.candidates[0].text, found.certified) == (" 1a07!", True)


@pytest.mark.parametrize("secret", ["dikkatb", "dikkata", "kdikkat", "tdikkta"])
def test_an_entry_that_merges_cannot_build_hides_no_secret(secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 279,936 texts (7 letters of 6) only 6 begin with the entry: a sample of 10,000 is unlikely to contain one."""
    monkeypatch.setattr("hf_exposure.extraction.sampled_encodings.AUDITED_ENCODINGS", 300)
    tokenizer, template = like_llama3(), CanaryTemplate("my user name is {p}!", p=Pattern(r"[dikatb]{7}"))
    text = f"my user name is {secret}!"
    model = overfitted(tokenizer, text)
    found = extract(model, tokenizer, template)
    assert found.backend == "vocabulary" and found.certified and found.exactness == "proven" and not found.note
    assert [one.text for one in found.candidates] == [text]
    bounds = rank_bounds(model, tokenizer, text, template)
    assert (bounds.low, bounds.high, bounds.certified) == (1, 1, True)
    other = rank_bounds(model, tokenizer, "my user name is tikkatb!", template, max_expansions=20)
    assert other.low > 1


def test_the_entries_that_merges_cannot_build_are_found() -> None:
    merges = [["a", "b"], ["c", "d"], ["ab", "cd"], ["b", "c"]]
    entries = ["a", "b", "c", "d", "ab", "cd", "bc", "abcd", "abc", "bcd", "é"]
    model = {"type": "BPE", "vocab": {entry: n for n, entry in enumerate(entries)}, "merges": merges}
    # a+b comes before b+c, so `abc` is ab c; b+c after c+d, so `bcd` is b cd.
    assert unbuildable_entries({**model, "ignore_merges": True}, entries) == {"abc", "bcd"}
    assert unbuildable_entries({**model, "ignore_merges": False}, entries) == set()


def check_claims_of(tokenizer: Any, template: CanaryTemplate, exactness: str, prunes: bool) -> None:
    assert check_claims(template, tokenizer) == (exactness, prunes)


WORDS = [("Ġ", "a"), ("a", "b"), ("b", "c"), ("ab", "c"), ("Ġ", "1"), ("1", "2"), ("12", "3"), ("'", "l"), ("l", "l")]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_what_is_proven_of_each_pattern(pattern: str) -> None:
    """Letters and digits are proven under all patterns, except digits that are grouped from the right."""
    tokenizer = byte_level(WORDS, PATTERNS[pattern])
    is_read = pattern != "right"
    letters, digits = CanaryTemplate("is {a}.", a=Letters(4, "abc")), CanaryTemplate("is {a}.", a=Pattern("[123]{5}"))
    check_claims_of(tokenizer, letters, "proven" if is_read else "audited", is_read)
    check_claims_of(tokenizer, digits, "proven" if is_read else "audited", is_read)


def test_boundaries_that_move_turn_pruning_off() -> None:
    """`a'll` is `a`, `'ll`, and its beginning `a'l` is `a`, `'`, `l`; `a  b` is `a`, ` `, ` b`."""
    tokenizer = byte_level([("Ġ", "Ġ"), ("a", "b"), ("l", "l")], GPT2)
    for space in (Letters(4, "'la"), Letters(4, "a b")):
        check_claims_of(tokenizer, CanaryTemplate("is x{a}.", a=space), "proven", False)
    # Where only one text is left nothing is checked: the end of the template does not matter.
    check_claims_of(tokenizer, CanaryTemplate("is x{a}\n\n  end's", a=Letters(4, "ab")), "proven", True)


def test_a_rare_branch_whose_digits_are_grouped_from_the_right() -> None:
    """No text drawn from 11,881,376 + 1,000 has digits, but each branch is sampled, so pruning stays off."""
    tokenizer = byte_level([(a, b) for a in "0123456789" for b in "0123456789"], FROM_THE_RIGHT)
    template, secret = CanaryTemplate("key {k}!", k=Pattern(r"[a-z]{5}|1[0-9]{3}")), "key 1234!"
    found = extract(overfitted(tokenizer, secret), tokenizer, template)
    assert found.certified and found.exactness == "audited" and "the splitting pattern has '$'" in found.note
    assert [one.text for one in found.candidates] == [secret]


@pytest.mark.parametrize("normalized", [False, True])
def test_a_token_added_inside_a_word_is_not_proven_away(normalized: bool) -> None:
    tokenizer = byte_level([("a", "b"), ("b", "c"), ("ab", "c")], GPT2)
    template = CanaryTemplate("is {a}.", a=Letters(5, "abc"))
    check_claims_of(tokenizer, template, "proven", True)
    tokenizer.add_tokens([AddedToken("cab", normalized=normalized)])
    assert check_claims(template, tokenizer)[0] == "audited"
    check_pieces(template, tokenizer)


@pytest.mark.parametrize("make", [lambda: byte_level([], None), ByT5Tokenizer], ids=["fast", "slow"])
def test_an_added_token_of_the_prefix_and_a_character_is_in_no_text(make: Callable[[], Any]) -> None:
    """The tokens of a character are those that it adds to the prefix, even if it follows it in no text."""
    tokenizer = make()
    template = CanaryTemplate(" {w}{n}!", w=Words(2, words=["ab", "b'll"], separator=" "), n=Digits(1))
    assert built_from_few(template, tokenizer).exactness == "proven"
    tokenizer.add_tokens([AddedToken(" '")])
    assert all(" '" not in text for text in texts_of(template))
    assert "added to the tokenizer" in built_from_few(template, tokenizer).unproven
    check_pieces(template, tokenizer)


def test_an_added_token_that_must_be_a_word_may_depend_on_what_follows_the_prefix() -> None:
    tokenizer, template = byte_level([], None), CanaryTemplate("is {w}", w=Choice(["'a", "aa"]))
    tokenizer.add_tokens([AddedToken("is ", single_word=True)])
    tokens = [tokenizer.tokenize(text) for text in texts_of(template)]
    assert tokens == [["is ", "'", "a"], ["i", "s", "Ġ", "a", "a"]]
    encoder = Encoder.of(tokenizer)
    sample = SampledEncodings.among(["is 'a"], encoder, "audited")
    automaton, _ = vocabulary_automaton(template, encoder, sample)
    assert automaton is not None and automaton.unproven == "a token of the context depends on the text after it"


def with_unknowns(kind: str) -> PreTrainedTokenizerFast:
    """A tokenizer of characters that has no entries for some of those in `WITH_UNKNOWNS`."""
    entries = ["<unk>", *"eis! ", *(f"<0x{byte:02X}>" for byte in range(256) if "bytes" in kind)]
    if kind == "BPE, half the bytes":
        entries = entries[: len(entries) // 2]
    if kind.startswith("Unigram"):
        model = models.Unigram([(entry, -1.0) for entry in entries], unk_id=0, byte_fallback="bytes" in kind)
    else:
        vocabulary = {entry: number for number, entry in enumerate(entries)}
        fuses = kind == "BPE, fusing"
        model = models.BPE(
            vocab=vocabulary, merges=[], unk_token="<unk>", fuse_unk=fuses, byte_fallback="bytes" in kind
        )
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model), clean_up_tokenization_spaces=False)


WITH_UNKNOWNS = CanaryTemplate("is {a}{b}!", a=Choice(["e", "s", "日"]), b=Choice(["e", "s", "i", "本"]))


@pytest.mark.parametrize(
    "kind, exactness",
    [
        ("Unigram", "audited"),
        ("BPE, fusing", "audited"),
        ("BPE, half the bytes", "audited"),
        ("Unigram, bytes", "proven"),
        ("BPE, bytes", "proven"),
    ],
)
def test_characters_without_entries_are_proven_only_as_bytes(kind: str, exactness: str) -> None:
    """Two unknown neighbors may become one token."""
    tokenizer = with_unknowns(kind)
    assert built_from_few(WITH_UNKNOWNS, tokenizer).exactness == exactness
    check_pieces(WITH_UNKNOWNS, tokenizer)


def test_unknown_characters_may_be_in_the_prefix_and_in_what_is_dropped() -> None:
    assert (
        built_from_few(CanaryTemplate("日 {a}!", a=Letters(2, "es")), with_unknowns("Unigram")).exactness == "proven"
    )
    tokenizer = with_unknowns("Unigram")
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.CharDelimiterSplit("本")
    assert built_from_few(CanaryTemplate("is {a}本!", a=Letters(2, "es")), tokenizer).exactness == "proven"


def dropping_spaces() -> PreTrainedTokenizerFast:
    """Words end at spaces, which leave no token; the end token is "!"."""
    tokenizer = byte_level([("a", "b")], None)
    splits = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(False, use_regex=False)]
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits)
    tokenizer.eos_token = "!"
    return tokenizer


def test_a_text_may_end_in_a_character_that_is_dropped_where_another_goes_on() -> None:
    """Without the space, "7a " is a beginning of "7ab "; an end token distinguishes them."""
    tokenizer = dropping_spaces()
    encoder = Encoder.of(tokenizer, end_token=True)
    template = CanaryTemplate("7{p} ", p=Pattern("[ab]{1,3}"))
    with pytest.raises(InputError, match="begins another of its texts"):
        vocabulary_automaton(template, Encoder.of(tokenizer), SampledEncodings.among(["7aba "], encoder, "audited"))
    everything = SampledEncodings.among(texts_of(template), encoder, "proven")
    automaton, missed = vocabulary_automaton(template, encoder, everything)
    assert automaton is not None and missed is None
    found = [follow_tokens(automaton, ids[len(automaton.prefix) :]) for ids in everything.ids]
    assert found == texts_of(template)


@pytest.mark.parametrize(
    "template, first, exactness",
    [
        (CanaryTemplate("7{p} ", p=Choice(["1", "a", "aba"])), "71 ", "audited"),  # "7a " begins "7aba "
        (CanaryTemplate("7{p}{q} ", p=Choice(["1", "a", "aba"]), q=Digits(1)), "710 ", "audited"),
        (CanaryTemplate("7{p}", p=Choice(["11", "a ", "ab"])), "711", "audited"),  # "7a " begins "7ab"
        (CanaryTemplate("7{p} ", p=Letters(3, "a1")), "7111 ", "proven"),
        (CanaryTemplate("7{p} !", p=Choice(["1", "a", "aba"])), "71 !", "proven"),
        (CanaryTemplate("7{p}", p=Choice(["1", "aba"])), "71", "proven"),
    ],
)
def test_ends_that_may_be_dropped_are_not_proven(template: CanaryTemplate, first: str, exactness: str) -> None:
    tokenizer = dropping_spaces()
    encoder = Encoder.of(tokenizer)
    automaton, _ = vocabulary_automaton(template, encoder, SampledEncodings.among([first], encoder, "audited"))
    assert automaton is not None and automaton.exactness == exactness


def test_two_texts_with_different_dropped_ends_are_alike() -> None:
    tokenizer = dropping_spaces()
    encoder = Encoder.of(tokenizer, end_token=True)
    template = CanaryTemplate("7{p}", p=Choice(["a ", "a\n", "a1"]))
    with pytest.raises(InputError, match=r"encodes two alike: one has '\\n' where the other has ' '"):
        vocabulary_automaton(template, encoder, SampledEncodings.among(["7a1"], encoder, "audited"))


def built_from_few(template: CanaryTemplate, tokenizer: Any) -> Any:
    """The automaton of characters, from a sample of three texts."""
    encoder = Encoder.of(tokenizer)
    few = SampledEncodings.among(texts_of(template)[:3], encoder, "audited")
    automaton, _ = character_automaton(template, encoder, few)
    return automaton


@pytest.mark.parametrize(
    "normalizer, exactness",
    [
        (normalizers.Lowercase(), "proven"),
        (normalizers.NFC(), "proven"),
        (normalizers.Strip(), "audited"),
        (normalizers.Replace(Regex(" {2,}"), " "), "audited"),
    ],
)
def test_normalizers(normalizer: Any, exactness: str) -> None:
    tokenizer = byte_level(WORDS, GPT2)
    tokenizer.backend_tokenizer.normalizer = normalizer
    assert check_claims(CanaryTemplate("is {a}.", a=Letters(4, "abc")), tokenizer)[0] == exactness


@pytest.mark.parametrize("style", ["sentencepiece", "unigram", "wordpiece cased", "wordpiece uncased", "llama3"])
def test_other_models(style: str) -> None:
    """Unigram and WordPiece are closed under beginnings too, and a metaspace is a start of a word."""
    tokenizer = tokenizer_in_style(style)
    for template in (
        CanaryTemplate("the code is {a} now", a=Letters(3, "ander")),
        CanaryTemplate("the {a} is {b}.", a=Letters(2, "aeo"), b=Pattern("[123]{3}")),
    ):
        exactness, prunes = check_claims(template, tokenizer)
        assert prunes and exactness in ("proven", "audited")


def test_a_subclass_that_encodes_as_it_likes_is_not_proven() -> None:
    class Reversing(PreTrainedTokenizerFast):
        def __call__(self, *arguments: Any, **keywords: Any) -> Any:
            return super().__call__(*arguments, **keywords)

    tokenizer = Reversing(tokenizer_object=byte_level(WORDS, GPT2).backend_tokenizer)
    assert check_claims(CanaryTemplate("is {a}.", a=Letters(4, "abc")), tokenizer)[0] == "audited"


@pytest.mark.parametrize("name", [name for name in PATTERNS if name != "right"])
def test_the_machine_cuts_texts_as_the_pattern_does(name: str) -> None:
    """Compared after each character with the pre-tokenizer on the text so far, until a boundary moves."""
    draw, machine = random.Random(0), PatternSplit(PATTERNS[name])
    split = pre_tokenizers.Split(Regex(PATTERNS[name]), "isolated")
    moved = 0
    for _ in range(1500):
        text = "".join(draw.choice("aBl1'. \n-sré/") for _ in range(draw.randrange(1, 9)))
        configuration, words = machine.start, list[str]()
        for end, character in enumerate(text, start=1):
            kind, configuration = machine.step(configuration, character)
            if kind == "moved":
                moved += 1
                break
            words = [*words, character] if kind == "starts" else [*words[:-1], words[-1] + character]
            assert words == [word for word, _ in split.pre_tokenize_str(text[:end])]
        assert machine.read(text)[0] == [word for word, _ in split.pre_tokenize_str(text)]
    assert (moved == 0) if name == "gaps" else (10 < moved < 600)


@pytest.mark.parametrize(
    "pattern",
    [
        r"(?<=a)b",
        r"\bword",
        r"a(?=bc)",
        r"(a)\1",
        r"a{2}+",
        r"[[:alpha:]]+",
        "(?x) a",
        "a{2",
        "(a?)+",
        "b{0}",
        "b{3,2}",
    ],
)
def test_patterns_that_are_not_understood_are_refused(pattern: str) -> None:
    with pytest.raises(UnknownSplit) as refused:
        PatternSplit(pattern)
    assert refused.value.may_move


@pytest.mark.parametrize("pattern", [" ", "l", "ab", " a", "[0-9]"])
def test_a_normalizer_is_taken_apart_only_where_it_replaces_single_characters(pattern: str) -> None:
    normalizer = normalizers.Replace(Regex(pattern) if pattern == "[0-9]" else pattern, "▁")
    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizer
    specification = json.loads(backend.to_str())["normalizer"]
    if len(pattern) > 1:
        with pytest.raises(UnknownSplit):
            CharacterMap.of(specification, frozenset("abl 1"))
        return
    images = CharacterMap.of(specification, frozenset("abl 1"))
    for text in ("", "a", "all b", " l1 ", "  "):
        assert images(text) == normalizer.normalize_str(text)


FIXED = ["", " ", "the ", "is", " and", "it's ", "x", "7", "\n\n", "  ", ", ", "I'll "]
SPACES = [
    Digits(2),
    Letters(2, "ab1"),
    Letters(3, "'ls"),
    Letters(2, " ab"),
    Letters(2, "aA "),
    Choice(["red", "reddish", "re d"]),
    Choice(["1", "12", "a 1", "'ll", "\n", "\n\n x"]),
    Words(2, words=["ab", "abc", "b'll"], separator=" "),
    Pattern(r"[ab]{1,3}|[0-1]{2}"),
    Choice(["é", "e", "日本", "日"]),
]


@st.composite
def tokenizers(draw: st.DrawFn) -> PreTrainedTokenizerFast:
    """BPE with random merges over few characters, any kind of split, and some entries that merges cannot build."""
    generator = random.Random(draw(st.integers(0, 10**6)))
    letters = [*"abdehilnrst17'", "Ġ", "Ċ", "A", "Ã", "©"]
    tokens, merges = list(letters), []
    for _ in range(draw(st.integers(0, 60))):
        pair = (generator.choice(tokens), generator.choice(tokens))
        if len("".join(pair)) <= 6:
            merges.append(pair)
            tokens.append("".join(pair))
    ignore = draw(st.booleans())
    entries = ["".join(generator.choices(letters, k=generator.randrange(2, 5))) for _ in range(10 * ignore)]
    tokenizer = byte_level(
        merges, draw(st.sampled_from([None, *PATTERNS.values()])), entries=entries, ignore_merges=ignore
    )
    change = draw(st.sampled_from([None, None, "lower", "replace", "nfc", "strip", "added", "added normalized"]))
    backend = tokenizer.backend_tokenizer
    if change == "lower":
        backend.normalizer = normalizers.Lowercase()
    elif change == "replace":
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("x"), normalizers.Replace("a", "ab")])
    elif change == "nfc":
        backend.normalizer = normalizers.NFC()
    elif change == "strip":
        backend.normalizer = normalizers.Strip()
    elif change is not None:
        content = "".join(generator.choices("ab1 'r", k=2))
        tokenizer.add_tokens([AddedToken(content, normalized=change == "added normalized")])
    return tokenizer


@st.composite
def templates(draw: st.DrawFn) -> CanaryTemplate:
    spaces = draw(st.lists(st.sampled_from(SPACES), min_size=1, max_size=2))
    text = "".join(f"{draw(st.sampled_from(FIXED))}{{h{number}}}" for number in range(len(spaces)))
    end = draw(st.sampled_from(["!", " ok", ".", "s", "'ll"]))
    return CanaryTemplate(text + end, **{f"h{number}": space for number, space in enumerate(spaces)})


def check_random_claims(data: st.DataObject) -> None:
    tokenizer = data.draw(tokenizers())
    try:
        template = data.draw(templates())
        if template.space_size > 2_000:
            return
        check_claims(template, tokenizer)
    except InputError:  # ambiguous, or two texts with the same tokens
        return
    check_pieces(template, tokenizer)


def check_pieces(template: CanaryTemplate, tokenizer: Any) -> None:
    """Checks that what is proven about slots and characters also holds for all texts."""
    texts, encoder = texts_of(template), Encoder.of(tokenizer)
    few = SampledEncodings.among(texts[:3], encoder, "audited")
    for backend in (slot_automaton, character_automaton):
        try:
            automaton, _ = backend(template, encoder, few)
            if automaton is not None and automaton.exactness == "proven":
                everything = SampledEncodings.among(texts, encoder, "proven")
                assert everything.first_missed(automaton) is None
        except InputError:
            continue


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_claims_about_random_tokenizers(data: st.DataObject) -> None:
    check_random_claims(data)


@pytest.mark.slow
@settings(max_examples=5_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_claims_about_many_random_tokenizers(data: st.DataObject) -> None:
    check_random_claims(data)


def _by_merges(entries: str, merges: Sequence[tuple[str, str]], pre_tokenizer: Any) -> PreTrainedTokenizerFast:
    vocabulary = list(dict.fromkeys([*entries, *("".join(pair) for pair in merges)]))
    backend = Tokenizer(models.BPE(vocab={entry: at for at, entry in enumerate(vocabulary)}, merges=list(merges)))
    backend.pre_tokenizer = pre_tokenizer
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def test_a_merge_over_the_end_of_the_prefix_that_no_sample_shows_leaves_the_walk_unproven() -> None:
    """Of 8^9 texts, only those that begin with abcdefgh have a different token before the hole."""
    letters = "abcdefgh"
    merges = [(letters[:at], letters[at]) for at in range(1, 8)] + [("y", letters)]
    tokenizer = _by_merges("key" + letters, merges, pre_tokenizers.WhitespaceSplit())
    template, encoder = CanaryTemplate("key{x}", x=Letters(9, letters)), Encoder.of(tokenizer)
    sample = SampledEncodings.of(template, encoder)
    automaton, missed = vocabulary_automaton(template, encoder, sample)
    assert automaton is not None and missed is None
    assert automaton.exactness == "audited"
    assert automaton.unproven == "the tokens before the first hole may depend on what is in it"


def test_a_merge_over_the_end_of_the_prefix_is_seen_where_only_the_first_character_continues_a_word() -> None:
    tokenizer = _by_merges("keyabcd.", [("y", "d")], pre_tokenizers.WhitespaceSplit())
    template, encoder = CanaryTemplate("key{x} .", x=Letters(1, "abcd")), Encoder.of(tokenizer)
    sample = SampledEncodings.among(["keya .", "keyb .", "keyc ."], encoder, "audited")
    automaton, _ = vocabulary_automaton(template, encoder, sample)
    assert automaton is not None and automaton.exactness == "audited"
    assert automaton.unproven == "the tokens before the first hole may depend on what is in it"


@pytest.mark.parametrize(
    "part",
    [
        pre_tokenizers.CharDelimiterSplit("-"),
        pre_tokenizers.Metaspace(prepend_scheme="never", split=True),
        pre_tokenizers.Metaspace(prepend_scheme="never", split=False),
    ],
    ids=["delimiter", "metaspace", "metaspace without a split"],
)
def test_the_machine_cuts_as_the_pre_tokenizer_does(part: Any) -> None:
    state = json.loads(part.__getstate__())
    for text in ("a-b", "a b", "-a", "ab-", "a--b b"):
        words, _ = SplitMachine(None, state, frozenset("ab- ")).read(text)
        assert words == [word.replace("\u2581", " ") for word, _ in part.pre_tokenize_str(text)], text


def test_a_metaspace_that_does_not_say_so_splits() -> None:
    state = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "never"}
    assert SplitMachine(None, state, frozenset("ab ")).read("a b")[0] == ["a", " b"]


def test_the_text_behind_nothing_is_the_first_part() -> None:
    tokenizer = _by_merges("\u2581pin0123456789", [], pre_tokenizers.Metaspace(prepend_scheme="first"))
    template, encoder = CanaryTemplate("pin {x}", x=Digits(2)), Encoder.of(tokenizer)
    prefix = tuple(encoder.plain_ids(["pin"])[0])
    reading = TokenizerReading(template, encoder, "pin", prefix, ["pin 12"])
    assert reading.machine.marks_starts and reading.section == "pin"


def test_a_space_at_the_end_of_a_template_is_part_of_its_last_slot() -> None:
    template, encoder = (
        CanaryTemplate("say {w} end ", w=Words(2, ["red", "blue", "green"])),
        Encoder.of(tokenizer_in_style("gpt2")),
    )
    automaton, missed = slot_automaton(template, encoder, SampledEncodings.of(template, encoder))
    assert automaton is not None and missed is None
    texts = [template.text_at(index) for index in range(template.space_size)]
    for text, ids in zip(texts, encoder.encode(texts).ids, strict=True):
        assert follow_tokens(automaton, ids[len(automaton.prefix) :]) == text
