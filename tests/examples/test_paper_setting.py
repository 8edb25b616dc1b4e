"""The queue of the paper's setting: models are resumed, distributed, and judged only once all of them exist."""

from __future__ import annotations

import fcntl
import importlib
import json
import re
import string
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from examples.secret_sharer import RESULTS
from examples.secret_sharer.claims import check_claim, numbers_at
from examples.secret_sharer.models import make_model
from examples.secret_sharer.page import load_results
from examples.secret_sharer.paper_setting import store
from examples.secret_sharer.paper_setting.__main__ import main
from examples.secret_sharer.paper_setting.measuring import quantize, scorer_of, search_costs
from examples.secret_sharer.paper_setting.store import Task, experiments, finished, settings_of, tasks, write_model
from examples.secret_sharer.training import character_tokenizer
from hf_exposure import log_perplexity
from hf_exposure.scoring import RecurrentScorer

TEXT = "".join(f" the {word} of {number} days\n" for number, word in enumerate(string.ascii_lowercase * 12))


def small_model() -> Any:
    torch.manual_seed(0)
    return make_model("lstm", len(character_tokenizer("")), layers=2, width=16).eval()


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_a_character_model_reads_step_by_step_what_it_reads_in_rows(kind: str) -> None:
    torch.manual_seed(0)
    model, tokenizer = make_model(kind, len(character_tokenizer("")), layers=2, width=16), character_tokenizer("")
    texts = ["The random number is 281265017", "The random number is 000000000", "Another text"]
    scorer = scorer_of(model, tokenizer)
    assert isinstance(scorer, RecurrentScorer)
    np.testing.assert_allclose(
        scorer.sequence_bits(scorer.encode(texts)), log_perplexity(model, tokenizer, texts), atol=2e-4
    )


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
    """The figures, NaN and all, without what an epoch took."""
    return re.sub(r'"processor_seconds": [^,}]*', "", json.dumps(found))


@pytest.mark.parametrize(
    ("experiment", "cell"), [("base", "canary"), ("private", "rmsprop 5"), ("translation", "inserted 1")]
)
def test_a_stopped_model_ends_as_if_it_had_not_been_stopped(
    experiment: str, cell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = experiments()[experiment]
    runner = importlib.import_module(f"examples.secret_sharer.paper_setting.{about['runner']}")
    task = Task(experiment=experiment, cell=cell, seed=0)
    made = {"learning_rate": 4e-3, **about["settings"], **about.get("variants", {}).get(cell, {})}
    settings = made | {name: value for name, value in runner.SMALLEST.items() if name in made}
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    whole = runner.train_model(task, settings, TEXT, tmp_path / "whole")
    rename, kept = Path.replace, []

    def keep_and_stop(self: Path, target: Path) -> None:
        kept.append(rename(self, target))
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", keep_and_stop)
        with pytest.raises(KeyboardInterrupt):
            runner.train_model(task, settings, TEXT, tmp_path / "stopped")
    assert kept == [tmp_path / "stopped" / "state.pt"]
    rest = runner.train_model(task, settings, TEXT, tmp_path / "stopped")
    assert settings["epochs"] > 1 and without_times(rest) == without_times(whole)


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


# Numbers of bugs, for the changelogs.
LONG_TEXT = "".join(f"closes #{number}\n" for number in range(123456, 123516)) + TEXT


def named_cells(name: str) -> tuple[list[tuple[str, str]], set[str]]:
    """(result, path) of every number that a claim reads of an experiment, and the cells that the paths name."""
    paths = []
    for path in sorted(RESULTS.glob("*.toml")):
        setting = tomllib.loads(path.read_text())["paper_setting"]
        for claim in setting["claims"]:
            if claim.get("experiment", setting["experiment"]) == name:
                paths += [(path.stem, claim[key]) for key in ("numbers", "minus") if key in claim]
    return paths, {part for _, path in paths for part in path.split(".")} & set(experiments()[name]["cells"])


@pytest.mark.parametrize("name", [name for name, about in experiments().items() if "runner" in about])
def test_every_claim_finds_its_numbers_in_what_is_stored(name: str, tmp_path: Path) -> None:
    """A smallest model of each cell that claims name, and of the first and last cell; the others are copies."""
    text, out = tmp_path / "text.txt", tmp_path / "out"
    text.write_text(LONG_TEXT)
    queue = ["--text-file", str(text), "--smallest", "--out", str(out), "--work", str(tmp_path / "work")]
    about, (paths, named) = experiments()[name], named_cells(name)
    assert paths or name.endswith(("_rates", "_precision"))
    for task in tasks(about["rates"]) if "rates" in about else []:
        write_model(task, {"best_validation_bits": 5.0 + task.seed / 1e4}, out, text={})
    first_of, copied = {}, []
    for task in tasks(name):
        if task.cell in named | {[*about["cells"]][0], [*about["cells"]][-1]} and task.cell not in first_of:
            first_of[task.cell] = task
        else:
            write_model(task, {}, out, text={})
            copied.append(task)
    assert main([*queue, "--experiment", name]) == len(first_of)
    some = next(iter(first_of.values()))
    for task in copied:
        found = json.loads(first_of.get(task.cell, some).path(out).read_text())
        # Not all the same, so that they can be correlated.
        moved = {"validation_bits": 5 + task.seed / 100, "skew_normal_bits": float(task.seed % 7)} if paths else {}
        write_model(task, found | moved | {"seed": task.seed}, out, text={})
    figures = finished(name, out).figures
    for result, path in paths:
        # What a model has decides which items are chosen; the figure has to be there in any.
        assert numbers_at(figures, re.sub(r"\[.*?\]", "*", path)), (result, path)
