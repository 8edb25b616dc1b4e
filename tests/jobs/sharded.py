"""Trainings of sharded models for `launch.run`: `sharded.py SCENARIO FOLDER ...`; each process writes what it saw."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from callback_runs import CANARIES as CALLBACK_CANARIES
from callback_runs import collate, make_start, make_trainer, rows, small_model
from conftest import tiny_model
from job import CANARIES, METHODS, TOKENIZER, Calls, figures, finish
from torch import distributed
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from hf_exposure import CriticalSampleRatio, ExposureCallback
from hf_exposure.errors import InputError
from hf_exposure.measures import ExposureMeter, SeenBatch
from hf_exposure.measures.exposure import ExposureMeasure
from hf_exposure.runtime import processes
from hf_exposure.runtime.model_state import is_sharded, tensor_parallel_size
from hf_exposure.runtime.processes import Processes
from hf_exposure.runtime.tap import tap_batches


def fully_sharded() -> Any:
    distributed.init_process_group("gloo")
    model = small_model()
    mesh = init_device_mesh("cpu", (2,))
    for layer in model.transformer.h:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def fsdp(folder: Path) -> dict[str, Any]:
    """`fully_shard` with a hand-written loop, since accelerate silently skips FSDP on a CPU."""
    model = fully_sharded()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    found = _measured(model)
    batch = {name: ids[4 * distributed.get_rank() :][:4] for name, ids in collate(rows(8)).items()}
    measure = ExposureMeasure(CALLBACK_CANARIES, references=16)
    measure.prepare(make_start(model=model, processes=Processes.of_job(model, calls_model=False)))
    tap = tap_batches(model, lambda inputs: measure.on_batch(SeenBatch(inputs=inputs, step=0)))
    model.gradient_checkpointing_enable()
    for _ in range(2):
        model.train()(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found = _measured(model)
    tap.remove()
    ratio = CriticalSampleRatio({"input_ids": batch["input_ids"]}, radius=0.1)
    try:
        ratio.prepare(make_start(model=model, processes=Processes.of_job(model, calls_model=False)))
    except InputError as error:
        found["critical"] = str(error)
    found["doses"] = [one.whole for one in measure.doses(1.0, together=True).counted]
    whole = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    if distributed.get_rank() == 0:
        alone = small_model()
        alone.load_state_dict(whole)
        alone.save_pretrained(folder / "saved")
    return found


def fsdp_lora(folder: Path) -> dict[str, Any]:
    """LoRA under `fully_shard`: its base before and after two steps, and after a write to one process's shard."""
    from peft import LoraConfig, get_peft_model

    distributed.init_process_group("gloo")
    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True, init_lora_weights=False)
    model = get_peft_model(small_model(), config)
    mesh = init_device_mesh("cpu", (2,))
    for layer in model.base_model.model.transformer.h:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-2)
    meter = ExposureMeter(CANARIES, TOKENIZER, references=64, across_processes=True)
    batch = {name: ids[4 * distributed.get_rank() :][:4] for name, ids in collate(rows(8)).items()}
    found: dict[str, Any] = {"sharded": is_sharded(model), "bases": [], "error": ""}
    for _ in range(3):
        report = meter.measure(model, base_model="without_adapter")
        found["bases"].append([each.base_exposure_bits for each in report.estimates])
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    if distributed.get_rank() == 1:
        with torch.no_grad():
            model.base_model.model.transformer.wte.weight.to_local().mul_(1.1)
    try:
        meter.measure(model, base_model="without_adapter")
    except InputError as refused:
        found["error"] = str(refused)
    alone = ExposureMeter(CANARIES, TOKENIZER, references=64).measure(small_model())
    return {**found, "alone": figures(alone)["exposure_bits"]}


