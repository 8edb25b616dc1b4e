"""Label canaries of a classifier: every labeling of a few inputs, counted one by one."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import nn
from transformers import Trainer, TrainingArguments

from hf_exposure import Bounded, CanarySet, Importance, MeasureCallback, draw_canaries, measure_exposure
from hf_exposure.canaries import Canary
from hf_exposure.errors import InputError, NonFiniteScoreError
from hf_exposure.measures.exposure import ExposureMeasure
from hf_exposure.scoring import LabelScorer, Scorer, label_alphabet, label_template, labels_of
from hf_exposure.testing import check_scorer

CLASSES, INPUTS = 5, 4
TEMPLATE = label_template(INPUTS, CLASSES)


class Classifier(nn.Module):
    """Takes arguments by name, and returns an output like transformers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.drop = nn.Linear(6, CLASSES), nn.Dropout(0.5)

    def forward(self, features: torch.Tensor, labels: torch.Tensor | None = None) -> SimpleNamespace:
        logits = 3.0 * self.layer(self.drop(features))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SimpleNamespace(logits=logits, loss=loss) if loss is None else {"loss": loss, "logits": logits}  # type: ignore[return-value]


MODEL = Classifier().train()
FEATURES = torch.randn(INPUTS, 6, generator=torch.Generator().manual_seed(1))


def scorer_of(model: nn.Module) -> Scorer:
    return LabelScorer(model, {"features": FEATURES}, classes=CLASSES)


def all_costs() -> dict[str, float]:
    """The bits of every labeling, from the product of its probabilities."""
    MODEL.eval()
    with torch.no_grad():
        probabilities = torch.softmax(MODEL(FEATURES).logits.double(), dim=-1).tolist()
    MODEL.train()
    return {
        "".join(map(str, labels)): -math.log2(
            math.prod(row[label] for row, label in zip(probabilities, labels, strict=True))
        )
        for labels in itertools.product(range(CLASSES), repeat=INPUTS)
    }


def test_bits_are_those_of_the_classifier_in_evaluation_mode() -> None:
    costs, scorer = all_costs(), scorer_of(MODEL)
    assert MODEL.training, "left as it was found"
    found = scorer.sequence_bits(scorer.encode(list(costs)))
    np.testing.assert_allclose(found, list(costs.values()), atol=1e-4)


def test_the_scorer_keeps_the_laws() -> None:
    features = torch.randn(12, 6, generator=torch.Generator().manual_seed(3))
    check_scorer(LabelScorer(MODEL, features, classes=CLASSES), ["0123", "0133", "00", "0444"])


@pytest.mark.parametrize("method", ["enumerate", Bounded(max_expansions=10_000)])
def test_exposures_are_those_of_all_labelings(method: object) -> None:
    costs = all_costs()
    order = sorted(costs, key=costs.__getitem__)
    chosen = [order[0], order[10], order[300]]
    canaries = CanarySet(
        inserted=tuple(Canary(text=text, template=TEMPLATE, repetitions=1) for text in chosen), template=TEMPLATE
    )
    report = measure_exposure(MODEL, None, canaries, method=method, scorer=scorer_of, lead=True)  # type: ignore[arg-type]
    others = [cost for text, cost in costs.items() if text not in chosen]
    for estimate, text in zip(report.estimates, chosen, strict=True):
        rank = 1 + sum(cost <= costs[text] for cost in others)
        assert estimate.exposure_bits == pytest.approx(math.log2((len(others) + 1) / rank), abs=1e-9)
        assert estimate.lead_bits == pytest.approx(min(others) - costs[text], abs=1e-4)


def test_a_large_space_is_searched() -> None:
    """13 inputs and 5 classes: a cost is a sum of independent choices, and ranks are counted by sorting the sums."""
    features = torch.randn(13, 6, generator=torch.Generator().manual_seed(2))
    template = label_template(13, CLASSES)
    scorer = LabelScorer(MODEL, {"features": features}, classes=CLASSES)
    likeliest = "".join(map(str, scorer.bits_PC.argmin(axis=1)))
    nearly = likeliest[:-1] + str(int(scorer.bits_PC[-1].argsort()[1]))
    sums = np.zeros(1)
    for bits_C in scorer.bits_PC:
        sums = (sums[:, None] + bits_C).ravel()
        sums = sums[sums < scorer.sequence_bits(scorer.encode([nearly]))[0] + 1e-9]  # further labels only add
    canaries = CanarySet(
        inserted=(Canary(text=nearly, template=template, repetitions=1),),
        controls=(Canary(text=likeliest, template=template, repetitions=0),),
        template=template,
    )

    def same(_: nn.Module) -> Scorer:
        return scorer

    report = measure_exposure(MODEL, None, canaries, method=Bounded(), scorer=same)
    assert report.estimates[0].rank_low == report.estimates[0].rank_high == len(sums)
    drawn = measure_exposure(MODEL, None, canaries, method=Importance(references=2000), scorer=same).estimates[0]
    assert drawn.low_bits <= report.estimates[0].exposure_bits <= drawn.high_bits


def test_labels_and_texts() -> None:
    assert len(set(label_alphabet(1000))) == 1000
    assert labels_of(label_alphabet(70), 70) == list(range(70))
    with pytest.raises(InputError, match="text: must be characters that represent 3 classes") as caught:
        labels_of("0129", 3)
    assert "0129" not in str(caught.value)
    scorer = scorer_of(MODEL)
    with pytest.raises(InputError, match="at most 4 labels"):
        scorer.encode(["00000"])
    with pytest.raises(InputError, match="logits of shape"):
        LabelScorer(MODEL, {"features": FEATURES}, classes=3)
    with pytest.raises(NonFiniteScoreError):
        LabelScorer(MODEL, {"features": FEATURES * math.nan}, classes=CLASSES)
    with pytest.raises(InputError, match="end_token: does not go with a scorer of your own"):
        measure_exposure(MODEL, None, draw_canaries(TEMPLATE, {1: 1}), scorer=scorer_of, end_token=True)


def test_a_classifier_is_measured_while_it_trains(tmp_path: Path) -> None:
    """No tokenizer is used, and the labels of the canary become the likeliest of all."""
    canaries = draw_canaries(TEMPLATE, {1: 1}, controls=4, seed=3)
    rows = {"features": FEATURES.tolist() * 8, "labels": labels_of(canaries.inserted[0].text, CLASSES) * 8}
    measure = ExposureMeasure(canaries, scorer=scorer_of)
    assert not measure.needs_tokenizer
    arguments = TrainingArguments(
        output_dir=str(tmp_path), num_train_epochs=60, per_device_train_batch_size=32, learning_rate=0.1,
        report_to=[], save_strategy="no", use_cpu=True, disable_tqdm=True, logging_strategy="no",
    )  # fmt: skip
    model = Classifier()
    callback = MeasureCallback(measure, strategy="end")
    trainer = Trainer(model=model, args=arguments, train_dataset=Dataset.from_dict(rows), callbacks=[callback])
    before = measure_exposure(model, None, canaries, scorer=scorer_of).estimates[0].exposure_bits
    trainer.train()
    after = callback.records["exposure"][-1].estimates[0].exposure_bits
    assert before < after == pytest.approx(canaries.log2_space_size)
