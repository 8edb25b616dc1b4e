"""The queue of the paper's own setting: models are resumed, shared out and judged only when they are all there."""

from __future__ import annotations

import fcntl
import json
import string
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from examples.secret_sharer.claims import check_claim
from examples.secret_sharer.models import make_model
from examples.secret_sharer.page import load_results
from examples.secret_sharer.paper_setting import character_models, store
from examples.secret_sharer.paper_setting.__main__ import main
from examples.secret_sharer.paper_setting.character_models import number_costs, quantize, search_costs, train_model
from examples.secret_sharer.paper_setting.store import Task, experiments, finished, settings_of, tasks, write_model
from examples.secret_sharer.training import character_tokenizer
from hf_exposure import log_perplexity

TEXT = "".join(f" the {word} of {number} days\n" for number, word in enumerate(string.ascii_lowercase * 12))


def small_model() -> Any:
    torch.manual_seed(0)
    return make_model("lstm", len(character_tokenizer("")), layers=2, width=16).eval()


def test_costs_by_states_are_those_of_whole_texts() -> None:
    model, tokenizer = small_model(), character_tokenizer("")
    numbers = np.array(
        [281265017, 0, 999999999, 281265117, 281265017, 42, *np.random.default_rng(0).integers(0, 10**9, 50)]
    )
    found = number_costs(model, tokenizer, numbers, rows=17)
    expected = log_perplexity(model, tokenizer, [f"The random number is {number:09d}" for number in numbers])
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_a_quantized_copy_has_few_values_near_the_old_ones() -> None:
    model = small_model()
    before = [weight.detach().clone() for weight in model.parameters()]
    quantize(model, levels=256)
    for old, new in zip(before, model.parameters(), strict=True):
        assert len(new.unique()) <= 256
        assert (old - new).abs().max() <= (old.max() - old.min()) / 255 / 2 + 1e-6


def test_only_searches_that_ended_count() -> None:
    log = [
        {"certified": True, "rank_high": 2**10, "expansions": 2**9},
        {"certified": False, "rank_high": 10**9, "expansions": 7},
        {"certified": True, "rank_high": 1, "expansions": 2**4},
        {"certified": True, "rank_high": 1, "expansions": 2**4},
    ]
    found = search_costs(log, 30.0)
    assert found["most_expansions_at_rank_1"] == 16
    assert found["log2_expansions_per_bit"] == pytest.approx(-0.5), "five doublings less over ten bits more"


def without_times(found: dict[str, Any]) -> str:
    epochs = [
        {name: value for name, value in epoch.items() if name != "processor_seconds"} for epoch in found["epochs"]
    ]
    return json.dumps(found | {"epochs": epochs})  # NaN and all


