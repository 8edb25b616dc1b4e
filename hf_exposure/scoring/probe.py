"""The sequences on which a model is tested before a fast scoring mode is trusted.

Agreement proves nothing if it could not fail: one chain looks the same if its mask is ignored, a short text looks the
same to a sliding window, and one row cannot show that rows mix. So the test sequences branch, differ in length, and
are as long as the texts to score; each is compared, token by token, with itself alone.

Shapes: N sequences, L tokens of one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hf_exposure.scoring.token_tree import SequenceTree, TokenTree
from hf_exposure.tokens import shared_length

DEPTH_TO_SPARE = 32
"""How far beyond the present tree sequences are tested, if the model's context is known, since a search deepens
step by step.
"""
_REAL_CHAINS = 2


@dataclass(frozen=True)
class Probe:
    """N sequences of a tree's own tokens, and their tree.

    Attributes:
        sequences: token ids of each sequence, with the prefix.
        tree: the tree of all of them.
    """

    sequences: tuple[tuple[int, ...], ...]
    tree: SequenceTree


@dataclass(frozen=True)
class Contradiction:
    """Two sequences with a common beginning whose scores differ there although each is scored alone.

    Attributes:
        by_length: whether their lengths differ; otherwise a later token changed the cost of an earlier one.
        bits: the difference.
    """

    by_length: bool
    bits: float


def probe_for(tree: TokenTree, length: int, context: int | None) -> Probe:
    """A few of the tree's own paths, and branching ones of its tokens, one of them with `length` tokens including the
    prefix.

    The prefix is kept whole unless it exceeds the model's `context`, since a missing cache would not be noticed
    without a prefix.
    """
    bottom = np.flatnonzero(tree.end_M == np.arange(1, tree.size + 1))
    deepest = int(tree.depth_M.argmax()) if tree.size else -1
    spread = np.linspace(0, len(bottom) - 1, num=min(_REAL_CHAINS, len(bottom))).astype(int)
    paths = [_path(tree, vertex) for vertex in sorted({deepest, *bottom[spread].tolist()}) if vertex >= 0]
    known = [*_path(tree, deepest), *tree.prefix_P[::-1].tolist(), *tree.edge_token_E[:1].tolist()]
    first = known[0]
    other = next((token for token in known if token != first), 1 if first == 0 else 0)
    # A branch needs two tokens: if the prefix fills the context, the probe's prefix is shorter.
    reach = max(2, length - len(tree.prefix_P))
    prefix = tree.prefix_P[: None if context is None else max(0, context - reach)].tolist()
    long = [known[at % len(known)] for at in range(reach)]
    half = reach // 2
    # There are siblings at the top and in the middle: if a mask is ignored, each sees the one before it. Among the
    # sequences that share the first half, one stops there and one continues up to `long` with other tokens, and one
    # stops after the prefix: the score of the common part must depend neither on the length of a text nor on what
    # follows.
    follows = other if long[half] != other else first
    branches = [
        long,
        [other, *long[1:3]],
        [*long[:half], follows],
        [*long[:half], *[follows] * (reach - half)],
        [],
    ]
    # The last token of a sequence is not fed; one more token makes the path's own last token fed.
    sequences = tuple(dict.fromkeys((*prefix, *path, first) for path in [*paths, *branches]))
    return Probe(sequences, SequenceTree.of(sequences, 1))


def contradiction(
    sequences: Sequence[tuple[int, ...]], bits: Sequence[np.ndarray], tolerance: float
) -> Contradiction | None:
    """The largest difference between the costs of common beginnings of sequences; None within `tolerance`.

    Args:
        sequences: N token sequences.
        bits: for each, (L - 1,) the bits of its tokens from the second on, scored alone.

    A difference between sequences of equal length takes precedence: it shows that later tokens are visible.
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
