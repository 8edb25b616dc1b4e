"""The page of a training's critical samples, from the log that the callback wrote."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy_measures import classify
from transformers import TrainerCallback

from hf_exposure import CriticalSampleRatio, MeasureCallback
from hf_exposure.errors import InputError
from hf_exposure.records.run_log import PlainRecord, RunLog
from hf_exposure.report.critical import critical_table, critical_text, read_critical


def test_the_page_of_a_training(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rows = torch.as_tensor(np.random.default_rng(0).normal(size=(11, 4)), dtype=torch.float32)
    callback = MeasureCallback(CriticalSampleRatio({"pixels": rows}, 0.4, max_steps=10), strategy="steps", steps=2)
    tracked: list[float] = []

    class Tracker(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            tracked.extend(logs[key] for key in ("eval_critical_ratio",) if key in logs)

    trainer = classify(tmp_path, [callback, Tracker()])
    callback.attach(trainer)
    trainer.train()
    logged = [entry["eval_critical_ratio"] for entry in trainer.state.log_history if "eval_critical_ratio" in entry]
    found = read_critical(tmp_path)
    assert [found.figure(record, "ratio") for record in found.records] == logged == tracked and len(logged) == 3
    table = critical_table(found)
    assert [row[0] for row in table.rows] == ["2", "4", "6"]
    assert [row[2] for row in table.rows] == [f"{ratio:.3f}" for ratio in logged]
    assert f"Of 11 rows, {100 * logged[-1]:.0f} % are critical at a radius of 0.4" in critical_text(found)
    assert str(found) == critical_text(found) and found.to_pandas()["critical"].tolist() == [r[2] for r in table.rows]
    names = {path.name for path in found.save(tmp_path / "page")}
    assert names == {"critical_samples.html", "critical_samples.png"}
    page = (tmp_path / "page" / "critical_samples.html").read_text()
    assert "Of 11 rows" in page and "data:image/png" in page and "<script" not in page
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "page").iterdir())


def test_failed_and_many_measurements(tmp_path: Path) -> None:
    log = RunLog("critical_train", PlainRecord.from_dict)
    for step in range(50):
        ratio = math.nan if step == 49 else step / 50
        figures = {f"eval_critical_train_{name}": ratio for name in ("ratio", "low", "high")}
        log.append(tmp_path, PlainRecord(figures=figures, details={"rows": 50, "radius": 0.03}, step=step))
    found = read_critical(tmp_path, "critical_train")
    table = critical_table(found)
    assert len(table.rows) == 20 and table.rows[0][0] == "0"
    assert table.rows[-1] == ["49", "", "undefined", "undefined", "undefined"]
    assert "96 % are critical" in critical_text(found) and "first measurement, 0 % were" in critical_text(found)


def test_nothing_to_show(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="^run: must hold _critical.jsonl"):
        read_critical(tmp_path)
