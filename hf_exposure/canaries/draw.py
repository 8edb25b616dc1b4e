"""Drawing canaries: uniformly, without replacement, from spaces of any size."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from hf_exposure.canaries.canary_set import Canary, CanarySet, check_size
from hf_exposure.canaries.space import Entropy, distinct_ids, distinct_indices
from hf_exposure.canaries.template import CanaryTemplate
from hf_exposure.checks import instance_of, whole_number
from hf_exposure.errors import InputError, described
from hf_exposure.limits import LARGEST_SEED


def draw_canaries(
    template: CanaryTemplate,
    repetitions: Mapping[int, int],
    controls: int = 32,
    seed: int | None = None,
    coin_flips: int = 0,
) -> CanarySet:
    """Draws canaries uniformly, without replacement, from the template's space.

    Args:
        template: the template to draw from.
        repetitions: the number of canaries for each repetition count: `{1: 4, 8: 4}` is four canaries once and four 8
            times. May be empty if coins are flipped.
        controls: number of further canaries to hold out. They are measured but never inserted.
        seed: a whole number of at least 0; by default, 128 bits of the system's entropy. The draw is the same on every
            platform and Python version. Anyone who knows the seed can redraw the canaries; use it for tests and
            examples only.
        coin_flips: number of further canaries, each with its own fair coin: heads is inserted once, tails joins the
            controls. They bound the epsilon of differential privacy from below (`epsilon_lower_bound`).

    In a job of several processes (`torchrun`, `accelerate launch`, ...) the same call returns the same set on every
    process, with or without a seed, so that all of them insert and measure the same canaries.

    Returns:
        The set. Inserted canaries are sorted by repetitions, in the order drawn within each count; those of the coins
        come last.

    Raises:
        InputError: there is no group, repetitions or a group's size are below 1, controls or seed are negative, the
            space has fewer texts than are to be drawn, or there are more than 100,000 canaries or 10 million rows to
            insert.

    Example:
        >>> from hf_exposure import CanaryTemplate, Digits, draw_canaries
        >>> template = CanaryTemplate("My PIN is {pin}", pin=Digits(4))
        >>> canaries = draw_canaries(template, repetitions={8: 1, 1: 2}, controls=2, seed=0)
        >>> [canary.repetitions for canary in canaries]
        [1, 1, 8, 0, 0]
    """
    instance_of("template", template, CanaryTemplate, 'Write CanaryTemplate("pin {pin}", pin=Digits(4)).')
    flips = whole_number("coin_flips", coin_flips, 0)
    groups = {} if flips and _is_empty(repetitions) else _checked_groups(repetitions)
    held_out = whole_number("controls", controls, 0)
    wanted = sum(groups.values()) + held_out + flips
    if template.space_size < wanted:
        rule = f"must have at least as many texts as are drawn ({wanted})"
        raise InputError("template", rule, template.space_size, "Draw fewer, or fill its holes from larger spaces.")
    check_size(wanted, sum(times * canaries for times, canaries in groups.items()) + flips)
    counts = [times for times in sorted(groups) for _ in range(groups[times])] + [0] * held_out
    if seed is not None:
        # random.Random takes the absolute value, so that -1 would silently mean 1: negative seeds are refused.
        seed = whole_number("seed", seed, 0, LARGEST_SEED)
    entropy = Entropy(["draw", template.text, repr(template.spaces), counts, flips, seed])
    seed = entropy.seed() if seed is None else seed
    ids = distinct_ids(entropy)
    drawn = [
        Canary(id=next(ids), text=text, template=template, repetitions=count, coin=coin)
        for text, count, coin in _drawn(template, counts, flips, seed)
    ]
    return CanarySet(
        inserted=tuple(canary for canary in drawn if not canary.is_control),
        controls=tuple(canary for canary in drawn if canary.is_control),
        template=template,
        seed=seed,
        salt=entropy.hex(16),
    )


def is_uniform_draw(canaries: CanarySet) -> bool:
    """Whether the set is exactly what `draw_canaries` draws with its seed, with the same repetitions.

    Only then was each secret uniform among the texts of the space, as bounds on epsilon from ranks require. The check
    draws again. Secrets that were already in the data, sets made by hand, and parts of a draw fail it.

    Example:
        >>> from hf_exposure import CanaryTemplate, Digits, draw_canaries
        >>> template = CanaryTemplate("My PIN is {pin}", pin=Digits(4))
        >>> is_uniform_draw(draw_canaries(template, {1: 2}, controls=2))
        True
        >>> is_uniform_draw(CanarySet.from_secrets(template, ["My PIN is 1234"], controls=2))
        False
    """
    instance_of("canaries", canaries, CanarySet, "Make one with draw_canaries(template, ...).")
    if canaries.seed is None:
        return False
    fixed = [canary for canary in canaries if canary.coin is None]
    flips = len(canaries) - len(fixed)
    again = _drawn(canaries.template, [canary.repetitions for canary in fixed], flips, canaries.seed)
    held = {(canary.text, canary.repetitions, canary.coin) for canary in canaries}
    return held == set(again)


def _drawn(
    template: CanaryTemplate, counts: Sequence[int], flips: int, seed: int
) -> list[tuple[str, int, bool | None]]:
    """(text, repetitions, coin) of each canary: first those of fixed `counts`, then those of the coins."""
    # Coins have their own random stream, so that the texts do not depend on whether there are any.
    generator = random.Random(f"coins {seed}")
    coins = [generator.getrandbits(1) == 1 for _ in range(flips)]
    plan = [(count, None) for count in counts] + [(int(coin), coin) for coin in coins]
    texts = distinct_indices(template.space_size, seed)
    return [(template.text_at(next(texts)), count, coin) for count, coin in plan]


def _is_empty(repetitions: object) -> bool:
    return repetitions is None or (isinstance(repetitions, Mapping) and not repetitions)


def _checked_groups(repetitions: Mapping[int, int]) -> dict[int, int]:
    """The number of canaries for each repetition count."""
    remedy = "Write repetitions={1: 4, 8: 4} for four canaries once and four 8 times."
    if not isinstance(repetitions, Mapping) or not repetitions:
        raise InputError("repetitions", "must be a mapping with at least one group", described(repetitions), remedy)
    groups: dict[int, int] = {}
    for key, canaries in repetitions.items():
        times = whole_number("repetitions", key, 1)
        groups[times] = whole_number(f"repetitions[{times}]", canaries, 1)
    return groups