def test_a_model_that_was_stopped_ends_as_if_it_had_not_been(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = Task(experiment="base", cell="canary", seed=0)
    rated = Task(experiment="base_rates", cell="rate 4e-3", seed=100)
    settings = {**(settings_of(rated) or {}), "canary": True, **character_models.SMALLEST}
    (tmp_path / "whole").mkdir()
    (tmp_path / "stopped").mkdir()
    whole = train_model(task, settings, TEXT, tmp_path / "whole")
    saved = character_models._Training.save

    def save_and_stop(self: Any, path: Path) -> None:
        saved(self, path)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(character_models._Training, "save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            train_model(task, settings, TEXT, tmp_path / "stopped")
    rest = train_model(task, settings, TEXT, tmp_path / "stopped")
    assert len(whole["epochs"]) > 1 and without_times(rest) == without_times(whole)


def test_the_queue_takes_what_no_other_process_holds_and_nothing_twice(tmp_path: Path) -> None:
    text, out, work = tmp_path / "text.txt", tmp_path / "out", tmp_path / "work"
    text.write_text(TEXT)
    queue = ["--text-file", str(text), "--smallest", "--out", str(out), "--work", str(work), "--experiment", "base"]
    assert main(queue) == 0, "no learning rate is chosen"
    for task in tasks("base_rates"):
        write_model(task, {"best_validation_bits": 1.0}, out, text={})
    held = Task(experiment="base", cell="canary", seed=0)
    place = work / "base" / "canary_00"
    place.mkdir(parents=True)
    with open(place / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main([*queue, "--models", "1"]) == 1
    assert not held.path(out).exists() and (out / "base" / "no-canary_00.json").exists()
    assert main([*queue, "--models", "1"]) == 1, "given back with the process that held it"
    stored = json.loads(held.path(out).read_text())
    assert stored["text"]["characters"] == len(TEXT) and stored["cell"] == "canary" and not list(work.rglob("*.pt"))
    with pytest.raises(SystemExit):
        main(["--text-file", str(text), "--smallest"])


def test_the_order_is_that_of_the_stages_and_of_the_seeds() -> None:
    stages = [about["stage"] for about in experiments().values()]
    assert stages == sorted(stages)
    base = tasks("base")
    assert [(one.cell, one.seed) for one in base[:3]] == [("canary", 0), ("no canary", 0), ("canary", 1)]
    every = [task.path() for name in experiments() for task in tasks(name)]
    assert len(set(every)) == len(every), "no two models share a file"


def test_the_rate_is_that_of_the_lowest_loss_among_the_cells_that_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {
        "rates": {
            "stage": 1,
            "first_seed": 100,
            "cells": {"a": 1, "b": 1, "c": 1, "d": 1},
            "variants": {
                "a": {"batch_size": 16, "learning_rate": 0.1},
                "b": {"batch_size": 16, "learning_rate": 0.2},
                "c": {"batch_size": 64, "learning_rate": 0.1},
                "d": {"batch_size": 64, "learning_rate": 0.2},
            },
        },
        "real": {
            "stage": 2,
            "like": "other",
            "rates": "rates",
            "cells": {"small": 1, "large": 1},
            "settings": {"width": 5},
            "variants": {"small": {"batch_size": 16}, "large": {"batch_size": 64}},
        },
        "other": {"stage": 3, "cells": {}, "settings": {"width": 7, "layers": 2}},
    }
    monkeypatch.setattr(store, "experiments", lambda: made)
    small, large = (Task(experiment="real", cell=cell, seed=0) for cell in ("small", "large"))
    for task, loss in zip(tasks("rates"), [1.9, 2.0, 1.8, 1.7], strict=True):
        assert task.seed == 100 and settings_of(large, tmp_path) is None
        write_model(task, {"best_validation_bits": loss}, tmp_path, text={})
    assert settings_of(small, tmp_path) == {"width": 5, "layers": 2, "batch_size": 16, "learning_rate": 0.1}
    assert settings_of(large, tmp_path) == {"width": 5, "layers": 2, "batch_size": 64, "learning_rate": 0.2}
    assert [len(models) for models in finished("rates", tmp_path).cells.values()] == [1, 1, 1, 1]


def test_a_claim_waits_for_all_its_models(tmp_path: Path) -> None:
    claim = {"numbers": "cells.canary.*.rank_high", "models": 10, "rule": "share_at_most", "share": 0.8, "than": 1}
    claim |= {"source": "paper", "sentence": ""}
    for seed in [0, 1, 2, 3, 4, 5, 6, 8, 9]:
        write_model(
            Task(experiment="base", cell="canary", seed=seed), {"rank_high": 1 + (seed == 3)}, tmp_path, text={}
        )
    there = finished("base", tmp_path)
    assert there.missing_for(claim) == (7, 10), "what comes after a gap is not looked at"
    write_model(Task(experiment="base", cell="canary", seed=7), {"rank_high": 5}, tmp_path, text={})
    there = finished("base", tmp_path)
    assert there.missing_for(claim) is None and there.count == 10
    assert check_claim(claim, there.figures).holds is True
    assert there.missing_for({**claim, "minus": "cells.no canary.*.rank_high"}) == (10, 20)
    assert there.missing_for({**claim, "numbers": "derived.something"}) == (10, 20)


def test_undefined_numbers_are_left_out_only_where_a_claim_says_so() -> None:
    claim = {"source": "ours", "sentence": "", "rule": "all_at_most", "numbers": "runs.*", "than": 3}
    figures = {"runs": [1, None, 2]}
    assert check_claim(claim, figures).holds is False
    assert check_claim({**claim, "defined_only": True}, figures).holds is True
    assert check_claim({**claim, "defined_only": True}, {"runs": [None]}).holds is False


def test_what_has_not_run_is_not_judged() -> None:
    for result in load_results():
        for made, words in zip(result.paper_claims, result.words["paper_setting"]["claims"], strict=True):
            models = result.experiments[words.get("experiment", result.words["paper_setting"]["experiment"])]
            assert (made.holds is None) == (models.missing_for(words) is not None)
