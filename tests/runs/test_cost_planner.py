"""A plan equals the cost of the measurement: tokens, passes and memory, counted while measuring real models."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any, NamedTuple

import pytest
import torch
import transformers
from conftest import character_tokenizer, tiny_model
from packaging.version import Version
from torch import nn
from transformers import BertConfig, ByT5Tokenizer, GPT2Config, T5Config

from hf_exposure import (
    Auto,
    Bounded,
    CanaryContext,
    CanarySet,
    CanaryTemplate,
    CostPlan,
    Digits,
    Enumerate,
    Importance,
    Sample,
    draw_canaries,
    measure_exposure,
    plan_cost,
)
from hf_exposure.errors import InputError
from hf_exposure.measures import Method
from hf_exposure.runs.live_memory import LiveBytes

TOKENIZER = character_tokenizer("0123456789 abcdefghijklmnopqrstuvwxyz.")
CANARIES = draw_canaries(CanaryTemplate("my pin is {pin} ok", pin=Digits(4)), {1: 4, 4: 4}, controls=8, seed=11)
CONFIG = GPT2Config(vocab_size=384, n_layer=2, n_head=4, n_embd=64, n_positions=128, bos_token_id=0, eos_token_id=1)


class Cost(NamedTuple):
    tokens: int
    passes: int
    peak_bytes: int
    mode: str


def cost_of(model: nn.Module, method: Method, canaries: CanarySet = CANARIES, **settings: Any) -> Cost:
    """The model's inputs during a measurement, and the peak bytes of live tensors."""
    fed: list[int] = []
    hook = model.register_forward_pre_hook(
        lambda module, arguments, named: fed.append(named["input_ids"].numel()), with_kwargs=True
    )
    with LiveBytes([*model.parameters(), *model.buffers()]) as memory:
        report = measure_exposure(model, TOKENIZER, canaries, method, **settings)
    hook.remove()
    return Cost(sum(fed), len(fed), memory.peak, report.scoring_mode)


@pytest.mark.parametrize("family", ["gpt2", "llama", "mistral", "bloom", "mamba"])
def test_what_depends_on_no_weights_is_predicted_exactly(family: str) -> None:
    model = tiny_model(family)
    found = cost_of(model, Sample(references=200))
    plan = plan_cost(model.config, TOKENIZER, CANARIES, Sample(references=200))
    assert plan.scoring_mode == found.mode
    # A mode that the model refuses takes one call less than a mode with wrong results.
    assert abs(plan.full.tokens / found.tokens - 1) < (0.001 if found.mode == "packed" else 0.25)
    assert abs(plan.full.passes - found.passes) <= (0 if found.mode == "packed" else 2)
    # With the Mamba of early versions of transformers the plan is 1.6 times what is needed.
    most = 1.75 if family == "mamba" and Version(transformers.__version__) < Version("5.18") else 1.25
    assert 0.75 < plan.peak_bytes / found.peak_bytes < most
    assert plan.unmemorized is None
    assert plan.parameters == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("method", [Enumerate(), Importance(references=256), Bounded(max_expansions=200)])
def test_every_part_is_predicted(method: Method) -> None:
    model = tiny_model("gpt2")
    found = cost_of(model, method)
    plan = plan_cost(model.config, TOKENIZER, CANARIES, method)
    assert 0.8 < plan.full.tokens / found.tokens < 1.25
    assert 0.8 < plan.full.passes / found.passes < 1.25
    assert 0.75 < plan.peak_bytes / found.peak_bytes < 1.25


def test_fewer_draws_are_planned_where_each_counts_all_its_endings() -> None:
    model = tiny_model("gpt2", scale=0.02)
    needed = {}
    for ending in ("", " ok"):
        canaries = draw_canaries(CanaryTemplate("pin {pin}" + ending, pin=Digits(6)), {1: 4}, controls=40, seed=0)
        method = Importance(references=8000, precision_bits=1e-9)
        found = cost_of(model, method, canaries)
        plan = plan_cost(model.config, TOKENIZER, canaries, method)
        assert plan.unmemorized is not None and plan.unmemorized_peak_bytes is not None
        # How many draws follow the first 1,280 depends on a quantile of 44 uncertain gains.
        assert 0.65 < plan.unmemorized.tokens / found.tokens < 1.35
        assert 0.75 < plan.unmemorized_peak_bytes / found.peak_bytes < 1.25
        assert found.tokens < 1.05 * plan.full.tokens and found.peak_bytes < 1.05 * plan.peak_bytes
        needed[ending] = found, plan
    # Of six digits, five are fed: without endings to count, the cost would be at least four fifths.
    assert needed[""][0].tokens < 0.7 * needed[" ok"][0].tokens
    # The stated memory for an unmemorized set is not that of all draws.
    assert needed[""][1].unmemorized_peak_bytes < 0.9 * needed[""][1].peak_bytes


