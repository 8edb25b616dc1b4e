"""What a model is tried on before a fast way of reading it is trusted.

Agreement proves nothing where it could not fail: one chain looks the same with its mask ignored, a short text looks
the same to a sliding window, and one row cannot show that rows mix. So the sequences that are tried branch, differ in
length, and are as long as what will be read; each is compared, token by token, with itself alone.

Shapes: N sequences, L tokens of one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hf_exposure.scoring.token_tree import SequenceTree, TokenTree
from hf_exposure.tokens import shared_length

DEPTH_TO_SPARE = 32
"""How far beyond the tree at hand is tried, where the model's context is known: a search deepens step by step."""
_REAL_CHAINS = 2


@dataclass(frozen=True)
class Probe:
    """N sequences of a tree's own tokens, and the tree that they make.

    Attributes:
        sequences: token ids of each, with the prefix.
        tree: all of them.
    """

    sequences: tuple[tuple[int, ...], ...]
    tree: SequenceTree


@dataclass(frozen=True)
class Contradiction:
    """Two sequences that begin alike and whose scores there differ when each is read alone.

    Attributes:
        by_length: they are of different lengths; else a later token changed what an earlier one costs.
        bits: the difference.
    """

    by_length: bool
    bits: float


def probe_for(tree: TokenTree, length: int, context: int | None) -> Probe:
    """A few of the tree's own paths, and branching ones of its tokens, one of them `length` tokens with the prefix.

    The prefix stays whole unless the model's `context` has no room for it: a cache that is not there would not be
    missed without one.
    """
    bottom = np.flatnonzero(tree.end_M == np.arange(1, tree.size + 1))
    deepest = int(tree.depth_M.argmax()) if tree.size else -1
    spread = np.linspace(0, len(bottom) - 1, num=min(_REAL_CHAINS, len(bottom))).astype(int)
    paths = [_path(tree, vertex) for vertex in sorted({deepest, *bottom[spread].tolist()}) if vertex >= 0]
    known = [*_path(tree, deepest), *tree.prefix_P[::-1].tolist(), *tree.edge_token_E[:1].tolist()]
    first = known[0]
    other = next((token for token in known if token != first), 1 if first == 0 else 0)
    # A branch needs two tokens: where the prefix fills the context, the probe's is shorter.
    reach = max(2, length - len(tree.prefix_P))
    prefix = tree.prefix_P[: None if context is None else max(0, context - reach)].tolist()
    long = [known[at % len(known)] for at in range(reach)]
    half = reach // 2
    # Siblings at the top and in the middle: a mask that is ignored lets each see the one before it. Of those that
    # share the first half, one stops there and one goes on as far as `long` with other tokens, and one stops behind
    # the prefix: what a model says of what is shared must depend neither on how long a text is nor on what follows.
    follows = other if long[half] != other else first
    branches = [
        long,
        [other, *long[1:3]],
        [*long[:half], follows],
        [*long[:half], *[follows] * (reach - half)],
        [],
    ]
    # The last token of a sequence is read, not fed; one more makes the path's own last token fed.
    sequences = tuple(dict.fromkeys((*prefix, *path, first) for path in [*paths, *branches]))
    return Probe(sequences, SequenceTree.of(sequences, 1))


def contradiction(
    sequences: Sequence[tuple[int, ...]], bits: Sequence[np.ndarray], tolerance: float
) -> Contradiction | None:
    """The largest difference between what sequences that begin alike cost there; None within `tolerance`.

    Args:
        sequences: N token sequences.
        bits: of each, (L - 1,) the bits of its tokens from the second on, read alone.

    A difference between sequences of one length comes first: it shows that later tokens are seen.
    """
    found: list[Contradiction] = []
    for one, (ids, own) in enumerate(zip(sequences, bits, strict=True)):
        for other_ids, others in zip(sequences[:one], bits[:one], strict=True):
            shared = max(0, shared_length([ids, other_ids]) - 1)
            with np.errstate(invalid="ignore"):  # inf - inf: both impossible
                gaps = np.abs(own[:shared] - others[:shared])
            gap = float(np.nan_to_num(gaps, nan=0.0, posinf=np.inf).max(initial=0.0))
            if gap > tolerance:
                found.append(Contradiction(by_length=len(ids) != len(other_ids), bits=gap))
    return min(found, key=lambda each: (each.by_length, -each.bits), default=None)


def _path(tree: TokenTree, vertex: int) -> list[int]:
    tokens: list[int] = []
    while vertex >= 0:
        tokens.append(int(tree.token_M[vertex]))
        vertex = int(tree.parent_M[vertex])
    return tokens[::-1]
