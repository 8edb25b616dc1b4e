"""What a model is tried on before a fast way of reading it is trusted.

Agreement proves nothing where it could not fail: one chain looks the same with its mask ignored, and a short text
looks the same to a sliding window. So the tree that is tried branches, and reaches as deep as what will be read.
"""

from __future__ import annotations

import numpy as np

from hf_exposure.scoring.token_tree import TokenTree
from hf_exposure.scoring.tree_sums import SequenceTree

__all__ = ["DEPTH_TO_SPARE", "probe_tree"]

DEPTH_TO_SPARE = 32
"""How far beyond the tree at hand is tried, where the model's context is known: a search deepens step by step."""
_REAL_CHAINS = 4


def probe_tree(tree: TokenTree, length: int, context: int | None) -> TokenTree:
    """A few of the tree's own paths, and branching ones of its tokens, one of them `length` tokens with the prefix.

    The prefix stays whole unless the model's `context` has no room for it: a cache that is not there would not be
    missed without one.
    """
    bottom = np.flatnonzero(tree.end == np.arange(1, tree.size + 1))
    deepest = int(tree.depth.argmax()) if tree.size else -1
    spread = np.linspace(0, len(bottom) - 1, num=min(_REAL_CHAINS, len(bottom))).astype(int)
    paths = [_path(tree, vertex) for vertex in {deepest, *bottom[spread].tolist()} if vertex >= 0]
    known = [*_path(tree, deepest), *tree.prefix[::-1].tolist(), *tree.edge_token[:1].tolist()]
    first = known[0]
    other = next((token for token in known if token != first), 1 if first == 0 else 0)
    # A branch needs two tokens: where the prefix fills the context, the probe's is shorter.
    reach = max(2, length - len(tree.prefix))
    prefix = tree.prefix[: None if context is None else max(0, context - reach)].tolist()
    long = [known[at % len(known)] for at in range(reach)]
    # Siblings at the top and in the middle: a mask that is ignored lets each see the one before it.
    branches = [long, [other, *long[1:3]], [*long[: reach // 2], other]]
    # The last token of a sequence is read, not fed; one more makes the path's own last token fed.
    sequences = [(*prefix, *path, first) for path in [*paths, *branches]]
    return SequenceTree.of(sequences, 1).tree


def _path(tree: TokenTree, vertex: int) -> list[int]:
    tokens: list[int] = []
    while vertex >= 0:
        tokens.append(int(tree.token[vertex]))
        vertex = int(tree.parent[vertex])
    return tokens[::-1]