def test_a_large_vocabulary_is_read_at_chosen_rows() -> None:
    model = tiny_model("gpt2", vocab_size=100_000)
    found = cost_of(model, Sample(references=200))
    plan = plan_cost(model.config, TOKENIZER, CANARIES, Sample(references=200))
    assert (plan.full.tokens, plan.full.passes) == (found.tokens, found.passes)
    assert 0.9 < plan.peak_bytes / found.peak_bytes < 1.1


def test_a_space_that_is_enumerated_costs_its_inner_tokens() -> None:
    canaries = draw_canaries(CanaryTemplate("pin {pin}", pin=Digits(3)), {1: 2}, controls=2, seed=0)
    plan = plan_cost(CONFIG, TOKENIZER, canaries)
    assert plan.method == "Enumerate()" and list(plan.parts) == ["probe", "texts"]
    # 10 + 100 tokens have others after them; rows repeat the path to their first one, and the last row is padded.
    assert 110 <= plan.parts["texts"].tokens <= 160


def test_a_model_that_memorized_costs_draws_and_a_search() -> None:
    """A model that memorized some canaries: some of them are searched for, the others compared with draws."""
    model = tiny_model("gpt2", scale=0.02)
    ids = torch.tensor(TOKENIZER([canary.text for canary in CANARIES.inserted[:4]])["input_ids"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(30):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    method = Auto(references=256)
    plan = plan_cost(model.config, TOKENIZER, CANARIES, method)
    found = cost_of(model, method)
    assert list(plan.parts) == ["probe", "texts", "references", "search"]
    drawn = cost_of(model, Importance(references=256))
    assert found.tokens > drawn.tokens, "nothing was searched for"
    assert 0.75 < plan.full.tokens / found.tokens < 1.25
    assert 0.75 < plan.full.passes / found.passes < 1.25
    assert found.peak_bytes <= 1.1 * plan.peak_bytes


def test_draws_cost_in_proportion_and_a_search_up_to_its_budget() -> None:
    few, many = (plan_cost(CONFIG, TOKENIZER, CANARIES, Importance(references=count)) for count in (64, 256))
    assert 3.0 < many.parts["references"].tokens / few.parts["references"].tokens < 5.0
    assert many.cache_bytes > 2 * few.cache_bytes > 0
    short, long = (plan_cost(CONFIG, TOKENIZER, CANARIES, Bounded(max_expansions=count)) for count in (50, 400))
    assert long.parts["search"].tokens > 2 * short.parts["search"].tokens
    # Auto's budget is its number of references if that is smaller.
    auto = plan_cost(CONFIG, TOKENIZER, CANARIES, Auto(references=400))
    assert auto.parts["search"].tokens == long.parts["search"].tokens


def test_arguments_mean_what_they_mean_to_a_measurement() -> None:
    as_object = plan_cost(CONFIG, TOKENIZER, CANARIES, Sample(references=50), context=CanaryContext(prompt="q. "))
    by_name = plan_cost(CONFIG, TOKENIZER, CANARIES, "sample", 50, context=CanaryContext(prompt="q. "), seed=1)
    assert by_name.method == as_object.method == "Sample(references=50)"
    alone = plan_cost(CONFIG, TOKENIZER, CANARIES, "sample", 50)
    assert as_object.parts["texts"].tokens == alone.parts["texts"].tokens  # a prompt is fed once
    assert as_object.parts["probe"].tokens > alone.parts["probe"].tokens
    small = plan_cost(CONFIG, TOKENIZER, CANARIES, "sample", 200, max_batch_tokens=64)
    large = plan_cost(CONFIG, TOKENIZER, CANARIES, "sample", 200)
    assert small.parts["texts"].passes > large.parts["texts"].passes == 1


def test_memory_follows_the_dtype() -> None:
    full, half = (
        plan_cost(CONFIG, TOKENIZER, CANARIES, "sample", 200, dtype=name) for name in ("float32", "bfloat16")
    )
    assert full.weight_bytes == 4 * full.parameters == 2 * half.weight_bytes
    # 2 (keys and values) x 2 layers x 64 numbers per token, in 4 and in 2 bytes.
    assert full.cache_bytes == 2 * half.cache_bytes > 0
    assert full.cache_bytes % (2 * 2 * 64 * 4) == 0
    assert half.peak_bytes < full.peak_bytes


def test_times() -> None:
    plan = plan_cost(CONFIG, TOKENIZER, CANARIES, "sample", 50)
    assert math.isnan(plan.seconds(plan.full))
    assert plan.full.own_seconds > 0
    rated = dataclasses.replace(plan, tokens_per_second=100.0, seconds_per_pass=2.0)
    own = plan.full.own_seconds
    assert rated.seconds(plan.full) == pytest.approx(plan.full.tokens / 100 + 2 * plan.full.passes + own)
    shown = str(rated)
    assert f"{plan.full.tokens:,}" in shown and "time" in shown and "100 tokens a second and 2 s a pass" in shown
    assert "time" not in str(plan)


def test_a_plan_is_plain_values() -> None:
    plan = plan_cost(CONFIG, TOKENIZER, CANARIES, "importance", 64, tokens_per_second=100.0)
    values = json.loads(json.dumps(plan.to_dict(), allow_nan=False))
    assert values["full"]["tokens"] == sum(part["tokens"] for part in values["parts"].values()) == plan.full.tokens
    assert values["unmemorized"]["seconds"] > values["unmemorized"]["tokens"] / 100
    assert {field.name for field in dataclasses.fields(CostPlan)} < set(values)
    assert not any(canary.text in json.dumps(values) for canary in CANARIES)


def test_where_there_is_no_search_auto_compares_with_uniform_references(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise InputError("tokenizer", "must be one that can be searched", "this one", "Use another.")

    monkeypatch.setattr("hf_exposure.measures.exposure.build_automaton", refuse)
    plan = plan_cost(CONFIG, TOKENIZER, CANARIES, Auto(references=64))
    assert plan.method == "Sample(references=64)" and "must be one that can be searched" in plan.choice
    with pytest.raises(InputError, match="must be one that can be searched"):
        plan_cost(CONFIG, TOKENIZER, CANARIES, Importance(references=64))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"config": T5Config()}, "config: must be that of a causal language model"),
        ({"config": BertConfig(architectures=["BertForMaskedLM"])}, "config: must be that of a causal language model"),
        ({"config": "gpt2"}, "config: must be a Pre"),
        ({"canaries": ["pin 1234"]}, "canaries: must be a CanarySet"),
        ({"method": "guess"}, "method: must be one of auto"),
        ({"references": 0}, "references"),
        ({"dtype": "int8"}, "dtype: must be one of float32"),
        ({"scoring_mode": "alone"}, "scoring_mode: must be one of packed"),
        ({"tokens_per_second": 0}, "tokens_per_second: must be above 0"),
        ({"seconds_per_pass": -1}, "seconds_per_pass: must be at least 0"),
        ({"beam": 3}, "beam: must be an argument of plan_cost"),
    ],
)
def test_what_is_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        plan_cost(**{"config": CONFIG, "tokenizer": TOKENIZER, "canaries": CANARIES, **arguments})


