"""Exposure that training added, relative to a base model or to the model with its adapters off."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from callback_runs import make_callback, make_trainer, small_model
from conftest import tiny_model
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import ByT5Tokenizer

from hf_exposure import CanaryTemplate, Digits, draw_canaries, measure_exposure
from hf_exposure.errors import InputError
from hf_exposure.measures import ExposureMeter
from hf_exposure.records import ExposureReport

TEMPLATE = CanaryTemplate("pin {pin} ok", pin=Digits(3))
CANARIES = draw_canaries(TEMPLATE, {1: 2, 4: 1}, controls=2, seed=5)
TOKENIZER = ByT5Tokenizer()


def adapted(family: str = "llama", **more: Any) -> nn.Module:
    """A model whose adapters are not zero, as if they had been trained."""
    torch.manual_seed(1)
    targets = {"llama": ["q_proj", "v_proj"], "gpt2": ["c_attn"]}[family]
    config = LoraConfig(r=4, target_modules=targets, init_lora_weights=False, **more)
    model = get_peft_model(tiny_model(family), config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.2 * torch.randn_like(weight))
    return model.eval()


def exposures(report: ExposureReport) -> list[float]:
    return [estimate.exposure_bits for estimate in report.estimates]


def bases(report: ExposureReport) -> list[float]:
    return [estimate.base_exposure_bits for estimate in report.estimates]


def costs(model: nn.Module) -> list[float]:
    return [e.log_perplexity_bits for e in measure_exposure(model, TOKENIZER, CANARIES, references=50).estimates]


@pytest.mark.parametrize("saved", [None, ["embed_tokens"]], ids=["lora", "lora and a saved embedding"])
def test_without_its_adapter_a_model_is_its_base(saved: list[str] | None) -> None:
    model = adapted(modules_to_save=saved)
    wanted = [weight.requires_grad for weight in model.parameters()]
    before = costs(model)
    report = measure_exposure(model, TOKENIZER, CANARIES, base_model="without_adapter")
    alone = measure_exposure(tiny_model("llama"), TOKENIZER, CANARIES)
    assert bases(report) == exposures(alone)
    assert exposures(report) != bases(report)
    # The adapters are back on, and the same weights are trainable as before.
    assert costs(model) == before
    assert [weight.requires_grad for weight in model.parameters()] == wanted


def test_frozen_adapters_stay_frozen() -> None:
    model = adapted()
    first = next(weight for name, weight in model.named_parameters() if "lora_A" in name)
    first.requires_grad_(False)
    measure_exposure(model, TOKENIZER, CANARIES, base_model="without_adapter")
    assert not first.requires_grad


@pytest.mark.parametrize("saved", [None, ["embed_tokens"]], ids=["lora", "lora and a saved embedding"])
def test_merged_adapters_give_the_same_figures(saved: list[str] | None) -> None:
    model = adapted(modules_to_save=saved)
    before = costs(model)
    model.merge_adapter()
    assert costs(model) == pytest.approx(before, abs=1e-3)
    with pytest.raises(InputError, match=r"base_model: .*they are merged .* Call model\.unmerge_adapter\(\) first"):
        measure_exposure(model, TOKENIZER, CANARIES, base_model="without_adapter")
    model.unmerge_adapter()
    assert costs(model.merge_and_unload()) == pytest.approx(before, abs=1e-3)


def test_adapters_of_transformers_itself_are_switched_off_too() -> None:
    model = tiny_model("llama")
    torch.manual_seed(2)
    try:
        model.add_adapter(LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False))
    except ValueError as error:  # transformers asks for a newer peft than is installed
        pytest.skip(str(error))
    report = measure_exposure(model, TOKENIZER, CANARIES, base_model="without_adapter")
    assert bases(report) == exposures(measure_exposure(tiny_model("llama"), TOKENIZER, CANARIES))
    assert exposures(report) != bases(report)


@pytest.mark.filterwarnings("ignore:Careful, disabling adapter layers with bias:UserWarning")  # peft says so too
def test_a_base_that_training_has_changed_is_refused() -> None:
    with pytest.raises(InputError, match=r"of which only adapters are trained: the rest has changed too"):
        measure_exposure(
            adapted("gpt2", bias="all", fan_in_fan_out=True), TOKENIZER, CANARIES, base_model="without_adapter"
        )
    with pytest.raises(
        InputError, match=r"'without_adapter' needs a model with PEFT adapters, got 'LlamaForCausalLM'"
    ):
        measure_exposure(tiny_model("llama"), TOKENIZER, CANARIES, base_model="without_adapter")
    with pytest.raises(InputError, match=r"base_model: must be a model, or 'without_adapter' .*got 'adapter'"):
        measure_exposure(adapted(), TOKENIZER, CANARIES, base_model="adapter")


def test_the_callback_refuses_a_base_that_cannot_be_at_the_start(tmp_path: Any) -> None:
    trainer = make_trainer(tmp_path, [make_callback(base_model="without_adapter")])
    with pytest.raises(InputError, match="needs a model with PEFT adapters"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_lora_training_is_measured_with_its_base_and_not_disturbed(tmp_path: Any) -> None:
    def lora() -> nn.Module:
        torch.manual_seed(3)
        return get_peft_model(small_model(), LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True))

    callback = make_callback(strategy="steps", steps=1, base_model="without_adapter")
    measured = make_trainer(tmp_path / "with", [callback], model=lora(), max_steps=3, gradient_checkpointing=True)
    measured.train()
    without = make_trainer(tmp_path / "without", [], model=lora(), max_steps=3, gradient_checkpointing=True)
    without.train()
    expected, found = without.model.state_dict(), measured.model.state_dict()
    assert all(torch.equal(weight, found[name]) for name, weight in expected.items())
    alone = measure_exposure(small_model(), TOKENIZER, callback.canaries)
    assert [bases(report) for report in callback.reports] == [exposures(alone)] * 3
    assert exposures(callback.reports[-1]) != bases(callback.reports[-1])


class Counting(nn.Module):
    """Counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.calls = tiny_model("gpt2"), 0
        self.config = self.inner.config

    def forward(self, **inputs: Any) -> Any:
        self.calls += 1
        return self.inner(**inputs)


def test_a_base_is_measured_once_until_its_weights_change() -> None:
    meter = ExposureMeter(CANARIES, TOKENIZER, references=50)
    model, base = tiny_model("gpt2", seed=1), Counting()
    first = bases(meter.measure(model, base_model=base))
    calls = base.calls
    assert bases(meter.measure(model, base_model=base)) == first and base.calls == calls > 0
    with torch.no_grad():
        base.inner.transformer.wte.weight.mul_(0.5)
    second = bases(meter.measure(model, base_model=base))
    assert base.calls == 2 * calls and second != first
    assert second == exposures(meter.measure(base))
    # Another model in its place.
    assert bases(meter.measure(model, base_model=tiny_model("gpt2"))) == pytest.approx(first)
