"""Trainings with Liger's kernels, which Triton interprets on a CPU: `liger_job.py FOLDER`, with TRITON_INTERPRET=1."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from callback_runs import TOKENIZER, make_callback, make_trainer
from job import finish
from transformers import LlamaConfig, LlamaForCausalLM

# Kernels that the interpreter of Triton cannot run.
NOT_INTERPRETED = {"rope": False, "rms_norm": False, "swiglu": False}


def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=384, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
            max_position_embeddings=32, bos_token_id=1, eos_token_id=1, pad_token_id=0,
        )
    )  # fmt: skip


def trained(folder: Path, **settings: Any) -> dict[str, Any]:
    callback = make_callback(strategy="end", require_delivery=False, method="sample", references=16)
    trainer = make_trainer(folder, [callback], model=model(), max_steps=3, **settings)
    step, texts, logits = trainer.training_step, [], []

    def recording(inner: Any, inputs: dict[str, torch.Tensor], *args: Any, **named: Any) -> Any:
        texts.extend(TOKENIZER.decode(row, skip_special_tokens=True) for row in inputs["input_ids"])
        return step(inner, inputs, *args, **named)

    trainer.training_step = recording
    trainer.model.register_forward_hook(
        lambda module, inputs, output: logits.append(output.logits is not None) if module.training else None
    )
    trainer.train()
    return {
        "forward": trainer.model.forward.__module__,
        "logits": any(logits),
        "own": [texts.count(canary.text) for canary in callback.canaries],
        "doses": list(callback.doses.values()),
        "loss": trainer.state.log_history[-1]["train_loss"],
    }


def main() -> None:
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    liger = {"use_liger_kernel": True, "liger_kernel_config": NOT_INTERPRETED}
    finish(folder, {"plain": trained(folder / "plain"), "liger": trained(folder / "liger", **liger)})


if __name__ == "__main__":
    main()
