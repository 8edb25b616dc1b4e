"""At the start of training, canaries that are missing, do not fit or occur twice are reported."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from callback_runs import CANARIES, TOKENIZER, make_callback, make_trainer, small_model
from datasets import Dataset, concatenate_datasets, disable_progress_bars
from transformers import Trainer

from hf_exposure import CanaryTemplate, Digits, ExposureCallback, ExposureReport, draw_canaries, insert_canaries
from hf_exposure.errors import InputError
from hf_exposure.hub.card import exposure_section, updated_card
from hf_exposure.hub.published import published
from hf_exposure.records import Doses, Uncounted, Validity
from hf_exposure.report.verdict import headline, judgment

disable_progress_bars()
TEXTS = Dataset.from_dict({"text": [f"row {row:03}" for row in range(30)]})  # as long as a canary


def encode(dataset: Dataset) -> Dataset:
    def one(row: dict[str, Any]) -> dict[str, Any]:
        ids = TOKENIZER(row["text"]).input_ids
        return {"input_ids": ids, "labels": ids}

    return dataset.map(one, remove_columns="text")


def trainer_on(folder: Path, data: Any, callback: ExposureCallback, **settings: Any) -> Trainer:
    trainer = make_trainer(folder, [callback], **settings)
    trainer.train_dataset = data
    return trainer


def test_the_dose_reaches_reports_groups_and_files(tmp_path: Path) -> None:
    callback = make_callback(strategy="epoch", require_delivery=True)
    assert callback.doses == {}
    data = encode(insert_canaries(TEXTS, CANARIES))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*canaries in the training data.*")
        trainer_on(tmp_path, data, callback, max_steps=-1, num_train_epochs=2).train()
    assert [one.whole for one in callback.delivery.canaries] == [1, 1, 4, 4, 0, 0, 0]
    for report, epochs in zip(callback.reports, (1.0, 2.0), strict=True):
        doses = [estimate.effective_dose for estimate in report.estimates]
        assert doses == pytest.approx([epochs * n for n in (1, 1, 4, 4, 0, 0, 0)])
        assert [group.effective_dose for group in report.groups] == pytest.approx([0, epochs, 4 * epochs])
    assert list(callback.doses) == [canary.id for canary in CANARIES]
    assert list(callback.doses.values()) == pytest.approx([2.0 * n for n in (1, 1, 4, 4, 0, 0, 0)])
    callback.report.save(tmp_path / "out")
    saved = json.loads((tmp_path / "out" / "report.json").read_text())
    assert ExposureReport.from_dict(saved) == callback.report
    # A report written before doses existed loads, with unknown doses.
    for estimate in saved["estimates"]:
        del estimate["effective_dose"]
    older = ExposureReport.from_dict(saved)
    assert all(estimate.effective_dose != estimate.effective_dose for estimate in older.estimates)


def test_what_does_not_arrive_is_a_warning_or_an_error(tmp_path: Path) -> None:
    callback = make_callback(strategy="end", require_delivery=False)
    with pytest.warns(UserWarning, match="4 of 4 inserted canaries: it is not in the training data"):
        trainer_on(tmp_path, encode(TEXTS), callback, max_steps=1).train()
    assert callback.delivery.problems[0] in callback.report.notes
    assert callback.report.estimates[0].effective_dose == 0
    # Where the data can be read, as here, it is an error unless it is explicitly allowed.
    for arguments in ({}, {"require_delivery": None}, {"require_delivery": True}):
        strict = make_callback(strategy="end", **arguments)
        trainer = trainer_on(tmp_path, encode(TEXTS), strict)
        with pytest.raises(InputError, match="require_delivery: must find every inserted canary trained on .4 of 4"):
            trainer.train()
        assert trainer.state.global_step == 0
    with pytest.raises(InputError, match="require_delivery: must be None, True or False, got 'str'"):
        make_callback(require_delivery="yes")


def without(*texts: str) -> Any:
    """The rows with all canaries except `texts`."""
    return encode(insert_canaries(TEXTS, CANARIES).filter(lambda row: row["text"] not in texts))


def masked(data: Dataset, first: int, texts: list[str]) -> Dataset:
    """Masks the labels from position `first` on in the rows that contain `texts`."""
    ids = [TOKENIZER(text).input_ids for text in texts]

    def mask(row: dict[str, Any]) -> dict[str, Any]:
        return {"labels": row["labels"][:first] + [-100] * (len(row["labels"]) - first)}

    return data.map(lambda row: mask(row) if row["input_ids"] in ids else {"labels": row["labels"]})


ALL = [canary.text for canary in CANARIES.inserted]


@pytest.mark.parametrize(
    ("kind", "validity", "said"),
    [
        ("none", Validity.INVALID, "INVALID: 0 of 4 inserted canaries were found in the training data."),
        ("one is missing", Validity.INVALID, "INVALID: 3 of 4 inserted canaries were found in the training data."),
        ("masked", Validity.INVALID, "INVALID: 0 of 4 inserted canaries count in the loss; the others are in the "),
        # "pin 37.": the template's own text is trained on, the two digits are not.
        ("secret masked", Validity.INVALID, "INVALID: 3 of 4 inserted canaries count in the loss; the others are in"),
        ("missing and masked", Validity.INVALID, "INVALID: 3 of 4 inserted canaries were found in the training data, "
         "and 2 count in the loss."),
        ("digit masked", Validity.IMPAIRED, "; 1 of 4 inserted canaries were trained on less than intended."),
        ("fewer", Validity.IMPAIRED, "; 2 of 4 inserted canaries were trained on less than intended."),
        ("a control", Validity.IMPAIRED, "; 1 held-out control is in the training data."),
        ("half an epoch", Validity.IMPAIRED, "; training covered only 0.5 of an epoch, so some canaries were not"),
        ("all", Validity.VALID, "."),
        ("a stream", Validity.VALID, "."),
        ("a stream without one", Validity.INVALID, "INVALID: 3 of 4 inserted canaries were found in the training "),
        ("the beginning of a stream", Validity.IMPAIRED, "; training covered only 0.5 of an epoch, so some canaries"),
    ],
)  # fmt: skip
def test_a_run_is_as_valid_as_what_it_was_trained_on(kind: str, validity: Validity, said: str, tmp_path: Path) -> None:
    data = without()
    if kind == "none":
        data = without(*ALL)
    elif kind == "one is missing":
        data = without(ALL[0])
    elif kind == "masked":
        data = masked(data, 0, ALL)
    elif kind == "secret masked":
        data = masked(data, 4, ALL[-1:])
    elif kind == "missing and masked":
        data = masked(without(ALL[0]), 0, ALL[-1:])
    elif kind == "digit masked":
        data = masked(data, 5, ALL[-1:])
    elif kind == "fewer":
        data = encode(Dataset.from_dict({"text": [*TEXTS["text"], *ALL]}))
    elif kind == "a control":
        data = concatenate_datasets([data, encode(Dataset.from_dict({"text": [CANARIES.controls[0].text]}))])
    elif kind == "a stream without one":
        data = without(ALL[0]).to_iterable_dataset()
    elif "stream" in kind:
        data = data.to_iterable_dataset()
    steps = {"all": 10, "half an epoch": 5, "a stream": 10, "the beginning of a stream": 10}.get(kind, 12)
    # Only the number of steps tells how long a stream is.
    when = {"strategy": "steps", "steps": 5} if kind == "the beginning of a stream" else {"strategy": "end"}
    callback = make_callback(**when, require_delivery=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = trainer_on(tmp_path, data, callback, max_steps=steps)
        trainer.train()
    report = callback.reports[0]
    assert report.validity is validity
    line = headline(report)
    assert line.startswith(said) if validity is Validity.INVALID else line.endswith(said) or said in line
    # Every form in which the figures are stored carries a flag, and every text for people says so in words.
    invalid = validity is Validity.INVALID
    logged, *_ = [entry for entry in trainer.state.log_history if "eval_exposure_mean" in entry]
    assert ("eval_exposure_invalid" in logged) == invalid
    assert any("INVALID: " in str(warning.message) for warning in caught) == invalid
    kept, *_ = (tmp_path / "_exposure.jsonl").read_text().splitlines()
    assert json.loads(kept)["validity"] == validity.value
    again = ExposureReport.from_dict(json.loads(kept))
    assert (again.delivery, again.validity) == (report.delivery, validity)
    section, card = exposure_section(published(report)), updated_card(None, published(report), name="model")
    assert ("INVALID" in section) == ("INVALID" in card) == invalid
    if invalid:
        assert judgment(report).startswith("No verdict") and said.rstrip() in section
        assert "bits" not in section and "| 1 |" not in section and "metric" not in card.split("\n---")[0]
    else:
        assert "metric" in card.split("\n---")[0]
        assert (report.validity is Validity.IMPAIRED) == ("Note that" in section)


def test_a_stream_that_is_not_counted_is_left_alone_and_said_to_be_unchecked(tmp_path: Path) -> None:
    data = encode(insert_canaries(TEXTS, CANARIES)).to_iterable_dataset()
    callback = make_callback(strategy="end", count_doses=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*canaries in the training data.*")
        trainer_on(tmp_path, data, callback, max_steps=2).train()
    assert "a stream cannot be read in advance" in callback.report.notes[-1] and callback.doses == {}
    assert callback.report.estimates[0].effective_dose != callback.report.estimates[0].effective_dose
    assert callback.report.validity is Validity.UNCHECKED
    assert callback.report.doses == Doses(uncounted=Uncounted.SWITCHED_OFF)
    strict = make_callback(strategy="end", require_delivery=True)
    with pytest.raises(InputError, match="delivery was not checked: a stream cannot be read in advance"):
        trainer_on(tmp_path, data, strict, max_steps=2).train()


class Broken(torch.utils.data.Dataset):
    """Rows that can be read in one order only."""

    def __init__(self) -> None:
        self.calls = 0

    def __len__(self) -> int:
        return 8

    def __getitem__(self, row: int) -> Any:
        self.calls += 1
        if self.calls == 1:
            raise RuntimeError("not yet")
        return encode(TEXTS)[row]


def test_a_dataset_that_fails_outside_its_loader_does_not_end_training(tmp_path: Path) -> None:
    callback = make_callback(strategy="end", count_doses=False)
    trainer_on(tmp_path, Broken(), callback, max_steps=1).train()
    assert "delivery was not checked: RuntimeError: not yet" in callback.report.notes


def test_two_callbacks_in_one_trainer_are_refused(tmp_path: Path) -> None:
    first, second = make_callback(strategy="end"), make_callback(strategy="end")
    trainer = make_trainer(tmp_path, [first, second], max_steps=1)
    with pytest.raises(InputError, match="callbacks: must have only one ExposureCallback: two would write the same"):
        trainer.train()
    trainer.remove_callback(second)
    trainer.train()
    trainer.train()
    assert first.report is not None


def test_a_canary_longer_than_the_context_is_refused_at_the_start(tmp_path: Path) -> None:
    long = CanaryTemplate("a number of many words before it " + "{pin}", pin=Digits(3))
    callback = ExposureCallback(draw_canaries(long, {1: 2}, controls=0, seed=0), strategy="end")
    trainer = make_trainer(tmp_path, [callback], model=small_model())
    with pytest.raises(InputError, match="canaries: must fit the model's context of 32 tokens, got '36 tokens'"):
        trainer.train()
    assert trainer.state.global_step == 0
