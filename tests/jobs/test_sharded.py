"""Models whose weights are spread over two processes: equal calls on each, and the figures of one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from job import CANARIES, METHODS, TOKENIZER, figures
from launch import results, run, torchrun
from transformers import AutoModelForCausalLM

from hf_exposure.measures import ExposureMeter

pytestmark = pytest.mark.slow


def check(found: list[dict[str, Any]], folder: Path) -> None:
    """Both processes give the same figures as one process that loads the saved weights."""
    assert found[0]["figures"] == found[1]["figures"]
    model = AutoModelForCausalLM.from_pretrained(folder / "saved")
    assert found[0]["held"] < sum(weight.numel() for weight in model.parameters())
    for method, settings in METHODS.items():
        alone = figures(ExposureMeter(CANARIES, TOKENIZER, method=method, **settings).measure(model))
        for name, expected in alone.items():
            shared = np.array(found[0]["figures"][method][name], dtype=np.float64)
            np.testing.assert_allclose(shared, np.array(expected, dtype=np.float64), atol=1e-3, err_msg=method)


def test_fsdp2(tmp_path: Path) -> None:
    found = results(run(torchrun(), "sharded.py", "fsdp", tmp_path), tmp_path)
    assert found[0]["sharded"]
    # Each of two steps has eight rows, four on each process; recomputed layers count once.
    assert found[0]["doses"] == found[1]["doses"] == [4, 4, 4, 4, 0, 0, 0]
    check(found, tmp_path)
    for one in found:
        assert one["critical"].startswith("model: must not be sharded over processes")


def test_the_base_under_adapters_of_a_sharded_model(tmp_path: Path) -> None:
    found = results(run(torchrun(), "sharded.py", "fsdp_lora", tmp_path), tmp_path)
    assert found[0] == found[1] and found[0]["sharded"]
    for base in found[0]["bases"]:
        np.testing.assert_allclose(base, found[0]["alone"], atol=1e-3)
    assert "with the adapters off its logits have changed" in found[0]["error"]


def test_tensor_parallelism_feeds_a_group_the_same_inputs(tmp_path: Path) -> None:
    found = results(run(torchrun(), "sharded.py", "tensor", tmp_path), tmp_path)
    assert found[0]["sharded"] and found[0]["copies"] == 2
    check(found, tmp_path)


@pytest.mark.parametrize("stage", ["2", "3"])
def test_deepspeed_zero(stage: str, tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    # With ACCELERATE_USE_CPU, accelerate would silently skip DeepSpeed; the argument use_cpu is enough.
    environment = {"ACCELERATE_USE_CPU": "false", "ACCELERATE_USE_DEEPSPEED": "true"}
    found = results(run(torchrun(), "sharded.py", "zero", tmp_path, stage, **environment), tmp_path)
    assert found[0]["engine"] == "DeepSpeedEngine" and found[0]["sharded"] == (stage == "3")
    assert found[0]["steps"] == [1, 2]
    assert found[0]["last"] == found[1]["last"]
    if stage == "2":
        found[0]["held"] = found[1]["held"] = 0  # stage 2 shares gradients and optimizer states, not weights
    check(found, tmp_path)


def test_a_failure_of_one_process_inside_a_sharded_model_ends_the_job(tmp_path: Path) -> None:
    done = run(torchrun(), "sharded.py", "stranded", tmp_path, seconds=100)
    assert done.returncode != 0
    assert "OutOfStepError: RuntimeError: a fault of this device alone. 1 of 2 processes failed inside" in done.stdout


def test_a_failure_of_both_inside_a_sharded_model_is_handled_together(tmp_path: Path) -> None:
    first, second = results(run(torchrun(), "sharded.py", "both_fail", tmp_path, seconds=100), tmp_path)
    assert first == second
    assert first["rows"] and max(first["rows"]) < first["refused_from"]
    np.testing.assert_allclose(first["found"], first["expected"], atol=1e-3)
