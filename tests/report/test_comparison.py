"""Runs side by side: expected values by hand, and no difference is found between equal weights."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from report_samples import estimate, report
from transformers import ByT5Tokenizer, GPT2Config, GPT2LMHeadModel

from hf_exposure import CanaryTemplate, Digits, draw_canaries, measure_exposure
from hf_exposure.errors import InputError
from hf_exposure.estimators import difference_interval, importance_exposure, sampling_exposure, skew_normal_exposure
from hf_exposure.estimators.estimate import CostEstimate
from hf_exposure.hub import published
from hf_exposure.records import Delivery, ExposureReport
from hf_exposure.report.comparison import compare_runs, difference_bits
from hf_exposure.report.comparison_page import comparison_page, comparison_values, save_comparison
from hf_exposure.report.run import Run


def with_bits(bits: list[float], repetitions: int = 8, *, other: bool = False, **changes: Any) -> ExposureReport:
    bound = changes.pop("bound", "interval")
    rows = [estimate(b, repetitions, canary_id=f"{repetitions}-{i}", bound=bound) for i, b in enumerate(bits)]
    return report(*rows, estimate(1.0, 0), manifest_hash="b" if other else "a", **changes)


def run(name: str, bits: list[float], loss: float | None = None, **changes: Any) -> Run:
    log = () if loss is None else ({"step": 1, "eval_loss": loss},)
    return Run(name=name, report=with_bits(bits, **changes), training_log=log)


def exact(bits: list[float], repetitions: int = 8, **changes: Any) -> ExposureReport:
    rows = [
        estimate(b, repetitions, canary_id=f"{repetitions}-{i}", low_bits=b, high_bits=b, bound="exact")
        for i, b in enumerate(bits)
    ]
    return report(*rows, **{"manifest_hash": "a", "space_size": 10**9, **changes})


def ends(bits: list[float]) -> list[tuple[list[float], list[float]]]:
    return [(bits, bits)]


MORE, LESS = [9.0, 12.0, 7.5, 15.0, 11.0, 8.0, 10.0, 14.0], [4.0, 8.5, 3.0, 9.0, 7.0, 4.5, 6.0, 9.5]


def test_the_same_canaries_are_compared_in_pairs() -> None:
    gap = difference_bits(exact(MORE), exact(LESS), [8])
    assert (gap.low_bits, gap.high_bits) == difference_interval(ends(MORE), ends(LESS), paired=True)
    assert gap.mean_bits == pytest.approx(np.mean(MORE) - np.mean(LESS))
    # The order in a file does not matter: ids identify the canaries.
    shuffled = replace(exact(LESS), estimates=tuple(reversed(exact(LESS).estimates)))
    assert difference_bits(exact(MORE), shuffled, [8]) == gap


def test_other_canaries_are_compared_as_two_samples() -> None:
    expected = difference_interval(ends(MORE), ends(LESS), paired=False)
    gap = difference_bits(exact(MORE), exact(LESS, manifest_hash="b"), [8])
    assert (gap.low_bits, gap.high_bits) == expected
    assert expected != difference_interval(ends(MORE), ends(LESS), paired=True)


def test_pairs_of_fewer_than_8_are_two_samples() -> None:
    """16 ways to swap four pairs cannot show a difference; 70 ways to split into two samples of four can."""
    gap = difference_bits(exact(MORE[:4]), exact(LESS[:4]), [8])
    assert (gap.low_bits, gap.high_bits) == difference_interval(ends(MORE[:4]), ends(LESS[:4]), paired=False)


def test_published_canaries_are_numbered_by_exposure_and_are_no_pairs() -> None:
    """Their ids are x8-1, x8-2, ... in both reports, which would pair the most exposed canaries of the two."""
    more, less = published(exact(MORE)), published(exact(LESS))
    assert [e.canary_id for e in more.inserted] == [e.canary_id for e in less.inserted]
    gap = difference_bits(more, less, [8])
    assert (gap.low_bits, gap.high_bits) == difference_interval(ends(MORE), ends(LESS), paired=False)


def test_each_repetition_count_weighs_the_same() -> None:
    few = [estimate(2.0, 1, canary_id=f"a{i}") for i in range(2)]
    many = [estimate(10.0, 8, canary_id=f"b{i}") for i in range(8)]
    both = Run(name="x", report=report(*few, *many, space_size=2**20))
    (first, _) = compare_runs([both, Run(name="y", report=both.report)]).runs
    assert first.exposure.mean_bits == 6.0
    # Two canaries have no interval, so neither has the mean of both counts.
    assert math.isnan(first.exposure.low_bits) and math.isnan(first.exposure.high_bits)
    more = [estimate(2.0, 1, canary_id=f"a{i}") for i in range(8)]
    whole = Run(name="x", report=report(*more, *many, space_size=2**20))
    (first, _) = compare_runs([whole, Run(name="y", report=whole.report)]).runs
    _, eight = (group.interval_bits for group in whole.report.groups)
    one = whole.report.groups[0].interval_bits
    assert (first.exposure.low_bits, first.exposure.high_bits) == (
        pytest.approx((one[0] + eight[0]) / 2),
        pytest.approx((one[1] + eight[1]) / 2),
    )


def test_a_lower_bound_reaches_to_the_top() -> None:
    """As exact figures, 12 bits are more than 4; as a lower bound, 4 bits may be as many as 12."""
    counted = exact([12.0 + i / 10 for i in range(8)])
    low = replace(counted, estimates=with_bits([4.0 + i / 10 for i in range(8)], bound="lower").inserted)
    fewer = exact([4.0 + i / 10 for i in range(8)])
    assert difference_bits(counted, fewer, [8]).low_bits > 7.9
    assert difference_bits(counted, low, [8]).low_bits < 0
    # On the other side a lower bound is enough.
    gap = difference_bits(low, exact([1.0 + i / 10 for i in range(8)]), [8])
    assert gap.low_bits > 1 and not gap.is_estimate
    found = compare_runs([Run(name="a", report=low), Run(name="b", report=exact([1.0 + i / 10 for i in range(8)]))])
    assert found.findings == (f"b memorizes less than a: at least {gap.low_bits:.1f} bits less exposure.",)
    # A search that was stopped has certified how high its canaries can rank.
    ranked = replace(
        low, estimates=tuple(replace(e, rank_low=2**22, rank_high=2**27, high_bits=7.9) for e in low.estimates)
    )
    assert difference_bits(counted, ranked, [8]).low_bits == pytest.approx(4.1, abs=0.3)


@pytest.mark.parametrize("bound", ["extrapolated", "undefined"])
def test_what_nothing_limits_allows_no_finding(bound: str) -> None:
    bits = math.nan if bound == "undefined" else 40.0
    odd = [estimate(bits, 8, canary_id=f"8-{i}", low_bits=math.nan, high_bits=math.nan, bound=bound) for i in range(8)]
    runs = [
        Run(name="odd", report=replace(exact(MORE), estimates=tuple(odd))),
        Run(name="low", report=exact([1.0 + i / 10 for i in range(8)])),
    ]
    found = compare_runs(runs)
    assert found.findings == ("No run is shown to memorize less than another.",)
    assert any("they have no limits" in note for note in found.notes)


def test_intervals_of_another_level_are_made_comparable() -> None:
    """A 50 % interval misses half the time, so it is widened by more than a 95 % interval."""
    more = with_bits([9.0 + i / 10 for i in range(8)], settings={"confidence_level": 0.5}, space_size=10**9)
    less = exact([6.5 + i / 10 for i in range(8)])
    wide = difference_bits(more, less, [8])
    sharp = difference_bits(replace(more, settings={"confidence_level": 0.95}), less, [8])
    # Half-widths of 0.5 bits mean standard errors of 0.5 / 0.674 and 0.5 / 1.96; 3.5 of them are subtracted.
    assert sharp.low_bits - wide.low_bits == pytest.approx(3.5 * 0.5 / 0.6745 - 3.5 * 0.5 / 1.96, abs=0.01)
    assert wide.low_bits < 0 < sharp.low_bits


def test_who_memorizes_less_at_equal_utility() -> None:
    runs = [
        run("plain", [10.0, 11.0, 12.0, 13.0], 2.00, space_size=10**9),
        run("dropout", [5.0, 6.0, 7.5, 8.0], 2.01, space_size=10**9),  # within 1 %
        run("bad", [5.5, 6.5, 7.0, 8.5], 2.50, space_size=10**9),
    ]
    found = compare_runs(runs)
    # The mean difference is 4.875. Intervals of 0.5 bits at 95 % are widened to 3.5 standard errors: 0.5 * 3.5 / 1.96
    # = 0.893; of the 69 other splits of the canaries the least swaps 10 and 8: 2 - 1.79; the most 13 and 5: 8 + 1.79.
    assert found.findings[0] == (
        "dropout memorizes less than plain: 4.9 bits less exposure [0.2, 9.8] at eval_loss 2.01 against 2."
    )
    runs = [replace(one, report=counted(one.report)) for one in runs]
    found = compare_runs(runs)
    assert found.findings[0] == (
        "dropout memorizes less than plain: 4.9 bits less exposure [2.0, 8.0] at eval_loss 2.01 against 2."
    )
    assert len(found.findings) == 1
    assert [one.on_front for one in found.runs] == [True, True, False]
    assert found.notes == ()
    tight = compare_runs(runs, tolerance=0.0)
    assert tight.findings == ("No run is shown to memorize less than another at equal or better eval_loss.",)


def test_a_utility_that_grows_with_goodness() -> None:
    low = Run(name="low", report=with_bits([5.0, 6.0]), results={"eval_accuracy": 0.5})
    high = Run(name="high", report=with_bits([5.0, 6.0]), results={"eval_accuracy": 0.9})
    found = compare_runs([low, high], utility_key="eval_accuracy")
    assert not found.lower_is_better
    assert [one.on_front for one in found.runs] == [False, True]


def test_without_utility_exposure_alone_is_compared() -> None:
    runs = [run("a", [10.0, 11.0, 12.0, 13.0], space_size=10**9), run("b", [1.0, 2.0, 3.5, 4.0], space_size=10**9)]
    found = compare_runs(runs)
    # By hand as above: from 10 - 4 - 1.79 to 13 - 1 + 1.79, the 1 being cut at 0.11.
    assert found.findings == ("b memorizes less than a: 8.9 bits less exposure [4.2, 13.8].",)
    assert found.notes[-1] == "No eval_loss was found for a, b: it is read from the trainer's log in the run's folder."
    assert found.placed == ()


@pytest.mark.parametrize(
    ("other", "note"),
    [
        (run("b", [1.0, 2.0], repetitions=4), "The runs have no repetition count in common"),
        (run("b", [1.0, 2.0], other=True), "The runs have different canaries"),
    ],
    ids=["counts", "draws"],
)
def test_what_cannot_be_compared_is_noted(other: Run, note: str) -> None:
    found = compare_runs([run("a", [9.0, 9.5]), other])
    assert any(said.startswith(note) for said in found.notes)
    if other.report.inserted[0].repetitions == 4:
        assert math.isnan(found.runs[0].exposure.mean_bits)
        assert found.findings == ("No run is shown to memorize less than another.",)


def counted(one: ExposureReport) -> ExposureReport:
    """The same figures as exact ones."""
    rows = (replace(e, low_bits=e.exposure_bits, high_bits=e.exposure_bits, bound="exact") for e in one.estimates)
    return replace(one, estimates=tuple(rows))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"template": "x {pin}"}, "a (template 'pin {pin}') and b (template 'x {pin}')"),
        ({"spaces": {"pin": "Letters(3)"}}, "a (spaces pin: Digits(length=3)) and b (spaces pin: Letters(3))"),
        ({"space_size": 10**6}, "a (candidate secrets 1,000) and b (candidate secrets 1,000,000)"),
        ({"settings": {"confidence_level": 0.95, "end_token": True}}, "a (end token False) and b (end token True)"),
        (
            {"settings": {"confidence_level": 0.95, "context": {"prompt": "Q"}}},
            "a (context None) and b (context prompt: Q)",
        ),
        (
            {"settings": {"confidence_level": 0.95, "source": "Mon {pin}"}},
            "a (source None) and b (source 'Mon {pin}')",
        ),
    ],
    ids=["template", "spaces", "size", "end token", "context", "source"],
)
def test_runs_of_other_candidates_are_not_compared_and_the_page_says_so(change: dict[str, Any], said: str) -> None:
    high, low = [9.0 + i / 10 for i in range(8)], [1.0 + i / 10 for i in range(8)]
    runs = [run("a", high, 2.0), run("b", low, 2.0, **change)]
    found = compare_runs(runs)
    assert found.findings == (
        f"Not compared: {said}. An exposure counts the candidate secrets of its own template, so only runs that were "
        "measured with the same template, spaces and context can be compared.",
    )
    assert found.comparable == (("a",), ("b",))
    assert not any(one.on_front for one in found.runs) and found.placed == ()
    verdict = re.search(r'<p class="verdict">(.*?)</p>', comparison_page(found, {}))
    assert verdict is not None and verdict[1].startswith("Not compared: a (")
    assert "memorizes less" not in comparison_page(found, {})
    values = comparison_values(found)
    assert values["comparable"] == [["a"], ["b"]] and values["findings"][0].startswith("Not compared")
    # Runs that can be compared still are.
    three = compare_runs([*runs, run("c", low, 2.0)])
    assert three.comparable == (("a", "c"), ("b",))
    assert [finding.split(":")[0] for finding in three.findings] == ["Not compared", "c memorizes less than a"]
    assert [one.on_front for one in three.runs] == [False, False, True]


def test_too_few_canaries_are_said_to_be() -> None:
    found = compare_runs([run("a", [9.0, 9.5, 9.7]), run("b", [1.0, 1.2, 1.4])])
    assert found.findings == ("No run is shown to memorize less than another.",)
    assert (
        "No difference can be shown with so few canaries: insert at least 4 at some repetition count." in found.notes
    )
    found = compare_runs([run("a", [9.0, 9.5, 9.6, 9.7]), run("b", [1.0, 1.2, 1.3, 1.4])])
    assert not any("so few canaries" in note for note in found.notes)


def measured(costs: np.ndarray, way: str, generator: np.random.Generator) -> ExposureReport:
    """A method's report on canaries that a share 2^-bits of the space outranks; all share one set of draws."""
    top, level = math.log2(10**9), 0.95
    if way == "exact":
        found = [
            CostEstimate(exposure_bits=-c, low_bits=-c, high_bits=-c, method="bounded", bound="exact")
            for c in costs.tolist()
        ]
    elif way == "skew_normal":
        references = np.log2(generator.random(2000))
        found = skew_normal_exposure(costs, references, accept_bad_fit=True)
    elif way == "weighted":
        # Half the draws are uniform in bits: at x bits a draw represents a share of 2^-x.
        bits = generator.uniform(0.0, top, 2048)
        uniform = -np.log2(generator.random(2048))
        drawn = np.concatenate([np.minimum(uniform, top), bits])
        density = np.exp2(-drawn) * math.log(2)
        weights = density / (0.5 * density + 0.5 / top)
        found = importance_exposure(
            costs, -drawn, weights, space_size=10**9, weight_limits=np.maximum(np.exp2(costs) * 2 * top, 1e-12),
            strata=np.repeat([0, 1], 2048),
        )  # fmt: skip
    else:
        level = 0.5 if way.endswith("at 50 %") else 0.95
        references = np.log2(generator.random(int(way.split()[0])))
        found = sampling_exposure(costs, references, space_size=10**9, confidence_level=level)
    rows = [
        estimate(
            e.exposure_bits, 8, canary_id=f"{i:03}", low_bits=e.low_bits, high_bits=e.high_bits, method=e.method,
            bound=e.bound, note=e.note,
        )
        for i, e in enumerate(found)
    ]  # fmt: skip
    return report(*rows, space_size=10**9, manifest_hash="a", settings={"confidence_level": level})


