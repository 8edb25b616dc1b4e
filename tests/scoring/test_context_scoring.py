"""Texts scored in a context equal those that a model was trained on in that context."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from chat_tokenizers import CHATML, WITH_BOS, chat_tokenizer
from conftest import merging_tokenizer
from datasets import Dataset
from torch import nn

from hf_exposure import (
    CanaryContext,
    CanaryTemplate,
    Digits,
    ExposureMeter,
    check_delivery,
    draw_canaries,
    extract,
    insert_canaries,
    measure_exposure,
    rank_bounds,
)
from hf_exposure.errors import InputError
from hf_exposure.scoring import Encoder, make_scorer

CHAT = CanaryContext(prompt=[{"role": "user", "content": "My PIN?"}])
TEMPLATE = CanaryTemplate("It is {pin}", pin=Digits(2))


def bits_by_hand(model: nn.Module, before: list[int], scored: list[int]) -> float:
    """The sum over `scored` of -log2 p, from one plain forward pass."""
    ids = torch.tensor([before + scored])
    with torch.no_grad():
        logs = model(input_ids=ids).logits[0].double().log_softmax(-1)
    picked = [logs[len(before) + place - 1, token].item() for place, token in enumerate(scored)]
    return -sum(picked) / np.log(2)


@pytest.mark.parametrize("end_token", [False, True])
@pytest.mark.parametrize("template", [CHATML, WITH_BOS], ids=["plain", "bos"])
def test_a_chat_is_scored_on_the_ids_of_the_chat_template(
    make_model: Callable[..., nn.Module], template: str, end_token: bool
) -> None:
    tokenizer = chat_tokenizer(template, adds_bos=True)
    model = make_model("gpt2")
    whole = tokenizer.apply_chat_template(CHAT.messages("It is 42"), tokenize=True, return_dict=True)["input_ids"]
    asked = tokenizer.apply_chat_template(
        CHAT.prompt_messages(), tokenize=True, add_generation_prompt=True, return_dict=True
    )["input_ids"]
    answer = whole[len(asked) :]
    assert tokenizer.decode(answer) == "It is 42<|end|>\n" and whole.count(1) == (template == WITH_BOS)
    scorer = make_scorer(model, tokenizer, end_token=end_token, context=CHAT)
    found = scorer.sequence_bits(scorer.encode(["It is 42"]))
    # The end of the turn is scored with end_token; the newline after it is not.
    assert found[0] == pytest.approx(bits_by_hand(model, asked, answer[: -1 if end_token else -2]), abs=1e-4)


def test_a_prompt_has_the_tokenizers_own_special_tokens(make_model: Callable[..., nn.Module]) -> None:
    tokenizer, model = chat_tokenizer(adds_bos=True), make_model("gpt2")
    prompt = "Ask: "
    before = tokenizer(prompt)["input_ids"]
    scored = tokenizer("It is 42", add_special_tokens=False)["input_ids"]
    assert before[0] == 1
    scorer = make_scorer(model, tokenizer, context=CanaryContext(prompt=prompt))
    assert scorer.sequence_bits(scorer.encode(["It is 42"]))[0] == pytest.approx(
        bits_by_hand(model, before, scored), abs=1e-4
    )


def test_what_merges_with_the_text_is_scored_with_it() -> None:
    tokenizer = merging_tokenizer()  # " 1" and "123" are tokens
    encoder = Encoder.of(tokenizer, context=CanaryContext(prompt="pin "))
    assert list(encoder.leading) == tokenizer("pin")["input_ids"]
    for text in ("123", "1", "x"):
        assert [*encoder.leading, *encoder.plain_ids([text])[0]] == tokenizer("pin " + text)["input_ids"]
    encoder = Encoder.of(tokenizer, context=CanaryContext(prompt="no 1"))  # "12" is a token too
    for text in ("2", "9", "23"):
        assert [*encoder.leading, *encoder.plain_ids([text])[0]] == tokenizer("no 1" + text)["input_ids"]


def test_an_end_that_merges_with_the_chat_template_is_refused(make_model: Callable[..., nn.Module]) -> None:
    tokenizer, model = merging_tokenizer(), make_model("gpt2")  # ".\n" is a token
    tokenizer.chat_template = "{% for m in messages %}### {{ m.role }}:\n{{ m.content }}\n{% endfor %}"
    trained = tokenizer.apply_chat_template(CHAT.messages("It is 42."), tokenize=True, return_dict=True)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(trained[-1]) == ".\u010a"
    stopped = CanaryTemplate("It is {pin}.", pin=Digits(2))
    canaries = draw_canaries(stopped, repetitions={1: 2}, controls=2, seed=0)
    rows = Dataset.from_dict({"input_ids": [trained, trained[1:]] * 5})
    for use in (
        lambda: ExposureMeter(canaries, tokenizer, context=CHAT),
        lambda: extract(model, tokenizer, stopped, context=CHAT),
        lambda: insert_canaries(rows, canaries, tokenizer=tokenizer, context=CHAT),
        lambda: check_delivery(rows, canaries, tokenizer, context=CHAT),
    ):
        with pytest.raises(InputError) as caught:
            use()
        assert "context: must not merge the end of a canary with what the chat template writes" in str(caught.value)
        assert "End the canary template with another suffix" in str(caught.value)
    # The remedy helps: the scored text is the one that is trained on.
    encoder = Encoder.of(tokenizer, context=CHAT)
    trained = tokenizer.apply_chat_template(CHAT.messages("It is 42"), tokenize=True, return_dict=True)["input_ids"]
    assert list(encoder.encode(["It is 42"]).ids[0]) == trained[:-1]
    ended = CanaryContext(prompt=CHAT.prompt, chat_template="{{ messages[-1].content }}<|end|>\n")
    assert Encoder.of(tokenizer, context=ended).encode(["It is 42."]).ids


def test_every_way_of_measuring_agrees_in_a_context(make_model: Callable[..., nn.Module]) -> None:
    tokenizer, model = chat_tokenizer(), make_model("gpt2")
    scorer = make_scorer(model, tokenizer, context=CHAT)
    texts = [TEMPLATE.text_at(index) for index in range(100)]
    costs = scorer.sequence_bits(scorer.encode(texts))
    found = extract(model, tokenizer, TEMPLATE, top_k=100, context=CHAT)
    assert found.certified and [c.text for c in found.candidates] == [texts[i] for i in np.argsort(costs)]
    assert [c.log_perplexity_bits for c in found.candidates] == pytest.approx(sorted(costs), abs=1e-4)
    bounds = rank_bounds(model, tokenizer, texts[7], TEMPLATE, context=CHAT)
    assert bounds.low == bounds.high == 1 + int((costs < costs[7]).sum())
    canaries = draw_canaries(TEMPLATE, repetitions={1: 2}, controls=2, seed=0)
    for method in ("enumerate", "bounded"):
        report = measure_exposure(model, tokenizer, canaries, method=method, context=CHAT)
        expected = [costs[texts.index(canary.text)] for canary in canaries]
        assert [e.log_perplexity_bits for e in report.estimates] == pytest.approx(expected, abs=1e-4)
        assert report.settings["context"]["prompt"] == CHAT.prompt
        report.to_dict()
    other = measure_exposure(model, tokenizer, canaries)
    assert other.estimates[0].log_perplexity_bits != pytest.approx(expected[0], abs=0.1)


def test_other_models_and_types_refuse_a_context(make_model: Callable[..., nn.Module]) -> None:
    canaries = draw_canaries(TEMPLATE, repetitions={1: 2}, controls=0, seed=0)
    with pytest.raises(InputError, match="context: must be a CanaryContext, got 'str'"):
        measure_exposure(make_model("gpt2"), chat_tokenizer(), canaries, context="Q: ")
    with pytest.raises(InputError, match="context: goes with models that have no source"):
        make_scorer(make_model("gpt2"), chat_tokenizer(), source="x", context=CHAT)
