"""Training with the callback equals training without it: bitwise equal weights, and equal states and losses."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from callback_runs import CANARIES, TOKENIZER, make_callback, make_start, make_trainer, small_model
from transformers import ByT5Tokenizer, TrainerCallback

from hf_exposure.measures.exposure import ExposureMeasure


def weights_after(folder: Path, callbacks: list[TrainerCallback], attach: bool = False, **arguments: Any) -> Any:
    trainer = make_trainer(folder, callbacks, dropout=0.3, max_steps=6, **arguments)
    if attach:
        callbacks[0].attach(trainer)
    trainer.train()
    return trainer


@pytest.mark.parametrize("workers", [0, 2])
def test_final_weights_are_bit_identical(tmp_path: Path, workers: int) -> None:
    arguments = {"dataloader_num_workers": workers, "logging_steps": 1}
    without = weights_after(tmp_path / "without", [], **arguments)
    callback = make_callback(strategy="steps", steps=1)
    measured = weights_after(tmp_path / "with", [callback], attach=True, **arguments)
    assert [report.step for report in callback.reports] == [1, 2, 3, 4, 5, 6]
    for (name, expected), found in zip(
        without.model.state_dict().items(), measured.model.state_dict().values(), strict=True
    ):
        assert torch.equal(expected, found), name
    # A second run on another seed differs: the comparison above can fail.
    other = weights_after(tmp_path / "other", [], seed=1, **arguments)
    assert not torch.equal(other.model.transformer.wte.weight, without.model.transformer.wte.weight)


@pytest.mark.parametrize("arguments", [{"gradient_accumulation_steps": 2}, {"bf16": True}], ids=["accumulate", "bf16"])
def test_bit_identical_under_accumulation_and_autocast(tmp_path: Path, arguments: dict[str, Any]) -> None:
    without = weights_after(tmp_path / "without", [], **arguments)
    callback = make_callback(strategy="steps", steps=1, method="bounded")
    measured = weights_after(tmp_path / "with", [callback], **arguments)
    assert [report.step for report in callback.reports] == [1, 2, 3, 4, 5, 6]
    assert all(np.isfinite(list(report.metrics().values())).all() for report in callback.reports)
    for expected, found in zip(without.model.parameters(), measured.model.parameters(), strict=True):
        assert torch.equal(expected, found)


@pytest.mark.parametrize(("logging_steps", "attach"), [(1, True), (2, True), (1, False)])
def test_training_loss_is_still_logged(tmp_path: Path, logging_steps: int, attach: bool) -> None:
    def losses(trainer: Any) -> list[tuple[int, float]]:
        return [(entry["step"], entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]

    without = weights_after(tmp_path / "without", [], logging_steps=logging_steps)
    callback = make_callback(strategy="steps", steps=1)
    measured = weights_after(tmp_path / "with", [callback], attach=attach, logging_steps=logging_steps)
    assert losses(measured) == losses(without)
    assert [step for step, _ in losses(without)] == list(range(logging_steps, 7, logging_steps))


class Witness(TrainerCallback):
    """Records everything that a measurement might change, right before and right after it."""

    def __init__(self, tokenizer: ByT5Tokenizer) -> None:
        self.tokenizer, self.seen = tokenizer, []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        model = kwargs["model"]
        self.seen.append(
            {
                "training flags": [module.training for module in model.modules()],
                "gradients wanted": [parameter.requires_grad for parameter in model.parameters()],
                "gradients": [parameter.grad is None for parameter in model.parameters()],
                "grad enabled": torch.is_grad_enabled(),
                "use_cache": model.config.use_cache,
                "hooks": [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()],
                "tokenizer": (self.tokenizer.padding_side, self.tokenizer.truncation_side, self.tokenizer.pad_token),
                "vocabulary": len(self.tokenizer),
                "arguments": args.to_dict(),
                "control": vars(control).copy(),
                "python": random.getstate(),
                "numpy": str(np.random.get_state()),
                "torch": torch.random.get_rng_state().tolist(),
                "threads": torch.get_num_threads(),
            }
        )


@pytest.mark.parametrize("method", ["auto", "sample", "bounded", "skew_normal"])
def test_a_measurement_leaves_everything_as_found(tmp_path: Path, method: str) -> None:
    tokenizer = ByT5Tokenizer()
    tokenizer.padding_side = "left"
    before, after = Witness(tokenizer), Witness(tokenizer)
    callback = make_callback(strategy="steps", steps=1, method=method, references=32)
    trainer = make_trainer(tmp_path, [before, callback, after], tokenizer=tokenizer, dropout=0.3, max_steps=3)
    trainer.train()
    assert len(callback.reports) == 3
    for number, (first, second) in enumerate(zip(before.seen, after.seen, strict=True)):
        for what, value in first.items():
            assert second[what] == value, (number, what)


def test_attached_logging_leaves_the_control_flags(tmp_path: Path) -> None:
    callback = make_callback(strategy="steps", steps=1)
    after = Witness(TOKENIZER)
    trainer = make_trainer(tmp_path, [callback], max_steps=2, logging_steps=1, save_strategy="steps", save_steps=1)
    callback.attach(trainer)
    trainer.add_callback(after)
    trainer.train()
    # DefaultFlowCallback requests both before the measurement, and the witness looks after it.
    assert [(seen["control"]["should_log"], seen["control"]["should_save"]) for seen in after.seen] == [
        (True, True)
    ] * 2


def test_references_cost_no_global_randomness() -> None:
    model = small_model()
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    expected = (random.random(), np.random.rand(), torch.rand(1).item())
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    measure = ExposureMeasure(CANARIES, method="sample", references=50)
    measure.prepare(make_start(model=model))
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected


def test_a_part_in_evaluation_mode_stays_there(tmp_path: Path) -> None:
    model = small_model()
    model.train()
    model.transformer.h[0].eval()
    expected = [module.training for module in model.modules()]
    measure = ExposureMeasure(CANARIES)
    measure.prepare(make_start(model=model))
    measure.measure(model)
    assert [module.training for module in model.modules()] == expected
    assert True in expected and False in expected
