"""Secrets under tokenizers that merge their characters: low search cost if memorized, and clear errors elsewhere."""

from __future__ import annotations

import re
from functools import cache

import pytest
import torch
from conftest import character_tokenizer, merging_tokenizer
from token_models import BagOfTokens, bare_costs, entries_of, model_for
from tokenizer_styles import tokenizer_in_style
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from hf_exposure import CanaryTemplate, Choice, Digits, Letters, draw_canaries, extract, measure_exposure, rank_bounds
from hf_exposure.errors import InputError
from hf_exposure.extraction import build_automaton, enumerate_texts, search_likeliest, search_ranks
from hf_exposure.extraction.build import check_template
from hf_exposure.extraction.encoding_trie import EncodingTrie
from hf_exposure.extraction.sampled_encodings import SampledEncodings
from hf_exposure.extraction.vocabulary_automaton import vocabulary_automaton
from hf_exposure.scoring import CausalScorer, Encoder
from hf_exposure.testing import assert_close, brute_force_bits

SECRET = CanaryTemplate("the number is {number}", number=Digits(9))


@cache
def memorized(style: str) -> tuple[nn.Module, str]:
    """A tiny GPT-2, trained for a few seconds on one canary among random numbers."""
    tokenizer, secret = tokenizer_in_style(style), SECRET.render(number="281265017")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = GPT2Config(vocab_size=entries_of(tokenizer), n_positions=64, n_embd=48, n_layer=1, n_head=2)
        model = GPT2LMHeadModel(config)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for step in range(200):
            # At a constant rate, rounding decides on some processors whether the last steps undo what was learned.
            optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / 200)
            other = SECRET.text_at(step * 7_654_321 % 10**9)
            for text in (secret, other):
                ids = torch.tensor([tokenizer(text)["input_ids"]])
                model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return model.eval(), secret


