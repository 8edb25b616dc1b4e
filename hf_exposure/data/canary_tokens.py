"""The token ids that a canary can have in the training data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hf_exposure.canaries import Canary
from hf_exposure.context import CanaryContext
from hf_exposure.tokens import shared_length

# A canary's index in its set, its ids, and the slice of them that distinguishes it from the other canaries: its
# secret.
Pattern = tuple[int, tuple[int, ...], slice]


def canary_tokens(
    tokenizer: Any, canaries: Sequence[Canary], context: CanaryContext | None, *, target: bool
) -> list[Pattern]:
    """Each canary's ids in several surroundings, which may differ in the first tokens.

    The surroundings are the beginning of a row, a space, a newline, and the context. Their own tokens are not part of
    the canary, but a token that spans their end and its beginning is.

    Args:
        tokenizer: the tokenizer that made the training data's ids.
        canaries: the canaries, in their set's order.
        context: the context in which they were inserted.
        target: whether they are on the decoder's side, as labels.
    """
    before = ["", " ", "\n"]
    if context is not None:
        context.check_end(tokenizer, [canary.text for canary in canaries])
        before.append(context.around(tokenizer)[0])
    found: dict[tuple[int, tuple[int, ...]], slice] = {}
    for lead in before:
        texts = [lead + canary.text for canary in canaries]
        name = "text_target" if target else "text"
        encoded = tokenizer(**{name: texts}, add_special_tokens=False)["input_ids"]
        # The lead's own tokens are not part of the canary: they may be masked while the canary is trained on.
        alone = tokenizer(**{name: [lead]}, add_special_tokens=False)["input_ids"][0] if lead else []
        own = [list(ids[shared_length([alone, ids]) :]) for ids in encoded]
        first, last = shared_length(own), shared_length([ids[::-1] for ids in own])
        for owner, ids in enumerate(own):
            # In a set of one canary, there is none to compare with, so all of it is secret.
            secret = slice(first, max(first, len(ids) - last)) if len(own) > 1 else slice(0, len(ids))
            found.setdefault((owner, tuple(ids)), secret)
    return [(*key, secret) for key, secret in found.items()]
