"""Trainings of a few steps for `launch.run`: `job.py SCENARIO FOLDER`; each process writes `FOLDER/{rank}.json`."""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from callback_runs import TOKENIZER, logged, make_callback, make_trainer, small_model
from torch import nn
from toy_measures import FailsAt, KillAt, Killed, Tally, Toy, classify
from transformers import ByT5Tokenizer, EarlyStoppingCallback, TrainerCallback

from hf_exposure import (
    CanaryContext,
    CanarySet,
    CanaryTemplate,
    Digits,
    ExposureCallback,
    ExposureReport,
    MeasureCallback,
    draw_canaries,
    measure_exposure,
)
from hf_exposure.errors import ExposureError, ProcessesDifferError
from hf_exposure.measures import ExposureMeter

TEMPLATE = CanaryTemplate("pin {pin} ok", pin=Digits(4))
CANARIES = draw_canaries(TEMPLATE, repetitions={1: 2, 4: 1}, controls=3, seed=5)
METHODS = {
    "sample": {"references": 101},
    "skew_normal": {"references": 301, "accept_bad_fit": True},
    "importance": {"references": 64},
    "bounded": {"max_expansions": 40},
}


def figures(report: Any) -> dict[str, list[Any]]:
    names = ("exposure_bits", "low_bits", "high_bits", "log_perplexity_bits", "rank_low", "rank_high")
    return {name: [getattr(estimate, name) for estimate in report.estimates] for name in names}


def digest(model: nn.Module) -> str:
    """A digest of the exact bits of all weights."""
    found = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        found.update(name.encode())
        found.update(weight.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


class Calls:
    """The shape of every call of a model in evaluation mode."""

    def __init__(self, model: nn.Module) -> None:
        self.shapes: list[tuple[int, ...]] = []
        model.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, module: nn.Module, _: Any, inputs: dict[str, Any]) -> None:
        if not module.training:
            self.shapes.append(tuple(inputs["input_ids"].shape))

    def take(self) -> list[tuple[int, ...]]:
        taken, self.shapes = self.shapes, []
        return taken


class AloneToo(TrainerCallback):
    """Measures the same model without the other processes, at each step."""

    def __init__(self) -> None:
        self.reports: list[Any] = []

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.reports.append(figures(measure_exposure(kwargs["model"], TOKENIZER, CANARIES, references=64)))


def replicated(folder: Path) -> dict[str, Any]:
    """DDP, best-model selection and early stopping by an exposure figure; then each method, together and alone."""
    callback = ExposureCallback(CANARIES, strategy="eval", references=64, require_delivery=False)
    alone = AloneToo()
    trainer = make_trainer(
        folder / "out", [callback, alone, EarlyStoppingCallback(2)], eval_strategy="steps", eval_steps=1,
        save_strategy="steps", save_steps=1, load_best_model_at_end=True, metric_for_best_model="eval_exposure_mean",
        greater_is_better=False, max_steps=6,
    )  # fmt: skip
    trainer.train()
    model = trainer.model
    calls = Calls(model)
    each = {}
    for method, arguments in METHODS.items():
        shared = ExposureMeter(CANARIES, TOKENIZER, method=method, across_processes=True, **arguments).measure(model)
        shapes = calls.take()
        own = ExposureMeter(CANARIES, TOKENIZER, method=method, **arguments).measure(model)
        each[method] = {
            "shared": figures(shared),
            "alone": figures(own),
            "shapes": shapes,
            "alone_shapes": calls.take(),
        }
    return {
        "world": trainer.args.world_size,
        "reports": [figures(report) for report in callback.reports],
        "alone": alone.reports,
        "stopped": trainer.state.global_step,
        "best": [trainer.state.best_global_step, trainer.state.best_metric],
        "history": [entry["eval_exposure_mean"] for entry in logged(trainer)],
        "each": each,
        "weights": digest(model),
    }


def bit_identical(folder: Path) -> dict[str, Any]:
    """Final weights with and without a measurement after every step."""
    found = {}
    for name in ("without", "with"):
        callbacks = [make_callback(strategy="steps", steps=1)] if name == "with" else []
        trainer = make_trainer(folder / name, callbacks, dropout=0.3, max_steps=4, dataloader_num_workers=1)
        trainer.train()
        found[name] = digest(trainer.model)
    return found


