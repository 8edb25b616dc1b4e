"""Functions of one training's records, against loops that follow the papers' definitions word by word."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from hf_exposure.errors import InputError
from hf_exposure.estimators import (
    alpha_k_forgetting,
    area_under_margin,
    by_example,
    data_map,
    difficulty,
    exact_memorization_curve,
    first_split_learning_time,
    forgetting_events,
    gini,
    momentum_losses,
    noise_curves,
    second_split_forgetting_time,
    time_to_fit,
    variance_of_gradients,
)

ALL_OF_FOUR = np.array(list(itertools.product([0, 1], repeat=4))).T
"""Every record of one example over four rows, as 16 columns."""


def random_record(seed: int, *, missing: float = 0.0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    record = generator.integers(0, 2, size=(9, 40)).astype(float)
    record[generator.random(record.shape) < missing] = np.nan
    return record


def events_by_loop(looks: list[float]) -> tuple[int, int, int, bool]:
    """For one example: how often it is forgotten, how often learned, when first right, whether unforgettable."""
    forgotten = learned = 0
    first, before = -1, 0.0
    ever_forgotten = False
    for time, value in enumerate(looks):
        if math.isnan(value):
            continue
        if before == 1 and value == 0:
            forgotten += 1
            ever_forgotten = True
        if time > 0 and before == 0 and value == 1:
            learned += 1
        if value == 1 and first < 0:
            first = time
        before = value
    return forgotten, learned, first, first >= 0 and not ever_forgotten


@pytest.mark.parametrize(
    "correct_TN", [ALL_OF_FOUR, random_record(0), random_record(1, missing=0.4), random_record(2, missing=0.95)]
)
def test_events_are_those_of_a_loop_over_the_looks(correct_TN: np.ndarray) -> None:
    found = forgetting_events(correct_TN)
    columns = (
        found.counts_N.tolist(), found.learning_counts_N.tolist(), found.first_learned_N.tolist(),
        found.unforgettable_N.tolist(),
    )  # fmt: skip
    expected = [events_by_loop(column) for column in np.asarray(correct_TN, dtype=float).T.tolist()]
    assert list(zip(*columns, strict=True)) == expected


def test_split_times_are_those_of_the_definition() -> None:
    for column in ALL_OF_FOUR.T.tolist():
        learned = min((t for t in range(5) if all(column[t:]) and t < 4), default=4)
        forgotten = min(t for t in range(5) if not any(column[t:]))
        record = np.array(column)[:, None]
        assert first_split_learning_time(record).tolist() == [learned]
        assert second_split_forgetting_time(record).tolist() == [forgotten]


def test_split_times_with_rows_that_were_not_looked_at() -> None:
    nan = math.nan
    assert second_split_forgetting_time([[1, 1], [0, nan], [nan, nan]]).tolist() == [1, 3]
    assert first_split_learning_time([[nan, 1], [1, nan], [nan, 0]]).tolist() == [1, 3]
    with pytest.raises(InputError, match="1 never"):
        second_split_forgetting_time([[nan, 1], [nan, 0]])


def test_alpha_k_forgetting_by_hand() -> None:
    # 20 canaries: all are extracted, then half, none, two (which is above 5 % again), none.
    success = np.zeros((5, 20))
    for row, count in enumerate([20, 10, 0, 2, 0]):
        success[row, :count] = 1
    found = alpha_k_forgetting(success, [0, 5, 10, 20, 40], alpha=0.05)
    assert found.rates_T.tolist() == [1.0, 0.5, 0.0, 0.1, 0.0] and found.k == 40
    # The upper end for 0 of 20 is 1 - 0.025 ** (1 / 20) = 0.168.
    assert found.certified_k is None and found.high_T[-1] == pytest.approx(1 - 0.025 ** (1 / 20))
    assert alpha_k_forgetting(success, [0, 5, 10, 20, 40], alpha=0.1).k == 10
    assert alpha_k_forgetting(success, [0, 5, 10, 20, 40], alpha=0.2).certified_k == 40
    assert alpha_k_forgetting(success[:1], [0], alpha=0.99).k is None
    assert alpha_k_forgetting(success[:1], [0], alpha=1.0).k == 0


@pytest.mark.parametrize("missing", [0.0, 0.5, 0.97])
def test_the_data_map_and_the_margin_are_means_over_the_looks(missing: float) -> None:
    generator = np.random.default_rng(3)
    probability, margin = generator.random((7, 30)), generator.normal(size=(7, 30))
    gone = generator.random((7, 30)) < missing
    probability[gone], margin[gone] = np.nan, np.nan
    found, area = data_map(probability), area_under_margin(margin)
    for n in range(30):
        seen = [p for p in probability[:, n].tolist() if not math.isnan(p)]
        if not seen:
            assert all(math.isnan(v[n]) for v in (found.confidence_N, found.variability_N, found.correctness_N, area))
            continue
        mean = sum(seen) / len(seen)
        assert found.confidence_N[n] == pytest.approx(mean)
        assert found.variability_N[n] == pytest.approx(math.sqrt(sum((p - mean) ** 2 for p in seen) / len(seen)))
        assert found.correctness_N[n] == pytest.approx(sum(p > 0.5 for p in seen) / len(seen))
        margins = [m for m in margin[:, n].tolist() if not math.isnan(m)]
        assert area[n] == pytest.approx(sum(margins) / len(margins))


def test_correctness_of_the_map_is_that_of_the_classes_where_it_is_known() -> None:
    # 0.4 of three classes can be the likeliest.
    assert data_map([[0.4]], [[1]]).correctness_N.tolist() == [1.0]
    assert data_map([[0.4]]).correctness_N.tolist() == [0.0]
    with pytest.raises(InputError, match="shape"):
        data_map([[0.4, 0.5]], [[1]])


@pytest.mark.parametrize("seed", range(5))
def test_gini_is_the_mean_difference_of_all_pairs(seed: int) -> None:
    values = np.random.default_rng(seed).gamma(0.3, size=25)
    pairs = sum(abs(a - b) for a in values for b in values)
    assert gini(values) == pytest.approx(pairs / (2 * 25**2 * values.mean()))
    assert gini(1e-300 * values) == pytest.approx(gini(values)) == pytest.approx(gini(1e300 * values / values.max()))


def test_gini_of_nothing_is_undefined() -> None:
    assert math.isnan(gini([0.0, 0.0])) and gini([7.0]) == 0.0
    for bad in ([], [-1.0, 1.0], [math.nan], [math.inf, 1.0], [[1.0]]):
        with pytest.raises(InputError, match="values_N"):
            gini(bad)


def test_momentum_losses_by_a_loop() -> None:
    generator = np.random.default_rng(4)
    loss = generator.gamma(1.0, size=(12, 20))
    loss[generator.random(loss.shape) < 0.3] = np.nan
    loss[:, 7] = np.nan
    found = momentum_losses(loss, momentum=0.8)
    last = [math.nan] * 20
    for row in range(12):
        for n in range(20):
            if not math.isnan(loss[row, n]):
                last[n] = loss[row, n] if math.isnan(last[n]) else 0.8 * last[n] + 0.2 * loss[row, n]
        np.testing.assert_allclose(found.running_TN[row], last)
    known = [value for value in last if not math.isnan(value)]
    mean = sum(known) / len(known)
    farthest = max(abs(value - mean) for value in known)
    np.testing.assert_allclose(found.score_N, [0.5 * ((value - mean) / farthest + 1) for value in last])
    assert momentum_losses([[2.0, 2.0]]).score_N.tolist() == [0.5, 0.5]


def test_variance_of_gradients_by_a_loop() -> None:
    generator = np.random.default_rng(5)
    gradients, labels = generator.normal(size=(6, 10, 2, 3)), np.arange(10) % 2
    scores = []
    for n in range(10):
        spreads = []
        for place in itertools.product(range(2), range(3)):
            values = [float(gradients[(t, n, *place)]) for t in range(6)]
            mean = sum(values) / 6
            spreads.append(math.sqrt(sum((value - mean) ** 2 for value in values) / 6))
        scores.append(sum(spreads) / 6)
    np.testing.assert_allclose(variance_of_gradients(gradients), scores)
    within = variance_of_gradients(gradients, labels)
    for label in (0, 1):
        own = np.array(scores)[labels == label]
        np.testing.assert_allclose(within[labels == label], (own - own.mean()) / own.std())
    assert np.isnan(variance_of_gradients(gradients[:, :2], [0, 1])).all()  # one example a class has no spread


def test_noise_curves_count_each_part() -> None:
    record = random_record(6, missing=0.3)
    noisy = np.arange(40) % 5 == 0
    found = noise_curves(record, noisy)
    for row in range(len(record)):
        for chosen, share, low, high in (
            (noisy, found.noisy_T, found.noisy_low_T, found.noisy_high_T),
            (~noisy, found.clean_T, found.clean_low_T, found.clean_high_T),
        ):
            seen = [v for v in record[row, chosen].tolist() if not math.isnan(v)]
            expected = stats.binomtest(int(sum(seen)), len(seen)).proportion_ci(0.95, "exact")
            assert share[row] == pytest.approx(sum(seen) / len(seen))
            assert (low[row], high[row]) == pytest.approx((expected.low, expected.high))
    assert np.isnan(noise_curves(record, np.zeros(40, bool)).noisy_T).all()
    with pytest.raises(InputError, match="noisy_N"):
        noise_curves(record, [True, False])


def test_time_to_fit() -> None:
    record = [[0, 0, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]]
    assert time_to_fit(record) == 3 and time_to_fit(record, 0.75) == 1 and time_to_fit(record[:3]) is None
    assert time_to_fit([[math.nan, math.nan], [1, math.nan]]) == 1


def test_difficulty_against_permutations() -> None:
    """Cochran's Q is conditional on each run's accuracy: the null shuffles the examples within each run."""
    generator = np.random.default_rng(7)
    correct = (generator.random((12, 15)) < np.linspace(0.35, 0.75, 15)).astype(float)
    spread = correct.sum(axis=0).var()
    shuffled = [generator.permuted(correct, axis=1).sum(axis=0).var() for _ in range(4000)]
    by_permutation = np.mean(np.array(shuffled) >= spread)
    assert difficulty(correct).p_value == pytest.approx(by_permutation, abs=0.02)


def test_difficulty_of_equally_hard_examples_is_binomial() -> None:
    generator = np.random.default_rng(8)
    found = [difficulty(generator.random((30, 200)) < 0.6) for _ in range(200)]
    assert np.mean([one.overdispersion for one in found]) == pytest.approx(1.0, abs=0.02)
    assert np.mean([one.p_value < 0.1 for one in found]) == pytest.approx(0.1, abs=0.06)
    # Runs of different accuracy make all examples vary together, which is not a difference between examples.
    shares = np.tile([[0.1], [0.9]], (15, 1))
    p_values = [difficulty(generator.random((30, 200)) < shares).p_value for _ in range(200)]
    assert np.mean(np.array(p_values) < 0.1) == pytest.approx(0.1, abs=0.06)
    hard_and_easy = difficulty(generator.random((30, 200)) < np.where(np.arange(200) < 100, 0.1, 0.9))
    assert hard_and_easy.overdispersion > 10 and hard_and_easy.p_value < 1e-100


def test_difficulty_that_is_undefined() -> None:
    same = difficulty(np.ones((3, 4)))
    assert math.isnan(same.overdispersion) and math.isnan(same.p_value) and same.error_rates_N.tolist() == [0.0] * 4
    missing = difficulty([[1, 0, math.nan], [0, 0, 1]])
    assert math.isnan(missing.p_value) and missing.error_rates_N.tolist() == [0.5, 1.0, 0.0]
    with pytest.raises(InputError, match="two runs"):
        difficulty([[1, 0, 1]])


def test_shares_of_tokens_and_of_examples() -> None:
    record = random_record(9, missing=0.5)
    example = np.repeat(np.arange(8), 5)
    found = by_example(record, example)
    for row, number in itertools.product(range(len(record)), range(8)):
        seen = [v for v in record[row, example == number].tolist() if not math.isnan(v)]
        np.testing.assert_allclose(found[row, number], sum(seen) / len(seen) if seen else math.nan)
    chosen = example < 3
    np.testing.assert_allclose(exact_memorization_curve(record, chosen), np.nanmean(record[:, chosen], axis=1))


@pytest.mark.parametrize(
    ("function", "bad"),
    [
        (forgetting_events, [1, 0]),
        (forgetting_events, np.zeros((0, 3))),
        (forgetting_events, [[0.5]]),
        (forgetting_events, [["1"]]),
        (data_map, [[1.5]]),
        (area_under_margin, [[math.inf]]),
        (variance_of_gradients, [[1.0]]),
        (lambda bad: alpha_k_forgetting([[1], [0]], bad, 0.5), [3, 3]),
        (lambda bad: alpha_k_forgetting(bad, [0], 0.5), [[math.nan]]),
        (lambda bad: momentum_losses([[1.0]], bad), 1.0),
        (lambda bad: time_to_fit([[1.0]], bad), 0.0),
        (lambda bad: by_example([[1.0]], bad), [-1]),
    ],
)
def test_what_is_no_record_is_refused(function: Any, bad: Any) -> None:
    with pytest.raises(InputError):
        function(bad)
