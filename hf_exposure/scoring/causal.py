"""The scorer for causal language models.

Shapes: N texts of at most L tokens, P prefix tokens, E next-token edges, C chosen texts.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from hf_exposure.context import CanaryContext
from hf_exposure.errors import ExposureError, InputError, NonFiniteScoreError, OutOfStepError
from hf_exposure.runtime.batches import BatchCheck, all_close, check_repeats, rows_mix
from hf_exposure.runtime.logits import ForwardCounts, LogitReader
from hf_exposure.runtime.model_state import compute_dtype, evaluating, model_device
from hf_exposure.runtime.precision import EIGHT_BITS, parameter_count
from hf_exposure.runtime.processes import SINGLE_PROCESS, Processes, is_out_of_memory
from hf_exposure.scoring.arguments import check_length, check_vocabulary, context_length, vocabulary_entries
from hf_exposure.scoring.encoding import EncodedTexts, Encoder
from hf_exposure.scoring.forward import (
    Mode,
    ModelShape,
    Prefix,
    Rows,
    bits_at,
    chain_rows,
    choose_row_samples,
    choose_row_width,
    edge_bits,
    encode_prefix,
    packed_rows,
)
from hf_exposure.scoring.packed_sampler import PackedSampler
from hf_exposure.scoring.probe import DEPTH_TO_SPARE, Contradiction, Probe, contradiction, probe_for
from hf_exposure.scoring.token_tree import PathBits, PathQuery, PathTree, SequenceTree, TokenTree

# Two ways of computing one token's bits agree within this, by `coarsest_dtype`; a larger difference means that a mask
# was ignored.
_AGREEMENT_BITS = {torch.float64: 1e-6, torch.float32: 2e-3, torch.float16: 0.1, torch.bfloat16: 0.5, EIGHT_BITS: 0.5}
# A whole text's bits in different batches agree within this; the measured differences on texts of 87 bits are 0.07,
# 0.013, 7e-6 and 3e-14. For layers that round their inputs to 8 bits, see benchmarks/results/quantized.json.
_TOLERANCE_BITS = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 0.02, torch.bfloat16: 0.1, EIGHT_BITS: 1.0}
_LOGITS_BYTES_CPU = 2**28
_LOGITS_SHARE_OF_FREE_GPU = 0.2
_CACHE_SHARE_OF_FREE_GPU = 0.4


@dataclass(frozen=True)
class Reading:
    """The scoring mode that was found for a model, which stays valid when the weights change. It keeps no model alive.

    Attributes:
        model: the model for which it was found.
        computed: everything that it depends on besides weights: precision, attention, and the model's structure.
        mode: the mode of `CausalScorer`.
        tried: (prefix, length) in tokens at which that mode was found right.
        widest, too_wide: slots of the longest packed row, with the prefix, for which the model was found right, and of
            the shortest for which it was not.
        batch_tokens: tokens of the largest call whose batches were found right.
    """

    model: weakref.ref[nn.Module]
    computed: tuple[Any, ...]
    mode: Mode | None
    tried: tuple[tuple[int, int], ...]
    widest: float
    too_wide: float
    batch_tokens: float

    def holds_for(self, model: nn.Module) -> bool:
        """Whether this is the same model, computing in the same way."""
        return self.model() is model and self.computed == _how_computed(model)

    @classmethod
    def kept_for(cls, model: nn.Module) -> Reading | None:
        """The reading that an earlier scorer of this process found for the same module, if it is still valid."""
        kept = _kept_readings.get(model)
        return kept if kept is not None and kept.holds_for(model) else None


_NO_SETTING = object()
_kept_readings: weakref.WeakKeyDictionary[nn.Module, Reading] = weakref.WeakKeyDictionary()


class CausalScorer:
    """Scores texts under a causal language model, computing common parts of texts only once.

    All texts of a call become one token tree. Their common prefix and every other distinct inner token are fed once,
    and a text's last token is only looked up in the output. A check on the model itself chooses how to feed the tree,
    at the first call and whenever texts are longer than those checked:

    - `packed`: pieces of the tree in one row, with a 4-D ancestor mask and the prefix's key-value cache;
    - `cached`: one chain per row after the prefix's cache, for models that do not accept such a mask;
    - `plain`: whole texts in padded batches, for models without a usable cache (LSTM, recurrent and hybrid ones);
    - `alone`: one text per call, without padding, for models whose outputs depend on the batch or on padding.

    A mode is used only after it has agreed, token by token, with texts scored alone: in several rows, twice, at the
    lengths to score. If a call feeds more rows at once than were checked, some of its texts are also scored alone.
    Rows are padded on the right with explicit positions, so the tokenizer's padding side does not matter.

    Results for a prefix are kept for the next call: after a training step, make a new scorer.

    Args:
        model: any module that takes `input_ids` (B, T) and returns an object with `.logits` (B, T, V).
        tokenizer: a Hugging Face tokenizer.
        end_token: whether the end of each text is scored too.
        max_batch_tokens: the maximum number of tokens fed in one call; by default so many that a batch's logits take
            at most 256 MiB on a CPU or a fifth of the free memory on a GPU.
        mode: forces one of the modes without any check, as in tests and benchmarks.
        processes: the processes that score together; each must make the same calls in the same order.
        context: the context before every text, as for `Encoder.of`.
        encoder: the encoder of texts; by default `Encoder.of` of the tokenizer, `end_token` and `context`.

    Attributes:
        mode: the scoring mode; None before the first call.
    """

    note = ""

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        end_token: bool = False,
        max_batch_tokens: int | None = None,
        mode: Mode | None = None,
        processes: Processes = SINGLE_PROCESS,
        context: CanaryContext | None = None,
        encoder: Encoder | None = None,
    ) -> None:
        self.model = model
        self.encoder = encoder or Encoder.of(tokenizer, end_token=end_token, context=context)
        self._reader = LogitReader(model)
        self._processes = processes
        self.mode = mode
        self._is_forced = mode is not None
        # Prefixes and lengths at which the mode was found right. A sliding window shows only beyond its length, and
        # cuts the cache of a prefix only if that is longer; and if positions depend on the length of a text, the
        # shortest text matters. So a mode is trusted up to a length at which it was tried, between the shortest and
        # the longest prefix of those tries.
        self._tried: tuple[tuple[int, int], ...] = ()
        # A window that counts the slots of a row, not positions, cuts a packed row that is longer than any text.
        self._widest, self._too_wide = 0.0 if mode is None else math.inf, math.inf
        self._adopted: Reading | None = None
        self._batches = BatchCheck(processes, 0.0 if mode is None else math.inf)
        self._contradiction: Contradiction | None = None
        self._max_batch_tokens = max_batch_tokens
        # For the last call: tokens in its largest batch, its rows, and the number of them in a batch.
        self._tokens_at_once = 0
        self._fed = Rows.none(), 1
        self._shape = _model_shape(model)
        self._prefixes: dict[tuple[Mode, tuple[int, ...]], Prefix] = {}

    @property
    def reading(self) -> Reading | None:
        if self.mode in (None, "alone") or self._batches.failed or self._contradiction is not None:
            return None
        adopted, tokens = self._adopted, max(self._batches.trusted_tokens, self._batches.known_tokens)
        if adopted is not None and (adopted.mode, adopted.tried) == (self.mode, self._tried):
            return replace(adopted, widest=self._widest, too_wide=self._too_wide, batch_tokens=tokens)
        model, computed = weakref.ref(self.model), _how_computed(self.model)
        return Reading(model, computed, self.mode, self._tried, self._widest, self._too_wide, tokens)

    def _read_in(self, mode: Mode) -> Mode:
        """Sets the mode, and keeps the reading for the next scorer of the same module, or drops it.

        Processes that score together must make the same calls, whatever each did alone before, so they keep nothing.
        """
        self.mode = mode
        reading = self.reading
        if self._processes.count == 1 and reading is not None:
            _kept_readings[self.model] = reading
        else:
            _kept_readings.pop(self.model, None)
        return mode

    def read_as(self, reading: Reading) -> None:
        """Adopts the reading of an earlier state of the model; whether batches change figures is checked again, on
        fewer texts.
        """
        self.mode = reading.mode
        self._tried, self._widest, self._too_wide = reading.tried, reading.widest, reading.too_wide
        self._adopted = reading
        self._batches.known_tokens = reading.batch_tokens

    @property
    def counts(self) -> ForwardCounts:
        """Calls of the model, rows and tokens fed so far."""
        return self._reader.counts

    @property
    def tolerance_bits(self) -> float:
        return tolerance_bits(self._reader.dtype)

    @property
    def why_no_search(self) -> str:
        if self._contradiction is None:
            return ""
        bits = f"{self._contradiction.bits:.3g} bits"
        cause = "the length of the text" if self._contradiction.by_length else "what follows"
        return f"the model's score of the beginning of a text changes by {bits} with {cause}"

    def encode(self, texts: Sequence[str]) -> EncodedTexts:
        return self.encoder.encode(texts)

    def sequence_bits(self, encoded: EncodedTexts) -> np.ndarray:
        if not len(encoded):
            return np.zeros(0)
        self._check_vocabulary(int(encoded.matrix_NL.max()))
        # The last column of the matrix has a token of the longest text.
        longest = int(np.argmax(encoded.matrix_NL[:, -1]))
        self._check_length(encoded.matrix_NL.shape[1], longest)
        with evaluating(self.model):
            totals_N = self._totals(encoded)
        if np.isnan(totals_N).any():
            raise NonFiniteScoreError(int(np.flatnonzero(np.isnan(totals_N))[0]))
        return totals_N

    def alone_bits(self, encoded: EncodedTexts) -> np.ndarray:
        """(N,) like `sequence_bits`, by one call of the model for each text, without padding, cache or other texts."""
        with evaluating(self.model):
            return self._totals_alone(encoded, range(len(encoded)))

    def distrust_batches(self) -> None:
        self._batches.failed = True
        self._read_in("alone")

    @property
    def lost_trust(self) -> bool:
        return self._batches.lost_trust

    def path_bits(self, prefix: Sequence[int], queries: Sequence[PathQuery]) -> list[PathBits]:
        if not queries:
            return []
        paths = PathTree.of(prefix, queries)
        self._check_vocabulary(int(paths.tree.edge_token_E.max(initial=0)))
        self._check_length(len(prefix) + max(len(query.tokens) for query in queries))
        with evaluating(self.model):
            answers = self._answers(tuple(prefix), paths)
        for query, answer in zip(queries, answers, strict=True):
            if np.isnan(answer.run_bits) or np.isnan(answer.children_bits).any():
                raise NonFiniteScoreError(where=f"after {len(prefix) + len(query.tokens)} tokens of the template")
        return answers

    def prefix_bits(self, prefix: Sequence[int]) -> np.ndarray:
        """(P,) bits of each token of `prefix` given those before it; NaN for context, which is not scored."""
        self._check_length(len(prefix))
        with evaluating(self.model):
            if self.mode is None or self.mode == "alone":
                bits_P = np.concatenate([[np.nan], self._bits_alone(tuple(prefix))])[: len(prefix)]
            else:
                bits_P = self._encode_prefix(np.asarray(prefix, dtype=np.int64), self.mode).bits_P.copy()
        bits_P[: self.encoder.first_scored] = np.nan
        return bits_P

    def samples_at_once(self, samples: int, length: int) -> int:
        """The number of `samples`, of `length` tokens each, whose caches fit into memory at the same time."""
        # Keys and values of all heads count twice, since the model's own concatenation makes a copy.
        per_token = 4 * self._shape.layers * self._shape.hidden * compute_dtype(self.model).itemsize
        fits = max(1, _cache_bytes(self.model) // (per_token * (length + 1)))
        return min(samples, self._processes.all_reduce_min(fits))

    def sample_reader(self, prefix: Sequence[int], samples: int, length: int) -> PackedSampler | None:
        if self.mode not in (None, "packed") or not len(prefix):
            return None
        with evaluating(self.model):
            # The paths will be longer than those read so far.
            room = (context_length(self.model) or len(prefix) + length) - len(prefix)
            longest = PathQuery(tuple(prefix[-1:]) * max(1, min(length, room)), 1, np.zeros(0, dtype=np.int64))
            tree = PathTree.of(prefix, [longest]).tree
            if self._mode_for(tree) != "packed":
                return None
            length = max(1, length)
            wanted = min(samples, choose_row_samples(len(prefix), length, self._shape)) * length
            row_samples = max(1, self._row_width(tree, wanted, wanted) // length)
            shared = self._encode_prefix(np.asarray(prefix, dtype=np.int64), "packed")

        def reads_rows_of(slots: int) -> bool:
            """Tries rows that are longer than expected, with room for further steps."""
            new = slots - len(prefix)
            with evaluating(self.model):
                return new <= length or self._row_width(tree, new * 3 // 2, new) >= new

        return PackedSampler(
            self._reader,
            shared,
            len(prefix),
            samples,
            row_samples=row_samples,
            reads_rows_of=reads_rows_of,
            batch_rows=max(1, self._batch_tokens() // (2 * row_samples)),
            processes=self._processes,
        )

    def _totals(self, encoded: EncodedTexts) -> np.ndarray:
        tree = encoded.tree
        mode = self._mode_for(tree.tree)
        if mode != "alone":
            bits_E, prefix = self._score_as(tree.tree, mode)
            totals_N = tree.totals(bits_E, prefix.bits_P)
            if self._batches.passes(
                self._tokens_at_once,
                self._fed_order(tree.read_after),
                lambda number: totals_N[number : number + 1],
                lambda number: self._totals_alone(encoded, [number]),
                self._text_agreement_bits(encoded.matrix_NL.shape[1]),
            ):
                return totals_N
            self._read_in("alone")
        return self._totals_alone(encoded, range(len(encoded)))

    def _answers(self, prefix: tuple[int, ...], paths: PathTree) -> list[PathBits]:
        mode = self._mode_for(paths.tree)
        if self.why_no_search:
            rule = f"must allow a search, but {self.why_no_search}"
            remedy = "Use measure_exposure with method='enumerate', 'sample' or 'skew_normal', or shorter texts."
            raise InputError("model", rule, self._kind, remedy)
        if mode != "alone":
            bits_E, _ = self._score_as(paths.tree, mode)
            answers = paths.answers(bits_E)
            if self._batches.passes(
                self._tokens_at_once,
                self._fed_order(paths.read_after_N),
                lambda number: answers[number].figures,
                lambda number: self._answer_alone(prefix, paths.queries[number]).figures,
                self._text_agreement_bits(max(len(query.tokens) for query in paths.queries)),
            ):
                return answers
            self._read_in("alone")
        return [self._answer_alone(prefix, query) for query in paths.queries]

    def _totals_alone(self, encoded: EncodedTexts, chosen: Sequence[int]) -> np.ndarray:
        """(C,) bits of the chosen texts; after the first NaN, the rest is NaN too."""
        known: dict[tuple[int, ...], float] = {}
        for number in chosen:
            ids = encoded.ids[number]
            if ids not in known:
                known[ids] = float(self._bits_alone(ids)[encoded.first_scored - 1 :].sum())
                if math.isnan(known[ids]):
                    break
        return np.array([known.get(encoded.ids[number], math.nan) for number in chosen])

    def _bits_alone(self, ids: tuple[int, ...]) -> np.ndarray:
        """(L - 1,) bits of each token from the second on, with the text as the model's only input."""
        if not ids:
            return np.zeros(0)
        return self._read_alone(ids, np.arange(len(ids) - 1), np.array(ids[1:], dtype=np.int64))

    def _answer_alone(self, prefix: tuple[int, ...], query: PathQuery) -> PathBits:
        ids = (*prefix, *query.tokens)
        if not ids:
            return PathBits(0.0, np.zeros(len(query.children)))
        # A first token with nothing before it is not predicted: 0 bits.
        run = np.arange(max(1, len(ids) - query.run), len(ids))
        children = np.full(len(query.children), len(ids) - 1)
        token_E = np.concatenate([np.array(ids, dtype=np.int64)[run], query.children]).astype(np.int64)
        bits_E = self._read_alone(ids, np.concatenate([run - 1, children]), token_E)
        return PathBits(float(bits_E[: len(run)].sum()), bits_E[len(run) :])

    def _read_alone(self, ids: Sequence[int], after_E: np.ndarray, token_E: np.ndarray, **inputs: Any) -> np.ndarray:
        """(E,) bits of each token after the position `after` (ascending) in the single row `ids`."""
        device = model_device(self.model)
        self._check_vocabulary(max(ids))

        def read() -> np.ndarray:
            row = torch.as_tensor([ids], dtype=torch.long, device=device)
            logits = self._reader(input_ids=row, **(inputs or self._whole_text))
            places, at_E = np.unique(after_E, return_inverse=True)
            return bits_at(logits, *(torch.as_tensor(each, device=device) for each in (places, at_E, token_E)))

        return self._processes.broadcast(self._processes.run_then_barrier(read))

    @property
    def _whole_text(self) -> dict[str, Any]:
        """Further inputs of a call for one whole text, besides its tokens."""
        return {}

    def _text_agreement_bits(self, tokens: int) -> float:
        """The same text, of `tokens` tokens, scored in two batches agrees to within this many bits; so do parts."""
        return agreement_bits(self._reader.dtype) * max(1.0, math.sqrt(tokens / 32))

    def _score_as(
        self, tree: TokenTree, mode: Mode, *, most_rows: int | None = None, row_width: int | None = None, gap: int = 0
    ) -> tuple[np.ndarray, Prefix]:
        """(E,) bits of the edges of `tree`, and its prefix.

        Args:
            most_rows: the maximum number of rows in a call.
            row_width, gap: of packed rows; by default the fastest width, as far as the model was found right.
        """
        if mode == "packed" and tree.size and row_width is None:
            wanted = choose_row_width(tree, self._shape)
            row_width = self._row_width(tree, wanted, min(wanted, tree.size))
        prefix = self._encode_prefix(tree.prefix_P, mode)
        if mode != "plain" and len(tree.prefix_P) and prefix.cache is None:
            raise RuntimeError(f"{type(self.model).__name__} returned no key-value cache for the prefix")
        if not tree.size:
            rows = Rows.none()
        elif mode == "packed":
            assert row_width is not None
            rows = replace(packed_rows(tree, row_width), gap=gap)
        else:
            rows = chain_rows(tree)
        width = int(rows.width_R.max(initial=1)) + (len(tree.prefix_P) if mode == "plain" else 0)
        tokens = self._batch_tokens()
        while True:
            try:
                batch_rows = max(1, min(tokens // width, len(rows) if most_rows is None else most_rows))
                self._tokens_at_once = min(batch_rows, len(rows)) * width
                self._fed = rows, batch_rows
                return edge_bits(self._reader, tree, rows, prefix, mode, batch_rows, self._processes), prefix
            except (RuntimeError, MemoryError) as error:
                # A call of one row cannot become smaller, and says nothing about calls of many.
                if not is_out_of_memory(error) or batch_rows == 1:
                    raise
                tokens = self._max_batch_tokens = batch_rows * width // 2

    def _fed_order(self, fed_N: np.ndarray) -> np.ndarray:
        """(N,) numbers of the texts of the last call, by how late in their batch the model processed their last token.

        Args:
            fed_N: the vertex after which each text ends; -1 for the end of the prefix.
        """
        rows, batch_rows = self._fed
        share = max(1, -(-len(rows) // self._processes.num_shards))
        row_N = np.searchsorted(rows.start_R, fed_N, side="right") - 1
        return np.lexsort((fed_N, np.where(fed_N < 0, -1, row_N % share % batch_rows)))

    def _encode_prefix(self, prefix_P: np.ndarray, mode: Mode) -> Prefix:
        key = (mode, tuple(prefix_P.tolist()))
        if key not in self._prefixes:
            self._check_vocabulary(int(prefix_P.max(initial=0)))
            # One prefix at a time: a search keeps to one, and a cache per template would grow without bound.
            found = self._processes.run_then_barrier(lambda: encode_prefix(self._reader, prefix_P, mode))
            self._prefixes = {key: replace(found, bits_P=self._processes.broadcast(found.bits_P))}
        return self._prefixes[key]

    def _mode_for(self, tree: TokenTree) -> Mode:
        """The mode in which `tree` is read, tried first where it goes beyond what was tried."""
        length = len(tree.prefix_P) + int(tree.depth_M.max(initial=0))
        reaching = [prefix for prefix, tried in self._tried if tried >= length]
        is_proven = bool(reaching) and min(reaching) <= len(tree.prefix_P) <= max(reaching)
        if self.mode is None or not (self._is_forced or is_proven):
            return self._read_in(self._try_modes(tree, length))
        return self.mode

    def _try_modes(self, tree: TokenTree, length: int) -> Mode:
        """The fastest mode that agrees with texts alone, at a few tokens beyond `length` or at `length` itself.

        Where texts got shorter, what was found for longer ones is kept if the mode holds for all of them.
        """
        context = context_length(self.model)
        spare = length if context is None else max(length, min(length + DEPTH_TO_SPARE, context - 1))
        spare = max(spare, *(length for _, length in self._tried)) if self._tried else spare
        mode: Mode = "alone"
        reached = length
        for tried in dict.fromkeys((spare, length)):
            probe = self._probe_for(tree, tried)
            has_prefix = len(tree.prefix_P) > 0
            try:
                mode = self._fastest_mode(probe, has_prefix=has_prefix)
            except OutOfStepError:
                raise
            except Exception as error:
                # Beyond what is scored, a model may be unable to read, or need not be right. All go on, or none.
                if not self._processes.all_reduce_min(int(tried != length and isinstance(error, ExposureError))):
                    raise
                continue
            reached = tried
            if mode != "alone":
                break
        self._tried = (*(self._tried if mode == self.mode else ()), (len(tree.prefix_P), reached))
        return mode

    def _probe_for(self, tree: TokenTree, length: int) -> Probe:
        context = context_length(self.model)
        # Whole texts are one token longer than what is fed of them.
        return probe_for(tree, length, None if context is None else context - 1)

    def _fastest_mode(self, probe: Probe, *, has_prefix: bool) -> Mode:
        """The fastest mode in which each of the probe's sequences gets the bits that it gets alone.

        Raises:
            InputError: a model that gives one text different logits at two calls, or whose logits depend on later
                tokens.
        """
        alone = [self._bits_alone(ids) for ids in probe.sequences]
        tolerance = agreement_bits(self._reader.dtype)
        if any(np.isnan(bits).any() for bits in alone):
            return "alone"  # NaN agrees with nothing
        self._batches.failed = self._batches.failed or self._rows_mix(probe.sequences)
        check_repeats(self._bits_alone(probe.sequences[0]), alone[0], tolerance)
        self._contradiction = contradiction(probe.sequences, alone, tolerance)
        self._refuse_later_tokens(self._contradiction)
        if self._contradiction is not None or self._batches.failed:
            return "alone"
        # Where the context has no room for the prefix, nothing shows whether its cache is used.
        is_cache_tried = len(probe.tree.tree.prefix_P) > 0 or not has_prefix
        modes: tuple[Mode, ...] = ("packed", "cached", "plain") if is_cache_tried else ("plain",)
        return next((mode for mode in modes if self._agrees_alone(probe, alone, mode)), "alone")

    def _rows_mix(self, sequences: Sequence[tuple[int, ...]], **inputs: torch.Tensor) -> bool:
        """Whether layers that round their inputs to 8 bits do so with steps, or outliers, that rows share."""
        if self._reader.dtype != EIGHT_BITS:
            return False
        longest = np.array(max(sequences, key=len), dtype=np.int64)
        return rows_mix(self._reader, longest, vocabulary_entries(self.model), self._processes, **inputs)

    def _row_width(self, tree: TokenTree, wanted: int, needed: int) -> int:
        """The slots of a packed row after the prefix of `tree`: `wanted`, or as many as the model is right with.

        Wider rows are tried only where `needed` slots, at most `wanted`, are more than were found right.
        """
        prefix, longest = len(tree.prefix_P), int(tree.depth_M.max(initial=1))
        if self._widest < prefix + needed and prefix + wanted < self._too_wide:
            probe = self._probe_for(tree, prefix + longest)
            alone = [self._bits_alone(ids) for ids in probe.sequences]
            if not self._reads_rows_of(prefix + wanted, probe, alone):
                self._reads_rows_of((int(self._widest) + prefix + wanted) // 2, probe, alone)
            self._read_in("packed")  # for the next scorer of the module
        return int(min(wanted, max(longest, self._widest - prefix)))

    def _reads_rows_of(self, slots: int, probe: Probe, alone: Sequence[np.ndarray]) -> bool:
        """Whether packed rows of so many slots, with the prefix, are right: the probe in one row with empty slots.

        The empty slots come after the first of the row, so every later token must see something before them: without a
        common prefix, only sequences with the same first token are read. A window that is a few slots short hides too
        little to be noticed, so a few more slots are tried.
        """
        first = max(probe.sequences, key=len)[0]
        chosen = [number for number, ids in enumerate(probe.sequences) if ids[0] == first]
        sequences = tuple(probe.sequences[number] for number in chosen)
        part = Probe(sequences, SequenceTree.of(sequences, 1))
        tree = part.tree.tree
        own = len(tree.prefix_P) + tree.size
        gap = max(0, slots - own) + DEPTH_TO_SPARE
        agrees = self._agrees(
            part,
            [alone[number] for number in chosen],
            lambda: self._score_as(tree, "packed", row_width=tree.size, gap=gap),
            needs_memory=False,
        )
        if agrees:
            self._widest = max(self._widest, slots, own)
        else:
            self._too_wide = min(self._too_wide, slots)
        return agrees

    def _refuse_later_tokens(self, found: Contradiction | None) -> None:
        # What tokens of a text share there is one reason more to read each text alone, but no other direction.
        if found is not None and not found.by_length and self._reader.dtype != EIGHT_BITS:
            rule = "must read from left to right, but its logits depend on later tokens"
            kind = f"{self._kind}, by {found.bits:.3g} bits"
            raise InputError("model", rule, kind, "Use a causal model, or a masked one with a mask token.")

    @property
    def _kind(self) -> str:
        return type(getattr(self.model, "inner", self.model)).__name__

    def _agrees_alone(self, probe: Probe, alone: Sequence[np.ndarray], mode: Mode) -> bool:
        """Whether the mode gives the probe's sequences the bits that they get alone.

        The rows are read in calls of two and in one call, since a cache that one call changes shows in the next. The
        packed ones are rows of few paths there, so all paths are then read in one row.
        """
        tree = probe.tree.tree
        short = int(tree.depth_M.max(initial=1))
        return (
            self._agrees(probe, alone, lambda: self._score_as(tree, mode, most_rows=2, row_width=short))
            and self._agrees(probe, alone, lambda: self._score_as(tree, mode, row_width=short))
            and (mode != "packed" or self._reads_rows_of(len(tree.prefix_P) + tree.size, probe, alone))
        )

    def _agrees(
        self,
        probe: Probe,
        alone: Sequence[np.ndarray],
        score: Callable[[], tuple[np.ndarray, Prefix]],
        *,
        needs_memory: bool = True,
    ) -> bool:
        """Whether the probe's sequences get the bits that they get alone.

        Unless the call `needs_memory`, running out of it is an answer too.
        """
        try:
            with self._processes.barrier():
                bits_E, prefix = score()
            found = probe.tree.bits_along(bits_E, prefix.bits_P)
            tolerance = agreement_bits(self._reader.dtype)
            agrees = all(all_close(*pair, tolerance) for pair in zip(found, alone, strict=True))
        except OutOfStepError:
            raise
        except Exception as error:  # a model may refuse a mask, positions or a cache with any exception
            if needs_memory and is_out_of_memory(error):
                raise
            agrees = False
        # All processes must choose the same mode; otherwise some would wait for calls that others do not make.
        return bool(self._processes.all_reduce_min(int(agrees)))

    def _batch_tokens(self) -> int:
        if self._max_batch_tokens is None:
            fits = default_batch_tokens(self.model, self._reader.reads_rows)
            self._max_batch_tokens = self._processes.all_reduce_min(fits)
        return self._max_batch_tokens

    def _check_vocabulary(self, largest_token: int) -> None:
        check_vocabulary(vocabulary_entries(self.model), largest_token)

    def _check_length(self, tokens: int, row: int | None = None) -> None:
        """Raises a `RowInputError` if there are too many tokens in text `row`, or in the template."""
        check_length(context_length(self.model), tokens, row)


def agreement_bits(dtype: torch.dtype) -> float:
    """Two ways of computing one token's bits in `dtype` agree within this."""
    return _AGREEMENT_BITS[dtype]


def tolerance_bits(dtype: torch.dtype) -> float:
    """Two computations of a whole text's bits in `dtype`, in different batches, agree within this."""
    return _TOLERANCE_BITS[dtype]


def _how_computed(model: nn.Module) -> tuple[Any, ...]:
    """Everything but weights on which a model's outputs depend: its modules' code, hooks and settings. Nothing is
    kept alive.
    """
    config = getattr(model, "config", None)
    made_of = tuple((name, *_made_of(module)) for name, module in model.named_modules())
    return compute_dtype(model), getattr(config, "_attn_implementation", None), _settings(config), made_of


def _made_of(module: nn.Module) -> tuple[Any, ...]:
    own_forward = vars(module).get("forward")
    # A hook's number is unique in a process. This package's own hooks, such as a progress bar's, only observe.
    hooks = (*module._forward_hooks.items(), *module._forward_pre_hooks.items())
    others = tuple(number for number, hook in hooks if not _is_own(hook))
    return type(module), type(module).forward, own_forward and weakref.ref(own_forward), others, _settings(module)


def _is_own(hook: Any) -> bool:
    return str(getattr(hook, "__module__", "")).startswith("hf_exposure.")


def _settings(holder: Any) -> tuple[tuple[str, Any], ...]:
    """The attributes that are numbers, words, flags, sequences of those, or configurations."""
    found = ((name, _as_setting(value)) for name, value in getattr(holder, "__dict__", {}).items())
    return tuple((name, value) for name, value in found if name != "training" and value is not _NO_SETTING)


def _as_setting(value: Any) -> Any:
    if isinstance(value, (bool, int, float, str, type(None))):
        return value
    if isinstance(value, (list, tuple)):
        return tuple(map(_as_setting, value))
    return _settings(value) if hasattr(value, "to_json_string") else _NO_SETTING


def _model_shape(model: nn.Module) -> ModelShape:
    config = getattr(model, "config", None)
    parameters = parameter_count(model)
    embedding = getattr(model, "get_input_embeddings", lambda: None)()
    if embedding is not None and hasattr(embedding, "weight"):
        parameters = max(1, parameters - embedding.weight.numel())
    return ModelShape(
        parameters=parameters,
        layers=getattr(config, "num_hidden_layers", None) or 4,
        hidden=getattr(config, "hidden_size", None) or 256,
        heads=getattr(config, "num_attention_heads", None) or 4,
    )


def _cache_bytes(model: nn.Module) -> int:
    """The memory that the caches of many draws may take."""
    device = model_device(model)
    return int(torch.cuda.mem_get_info(device)[0] * _CACHE_SHARE_OF_FREE_GPU) if device.type == "cuda" else 2**30


def default_batch_tokens(model: nn.Module, reads_rows: bool) -> int:
    """The number of tokens per call: as many as use a device well, or fewer so that the logits of a whole batch
    stay within the budget.
    """
    device = model_device(model)
    ceiling = 2048 if device.type == "cpu" else 65_536
    if reads_rows:
        return ceiling
    vocabulary = getattr(getattr(model, "config", None), "vocab_size", None) or 50_000
    budget = _LOGITS_BYTES_CPU
    if device.type == "cuda":
        budget = int(torch.cuda.mem_get_info(device)[0] * _LOGITS_SHARE_OF_FREE_GPU)
    return max(64, min(ceiling, budget // (vocabulary * 8)))
