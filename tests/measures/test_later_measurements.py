"""A meter measures one model repeatedly: how to read it is determined once, its results each time."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from callback_runs import TOKENIZER
from conftest import tiny_model
from torch import nn

from hf_exposure import (
    Auto,
    CanaryTemplate,
    Digits,
    ExposureMeter,
    Importance,
    Sample,
    draw_canaries,
    measure_exposure,
)
from hf_exposure.measures import Method
from hf_exposure.measures.methods import Measurement
from hf_exposure.scoring import CausalScorer

CANARIES = draw_canaries(CanaryTemplate("pin {pin} ok", pin=Digits(5)), {1: 2, 4: 2}, controls=3, seed=11)


def calls_of(model: nn.Module, meter: ExposureMeter) -> int:
    """The number of model calls of a measurement. The counting hook stays, since a new hook would change the model."""
    if not hasattr(model, "counted"):
        model.counted = {"calls": 0}  # type: ignore[assignment]
        model.register_forward_pre_hook(lambda *_: model.counted.update(calls=model.counted["calls"] + 1))
    before = model.counted["calls"]
    meter.measure(model)
    return model.counted["calls"] - before


def trained_a_little(model: nn.Module, seed: int) -> None:
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))


@pytest.mark.parametrize("family", ["gpt2", "llama", "lstm"])
@pytest.mark.parametrize("method", [Sample(references=40), Auto(references=200)], ids=["sample", "auto"])
def test_the_second_measurement_makes_fewer_calls_and_gives_the_same(family: str, method: Method) -> None:
    model = tiny_model(family, seed=2)
    meter = ExposureMeter(CANARIES, TOKENIZER, method=method)
    first = calls_of(model, meter)
    trained_a_little(model, seed=3)
    assert calls_of(model, meter) <= first - 10
    found, fresh = meter.measure(model), ExposureMeter(CANARIES, TOKENIZER, method=method).measure(model)
    assert found.scoring_mode == fresh.scoring_mode
    np.testing.assert_allclose(
        [one.exposure_bits for one in found.estimates], [one.exposure_bits for one in fresh.estimates], atol=1e-3
    )


def test_another_model_precision_or_attention_is_examined_again() -> None:
    model = tiny_model("gpt2", seed=2)
    meter = ExposureMeter(CANARIES, TOKENIZER, method=Sample(references=40))
    first = calls_of(model, meter)
    later = calls_of(model, meter)
    assert later < first
    assert calls_of(tiny_model("gpt2", seed=2), meter) == first  # as the first of a new model
    # It is the module that is remembered, not the last measurement; but three texts are scored alone again.
    assert calls_of(model, meter) == later + 2
    assert calls_of(model.double(), meter) == first
    model.set_attn_implementation("eager")
    assert calls_of(model, meter) == first
    assert calls_of(model, meter) == later


def test_later_measurements_score_one_text_alone_and_larger_batches_three() -> None:
    model = tiny_model("gpt2", seed=2)
    alone: list[int] = []
    model.register_forward_pre_hook(
        lambda _, __, named: alone.append(1) if named["input_ids"].shape == (1, text_tokens) else None,
        with_kwargs=True,
    )
    text_tokens = len(TOKENIZER(CANARIES.inserted[0].text, add_special_tokens=False)["input_ids"])
    meter = ExposureMeter(CANARIES, TOKENIZER, method=Sample(references=40))
    meter.measure(model)
    alone.clear()
    trained_a_little(model, seed=3)
    meter.measure(model)
    assert len(alone) == 1
    larger = ExposureMeter(CANARIES, TOKENIZER, method=Sample(references=400))
    larger._reading = meter._reading
    alone.clear()
    larger.measure(model)
    assert len(alone) == 3


class MixesRows(nn.Module):
    """A model whose outputs depend on the other rows of a call once `mixes` is set."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.config, self.mixes = model, model.config, False

    def forward(self, input_ids: torch.Tensor, **inputs: Any) -> Any:
        output = self.model(input_ids=input_ids, **inputs)
        if self.mixes:
            output.logits = output.logits + 0.3 * torch.cos(output.logits.roll(1, dims=0)) * (len(input_ids) > 1)
        return output


def test_a_model_that_begins_to_mix_rows_is_still_noticed() -> None:
    model = MixesRows(tiny_model("gpt2", seed=2))
    meter = ExposureMeter(CANARIES, TOKENIZER, method=Sample(references=400), max_batch_tokens=64)
    assert meter.measure(model).scoring_mode == "packed"
    model.mixes = True
    found = meter.measure(model)
    assert found.scoring_mode == "alone"
    costs = CausalScorer(model, TOKENIZER, mode="alone").sequence_bits(
        CausalScorer(model, TOKENIZER).encode([canary.text for canary in CANARIES])
    )
    np.testing.assert_allclose([one.log_perplexity_bits for one in found.estimates], costs, atol=1e-3)


def test_a_meter_keeps_no_model_alive() -> None:
    meter, model = ExposureMeter(CANARIES, TOKENIZER, method=Sample(references=40)), tiny_model("gpt2", seed=2)
    meter.measure(model)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_auto_draws_only_for_what_a_search_does_not_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """A memorized canary never gets enough hits: it would require all draws."""
    model = tiny_model("gpt2", seed=2, scale=0.05).train()
    (ids,) = TOKENIZER([CANARIES.inserted[1].text], add_special_tokens=False, return_tensors="pt")["input_ids"]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(120):
        model(input_ids=ids[None], labels=ids[None]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    asked: list[list[int]] = []
    draw = Importance.draw

    def noted(self: Importance, measured: Measurement, canaries: Any) -> Any:
        asked.append(list(canaries))
        return draw(self, measured, canaries)

    monkeypatch.setattr(Importance, "draw", noted)
    report = ExposureMeter(CANARIES, TOKENIZER, method=Auto(references=2000)).measure(model.eval())
    assert report.estimates[1].bound == "exact" and report.estimates[1].rank_high == 1
    assert asked and 1 not in asked[0] and {0, 2, 3} <= {*asked[0]}


def test_draws_end_when_those_asked_for_have_converged() -> None:
    model = tiny_model("gpt2", seed=2)
    everyone = Importance(references=3000, precision_bits=1e-3)
    drawn: list[int] = []

    class ForNobody(Importance):
        def estimate(self, measured: Measurement) -> Any:
            found = self.draw(measured, [])
            drawn.append(found[1].count if found[1] else 0)
            return found

    measure_exposure(model, TOKENIZER, CANARIES, method=ForNobody(references=3000, precision_bits=1e-3))
    whole = measure_exposure(model, TOKENIZER, CANARIES, method=everyone).references
    assert whole is not None and 0 < drawn[0] * 2 < whole.count
