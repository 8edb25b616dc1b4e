"""If the base under an adapter changes after the first measurement, measuring is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from callback_runs import make_callback, make_trainer, small_model
from conftest import tiny_model
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    BitsAndBytesConfig,
    ByT5Tokenizer,
    T5Config,
    TorchAoConfig,
)

from hf_exposure import CanaryTemplate, Digits, ExposureCallback, draw_canaries, measure_exposure
from hf_exposure.errors import InputError
from hf_exposure.measures import ExposureMeter, TrainingStart
from hf_exposure.measures.base_fingerprint import fingerprint, moved_share
from hf_exposure.measures.exposure import ExposureMeasure
from hf_exposure.runtime.processes import SINGLE_PROCESS
from hf_exposure.testing import check_measure

TOKENIZER = ByT5Tokenizer()
CANARIES = draw_canaries(CanaryTemplate("pin {pin} ok", pin=Digits(3)), {1: 2}, controls=2, seed=5)
MOVED = r"needs the base of the first measurement, but with the adapters off its logits have changed"


def adapted(dtype: torch.dtype = torch.float32, **more: Any) -> Any:
    torch.manual_seed(1)
    config = LoraConfig(**{"r": 4, "target_modules": ["q_proj"], "init_lora_weights": False, **more})
    return get_peft_model(tiny_model("llama").to(dtype), config).eval()


def meter() -> ExposureMeter:
    return ExposureMeter(CANARIES, TOKENIZER, references=50)


def measure(one: ExposureMeter, model: nn.Module) -> list[float]:
    return [each.base_exposure_bits for each in one.measure(model, base_model="without_adapter").estimates]


def train_embeddings(model: Any) -> None:
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(1.01)


def merge_half(model: Any) -> None:
    """Undoes a merge after the adapter has changed, so a part of it stays in the base."""
    model.merge_adapter()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.mul_(0.5)
    model.unmerge_adapter()


@pytest.mark.parametrize("change", [train_embeddings, merge_half])
def test_a_base_that_changed_between_two_measurements_is_refused(change: Callable[[Any], None]) -> None:
    one, model = meter(), adapted()
    first = measure(one, model)
    with torch.no_grad():  # as in training: adapters change, the base does not
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.1)
    assert measure(one, model) == first
    change(model)
    with pytest.raises(InputError, match=MOVED):
        measure(one, model)
    # A different model has its own base, and a new meter starts with the base that it finds.
    assert len(measure(one, adapted())) == len(CANARIES)
    assert len(measure(meter(), model)) == len(CANARIES)


def test_a_merge_that_is_undone_exactly_changes_nothing() -> None:
    one, model = meter(), adapted()
    first = measure(one, model)
    model.merge_adapter()
    model.unmerge_adapter()
    assert measure(one, model) == pytest.approx(first, abs=0.05)


@pytest.mark.parametrize("method", ["pissa", "olora"])
def test_adapters_that_began_with_a_part_of_the_base_are_refused(method: str) -> None:
    model = adapted(init_lora_weights=method)
    with model.disable_adapter():  # the rest is not the base
        left = fingerprint(model, SINGLE_PROCESS)
    assert moved_share(fingerprint(tiny_model("llama"), SINGLE_PROCESS), left) > 0.01
    with pytest.raises(InputError, match=f"were initialized with a part of it, got \"init_lora_weights='{method}'\""):
        measure_exposure(model, TOKENIZER, CANARIES, references=50, base_model="without_adapter")


def test_adapters_that_are_off_and_still_used_are_refused() -> None:
    model = adapted()
    layer = next(module for module in model.modules() if hasattr(module, "lora_A") and len(module.lora_A))
    is_off = layer.forward
    # Like an adapter whose weights are only frozen when it is switched off.
    layer.forward = lambda x: is_off(x) + layer.lora_B["default"](layer.lora_A["default"](x))
    wanted = [weight.requires_grad for weight in model.parameters()]
    with pytest.raises(InputError, match=r"the logits still depend on them, got '.*q_proj.lora_[AB].default.weight'"):
        measure_exposure(model, TOKENIZER, CANARIES, references=50, base_model="without_adapter")
    assert [weight.requires_grad for weight in model.parameters()] == wanted


def test_the_fingerprint_is_the_first_logits_of_the_base() -> None:
    base, model = tiny_model("llama"), adapted()
    with model.disable_adapter():
        found = fingerprint(model, SINGLE_PROCESS)
    assert torch.equal(found, fingerprint(base, SINGLE_PROCESS))
    ids = torch.linspace(0, 383, 32, dtype=torch.float64).long().reshape(16, 2).T
    with torch.no_grad():
        logits = base(ids).logits
    assert torch.equal(found[..., 0], logits[..., 0]) and torch.equal(found[..., -2], logits[..., -1])
    assert torch.equal(found[..., -1], logits.logsumexp(-1))
    assert moved_share(found, fingerprint(model, SINGLE_PROCESS)) > 0.01


def test_bases_of_other_kinds_have_fingerprints_too() -> None:
    assert fingerprint(tiny_model("gpt2", n_positions=9), SINGLE_PROCESS).shape == (2, 9, 65)
    shape = {"vocab_size": 384, "d_model": 16, "d_ff": 32, "d_kv": 8, "num_heads": 2, "num_layers": 1}
    both = AutoModelForSeq2SeqLM.from_config(T5Config(**shape, decoder_start_token_id=0))
    assert fingerprint(both, SINGLE_PROCESS).isfinite().all()
    changed = fingerprint(tiny_model("bloom"), SINGLE_PROCESS)
    changed[0, 0, 0] = torch.nan
    assert moved_share(changed, changed) == 0.0
    assert moved_share(fingerprint(tiny_model("bloom"), SINGLE_PROCESS), changed) == float("inf")


def test_the_measure_keeps_the_laws(tmp_path: Path) -> None:
    model = adapted()
    start = TrainingStart(
        model=model, tokenizer=TOKENIZER, train_dataloader=None, processes=SINGLE_PROCESS, output_dir=tmp_path
    )
    check_measure(
        lambda: ExposureMeasure(CANARIES, references=50, base_model="without_adapter"),
        model,
        start,
    )


def lora(scale: float = 1.0) -> Any:
    torch.manual_seed(3)
    model = small_model()
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(scale)
    return get_peft_model(model, LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True))


def callback() -> ExposureCallback:
    return make_callback(strategy="steps", steps=1, base_model="without_adapter")


def test_a_run_that_resumes_on_another_base_is_refused(tmp_path: Path) -> None:
    settings = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    first = callback()
    make_trainer(tmp_path, [first], model=lora(), **settings).train()
    again = callback()
    resumed = make_trainer(tmp_path, [again], model=lora(), **{**settings, "max_steps": 3})
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    bases = [[each.base_exposure_bits for each in report.estimates] for report in again.reports]
    assert len(bases) == 3 and bases[0] == bases[1] == bases[2]
    other = make_trainer(tmp_path, [callback()], model=lora(1.01), **{**settings, "max_steps": 4})
    with pytest.raises(InputError, match=MOVED):
        other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))


# QLoRA, where the libraries are installed.

QUIET = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning", "ignore::SyntaxWarning"
)
WIDE = {"hidden_size": 64, "intermediate_size": 128}


def four_bits() -> Any:
    pytest.importorskip("bitsandbytes")
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)


def eight_bit_weights() -> Any:
    library = pytest.importorskip("torchao.quantization")
    return TorchAoConfig(library.Int8WeightOnlyConfig())


def quantized_base(folder: Path, settings: Any) -> Any:
    tiny_model("llama", scale=0.1, **WIDE).save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder, quantization_config=settings)


def qlora(folder: Path, settings: Any) -> Any:
    torch.manual_seed(3)
    base = prepare_model_for_kbit_training(quantized_base(folder, settings), use_gradient_checkpointing=False)
    return get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False))


@QUIET
@pytest.mark.parametrize("settings", [four_bits, eight_bit_weights], ids=["4 bits", "8 bits"])
def test_the_base_of_qlora(settings: Callable[[], Any], tmp_path: Path) -> None:
    quantization = settings()
    model = qlora(tmp_path, quantization).eval()
    one = meter()
    found = one.measure(model, base_model="without_adapter")
    base = prepare_model_for_kbit_training(quantized_base(tmp_path, quantization), False).eval()
    alone = meter().measure(base)
    assert [each.base_exposure_bits for each in found.estimates] == [each.exposure_bits for each in alone.estimates]
    assert [each.exposure_bits for each in found.estimates] != [each.exposure_bits for each in alone.estimates]
    train_embeddings(model)
    with pytest.raises(InputError, match=MOVED):
        measure(one, model)


@QUIET
def test_a_merge_into_four_bits_is_noticed_even_where_it_is_undone(tmp_path: Path) -> None:
    model, one = qlora(tmp_path, four_bits()), meter()
    measure(one, model)
    model.merge_adapter()  # which rounds the sum to 4 bits
    with pytest.raises(InputError, match="they are merged"):
        measure(one, model)
    model.unmerge_adapter()
    with pytest.raises(InputError, match=MOVED):
        measure(one, model)


@QUIET
def test_measuring_leaves_the_training_of_qlora_as_it_is(tmp_path: Path) -> None:
    settings = four_bits()

    def trained(callbacks: list[Any]) -> dict[str, torch.Tensor]:
        model = qlora(tmp_path / "base", settings)
        trainer = make_trainer(tmp_path, callbacks, model=model, max_steps=3, learning_rate=0.01)
        trainer.train()
        return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}

    measured = callback()
    found, expected = trained([measured]), trained([])
    assert len(found) == 8 and all(torch.equal(weight, found[name]) for name, weight in expected.items())
    start = dict(qlora(tmp_path / "base", settings).named_parameters())
    assert all(not torch.equal(weight, start[name]) for name, weight in found.items())
    bases = [[each.base_exposure_bits for each in report.estimates] for report in measured.reports]
    assert len(bases) == 3 and bases[0] == bases[1] == bases[2]
    assert measured.reports[-1].model["quantization"] == "bitsandbytes"