def baseline(folder: Path, resumes: str) -> dict[str, Any]:
    """A measurement before the first step, and the same training without it; then on from its middle."""
    found: dict[str, Any] = {}
    for name in ("without", "with"):
        callback = ExposureCallback(
            CANARIES, strategy="steps", steps=2, references=64, require_delivery=False, baseline=name == "with"
        )
        saving = {"save_strategy": "steps", "save_steps": 2} if resumes == "resumes" else {}
        trainer = make_trainer(folder / name, [callback], dropout=0.3, max_steps=4, **saving)
        untrained = digest(trainer.model)
        alone = figures(measure_exposure(trainer.model, TOKENIZER, CANARIES, references=64))
        trainer.train()
        found[name] = {
            "world": trainer.args.world_size,
            "untrained": untrained,
            "alone": alone,
            "weights": digest(trainer.model),
            "steps": [report.step for report in callback.reports],
            "logged": [entry["step"] for entry in logged(trainer)],
            "reports": [figures(report) for report in callback.reports],
            "doses": [sum(callback.reports[0].doses.counted[i].whole for i in range(3)), len(callback.doses)],
        }
    if resumes == "resumes":
        callback = ExposureCallback(
            CANARIES, strategy="steps", steps=2, references=64, require_delivery=False, baseline=True
        )
        trainer = make_trainer(folder / "with", [callback], dropout=0.3, max_steps=4, **saving)
        trainer.train(resume_from_checkpoint=str(folder / "with" / "checkpoint-2"))
        found["resumed"] = {
            "steps": [report.step for report in callback.reports],
            "reports": [figures(report) for report in callback.reports],
        }
    return found


class FailsOn(nn.Module):
    """A causal model that fails on one process: with an error, or NaN, in evaluation mode."""

    def __init__(self, rank: int, kind: str, rows: int) -> None:
        super().__init__()
        self.inner = make_trainer(Path("unused")).model
        self.config = self.inner.config
        self.fails = int(os.environ.get("RANK", 0)) == rank
        self.kind, self.rows = kind, rows

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor | None = None, **more: Any) -> Any:
        output = self.inner(input_ids=input_ids, labels=labels, **more)
        if self.training or not self.fails or len(input_ids) < self.rows:
            return output
        if self.kind == "memory":
            raise torch.OutOfMemoryError("no room for so many rows")
        if self.kind == "error":
            raise RuntimeError("a fault of this device alone")
        output.logits = output.logits * math.nan
        return output


def fails_on_one(folder: Path, kind: str, rows: str, on_error: str) -> dict[str, Any]:
    """How each process reacts to a fault on process 1."""
    callback = ExposureCallback(
        CANARIES, strategy="steps", steps=1, method="sample", references=200, on_error=on_error,
        require_delivery=False,
    )  # fmt: skip
    trainer = make_trainer(folder / "out", [callback], model=FailsOn(1, kind, int(rows)), max_steps=2)
    calls, error = Calls(trainer.model), ""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            trainer.train()
        except Exception as raised:
            error = f"{type(raised).__name__}: {raised}"
    return {
        "error": error,
        "warnings": [str(warning.message) for warning in caught if "exposure" in str(warning.message)],
        "steps": trainer.state.global_step,
        "means": [entry["eval_exposure_mean"] for entry in logged(trainer)],
        "rows": [shape[0] for shape in calls.take()],
        "figures": [figures(report) for report in callback.reports],
    }


class ChangesBase(TrainerCallback):
    """Writes to a frozen weight of the base at the second step, on the first process only."""

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step == 1 and os.environ["RANK"] == "0":
            with torch.no_grad():
                model.get_input_embeddings().weight.mul_(1.01)