POPULATIONS = {
    "chance": lambda generator, n: -np.log2(generator.random(n)),
    "in part": lambda generator, n: generator.uniform(3.0, 12.0, n),
    "alike": lambda generator, n: 5.0 + generator.normal(0.0, 0.01, n),
    "beyond": lambda generator, n: generator.uniform(8.0, 20.0, n),
    "memorized": lambda generator, n: np.full(n, math.log2(10**9)),
}
WAYS = ["exact", "weighted", "256 draws", "4096 draws", "512 draws at 50 %", "skew_normal"]


@pytest.mark.parametrize("canaries", [4, 10])
@pytest.mark.parametrize("population", POPULATIONS)
def test_the_same_weights_measured_twice_give_no_finding(population: str, canaries: int) -> None:
    """Every pair of methods, on canaries that share draws and so err together; 'alike' is the worst case."""
    generator = np.random.default_rng(11)
    for _ in range(8):
        costs = -np.minimum(POPULATIONS[population](generator, canaries), math.log2(10**9))
        reports = [measured(costs, way, generator) for way in WAYS]
        found = compare_runs([Run(name=way, report=one) for way, one in zip(WAYS, reports, strict=True)])
        assert found.findings == ("No run is shown to memorize less than another.",), population


def test_a_memorized_set_against_chance_gives_a_finding_in_every_two_ways_that_limit_it() -> None:
    generator = np.random.default_rng(12)
    chance = -np.minimum(POPULATIONS["chance"](generator, 8), 10.0)
    for more in ("exact", "weighted", "4096 draws"):
        for less in ("exact", "weighted", "256 draws", "4096 draws"):
            runs = [
                Run(name="trained", report=measured(np.full(8, -math.log2(10**9)), more, generator)),
                Run(name="untrained", report=measured(chance, less, generator)),
            ]
            assert compare_runs(runs).findings[0].startswith("untrained memorizes less than trained"), (more, less)


