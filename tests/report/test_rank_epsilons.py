"""What a report's ranks refute: ranks among all texts by brute force, groups, and when there is no bound at all."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from report_samples import estimate, report

from hf_exposure import CanarySet, CanaryTemplate, Digits, draw_canaries
from hf_exposure.canaries import is_uniform_draw
from hf_exposure.estimators import epsilon_from_ranks
from hf_exposure.hub.published import published
from hf_exposure.records import Delivery, ExposureEstimate, ExposureReport
from hf_exposure.records.rank_epsilons import ranks_among_all
from hf_exposure.report.page import report_page
from hf_exposure.report.privacy import privacy_sentences


def row(rank: int | None, repetitions: int = 64, cost: float = 20.0, **changes: Any) -> ExposureEstimate:
    ends = {"rank_low": rank, "rank_high": rank, "method": "bounded" if rank else "importance"}
    return estimate(9.0, repetitions, log_perplexity_bits=cost, **{**ends, **changes})


def drawn(*rows: ExposureEstimate, **changes: Any) -> ExposureReport:
    known = {"uniform_draw": True, "complete_search": True, "space_size": 10**9}
    return report(*rows, **{**known, **changes})


def test_ranks_among_all_are_those_of_the_whole_space() -> None:
    """A space of 60 texts with costs far apart: the report's ranks exclude the inserted ones."""
    generator = np.random.default_rng(0)
    for _ in range(10):
        costs = generator.permutation(60) * 3.0
        inserted = costs[:8]
        rows = [row(1 + int((costs[8:] <= cost).sum()), cost=float(cost)) for cost in inserted]
        assert ranks_among_all(rows) == [int((costs <= cost).sum()) for cost in inserted]


def test_of_nearly_equal_costs_each_is_ahead_of_the_other() -> None:
    assert ranks_among_all([row(1, cost=20.0), row(1, cost=21.9), row(1, cost=22.2)]) == [2, 3, 3]
    assert ranks_among_all([row(1, cost=math.inf), row(5, cost=math.inf), row(2, cost=1.0)]) == [3, 7, 2]
    assert ranks_among_all([row(1, cost=math.nan), row(None, cost=math.nan), row(3, cost=math.nan)]) == [3, None, 5]


def test_a_stopped_search_counts_with_its_upper_end() -> None:
    assert ranks_among_all([row(None, rank_low=1, rank_high=700, bound="lower", method="bounded")]) == [700]


def test_each_count_has_its_share_of_the_error_and_all_other_secrets_are_taken_off() -> None:
    often = [row(1, 64, 20.0 + 3 * i) for i in range(4)]
    once = [row(10**6, 1, 60.0 + 3 * i) for i in range(3)] + [row(None, 1, 80.0)]
    found = drawn(*often, *once, estimate(1.0, 0, log_perplexity_bits=90.0, canary_id="held out"))
    assert list(found.rank_epsilons) == [1, 64]
    expected = epsilon_from_ranks([1, 2, 3, 4], 10**9 - 8, confidence_level=1 - 0.05 / 2, other_secrets=0)
    assert found.rank_epsilons[64].epsilon == pytest.approx(expected.epsilon)
    assert found.rank_epsilons[64].candidates == 10**9 - 8
    assert (found.rank_epsilons[1].canaries, found.rank_epsilons[1].uncertified) == (4, 1)
    assert found.metrics()["eval_exposure_rank_epsilon"] == found.rank_epsilons[64].epsilon
    values = found.to_dict()["groups"]
    assert [group["repetitions"] for group in values] == [0, 1, 64]
    assert values[2]["rank_epsilon"]["epsilon"] == found.rank_epsilons[64].epsilon
    assert (values[0]["rank_epsilon"], values[0]["tpr"]) == (None, [])
    assert ExposureReport.from_dict(found.to_dict()).rank_epsilons == found.rank_epsilons


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"uniform_draw": False}, "drawn uniformly"),
        ({"complete_search": False}, "not proven that certified ranks count every text"),
    ],
)
def test_without_what_the_proof_needs_there_is_no_bound(changes: dict[str, Any], why: str) -> None:
    found = drawn(row(1), **changes)
    assert why in found.why_no_rank_epsilon
    assert found.rank_epsilons == {}
    assert found.groups[0].rank_epsilon is None
    assert why in privacy_sentences(found)[0]
    assert math.isnan(found.metrics().get("eval_exposure_rank_epsilon", math.nan))