def base_changes(folder: Path) -> dict[str, Any]:
    """LoRA whose base is unchanged at the first step and changed at the second."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = get_peft_model(small_model(), LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True))
    callback = make_callback(strategy="steps", steps=1, base_model="without_adapter")
    trainer = make_trainer(folder / "out", [callback, ChangesBase()], model=model, max_steps=3)
    error = ""
    try:
        trainer.train()
    except ExposureError as raised:
        error = str(raised)
    bases = [[each.base_exposure_bits for each in report.estimates] for report in callback.reports]
    alone = measure_exposure(small_model(), TOKENIZER, callback.canaries)
    return {
        "error": error,
        "steps": trainer.state.global_step,
        "bases": bases,
        "alone": figures(alone)["exposure_bits"],
    }


def on_one_only(folder: Path) -> dict[str, Any]:
    """Adds the callback on the first process only."""
    from hf_exposure.runtime import job

    job.SECONDS_FOR_ALL_TO_START = 3.0
    trainer = make_trainer(folder / "out", [make_callback()] if os.environ["RANK"] == "0" else [])
    trainer.train()
    return {}


def tokenizer_with(token: str) -> ByT5Tokenizer:
    tokenizer = ByT5Tokenizer()
    tokenizer.add_tokens([token])
    return tokenizer


DIFFERENT = {"auto": {"references": 64}, "enumerate": {}, **METHODS}
# The space is small, so a tokenizer is audited quickly.
SMALL = CanaryTemplate("pin {pin} ok", pin=Digits(3))
FEW = draw_canaries(SMALL, repetitions={1: 2, 4: 1}, controls=3, seed=5)


class OnRank:
    """Arguments for a meter, including the set and the tokenizer; the named one differs on process 1."""

    def __init__(self, rank: int) -> None:
        self.is_other = rank == 1

    def __call__(self, what: str, method: str) -> dict[str, Any]:
        arguments = {"method": method, **DIFFERENT[method]}
        found: dict[str, Any] = {"canaries": FEW, "tokenizer": TOKENIZER, **arguments}
        if not self.is_other:
            return found
        first, *rest = FEW.inserted
        changes: dict[str, dict[str, Any]] = {
            "set": {"canaries": draw_canaries(SMALL, repetitions={1: 2, 4: 1}, controls=3, seed=6)},
            "repetitions": {"canaries": replace(FEW, inserted=(replace(first, repetitions=2), *rest))},
            "references": {"references": arguments.get("references", 4096) + 1},
            "seed": {"seed": 1},
            "tokenizer": {"tokenizer": tokenizer_with("in 1")},
            "context": {"context": CanaryContext(prompt="So: ")},
        }
        return {**found, **changes.get(what, {})}


def differs(folder: Path) -> dict[str, Any]:
    """For each method and each argument that differs on process 1: the error of this process, or its figures."""
    torch.distributed.init_process_group("gloo")
    on_rank, found = OnRank(torch.distributed.get_rank()), {}
    model = make_trainer(folder / "out").model
    cases = [(method, what) for method in DIFFERENT for what in ("set", "references", "tokenizer", "nothing")]
    for method, what in [*cases, *(("sample", what) for what in ("repetitions", "seed", "context"))]:
        meter = ExposureMeter(**on_rank(what, method), across_processes=True)
        try:
            found[f"{method} {what}"] = figures(meter.measure(model))
        except ProcessesDifferError as error:
            found[f"{method} {what}"] = str(error)
        if what == "nothing":
            found[f"{method} alone"] = figures(ExposureMeter(**on_rank(what, method)).measure(model))
    # The start of a training, before a step is taken.
    for what in ("set", "tokenizer", "steps", "rows", "nothing"):
        arguments = on_rank(what, "sample")
        canaries, tokenizer = arguments.pop("canaries"), arguments.pop("tokenizer")
        steps = 1 + (what == "steps" and on_rank.is_other)
        callback = ExposureCallback(
            canaries, strategy="steps", steps=steps, processing_class=tokenizer, require_delivery=False, **arguments
        )
        if what == "rows":
            callback = make_callback(strategy="steps", steps=1)
        trainer = make_trainer(folder / what, [callback], max_steps=2)
        if what == "rows" and on_rank.is_other:
            trainer.train_dataset = [row for row in trainer.train_dataset if row != trainer.train_dataset[0]]
        error = ""
        try:
            trainer.train()
        except ExposureError as raised:
            error = f"{type(raised).__name__}: {raised}"
        found[f"start {what}"] = [trainer.state.global_step, error]
    return found


def readme(folder: Path) -> dict[str, Any]:
    """Runs README's script unchanged, then measures the same model and canary file without the other process."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "docs"))
    from doc_blocks import ROOT, blocks_of

    os.chdir(folder)
    blocks = list(blocks_of((ROOT / "README.md").read_text()))
    (script,) = [number for number, block in enumerate(blocks) if "trainer.train()" in block.code]
    assert "draw_canaries(template, repetitions={1: 4, 8: 4, 64: 4}, controls=32)" in blocks[script].code
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks[script - 1 : script + 1]:
        exec(compile(block.code, "README.md", "exec"), names)
    callback, trainer = names["callback"], names["trainer"]
    saved, model = CanarySet.load("canaries.json"), trainer.model
    length = len("The random number is 123456789") + 1
    rows = [row for row in names["train_dataset"]["input_ids"] if len(row) == length]
    alone = measure_exposure(model, names["tokenizer"], saved)
    return {
        "world": trainer.args.world_size,
        "set": [saved == callback.canaries, saved.manifest_hash, [canary.id for canary in saved]],
        "ids": [estimate.canary_id for estimate in callback.report.estimates],
        "validity": callback.report.validity.value,
        "batch": trainer.args.per_device_train_batch_size,
        "doses": [estimate.effective_dose for estimate in callback.report.estimates],
        "rows": hashlib.sha256(repr(rows).encode()).hexdigest(),
        "canary_rows": len(rows),
        "shared": figures(callback.report),
        "alone": figures(alone),
        "saved": figures(ExposureReport.load("exposure")),
    }