Measure = Callable[[str, int], Run]


@pytest.fixture(scope="module")
def measure() -> Measure:
    """A model, trained or not, measured in one of the ways of HOW.

    Eight canaries of three digits, four of them seen often, a model that learned them, and the same one before.
    """
    canaries = draw_canaries(CanaryTemplate("pin {pin}", pin=Digits(3)), {1: 4, 30: 4}, controls=4, seed=3)
    tokenizer = ByT5Tokenizer()
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=384, n_layer=1, n_head=2, n_embd=48, n_positions=16)
    model = GPT2LMHeadModel(config)
    before = copy.deepcopy(model).eval()
    texts = [canary.text for canary in canaries.inserted for _ in range(canary.repetitions)]
    ids = torch.tensor(tokenizer(texts, add_special_tokens=False)["input_ids"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    models = {"untrained": before, "trained": model.eval()}

    @cache
    def measured_once(name: str, how: int) -> Run:
        return Run(name=name, report=measure_exposure(models[name], tokenizer, canaries, **HOW[how]))

    return measured_once


HOW: list[dict[str, Any]] = [
    {"method": "enumerate"},
    {"method": "bounded"},
    {"method": "bounded", "max_expansions": 20},
    {"method": "auto", "references": 256},
    {"method": "importance", "references": 512, "seed": 5},
    {"method": "sample", "references": 512},
    {"method": "sample", "references": 64, "confidence_level": 0.5},
    {"method": "skew_normal", "references": 64, "accept_bad_fit": True},
]


@pytest.mark.parametrize("name", ["untrained", "trained"])
def test_one_model_measured_in_every_way_gives_no_finding(measure: Measure, name: str) -> None:
    found = compare_runs([measure(name, how) for how in range(len(HOW))])
    assert found.findings == ("No run is shown to memorize less than another.",)
    assert len(found.comparable) == 1


def test_each_method_says_what_kind_its_figures_are(measure: Measure) -> None:
    kinds = [
        {e.bound for name in ("untrained", "trained") for e in measure(name, how).report.estimates} for how in range(8)
    ]
    enumerated, bounded, stopped, auto, weighted, drawn, few, fitted = kinds
    assert enumerated == bounded == {"exact"}
    assert stopped == {"exact", "lower"}
    assert auto == {"exact", "interval"}
    assert weighted <= {"interval", "lower"} and drawn | few <= {"interval", "lower"}
    assert "lower" in few  # a memorized canary is below all of 64 references
    assert fitted == {"extrapolated"}
    for how in range(8):
        for name in ("untrained", "trained"):
            rows = ExposureReport.from_dict(measure(name, how).report.to_dict()).estimates
            assert [e.bound for e in rows] == [e.bound for e in measure(name, how).report.estimates]


@pytest.mark.parametrize("more", [0, 1, 3, 4])
@pytest.mark.parametrize("less", [0, 1, 3, 4, 5])
def test_a_trained_model_against_an_untrained_one_gives_a_finding(measure: Measure, more: int, less: int) -> None:
    (finding,) = compare_runs([measure("trained", more), measure("untrained", less)]).findings
    assert finding.startswith("untrained memorizes less than trained: ")


def test_bad_arguments() -> None:
    with pytest.raises(InputError, match=r"^runs: must be at least two, got 1\."):
        compare_runs([run("a", [1.0])])
    with pytest.raises(InputError, match=r"^tolerance: must lie in \[0, 1\), got -1\."):
        compare_runs([run("a", [1.0]), run("b", [1.0])], tolerance=-1)


def test_an_invalid_run_is_not_compared_from_python_either() -> None:
    lost = replace(with_bits(LESS), delivery=Delivery(inserted=8, found=3, trained=3))
    with pytest.raises(InputError, match=r"lost: INVALID: 3 of 8 .* Leave the invalid runs out"):
        compare_runs([run("good", MORE), Run(name="lost", report=lost)])
    impaired = replace(with_bits(LESS), delivery=Delivery(inserted=8, found=8, trained=8, reduced=1))
    assert compare_runs([run("good", MORE), Run(name="impaired", report=impaired)]).findings


def test_names_from_data_are_text(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = compare_runs([run("<script>a", [9.0, 9.5], 2.0), run("_b$&", [1.0, 2.0], 2.0)])
    page = comparison_page(found, {})
    assert "<script>a" not in page
    assert "&lt;script&gt;a" in page
    values = json.loads(json.dumps(comparison_values(found), allow_nan=False))
    assert [one["name"] for one in values["runs"]] == ["<script>a", "_b$&"]
    written = save_comparison(found, tmp_path)
    assert sorted(path.name for path in written) == [
        "comparison.json",
        "exposure_against_utility.png",
        "report.html",
    ]