def test_a_mode_that_the_model_cannot_be_read_in_is_refused() -> None:
    with pytest.raises(InputError, match="scoring_mode: must be a mode that the model supports"):
        plan_cost(tiny_model("mamba").config, TOKENIZER, CANARIES, "sample", 50, scoring_mode="packed")


def test_texts_longer_than_the_context_are_refused_as_by_a_measurement() -> None:
    with pytest.raises(InputError, match="must fit the model's context of 8 tokens"):
        plan_cost(GPT2Config(vocab_size=384, n_layer=1, n_head=2, n_embd=16, n_positions=8), TOKENIZER, CANARIES)


def test_a_measurement_on_its_own_is_planned_with_its_probe() -> None:
    """If draws never converge, the cost for an unmemorized set is the sum of all parts."""
    config = GPT2Config(vocab_size=384, n_layer=2, n_head=2, n_embd=32, bos_token_id=0, eos_token_id=1)
    canaries = draw_canaries(CanaryTemplate("pin {pin} ok", pin=Digits(6)), {1: 2}, controls=2, seed=0)
    plan = plan_cost(config, ByT5Tokenizer(), canaries, method=Importance(references=256, precision_bits=1e-9))
    assert plan.parts["probe"].passes > 10
    assert plan.unmemorized is not None and plan.unmemorized.tokens == sum(part.tokens for part in plan.parts.values())
    assert plan.unmemorized.passes == sum(part.passes for part in plan.parts.values())
