"""Verdicts of reports: expected wordings for each kind of outcome."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from report_samples import estimate, report

from hf_exposure.records import ExposureEstimate, ExposureReport
from hf_exposure.report.verdict import controls_p_value, headline, judgment, p_value_text

CHANCE = [0.1, 0.3, 0.5, 0.7, 1.0, 1.3, 1.7, 2.3, 3.1, 4.6]


def controls(bits: list[float], cost: float = 60.0) -> list[ExposureEstimate]:
    return [estimate(b, 0, log_perplexity_bits=cost + i) for i, b in enumerate(bits)]


def first(count: int, repetitions: int) -> list[ExposureEstimate]:
    return [estimate(29.9, repetitions, rank_low=1, rank_high=1, log_perplexity_bits=5.0 + i) for i in range(count)]


def test_the_sentence_of_the_whole_job() -> None:
    rest = [estimate(20.0, 64, log_perplexity_bits=9.0 + i) for i in range(3)]
    found = report(*first(37, 64), *rest, *controls(CHANCE), space_size=10**9)
    assert headline(found) == (
        "37 of 40 canaries inserted 64 times rank first among 1,000,000,000 candidate secrets; "
        "held-out controls are at chance level."
    )
    assert judgment(found).startswith(
        "The model memorized canaries (rank test of each repetition count against 10 held-out canaries: p"
    )


@pytest.mark.parametrize(
    ("estimates", "changes", "expected"),
    [
        (
            first(1, 1),
            {"space_size": 10**9},
            "1 of 1 canary inserted once ranks first among 1,000,000,000 candidate secrets;",
        ),
        (
            first(2, 8),
            {"space_size": 10**9},
            "Both canaries inserted 8 times rank first among 1,000,000,000 candidate secrets;",
        ),
        # A canary that ranks first among ten candidates may do so by chance.
        (first(1, 4), {"space_size": 10}, "Nothing can be concluded: canaries inserted 4 times have 29.9 bits of"),
        ([estimate(1.5, 8)], {}, "Nothing can be concluded: canaries inserted 8 times have 1.5 bits of exposure on"),
        (
            [*(estimate(1.5, 8, log_perplexity_bits=62.5 + i) for i in range(4)), *controls(CHANCE)],
            {},
            "No memorization detected: canaries inserted 8 times have 1.5 bits of exposure on average (chance level: "
            "1.4); held-out controls are at chance level.",
        ),
        (
            [*(estimate(8.0, 8, log_perplexity_bits=20.5 + i) for i in range(8)), *controls(CHANCE)],
            {"space_size": 10**6},
            "Canaries inserted 8 times were partly memorized: 8.0 bits of exposure on average (chance level: 1.4, "
            "maximum: 19.9); held-out controls are at chance level.",
        ),
        (
            [*(estimate(8.0, 8, log_perplexity_bits=20.5, bound="lower") for _ in range(8)), *controls(CHANCE)],
            {},
            "Canaries inserted 8 times were partly memorized: at least 8.0 bits",
        ),
        ([estimate(math.nan, 8)], {}, "The exposure of the inserted canaries is undefined (see the notes); no"),
        (controls(CHANCE), {}, "No canary was inserted; held-out controls are at chance level."),
    ],
)
def test_each_kind_of_outcome(estimates: list[ExposureEstimate], changes: dict[str, Any], expected: str) -> None:
    assert headline(report(*estimates, **changes)).startswith(expected)


def test_few_canaries_far_beyond_chance_are_evidence_that_a_rank_test_is_too_small_for() -> None:
    far = [estimate(12.0, 8, log_perplexity_bits=20.5 + i) for i in range(3)]
    few = report(*far, *controls([1.0, 2.0]), space_size=10**9)
    # 3 against 2 has at best 1 in 10 orders. But three times 12 bits is at most 2^-36, times the ways to that sum.
    assert few.memorization_p_value == pytest.approx(0.1)
    assert headline(few).startswith("Canaries inserted 8 times were partly memorized: 12.0 bits of exposure")
    assert judgment(few).startswith("The model memorized canaries: at chance level, those inserted 8 times would")
    # This does not apply if the figures are extrapolated, or if the controls are exposed as well.
    guessed = [
        estimate(12.0, 8, log_perplexity_bits=20.5 + i, method="skew_normal", bound="extrapolated") for i in range(3)
    ]
    for doubtful in (report(*guessed, *controls([1.0, 2.0])), report(*far, *controls([9.0, 9.0], cost=10.0))):
        assert headline(doubtful).startswith("No memorization detected")
        assert judgment(doubtful).startswith("No memorization detected")


def test_exposed_controls_are_pointed_out() -> None:
    said = headline(report(estimate(9.0, 8), *controls([9.0] * 8)))
    assert "held-out controls are more exposed than chance allows (p < 1e-10), so something other than" in said
    undefined = headline(report(estimate(9.0, 8), *controls([math.nan, 1.0])))
    assert undefined.endswith("; the exposure of the held-out controls is undefined.")


def test_the_controls_are_judged_as_simulated_ones_would_be() -> None:
    # An unseen canary's exposure is -log2 of a uniform number; p is the share of simulated sets that are more extreme.
    bits = [1.0, 2.5, 3.0, 0.5, 4.0]
    simulated = -np.log2(np.random.default_rng(0).random((200_000, len(bits)))).sum(axis=1)
    expected = (simulated >= sum(bits)).mean()
    assert controls_p_value(report(*controls(bits))) == pytest.approx(expected, abs=0.005)
    assert math.isnan(controls_p_value(report(estimate(1.0))))


def test_a_test_that_could_show_nothing_says_so() -> None:
    said = judgment(report(estimate(1.0, 8, log_perplexity_bits=70.0), *controls([1.0, 2.0])))
    # One canary against two controls has at best 1 in 3 orders.
    assert said.endswith("the test cannot give a p-value below 0.33.")
    assert judgment(report(estimate(1.0))).startswith("Without held-out controls there is nothing to compare with")


@pytest.mark.parametrize(("value", "text"), [(0.0341, "= 0.034"), (1.0, "= 1"), (1e-11, "< 1e-10"), (0.0, "< 1e-10")])
def test_p_values_as_text(value: float, text: str) -> None:
    assert p_value_text(value) == text


def test_a_text_of_probability_0_leaves_the_verdict_as_it_is_through_json() -> None:
    costs = [*[9.0 + i for i in range(8)], *[60.0 + i for i in range(9)], math.inf]
    rows = [estimate(7.0, 8, log_perplexity_bits=cost, canary_id=str(i)) for i, cost in enumerate(costs[:8])]
    rows += [
        estimate(b, 0, log_perplexity_bits=cost, canary_id=f"c{b}") for b, cost in zip(CHANCE, costs[8:], strict=True)
    ]
    found = report(*rows, space_size=10**9)
    read = ExposureReport.from_dict(json.loads(json.dumps(found.to_dict())))
    assert [one.log_perplexity_bits for one in read.estimates] == costs
    # By hand: all 8 are likelier than all 10 controls, in one way of C(18, 8).
    assert read.memorization_p_value == found.memorization_p_value == pytest.approx(1 / math.comb(18, 8))
    assert (headline(read), judgment(read)) == (headline(found), judgment(found))


def test_canaries_without_a_rank_test_are_judged_by_their_exposures() -> None:
    rows = [estimate(12.0, 8, log_perplexity_bits=math.nan, canary_id=str(i)) for i in range(4)]
    found = report(*rows, *controls(CHANCE), space_size=10**9)
    assert "Canaries inserted 8 times were partly memorized: 12.0 bits" in headline(found)
    assert "rank test alone (p is undefined)" in judgment(found)


def test_an_undefined_mean_gives_no_verdict() -> None:
    rows = [estimate(math.nan, 1, low_bits=math.nan, high_bits=math.nan, log_perplexity_bits=61.5)]
    found = report(*rows, *controls(CHANCE), space_size=10**9)
    assert judgment(found).startswith("No verdict: the exposure of the canaries inserted once is undefined (rank")


def test_a_lower_bound_does_not_reassure() -> None:
    rows = [estimate(0.0, 8, bound="lower", log_perplexity_bits=61.0 + i, canary_id=str(i)) for i in range(4)]
    found = report(*rows, *controls(CHANCE), space_size=10**9)
    assert "have at least 0.0 bits of exposure" in headline(found)
    assert "Mean exposure of the canaries inserted 8 times: at least 0.0 bits" in judgment(found)
    drawn = report(*[replace(row, bound="extrapolated") for row in rows], *controls(CHANCE), space_size=10**9)
    assert "have an extrapolated 0.0 bits of exposure" in headline(drawn)


def test_controls_alone_have_no_verdict() -> None:
    found = report(*controls(CHANCE))
    assert headline(found) == "No canary was inserted; held-out controls are at chance level."
    assert judgment(found) == "No canary was inserted: no verdict."