@pytest.mark.parametrize("style", ["gpt2", "from the right"])
def test_a_memorized_number_is_found_in_few_rows(style: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine digits in tokens of one to four, 10^9 texts; the bare model gives the true bits."""
    monkeypatch.setattr("hf_exposure.extraction.sampled_encodings.AUDITED_ENCODINGS", 1000)
    model, secret = memorized(style)
    tokenizer = tokenizer_in_style(style)
    whole, before = (brute_force_bits(model, tokenizer(text)["input_ids"], 1) for text in (secret, SECRET.prefix[:-1]))
    assert whole - before <= 9
    found = extract(model, tokenizer, SECRET)
    assert found.certified and found.exactness == ("proven" if style == "gpt2" else "audited")
    assert found.model_rows < 200
    assert [candidate.text for candidate in found.candidates] == [secret]
    assert_close(found.candidates[0].log_perplexity_bits, whole, 1e-3)
    bounds = rank_bounds(model, tokenizer, secret, SECRET)
    assert (bounds.low, bounds.high, bounds.certified) == (1, 1, True)


def test_walking_the_vocabulary_finds_it_too_with_and_without_pruning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_exposure.extraction.sampled_encodings.AUDITED_ENCODINGS", 500)
    model, secret = memorized("gpt2")
    scorer = CausalScorer(model, tokenizer_in_style("gpt2"))
    automaton, _ = vocabulary_automaton(SECRET, scorer.encoder, SampledEncodings.of(SECRET, scorer.encoder))
    other = SECRET.render(number="281265018")
    pruned = [search_ranks(scorer, automaton, [text], max_expansions=500)[0] for text in (secret, other)]
    automaton.judge_leaves_only()
    whole = [search_ranks(scorer, automaton, [text], max_expansions=500)[0] for text in (secret, other)]
    for one, same in zip(pruned, whole, strict=True):
        assert max(one.low, same.low) <= min(one.high, same.high) and one.high <= 10**9
    assert (pruned[0].low, pruned[0].high, whole[0].low, whole[0].high) == (1, 1, 1, 1)


def test_pruning_saves_model_rows() -> None:
    template = CanaryTemplate("the number is {a}", a=Digits(4))
    scorer = CausalScorer(model_for("gpt2", "bag"), tokenizer_in_style("gpt2"))
    automaton, _ = vocabulary_automaton(template, scorer.encoder, SampledEncodings.of(template, scorer.encoder))
    assert automaton is not None and automaton.prunes
    # Tied merges are learned in varying order, so there may be nothing to prune among the first few texts.
    pruned = search_likeliest(scorer, automaton, top_k=1000)
    automaton.judge_leaves_only()
    whole = search_likeliest(scorer, automaton, top_k=1000)
    assert [one.text for one in pruned.candidates] == [one.text for one in whole.candidates]
    assert pruned.certified and whole.certified and pruned.model_rows < whole.model_rows


def test_a_measurement_under_a_merging_tokenizer() -> None:
    """Ranks by search equal those of all texts scored."""
    template = CanaryTemplate("pin {pin} it", pin=Digits(3))
    canaries = draw_canaries(template, {1: 3}, controls=2, seed=1)
    model, tokenizer = model_for("gpt2", "bag"), tokenizer_in_style("gpt2")
    searched = measure_exposure(model, tokenizer, canaries, method="bounded")
    scored = measure_exposure(model, tokenizer, canaries, method="enumerate")
    texts = [template.text_at(index) for index in range(1000)]
    costs = dict(zip(texts, bare_costs(model, tokenizer(texts)["input_ids"], 1), strict=True))
    inserted = {canary.text for canary in canaries.inserted}
    for canary, one, other in zip(canaries, searched.estimates, scored.estimates, strict=True):
        rivals = [cost for text, cost in costs.items() if text != canary.text and text not in inserted]
        rank = 1 + sum(cost <= costs[canary.text] for cost in rivals)
        assert one.rank_low == one.rank_high == other.rank_low == rank
    assert not searched.notes


def test_enumerating_a_space_larger_than_an_audit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enumeration needs one path to a text: where holes merge, every text is encoded."""
    for module in ("sampled_encodings", "build"):
        name = "AUDITED_ENCODINGS" if module == "sampled_encodings" else "_SMALL_TRIE"
        monkeypatch.setattr(f"hf_exposure.extraction.{module}.{name}", 50)
    monkeypatch.setattr("hf_exposure.extraction.slot_automaton._LARGEST_HOLE", 50)
    monkeypatch.setattr("hf_exposure.extraction.slot_automaton._piece.__defaults__", (None, 50))
    template = CanaryTemplate("the number is {a}", a=Digits(3))
    encoder = Encoder.of(tokenizer_in_style("gpt2"))
    assert build_automaton(template, encoder).name == "vocabulary"
    automaton = build_automaton(template, encoder, one_path=True)
    assert automaton.name == "trie"
    space = enumerate_texts(automaton, encoder.first_scored)
    texts = [template.text_at(index) for index in range(1000)]
    assert dict(zip(space.texts, space.ids, strict=True)) == dict(zip(texts, encoder.encode(texts).ids, strict=True))


@pytest.mark.parametrize("text", ["pin {a}", "{a} is it", "no {a}{b}", "no{a} is"])
def test_prefixes_that_merge_with_what_follows(text: str) -> None:
    """Nothing of the prefix that may merge with the hole is cut off."""
    template = CanaryTemplate(text, **({"a": Digits(2)} | ({"b": Digits(1)} if "{b}" in text else {})))
    tokenizer = merging_tokenizer()
    scorer = CausalScorer(BagOfTokens(entries_of(tokenizer)), tokenizer)
    texts = [template.text_at(index) for index in range(template.space_size)]
    costs = dict(zip(texts, bare_costs(scorer.model, tokenizer(texts)["input_ids"], 1), strict=True))
    found = extract(scorer.model, tokenizer, template, top_k=5)
    assert_close([one.log_perplexity_bits for one in found.candidates], sorted(costs.values())[:5], 1e-3)
    assert found.certified and [costs[one.text] for one in found.candidates] == sorted(costs.values())[:5]


@pytest.mark.parametrize("number", [2, 8])
def test_letters_that_a_tokenizer_does_not_tell_apart(number: int) -> None:
    """Tested in a space that is encoded, and in one that is walked."""
    template = CanaryTemplate("code {a}", a=Letters(number, alphabet="abAB0123"))
    rule = (
        r"^tokenizer: must distinguish the template's texts, but encodes two alike: "
        "one has '(.)' where the other has '(.)'"
    )
    with pytest.raises(InputError, match=rule) as refusal:
        build_automaton(template, Encoder.of(tokenizer_in_style("wordpiece uncased")))
    named = re.match(rule, str(refusal.value))
    # Which two are found first depends on how the tokenizer's training broke its ties.
    assert named and named[1] != named[2] and named[1].lower() == named[2].lower()


def test_unknown_characters() -> None:
    template = CanaryTemplate("code {a}", a=Letters(2, alphabet="ab\u0416"))
    with pytest.raises(InputError, match=r"^tokenizer: must encode every character .* unknown token"):
        build_automaton(template, Encoder.of(tokenizer_in_style("wordpiece cased")))


class SlowPairs:
    """A slow tokenizer that makes one token of two characters wherever it can."""

    all_special_ids: tuple[int, ...] = ()
    eos_token_id = unk_token_id = None

    def __call__(self, texts: str | list[str], **kwargs: object) -> dict[str, object]:
        def encode(text: str) -> list[int]:
            pairs = [text[at : at + 2] for at in range(0, len(text), 2)]
            return [ord(pair[0]) if len(pair) == 1 else 128 * ord(pair[0]) + ord(pair[1]) for pair in pairs]

        return {"input_ids": encode(texts) if isinstance(texts, str) else [encode(text) for text in texts]}


def test_a_slow_tokenizer_that_merges(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small space is encoded; a large one needs the vocabulary of a fast tokenizer."""
    monkeypatch.setattr("hf_exposure.extraction.sampled_encodings.AUDITED_ENCODINGS", 100)
    encoder = Encoder.of(SlowPairs())
    small = CanaryTemplate("pin{a}", a=Digits(3))
    automaton = build_automaton(small, encoder)
    assert automaton.count(automaton.root) == 1000
    with pytest.raises(InputError, match=r"^tokenizer: must be a fast one .* got 'SlowPairs'.*method='sample'"):
        build_automaton(CanaryTemplate("pin{a}", a=Digits(12)), encoder)


def test_a_text_that_begins_another() -> None:
    """A suffix does not help if a filling contains it."""
    template = CanaryTemplate("{a}x", a=Choice(["1", "1x1"]))
    check_template(template, end_token=False)
    for tokenizer in (tokenizer_in_style("gpt2"), character_tokenizer("1x")):
        with pytest.raises(InputError, match=r"^template: must not have a text that begins another.*end_token=True"):
            build_automaton(template, Encoder.of(tokenizer))
        assert build_automaton(template, Encoder.of(tokenizer, end_token=True)).count is not None


def test_a_trie_takes_four_bytes_a_token() -> None:
    template = CanaryTemplate("the number is {a}", a=Digits(4))
    texts = [template.text_at(index) for index in range(10_000)]
    encoder = Encoder.of(tokenizer_in_style("gpt2"))
    trie = EncodingTrie.of(texts, encoder, cut_shared=True)
    longest = max(len(ids) for ids in encoder.plain_ids(texts)) - len(trie.shared)
    assert len(trie.shared) >= 3 and trie.rows_NL.shape == (10_000, longest)
    assert trie.rows_NL.nbytes == 4 * 10_000 * longest and trie.order_N.nbytes == 40_000
    rebuilt = {
        trie.text_of(row): [*trie.shared, *(t for t in ids if t >= 0)] for row, ids in enumerate(trie.rows_NL.tolist())
    }
    assert [rebuilt[text] for text in texts] == encoder.plain_ids(texts)
