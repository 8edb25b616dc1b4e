"""Doses during training: with resumed runs, wrappers and other losses, and after a miscount."""

from __future__ import annotations

import math
import shutil
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from callback_runs import CANARIES, TOKENIZER, make_callback, make_start, make_trainer, rows, small_model
from datasets import Dataset

from hf_exposure import CanaryTemplate, Digits, ExposureCallback, ExposureReport, draw_canaries
from hf_exposure.errors import InputError
from hf_exposure.hub.published import published
from hf_exposure.measures import SeenBatch
from hf_exposure.measures.exposure import ExposureMeasure
from hf_exposure.records import CanaryDose, Doses, Uncounted, Validity
from hf_exposure.report.page import report_page
from hf_exposure.report.verdict import dose_lines

# Twelve rows per epoch, four per batch: each of the four inserted canaries occurs three times.
EVERY_EPOCH = [3, 3, 3, 3, 0, 0, 0]


def whole(callback: ExposureCallback) -> list[float]:
    return list(callback.doses.values())


def same_weights(first: Any, second: Any) -> bool:
    pairs = zip(first.model.parameters(), second.model.parameters(), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize(
    ("settings", "wrap"),
    [
        ({}, None),
        ({"gradient_accumulation_steps": 3, "per_device_train_batch_size": 2}, None),
        ({"gradient_checkpointing": True}, None),
        ({"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}, None),
        ({"bf16": True}, None),
        ({"torch_compile": True, "torch_compile_backend": "eager"}, None),
        ({}, "compiled in place"),
        ({"eval_strategy": "steps", "eval_steps": 1}, None),
    ],
    ids=["plain", "accumulated", "checkpointed", "reentrant", "bf16", "compiled", "compiled in place", "evaluated"],
)
def test_each_training_row_counts_once(tmp_path: Path, settings: dict[str, Any], wrap: str | None) -> None:
    model = small_model()
    if wrap:
        model.compile(backend="eager")
    callback = make_callback(strategy="epoch", require_delivery=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        make_trainer(tmp_path, [callback], model=model, max_steps=-1, num_train_epochs=2, **settings).train()
    assert whole(callback) == [2.0 * n for n in EVERY_EPOCH]
    # The third and the fourth canary were requested four times per epoch.
    assert [[one.whole for one in report.doses.counted] for report in callback.reports] == [
        EVERY_EPOCH, [2 * n for n in EVERY_EPOCH],
    ]  # fmt: skip
    assert [(one.least, one.most) for one in callback.report.doses.counted] == [(2, 2)] * 2 + [(8, 8)] * 2 + [
        (0, 0)
    ] * 3
    assert [one.differs for one in callback.report.doses.counted] == [True] * 4 + [False] * 3
    assert not model._forward_pre_hooks


def test_counting_changes_no_bit_of_a_training(tmp_path: Path) -> None:
    settings = {"dropout": 0.3, "gradient_accumulation_steps": 2, "max_steps": 6}
    plain = make_trainer(tmp_path / "plain", **settings)
    plain.train()
    for count in (True, False):
        callback = make_callback(strategy="steps", steps=2, count_doses=count)
        counted = make_trainer(tmp_path / str(count), [callback], **settings)
        counted.train()
        assert same_weights(plain, counted)
        assert (callback.report.doses.uncounted is None) == count


@pytest.mark.parametrize("stop", [1, 2, 4])
def test_a_resumed_run_has_the_doses_of_an_uninterrupted_one(tmp_path: Path, stop: int) -> None:
    settings = {"save_strategy": "steps", "save_steps": 1, "dropout": 0.2}
    alone = make_callback(strategy="steps", steps=1)
    make_trainer(tmp_path / "whole", [alone], max_steps=7, **settings).train()
    make_trainer(tmp_path / "again", [make_callback(strategy="steps", steps=1)], max_steps=5, **settings).train()
    resumed = make_callback(strategy="steps", steps=1)
    trainer = make_trainer(tmp_path / "again", [resumed], max_steps=7, **settings)
    trainer.train(resume_from_checkpoint=str(tmp_path / "again" / f"checkpoint-{stop}"))
    assert [report.doses for report in resumed.reports] == [report.doses for report in alone.reports]
    assert resumed.doses == alone.doses and sum(whole(alone)) == 28


def test_a_checkpoint_without_counts_leaves_them_undefined(tmp_path: Path) -> None:
    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    make_trainer(tmp_path, [make_callback(strategy="end", count_doses=False)], **settings).train()
    callback = make_callback(strategy="end")
    trainer = make_trainer(tmp_path, [callback], **{**settings, "max_steps": 6})
    with pytest.warns(UserWarning, match="has no state of 'exposure', so the measure starts again there"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert callback.report.doses == Doses(uncounted=Uncounted.RESUMED_WITHOUT_COUNTS)
    assert all(math.isnan(dose) for dose in callback.doses.values())


def test_a_second_training_counts_from_nothing(tmp_path: Path) -> None:
    callback = make_callback(strategy="end")
    trainer = make_trainer(tmp_path, [callback], max_steps=3)
    trainer.train()
    trainer.train()
    assert whole(callback) == EVERY_EPOCH
    assert [one.doses.counted[0].whole for one in callback.reports] == [3]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [({"label_smoothing_factor": 0.1}, Uncounted.NO_LABELS), ({}, Uncounted.NO_LABELS), ({}, Uncounted.SWITCHED_OFF)],
    ids=["label smoothing", "loss function", "switched off"],
)
def test_what_cannot_be_counted_is_undefined(tmp_path: Path, settings: dict[str, Any], reason: Uncounted) -> None:
    callback = make_callback(strategy="end", count_doses=reason is not Uncounted.SWITCHED_OFF)
    trainer = make_trainer(tmp_path, [callback], max_steps=3, **settings)
    if not settings and reason is Uncounted.NO_LABELS:
        trainer.compute_loss_func = lambda outputs, labels, **_: torch.nn.functional.cross_entropy(
            outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
        )
    trainer.train()
    report = callback.report
    assert report.doses == Doses(uncounted=reason) and report.delivery is not None
    # Doses expected from the data are estimates, and stay estimates.
    assert [one.effective_dose for one in report.estimates] == EVERY_EPOCH
    if reason is Uncounted.SWITCHED_OFF:
        assert whole(callback) == EVERY_EPOCH and dose_lines(report) == []
    else:
        assert all(math.isnan(dose) for dose in callback.doses.values())
        (line,) = dose_lines(report)
        assert reason.reason in line and "estimates" in line and line in str(report)


COINS = draw_canaries(CanaryTemplate("pin {pin}.", pin=Digits(3)), {}, controls=0, coin_flips=12, seed=3)


def coin_run(folder: Path, times: Counter[str], **arguments: Any) -> ExposureReport:
    callback = ExposureCallback(COINS, strategy="end", method="sample", references=32, **arguments)
    trainer = make_trainer(folder, [callback], max_steps=-1, num_train_epochs=2)
    texts = [text for text, count in times.items() for _ in range(count)]
    trainer.train_dataset = Dataset.from_list(
        [{"input_ids": ids, "labels": ids} for ids in (TOKENIZER(text).input_ids for text in texts)]
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*canaries in the training data.*")
        trainer.train()
    assert callback.report is not None
    return callback.report


def test_a_wrong_count_voids_the_epsilon_of_coins(tmp_path: Path) -> None:
    right = Counter({canary.text: 1 for canary in COINS.inserted})
    fair = coin_run(tmp_path / "fair", right)
    assert fair.doses.differing == () and fair.epsilon["epsilon"] >= 0 and "void" not in fair.epsilon
    assert fair.validity is Validity.VALID and dose_lines(fair) == []
    twice, control = COINS.inserted[1], COINS.controls[2]
    for number, more in enumerate((twice.text, control.text)):
        report = coin_run(tmp_path / str(number), right + Counter([more]), require_delivery=False)
        (wrong,) = report.doses.differing
        assert wrong.canary_id == (twice, control)[number].id and wrong.whole == (4, 2)[number]
        assert report.epsilon["epsilon"] is None and report.epsilon["void"] is True
        first, second = dose_lines(report)
        assert wrong.canary_id in first and "epsilon is void" in second
        assert wrong.canary_id in str(report) and first in report_page(report, {}).replace("&#39;", "'")
        again = ExposureReport.from_dict(report.to_dict())
        assert again.epsilon["void"] is True and again.doses == report.doses
        shown = published(report)
        assert shown.epsilon["epsilon"] is None and shown.doses is None  # ids are not published
        assert not any(canary.text in str(report) + repr(report.to_dict()) for canary in COINS)


def test_a_dose_of_a_few_names_ten_of_them() -> None:
    counted = tuple(CanaryDose(canary_id=f"c{n}", whole=n, repetitions=40, least=40, most=40) for n in range(12))
    report = ExposureReport(
        estimates=(), template="", spaces={}, space_size=10, manifest_hash="", settings={},
        doses=Doses(counted=counted),
    )  # fmt: skip
    (line,) = dose_lines(report)
    assert line.startswith(
        "12 of 12 canaries were trained on more or less often than inserted: c0 0 times instead of 40"
    )
    assert "c9 9 times" in line and "c10 " not in line and line.endswith(", and 2 more.")


def test_a_stream_is_checked_while_it_flows(tmp_path: Path) -> None:
    texts = [canary.text for canary in CANARIES.inserted[1:]] * 2
    ids = [TOKENIZER(text).input_ids for text in texts]
    data = Dataset.from_list([{"input_ids": one, "labels": one} for one in ids]).to_iterable_dataset()
    callback = make_callback(strategy="steps", steps=1)
    trainer = make_trainer(tmp_path, [callback], per_device_train_batch_size=2, max_steps=3)
    trainer.train_dataset = data
    with pytest.warns(
        UserWarning, match="INVALID: 3 of 4 inserted canaries were found in the training data, for the training"
    ):
        trainer.train()
    assert [report.validity for report in callback.reports] == [Validity.IMPAIRED] * 2 + [Validity.INVALID]
    assert [report.delivery.trained for report in callback.reports] == [2, 3, 3]
    assert [report.delivery.pending for report in callback.reports] == [2, 1, 0]
    assert callback.report.notes == ()


def test_a_loop_of_ones_own_counts_too(tmp_path: Path) -> None:
    measure = ExposureMeasure(CANARIES, references=32)
    measure.prepare(make_start())
    for row in rows(8):
        ids = torch.tensor([row["input_ids"]])
        measure.on_batch(SeenBatch(inputs={"input_ids": ids, "labels": ids}, step=0))
    assert [one.whole for one in measure.doses(1.0).counted] == [2, 2, 2, 2, 0, 0, 0]
    saved = measure.state_dict()
    other = ExposureMeasure(CANARIES, references=32)
    other.prepare(make_start(step=5))
    assert other.doses(1.0).uncounted is Uncounted.RESUMED_WITHOUT_COUNTS
    other.load_state_dict(saved)
    assert other.doses(1.0) == measure.doses(1.0)
    with pytest.raises(InputError, match="count_doses: must be True or False"):
        make_callback(count_doses="yes")


def test_the_state_is_private_and_holds_no_secret(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, [make_callback(strategy="end")], max_steps=2, save_strategy="steps", save_steps=2)
    trainer.train()
    file = tmp_path / "checkpoint-2" / "_exposure_state_0.pt"
    assert file.stat().st_mode & 0o077 == 0
    assert not any(canary.text.encode() in file.read_bytes() for canary in CANARIES)
    shutil.rmtree(tmp_path / "checkpoint-2")