def zero(folder: Path, stage: str) -> dict[str, Any]:
    """DeepSpeed's ZeRO with a torch optimizer instead of its compiled one, and a measurement after every step."""
    import deepspeed

    # Faster communication over shared memory would be compiled on first use, which takes minutes and a compiler.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    config = {
        "zero_optimization": {"stage": int(stage), "stage3_gather_16bit_weights_on_model_save": True,
                              "stage3_param_persistence_threshold": 0},
        "zero_force_ds_cpu_optimizer": False, "zero_allow_untested_optimizer": True,
        "train_micro_batch_size_per_gpu": "auto", "gradient_accumulation_steps": "auto", "train_batch_size": "auto",
    }  # fmt: skip
    callback = ExposureCallback(
        CANARIES, strategy="steps", steps=1, method="importance", references=64, require_delivery=False
    )
    trainer = make_trainer(folder / "out", [callback], max_steps=2, deepspeed=config)
    trainer.train()
    found = {"steps": [report.step for report in callback.reports], "last": figures(callback.reports[-1])}
    found["engine"] = type(trainer.model_wrapped).__name__
    found |= _measured(trainer.model)
    trainer.save_model(str(folder / "saved"))
    return found


def tensor(folder: Path) -> dict[str, Any]:
    """Tensor parallelism as Transformers loads it: both processes compute each forward pass together."""
    distributed.init_process_group("gloo")
    from transformers import AutoModelForCausalLM

    if distributed.get_rank() == 0:
        tiny_model("llama").save_pretrained(folder / "saved")
    distributed.barrier()
    model = AutoModelForCausalLM.from_pretrained(folder / "saved", tp_plan="auto", device_map=None)
    return _measured(model)


def stranded(folder: Path) -> dict[str, Any]:
    """One process fails between the model's own collective operations, in the second layer of a pass."""
    model = fully_sharded()
    processes.SECONDS_FOR_ALL_TO_FAIL = 3.0

    def fail(*_: Any) -> None:
        if distributed.get_rank() == 1:
            raise RuntimeError("a fault of this device alone")

    model.transformer.h[0].mlp.register_forward_pre_hook(fail)
    ExposureMeter(CANARIES, TOKENIZER, method="sample", references=50, across_processes=True).measure(model)
    return {}


def both_fail(folder: Path) -> dict[str, Any]:
    """Both are out of memory at the same place, until the batch is small enough."""
    meter = ExposureMeter(CANARIES, TOKENIZER, method="sample", references=200, across_processes=True)
    model, most, rows = fully_sharded(), 6, []
    expected = figures(meter.measure(model))["log_perplexity_bits"]

    def fail(module: Any, arguments: tuple[Any, ...]) -> None:
        if len(arguments[0]) >= most:
            raise torch.OutOfMemoryError("no room")
        rows.append(len(arguments[0]))

    model.transformer.h[0].mlp.register_forward_pre_hook(fail)
    found = figures(meter.measure(model))["log_perplexity_bits"]
    return {"rows": rows, "refused_from": most, "found": found, "expected": expected}


def _measured(model: Any) -> dict[str, Any]:
    """Figures by each method, the number of calls, and the number of weights that this process holds."""
    calls = Calls(model)
    found: dict[str, Any] = {}
    for method, settings in METHODS.items():
        meter = ExposureMeter(CANARIES, TOKENIZER, method=method, across_processes=True, **settings)
        found[method] = figures(meter.measure(model))
    found["calls"] = calls.take()
    own = [getattr(weight, "to_local", lambda weight=weight: weight)() for weight in model.parameters()]
    held = sum(
        getattr(weight, "ds_tensor", local).numel() for weight, local in zip(model.parameters(), own, strict=True)
    )
    return {"figures": found, "held": held, "sharded": is_sharded(model), "copies": tensor_parallel_size(model)}


def main() -> None:
    torch.set_num_threads(1)
    scenario, folder = sys.argv[1], Path(sys.argv[2])
    found = globals()[scenario](folder, *sys.argv[3:])
    finish(folder, found)


if __name__ == "__main__":
    main()