def measures(folder: Path) -> dict[str, Any]:
    """Toy measures: uninterrupted, killed and resumed, failing on one process, and different on each process."""

    def run(name: str, *toys: Any, resume: str | None = None, kill: bool = False, **how: Any) -> dict[str, Any]:
        callback = MeasureCallback([toy() for toy in toys], **{"strategy": "epoch", **how})
        trainer = classify(
            folder / name, [callback], per_device_train_batch_size=2, save_strategy="steps", save_steps=3
        )
        callback.attach(trainer)
        if kill:
            trainer.add_callback(KillAt("on_log", 3, key="eval_tally_rows"))
        error = ""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                trainer.train(resume_from_checkpoint=resume)
            except (Killed, ExposureError) as raised:
                error = f"{type(raised).__name__}: {raised}"
        return {
            "error": error,
            "steps": trainer.state.global_step,
            "records": {name: [one.to_dict() for one in records] for name, records in callback.records.items()},
            "curve": [
                {key: repr(value) for key, value in entry.items() if key.startswith(("eval_t", "step"))}
                for entry in trainer.state.log_history
                if any(key.startswith("eval_t") for key in entry)
            ],
            "warnings": [str(one.message) for one in caught if "measured" in str(one.message)],
            "own rows": getattr(callback.measures[0], "rows", 0),
        }

    rank = int(os.environ["RANK"])
    found = {"whole": run("whole", Tally, Toy), "killed": run("killed", Tally, Toy, kill=True)}
    found["resumed"] = run("killed", Tally, Toy, resume=str(folder / "killed" / "checkpoint-3"))
    failing = FailsAt(1, ValueError("a fault of this device alone")) if rank == 1 else FailsAt(0, ValueError())
    found["failing"] = run("failing", lambda: failing, Toy, strategy="steps", steps=2, on_error="warn")
    found["strict"] = run("strict", lambda: failing, strategy="steps", steps=2)
    found["different"] = run("different", Toy, *([Tally] if rank else []))
    return found


def membership(folder: Path) -> dict[str, Any]:
    """Records of many lengths, shared and alone, with a separate base model; and records that differ on one."""
    from hf_exposure.measures import MembershipMeter

    torch.distributed.init_process_group("gloo")
    rank = int(os.environ["RANK"])
    model, base = small_model(), small_model(dropout=0.0)
    with torch.no_grad():
        for weight in base.parameters():
            weight.add_(0.05 * torch.sin(torch.arange(weight.numel())).view_as(weight))
    records = [CANARIES.inserted[number % 3].text * (1 + number % 2) + "x" * number for number in range(21)]
    calls = Calls(model)
    found: dict[str, Any] = {}
    for name, across in (("shared", True), ("alone", False)):
        meter = MembershipMeter(records[:9], records[9:], TOKENIZER, across_processes=across)
        report = meter.measure(model, base_model=base)
        values = report.to_dict()
        found[name] = {key: values[key] for key in ("statistics", "blind", "members", "held_out")}
        found[f"{name} rows"] = sum(shape[0] for shape in calls.take())
    other = MembershipMeter(records[: 9 - rank], records[9:], TOKENIZER, across_processes=True)
    try:
        other.measure(model)
    except ProcessesDifferError as error:
        found["different"] = str(error)
    torch.distributed.destroy_process_group()
    return found


def unwritable(folder: Path, on_error: str) -> dict[str, Any]:
    """The first process, which alone writes the log, cannot write it."""
    from hf_exposure.records.run_log import RunLog

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    RunLog.append = full
    callback = make_callback(strategy="steps", steps=1, on_error=on_error)
    trainer = make_trainer(folder / "out", [callback], max_steps=2)
    error = ""
    try:
        trainer.train()
    except Exception as raised:
        error = f"{type(raised).__name__}: {raised}"
    return {"error": error, "steps": trainer.state.global_step, "reports": len(callback.reports)}


def finish(folder: Path, found: Any) -> None:
    """Writes what this process saw, and exits.

    While Python shuts down, threads of torch's process group may still run if a trainer refers to the group, and then
    they sometimes abort the process ("terminate called without an active exception"). So the shutdown is skipped.
    """
    (folder / f"{os.environ.get('RANK', 0)}.json").write_text(json.dumps(found))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def main() -> None:
    torch.set_num_threads(1)
    scenario, folder = sys.argv[1], Path(sys.argv[2])
    found = globals()[scenario](folder, *sys.argv[3:])
    finish(folder, found)


if __name__ == "__main__":
    main()
