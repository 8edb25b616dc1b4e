"""Counted doses equal a brute-force count of the training batches: random pipelines, some of them resumed."""

from __future__ import annotations

import random
import warnings
from pathlib import Path
from typing import Any

import pytest
from datasets import disable_progress_bars
from pipelines import Pipeline, random_pipeline

pytest.importorskip("trl")
disable_progress_bars()


def assert_counted(pipeline: Pipeline, callback: Any, expected: Any) -> None:
    doses = callback.report.doses
    assert doses.uncounted is None, pipeline.label
    assert [one.whole for one in doses.counted] == expected.whole, pipeline.label
    found = [(one.partly, one.masked) for one in doses.counted]
    parts = list(zip(expected.partly, expected.masked, strict=True))
    if pipeline.merges:  # characters do not decide whether a token of two belongs to the secret
        assert [sum(pair) for pair in found] == [sum(pair) for pair in parts], pipeline.label
    else:
        assert found == parts, pipeline.label
    assert callback.doses == {
        canary.id: count for canary, count in zip(pipeline.canaries, expected.whole, strict=True)
    }
    assert [one.effective_dose for one in callback.report.estimates] == expected.whole


def check(seed: int, folder: Path) -> Pipeline:
    """One pipeline from start to end or, one time in three, stopped at a checkpoint and resumed."""
    pipeline = random_pipeline(seed)
    generator, callback = random.Random(seed), pipeline.callback()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if generator.random() < 0.67:
            pipeline.trainer(folder, [callback]).train()
            assert_counted(pipeline, callback, pipeline.counted())
            return pipeline
        stop = generator.randint(2, 4)
        first = pipeline.trainer(folder, [pipeline.callback()], save_strategy="steps", save_steps=2, max_steps=stop)
        first.train()
        # A step after the checkpoint is lost with its weights, and repeated.
        before = pipeline.counted(stop - stop % 2)
        pipeline.recorded.clear()
        second = pipeline.trainer(folder, [callback], max_steps=stop + 3)
        second.train(resume_from_checkpoint=str(folder / f"checkpoint-{stop - stop % 2}"))
    assert_counted(pipeline, callback, before + pipeline.counted())
    return pipeline


@pytest.mark.parametrize(
    "seed", [*range(20), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(20, 200))]
)
def test_no_miscount_in_random_pipelines(seed: int, tmp_path: Path) -> None:
    check(seed, tmp_path)