def test_estimates_with_intervals_refute_nothing() -> None:
    found = drawn(*[row(None, low_bits=8.9, high_bits=9.1) for _ in range(20)])
    assert found.rank_epsilons[64].epsilon == 0.0
    assert found.rank_epsilons[64].uncertified == 20
    assert privacy_sentences(found) == [
        "Ranks refute no epsilon of differential privacy at delta 0 (95 %, corrected for the choice of L)."
    ]


def test_what_is_printed_names_the_record_the_correction_and_gaussian_noise() -> None:
    found = drawn(*[row(1, cost=20.0 + 3 * i) for i in range(4)])
    (line,) = privacy_sentences(found)
    for part in (
        "below 18.3 at delta 0", "4 of 4 are among the L = 4 likeliest of 999,999,997", "1/64",
        "Gaussian DP-SGD has no finite epsilon at delta 0", "at least half",
    ):  # fmt: skip
        assert part in line
    assert line in str(found)
    assert "Ranks refute every epsilon below 18.3" in report_page(found, {})
    (at_delta,) = privacy_sentences(replace(found, settings={**found.settings, "delta": 1e-5}))
    assert "at delta 1e-05" in at_delta and "1/64" not in at_delta and "Gaussian" not in at_delta


def test_an_invalid_run_says_nothing_about_privacy() -> None:
    assert privacy_sentences(drawn(row(1), delivery=Delivery(inserted=1, found=0, trained=0))) == []


def test_a_published_report_bounds_no_more_than_the_whole_one() -> None:
    whole = drawn(*[row(1, cost=20.0 + 3 * i) for i in range(4)], row(500, cost=60.0))
    seen = published(whole)
    assert 15.0 < seen.rank_epsilons[64].epsilon <= whole.rank_epsilons[64].epsilon
    assert seen.rank_epsilons[64].uncertified == 1


TEMPLATE = CanaryTemplate("pin {pin}", pin=Digits(4))


@pytest.mark.parametrize("coins", [0, 7])
def test_a_draw_is_told_from_other_sets(coins: int) -> None:
    canaries = draw_canaries(TEMPLATE, {2: 2, 1: 3}, controls=4, coin_flips=coins)
    assert is_uniform_draw(canaries)
    assert is_uniform_draw(CanarySet.from_dict(canaries.to_dict()))
    assert not is_uniform_draw(replace(canaries, seed=(canaries.seed or 0) + 1))
    assert not is_uniform_draw(replace(canaries, inserted=canaries.inserted[1:]))
    # A set with a control and an inserted canary swapped is not the draw.
    held_out, first = canaries.controls[0], canaries.inserted[0]
    swapped = replace(
        canaries,
        inserted=(replace(first, text=held_out.text), *canaries.inserted[1:]),
        controls=(replace(held_out, text=first.text), *canaries.controls[1:]),
    )
    assert not is_uniform_draw(swapped)


def test_secrets_that_were_given_are_no_draw() -> None:
    assert not is_uniform_draw(CanarySet.from_secrets(TEMPLATE, ["pin 1234"]))
    assert not is_uniform_draw(CanarySet.from_secrets(TEMPLATE, ["pin 1234"], controls=3, seed=5))


def test_each_claim_that_coins_refute_is_named() -> None:
    bounds = [
        {"epsilon": epsilon, "delta": 1e-5, "confidence_level": 0.95, "canaries": 400, "guesses": 40, "correct": 39,
         "claim": claim, "note": ""}
        for claim, epsilon in (("approximate_dp", 1.25), ("gdp", 2.5), ("independent_gaussian", 0.0))
    ]  # fmt: skip
    found = drawn(row(1), epsilon=bounds[0], gaussian_epsilons=tuple(bounds[1:]))
    _, general, gdp, independent = privacy_sentences(found)
    assert "(epsilon, delta)-privacy with any epsilon below 1.25 at delta 1e-05" in general
    assert "39 of 40 guesses right, 400 coins" in general
    assert "mu-GDP) with an epsilon below 2.50" in gdp and "no bound on (epsilon, delta)-privacy" in gdp
    assert independent.startswith("Coins do not refute that independent Gaussian noise")
    before_claims = {key: value for key, value in bounds[0].items() if key != "claim"}
    assert privacy_sentences(drawn(row(1), epsilon=before_claims))[1] == general
    assert ExposureReport.from_dict(found.to_dict()).gaussian_epsilons == found.gaussian_epsilons
