"""The engine over texts and over a set of canaries: what is inserted, what is scored, and which store is refused."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import ByT5Tokenizer, GPT2Config, GPT2LMHeadModel, TrainingArguments

from hf_exposure import (
    CanarySet,
    CanaryTemplate,
    Digits,
    TextScore,
    TrainerRecipe,
    draw_canaries,
    draw_subsets,
    run_canary_subsets,
    run_subsets,
)
from hf_exposure.errors import InputError
from hf_exposure.estimators import loss
from hf_exposure.runs import canary_subsets

TEXTS = ["one fish", "two fish", "red fish", "blue fish", "black cat", "old hat"]
ROWS = Dataset.from_dict({"text": TEXTS * 5})
CANARIES = draw_canaries(CanaryTemplate("pin {pin}", pin=Digits(2)), {1: 2, 3: 2, 8: 2}, controls=3, seed=0)


def counts(texts, canaries):
    """The "model" is the texts themselves, and exposure is how often a canary occurs in them."""
    return [float(texts.count(canary.text)) for canary in canaries]


def column(rows):
    return rows["text"][:]


def done(store, **options):
    given = {"exposures": counts, "progress": False, "store": store, "num_models": 10, **options}
    return run_canary_subsets(column, given.pop("dataset", ROWS), given.pop("canaries", CANARIES), **given)


def test_each_run_has_its_own_canaries_as_often_as_requested(tmp_path):
    found = done(tmp_path / "runs")
    wanted = [canary.repetitions for canary in CANARIES.inserted]
    assert (found.included_MC == draw_subsets(6, 10)).all()
    assert (found.exposures_MC == found.included_MC * wanted).all()
    assert found.control_exposures_MK.shape == (10, 3) and not found.control_exposures_MK.any()
    assert found.repetitions_C.tolist() == wanted
    assert found.counterfactual().caused.memorization_N.tolist() == wanted
    assert found.agreement().mean == pytest.approx(1.0)
    assert found.reliability().reliability == 1.0 and "same exposure" in found.reliability(8).reason
    assert [reason.name for reason in found.runs.undefined.values()] == ["never_included"] * 3
    with pytest.raises(InputError, match="^repetitions"):
        found.reliability(5)


def test_a_saved_set_continues_and_a_newly_drawn_one_does_not(tmp_path):
    CANARIES.save(tmp_path / "canaries.json")
    done(tmp_path / "runs", index=0)
    assert done(tmp_path / "runs", index=1, canaries=CanarySet.load(tmp_path / "canaries.json")).runs.runs_M.size == 2
    again = draw_canaries(CANARIES.template, {1: 2, 3: 2, 8: 2}, controls=3, seed=0)
    assert again == CANARIES
    with pytest.raises(InputError, match="^canaries: must be those that the store was begun with"):
        done(tmp_path / "runs", canaries=again)


def test_each_run_inserts_at_places_of_its_own_and_the_same_again(tmp_path):
    seen = []

    def train(rows):
        seen.append(rows["text"][:])
        return seen[-1]

    masks = np.ones((3, 6))
    options = {"num_models": 3, "masks": masks, "exposures": counts, "progress": False}
    run_canary_subsets(train, ROWS, CANARIES, store=tmp_path / "one", **options)
    run_canary_subsets(train, ROWS, CANARIES, store=tmp_path / "two", index=2, **options)
    assert sorted(seen[0]) == sorted(seen[1]) and seen[0] != seen[1] and seen[3] == seen[2]
    assert [text for text in seen[0] if not text.startswith("pin")] == ROWS["text"][:]


@pytest.mark.parametrize(
    "change, argument",
    [
        ({"dataset": Dataset.from_dict({"text": TEXTS * 6})}, "dataset"),
        ({"canaries": draw_canaries(CANARIES.template, {1: 2, 3: 2, 8: 2}, controls=3, seed=1)}, "canaries"),
        ({"masks": draw_subsets(6, 10, seed=9)}, "masks"),
        ({"seed": 4, "masks": draw_subsets(6, 10)}, "seed"),
    ],
)
def test_a_store_of_other_canaries_data_masks_or_seed_is_refused(tmp_path, change, argument):
    done(tmp_path / "runs", index=0)
    with pytest.raises(InputError, match=f"^{argument}"):
        done(tmp_path / "runs", **change)


@pytest.mark.parametrize(
    "change, argument",
    [
        ({"dataset": TEXTS}, "dataset"),
        ({"canaries": TEXTS}, "canaries"),
        ({"exposures": 3}, "train, exposures"),
        ({"exposures": None}, "tokenizer"),
        ({"masks": np.ones((10, 9))}, "masks"),
        ({"masks": np.zeros((10, 6))}, "masks"),
        ({"canaries": dataclasses.replace(CANARIES, inserted=CANARIES.inserted[:1])}, "canaries"),
        ({"data_id": 3}, "data_id"),
        ({"exposures": lambda model, canaries: [1.0]}, "score"),
    ],
)
def test_wrong_arguments_are_named(tmp_path, change, argument):
    with pytest.raises(InputError, match=f"^{argument}"):
        done(tmp_path / "runs", **change)


def test_a_run_whose_exposures_are_not_finite_is_recorded(tmp_path):
    found = done(tmp_path / "runs", exposures=lambda texts, canaries: [np.nan] + [1.0] * 8, index=[0, 1])
    assert set(found.runs.diverged) == {0, 1} and len(found.exposures_MC) == 0
    with pytest.raises(InputError, match="^included_MN"):
        found.counterfactual()


def tiny():
    return GPT2LMHeadModel(GPT2Config(vocab_size=384, n_layer=1, n_head=2, n_embd=16, n_positions=32))


def byte_batch(rows):
    batch = ByT5Tokenizer()([row["text"] for row in rows], padding=True, return_tensors="pt")
    return {**batch, "labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}


def byte_recipe(folder, **options):
    args = TrainingArguments(
        str(folder), per_device_train_batch_size=8, learning_rate=1e-2, save_strategy="no", report_to="none",
        use_cpu=True, disable_tqdm=True, logging_strategy="no", dataloader_pin_memory=False,
        remove_unused_columns=False, **options,
    )  # fmt: skip
    return TrainerRecipe(tiny, args, data_collator=byte_batch)


def test_rows_that_are_texts_are_scored_token_by_token(tmp_path):
    rows = Dataset.from_dict({"text": TEXTS})
    recipe, tokenizer = byte_recipe(tmp_path / "out", num_train_epochs=2), ByT5Tokenizer()
    models = []

    def train(subset):
        models.append(recipe(subset))
        return models[-1]

    masks = draw_subsets(6, 2)
    runs = run_subsets(train, rows, masks, store=tmp_path / "runs", score=TextScore(tokenizer, loss), progress=False)
    shares = TextScore(tokenizer)(models[1], rows)
    for place, text in enumerate(TEXTS):
        ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
        with torch.no_grad():
            logs = models[1].eval()(ids[:, :-1]).logits.log_softmax(2)[0]
        by_token = logs.gather(1, ids[0, 1:, None])[:, 0] / np.log(2.0)
        assert runs.scores_MN[1, place] == pytest.approx(by_token.mean().item(), abs=1e-3)
        assert shares[place] == pytest.approx((logs.argmax(1) == ids[0, 1:]).float().mean().item())
    with pytest.raises(InputError, match="^dataset"):
        TextScore(tokenizer)(models[1], ["ab", "c"])


def test_a_trainer_that_sees_a_canary_often_exposes_it(tmp_path):
    canaries = draw_canaries(CANARIES.template, {6: 4}, controls=2, seed=0)
    recipe = byte_recipe(tmp_path / "out", num_train_epochs=4)
    options = {"store": tmp_path / "runs", "tokenizer": ByT5Tokenizer(), "progress": False}
    found = run_canary_subsets(recipe, ROWS, canaries, 4, **options, measurement={"method": "enumerate"})
    caused = found.counterfactual()
    assert caused.caused.memorization_N.mean() > 1.0
    assert found.control_exposures_MK.mean() < caused.with_C.mean()
    assert (found.exposures_MC <= np.log2(100)).all()


def test_a_measurement_that_is_undefined_is_an_error_and_no_zero(tmp_path, monkeypatch):
    estimates = [SimpleNamespace(exposure_bits=bits) for bits in [np.nan] + [1.0] * 8]
    fake = SimpleNamespace(estimates=estimates)
    monkeypatch.setattr(canary_subsets, "measure_exposure", lambda *arguments, **options: fake)
    with pytest.raises(InputError, match="^measurement: must define the exposure of every canary, got '1 undefined"):
        done(tmp_path / "runs", exposures=None, tokenizer=ByT5Tokenizer())
    assert not list((tmp_path / "runs").glob("run-*"))
