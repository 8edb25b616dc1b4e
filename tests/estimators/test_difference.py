"""Limits on a difference: against all relabelings, and their error rate without a difference."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from hf_exposure.errors import InputError
from hf_exposure.estimators import difference_interval
from hf_exposure.estimators.difference import _deals


def same(*strata: list[float]) -> list[tuple[list[float], list[float]]]:
    return [(one, one) for one in strata]


def refused(more: list[list[float]], less: list[list[float]], shift: float, paired: bool, tail: float) -> bool:
    """Whether at most a share `tail` of all relabelings differs by at least as much after subtracting `shift`."""
    sides = [([x - shift for x in a], list(b)) for a, b in zip(more, less, strict=True)]

    def difference(pairs: list[tuple[list[float], list[float]]]) -> float:
        return float(np.mean([np.mean(a) - np.mean(b) for a, b in pairs]))

    ways = []
    for a, b in sides:
        if paired:
            flips = itertools.product([False, True], repeat=len(a))
            ways.append(
                [
                    (
                        [y if f else x for x, y, f in zip(a, b, flip, strict=True)],
                        [x if f else y for x, y, f in zip(a, b, flip, strict=True)],
                    )
                    for flip in flips
                ]
            )
        else:
            both, places = a + b, range(len(a) + len(b))
            ways.append(
                [
                    ([both[i] for i in chosen], [both[i] for i in places if i not in chosen])
                    for chosen in itertools.combinations(places, len(a))
                ]
            )
    observed = difference(sides)
    figures = [difference(list(way)) for way in itertools.product(*ways)]
    return float(np.mean([f >= observed - 1e-12 for f in figures])) <= tail


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_the_low_limit_is_where_relabeling_stops_refusing(paired: bool, seed: int) -> None:
    generator = np.random.default_rng(seed)
    sizes = [4, 3] if paired else [3, 2]
    more = [generator.normal(3.0, 1.0, n).tolist() for n in sizes]
    less = [generator.normal(0.0, 1.0, n).tolist() for n in sizes]
    low, high = difference_interval(same(*more), same(*less), paired=paired, confidence_level=0.9)
    assert math.isfinite(low) and low < high
    assert refused(more, less, low - 1e-6, paired, 0.05)
    assert not refused(more, less, low + 1e-6, paired, 0.05)
    # The high limit is the low limit of the sides exchanged.
    assert refused(less, more, -high - 1e-6, paired, 0.05)
    assert not refused(less, more, -high + 1e-6, paired, 0.05)


@pytest.mark.parametrize("paired", [True, False])
def test_of_all_values_within_the_ends_the_worst_counts(paired: bool) -> None:
    generator = np.random.default_rng(0)
    more, less = generator.normal(4.0, 1.0, 8), generator.normal(0.0, 1.0, 8)
    low, high = difference_interval([(more - 1.0, more + 0.5)], [(less - 0.25, less + 0.75)], paired=paired)
    for _ in range(50):
        a, b = more + generator.uniform(-1.0, 0.5, 8), less + generator.uniform(-0.25, 0.75, 8)
        inner = difference_interval([(a, a)], [(b, b)], paired=paired)
        assert low <= inner[0] and inner[1] <= high
    assert low == difference_interval([(more - 1.0,) * 2], [(less + 0.75,) * 2], paired=paired)[0]


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("sizes", [(4,), (5, 4), (9,)])
def test_sides_chosen_at_random_differ_no_more_often_than_promised(paired: bool, sizes: tuple[int, ...]) -> None:
    """Skewed values with strata of their own scale: at 90 %, at most 5 % of low limits above 0."""
    generator, runs, found = np.random.default_rng(5), 120, 0
    for _ in range(runs):
        sides = [[generator.exponential(scale, n) for n, scale in zip(sizes, (1, 10, 3), strict=False)] for _ in "ab"]
        low, _ = difference_interval(
            [(x, x) for x in sides[0]], [(x, x) for x in sides[1]], paired=paired, confidence_level=0.9
        )
        found += low > 0
    assert found / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


def test_how_many_values_it_takes() -> None:
    high, low = [9.0, 10.0, 11.0, 12.0, 13.0, 14.0], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    for paired, few in ((True, 5), (False, 3)):
        assert difference_interval(same(high[:few]), same(low[:few]), paired=paired) == (-math.inf, math.inf)
        enough = difference_interval(same(high[: few + 1]), same(low[: few + 1]), paired=paired)
        assert enough[0] > 0 and math.isfinite(enough[1])


def test_large_samples_are_relabeled_at_random_but_alike() -> None:
    generator = np.random.default_rng(1)
    more, less = generator.normal(2.0, 1.0, 60), generator.normal(0.0, 1.0, 50)
    first, again = (difference_interval([(more, more)], [(less, less)], paired=False) for _ in range(2))
    assert first == again
    # The t interval, which is right for normal values.
    half = 1.98 * math.sqrt(more.var(ddof=1) / 60 + less.var(ddof=1) / 50)
    gap = more.mean() - less.mean()
    assert first == (pytest.approx(gap - half, abs=0.08), pytest.approx(gap + half, abs=0.08))


def test_bad_arguments() -> None:
    for more, less in (([], []), (same([1.0]), []), (same([1.0, 2.0]), same([1.0]))):
        with pytest.raises(InputError, match="^more, less: must have the same strata"):
            difference_interval(more, less, paired=True)
    for ends in (([], []), ([1.0], [0.0]), ([math.nan], [1.0]), ([0.0], [math.inf])):
        with pytest.raises(InputError, match="^more, less: must be two flat lists"):
            difference_interval([ends], same([1.0]), paired=False)


PAIR = [([1.0, 2.0], [1.0, 2.0])]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"more": None}, "^more: must be a list of strata"),
        ({"less": "ab"}, "^less: must be a list of strata"),
        ({"more": [[1.0]]}, "^more: must be a list of pairs"),
        ({"less": [1.0, 2.0]}, "^less: must be a list of pairs"),
        ({"more": [(["a"], ["b"])]}, "^more: must be numbers"),
        ({"paired": "yes"}, "^paired: must be True or False"),
        ({"seed": -1}, "^seed: must be a whole number"),
    ],
)
def test_wrong_types(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        difference_interval(**{"more": PAIR, "less": PAIR, "paired": False, **arguments})  # type: ignore[arg-type]


def test_drawn_relabelings_begin_with_the_labels_as_they_are() -> None:
    first, *others = itertools.islice(_deals([(20, 30), (3, 40)], 0), 3)
    assert [block.tolist() for block in first] == [[[True] * 20 + [False] * 30], [[True] * 3 + [False] * 40]]
    for blocks in others:
        assert [set(block.sum(axis=1).tolist()) for block in blocks] == [{20}, {3}]
