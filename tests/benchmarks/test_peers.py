"""The comparison with peers: its thresholds and counts by hand, and the costs that it counts."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import ByT5Tokenizer, GPT2Config, GPT2LMHeadModel

from benchmarks.peers import PREFIX, counted, detections, errors, mean_losses, means, threshold_of, uniform_texts
from hf_exposure import CanaryTemplate, Digits, ExposureReport, draw_canaries, log_perplexity
from hf_exposure.records import ExposureEstimate


def test_at_most_the_share_of_controls_exceeds_the_threshold() -> None:
    # Two of 200 controls may exceed the threshold: it is the third largest.
    assert threshold_of(range(200)) == 197
    assert threshold_of([*range(199), 1000]) == 197
    # One of 100 may exceed it, and none of 99.
    assert threshold_of(range(100)) == 98
    assert threshold_of(range(99)) == 98
    # Ties at the threshold do not exceed it.
    assert threshold_of([5.0] * 4 + [1.0] * 96) == 5.0


def test_detections_are_counted_by_repetitions() -> None:
    # 100 controls, of which one may exceed the threshold 3.0: the second largest.
    scores = [3.0, 3.1, math.inf, 2.0, 9.0, *[0.0] * 98, 3.0, 4.0]
    repetitions = [1, 1, 4, 4, 4, *[0] * 100]
    found = detections(scores, repetitions)
    assert found["threshold"] == 3.0
    assert (found["controls"]["detected"], found["controls"]["of"]) == (1, 100)
    assert (found["inserted"]["detected"], found["inserted"]["of"]) == (3, 5)
    assert {count: row["detected"] for count, row in found["by_repetitions"].items()} == {"1": 1, "4": 2}
    # Clopper-Pearson limits of 1 of 2, by hand: 1 - 0.975 ** 0.5 and 0.975 ** 0.5.
    assert found["by_repetitions"]["1"]["low"] == pytest.approx(1 - math.sqrt(0.975))
    assert found["by_repetitions"]["1"]["high"] == pytest.approx(math.sqrt(0.975))
    # A given threshold replaces that of the controls.
    assert detections(scores, repetitions, 8.0)["inserted"]["detected"] == 2


def test_an_undefined_score_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        detections([1.0, math.nan], [1, 0])


def test_means_and_errors() -> None:
    assert means([1.0, 2.0, 4.0], [0, 1, 1]) == {"0": 1.0, "1": 3.0}
    same = {"repetitions": 1, "log_perplexity_bits": 1.0, "method": "bounded"}
    report = ExposureReport(
        estimates=(
            ExposureEstimate(
                canary_id="a", exposure_bits=10.0, low_bits=10.0, high_bits=10.0, rank_low=1, rank_high=1, **same
            ),
            ExposureEstimate(canary_id="b", exposure_bits=5.0, low_bits=4.0, high_bits=6.0, **same),
            ExposureEstimate(
                canary_id="c", exposure_bits=8.0, low_bits=8.0, high_bits=8.0, rank_low=4, rank_high=4, **same
            ),
        ),
        template="pin {pin}", spaces={"pin": "Digits(3)"}, space_size=1000, manifest_hash="",
        settings={"confidence_level": 0.95},
    )  # fmt: skip
    # The second rank is not proven.
    assert errors([7.0, 0.0, 9.0], report) == {"proven": 2, "mean_error_bits": -1.0, "largest_error_bits": 3.0}
    assert errors([math.inf, 0.0, 9.0], report)["mean_error_bits"] == 1.0


def test_losses_are_log_perplexities_and_tokens_are_counted() -> None:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=384, n_layer=1, n_head=2, n_embd=16)).eval()
    texts = ["pin 123", "pin 999", "pin 000"]
    with counted(model) as cost:
        losses = mean_losses(model, texts, batch=2)
    assert cost.tokens == 3 * 7
    # The first of 7 bytes has nothing before it: 6 are scored.
    expected = log_perplexity(model, ByT5Tokenizer(), texts) * math.log(2) / 6
    assert losses == pytest.approx(expected.tolist(), rel=1e-5)
    model(input_ids=torch.zeros(1, 5, dtype=torch.long))
    assert cost.tokens == 3 * 7  # counted inside alone


def test_references_are_texts_of_the_template_and_no_inserted_canary() -> None:
    canaries = draw_canaries(CanaryTemplate(PREFIX + "{pin}", pin=Digits(2)), {1: 60}, controls=0, seed=0)
    texts = uniform_texts(canaries, 200)
    inserted = {canary.text for canary in canaries.inserted}
    assert len(texts) == 200 and not inserted & set(texts)
    assert set(texts) <= {f"{PREFIX}{number:02d}" for number in range(100)}
