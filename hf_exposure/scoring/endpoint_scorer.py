"""The bits of texts and of search states under a model behind an API.

A completions endpoint returns the bits of a prompt's own tokens, so a child of a search state needs a prompt that ends
with it. If the server also lists the likeliest tokens at that position, most other children need no prompt.

Shapes: N texts, P prefix tokens.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from hf_exposure.context import CanaryContext
from hf_exposure.errors import EndpointError, InputError, RowInputError
from hf_exposure.scoring.arguments import check_length
from hf_exposure.scoring.encoding import EncodedTexts, Encoder
from hf_exposure.scoring.endpoint import Endpoint
from hf_exposure.scoring.protocol import Scorer
from hf_exposure.scoring.token_tree import PathBits, PathQuery

_Ids = tuple[int, ...]
# Harmless texts of different lengths; a tokenizer with few characters has tokens only for the last ones.
_PROBES = ("The cat sat on 12 mats.", "the cat sat on the mat", "0123456789", "0 1 2 3 4 5 6 7 8 9")
_LEAST_TOLERANCE_BITS, _SAFETY = 1e-4, 4.0


class EndpointScorer(Scorer):
    """Scores texts by the log-probabilities that an endpoint returns for the tokens of its prompt.

    On construction it sends a few harmless texts to the endpoint, to check that it returns such log-probabilities and
    has this tokenizer, and to measure how much the figure of one text depends on the others in its request. Four times
    the largest difference, but at least 1e-4 bits, is `tolerance_bits`: texts whose figures are closer count as ties.

    Args:
        endpoint: the endpoint of the model.
        tokenizer: the tokenizer of that model.
        end_token: whether the end of each text is scored too.
        context: the context of each text in training.

    Raises:
        EndpointError: the endpoint returns no such log-probabilities, has another tokenizer, or does not answer.
        InputError: no model of that name is served there.
    """

    def __init__(
        self, endpoint: Endpoint, tokenizer: Any, *, end_token: bool = False, context: CanaryContext | None = None
    ) -> None:
        self.endpoint = endpoint
        self.encoder = Encoder.of(tokenizer, end_token=end_token, context=context)
        self._one_at_a_time = False
        text, ids = _probe(tokenizer)
        endpoint.connect(text, ids)
        self._tolerance_bits = self._measured_tolerance(ids)

    @property
    def tolerance_bits(self) -> float:
        return self._tolerance_bits

    @property
    def mode(self) -> str:
        return f"endpoint, {self.endpoint.dialect}"

    @property
    def note(self) -> str:
        return (
            f"The figures are those of a server: {self.endpoint.config._name_or_path}. It gave one text in different "
            f"requests the same figure within {self.tolerance_bits:.2g} bits; its weights were not checked."
        )

    @property
    def lost_trust(self) -> bool:
        return self._one_at_a_time

    def distrust_batches(self) -> None:
        """From now on, sends each prompt in a separate request."""
        self._one_at_a_time = True

    def sequence_bits(self, encoded: EncodedTexts) -> np.ndarray:
        """(N,) log-perplexity of each text.

        Raises:
            RowInputError: a text is longer than the server's context.
            EndpointError: there is no response.
        """
        return self._sums(encoded, self._per_request)

    def alone_bits(self, encoded: EncodedTexts) -> np.ndarray:
        """(N,) like `sequence_bits`, with each text in a separate request."""
        return self._sums(encoded, 1)

    def prefix_bits(self, prefix: Sequence[int]) -> np.ndarray:
        """(P,) bits of each token of a prefix; NaN for context."""
        ids = tuple(prefix)
        if len(ids) <= 1:
            return np.where(np.arange(len(ids)) < self.encoder.first_scored, np.nan, 0.0)
        bits_P = self._known_of([ids], 1)[ids]
        return np.where(np.arange(len(ids)) < self.encoder.first_scored, np.nan, bits_P)

    def path_bits(self, prefix: Sequence[int], queries: Sequence[PathQuery]) -> list[PathBits]:
        """Bits of the runs and of the children: one prompt for each path, then one for each child that is not yet
        known.
        """
        known: dict[_Ids, dict[int, float]] = defaultdict(dict)  # by path: the bits of tokens after it
        paths = [(*prefix, *query.tokens) for query in queries]
        # A first token with nothing before it is not predicted.
        children = [query.children.tolist() if path else [] for path, query in zip(paths, queries, strict=True)]
        first = {(*path, *own[:1]) for path, own in zip(paths, children, strict=True)}
        self._learn(known, first, len(prefix))
        missing = {
            (*path, token)
            for path, own in zip(paths, children, strict=True)
            for token in own
            if token not in known[path]
        }
        self._learn(known, missing, len(prefix))
        return [
            PathBits(
                math.fsum(known[path[:at]][path[at]] for at in range(len(path) - query.run, len(path)) if at > 0),
                np.array([known[path][token] for token in own]) if path else np.zeros(len(query.children)),
            )
            for path, own, query in zip(paths, children, queries, strict=True)
        ]

    def _learn(self, known: dict[_Ids, dict[int, float]], prompts: set[_Ids], shared: int) -> None:
        """Adds the endpoint's results for prompts, from the last token of their shared prefix on."""
        asked = sorted(ids for ids in prompts if len(ids) > 1)
        for start in range(0, len(asked), self._per_request):
            batch = asked[start : start + self._per_request]
            for ids, answer in zip(batch, self.endpoint(batch, alternatives=True), strict=True):
                for at in range(max(shared, 1), len(ids)):
                    own = known[ids[:at]]
                    for token, bits in (*answer.alternatives[at].items(), (ids[at], float(answer.bits_L[at]))):
                        own.setdefault(token, bits)

    def _known_of(self, sequences: Sequence[_Ids], per_request: int) -> dict[_Ids, np.ndarray]:
        """Bits of the tokens of each sequence. Equal sequences are requested once."""
        distinct = list(dict.fromkeys(sequences))
        found: dict[_Ids, np.ndarray] = {}
        for start in range(0, len(distinct), per_request):
            batch = distinct[start : start + per_request]
            found |= {ids: answer.bits_L for ids, answer in zip(batch, self.endpoint(batch), strict=True)}
        return found

    def _sums(self, encoded: EncodedTexts, per_request: int) -> np.ndarray:
        for row, ids in enumerate(encoded.ids):
            check_length(self.endpoint.longest, len(ids), row)
        first = encoded.first_scored
        found = self._known_of(encoded.ids, per_request)
        return np.array([math.fsum(found[ids][first:]) for ids in encoded.ids])

    @property
    def _per_request(self) -> int:
        return 1 if self._one_at_a_time else self.endpoint.prompts_per_request

    def _measured_tolerance(self, ids: _Ids) -> float:
        """The largest difference between the figures of one text alone, repeated, and among others of other
        lengths.
        """
        sequences = [ids[: len(ids) - cut] for cut in range(len(ids) - 1)][:8]
        alone = [self._known_of([one], 1)[one] for one in sequences]
        again = [self._known_of([one], 1)[one] for one in sequences[:2]]
        together = self._known_of(sequences, self.endpoint.prompts_per_request)
        pairs = [*zip(alone, again, strict=False), *zip(alone, (together[one] for one in sequences), strict=True)]
        largest = max(abs(math.fsum(one[1:]) - math.fsum(other[1:])) for one, other in pairs)
        if not math.isfinite(largest):
            raise EndpointError(
                f"{self.endpoint!r} gave a plain text no finite log-probability. Check the model that it serves."
            )
        return max(_LEAST_TOLERANCE_BITS, _SAFETY * largest)


def _probe(tokenizer: Any) -> tuple[str, _Ids]:
    """A harmless text with at least three tokens, and its tokens with the special ones that the tokenizer adds."""
    encoder = Encoder.of(tokenizer)
    for text in _PROBES:
        try:
            ids = encoder.encode([text]).ids[0]
        except RowInputError:  # it has characters without a token
            continue
        if len(ids) > 2:
            return text, tuple(tokenizer(text)["input_ids"])
    kind = type(tokenizer).__name__
    raise InputError("tokenizer", "must have tokens for plain words or digits", kind, "Pass that of the model served.")
