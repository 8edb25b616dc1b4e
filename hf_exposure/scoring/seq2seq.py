"""The scorer for encoder-decoder models: a target's log-perplexity given its source.

Shapes: N targets, D distinct pairs of a source and a target, B of them in a batch of S source and T target tokens,
E scored tokens, V vocabulary entries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils.generic import ModelOutput

from hf_exposure.context import Source
from hf_exposure.errors import InputError, NonFiniteScoreError, RowInputError, described
from hf_exposure.runtime.batches import score_in_batches
from hf_exposure.runtime.logits import repeat_cache, returned_cache
from hf_exposure.runtime.model_state import evaluating, model_device
from hf_exposure.runtime.processes import SINGLE_PROCESS, Processes
from hf_exposure.scoring.arguments import check_vocabulary, context_length, vocabulary_entries
from hf_exposure.scoring.causal import CausalScorer, agreement_bits
from hf_exposure.scoring.encoding import EncodedTexts, Encoder
from hf_exposure.scoring.forward import Mode, bits_at
from hf_exposure.scoring.probe import contradiction
from hf_exposure.scoring.token_tree import PathBits, PathQuery, pad_sequences

_Pair = tuple[tuple[int, ...], tuple[int, ...]]


class Seq2SeqScorer(CausalScorer):
    """Scores target texts under an encoder-decoder model: `Px(y | x) = sum_i -log2 p(y_i | y_<i, x)`, teacher-forced.

    The decoder is fed `decoder_start_token_id` and then the target: the first target token is predicted from the start
    token. Special tokens that the tokenizer adds before a target (BOS, a language code) are context; the end token is
    scored with `end_token=True` only. The source is encoded with all its special tokens, as in training.

    With one fixed source the encoder runs once, and the decoder is then a causal model: everything that `CausalScorer`
    does applies, including search. If each target has its own source, which may contain the secret too, texts can be
    scored but not searched, since a prefix of the target has no score before its source is known.

    Source: Carlini et al. 2019, "The Secret Sharer", Section 6.4 (neural machine translation).

    Args:
        model: a model that takes `input_ids`, `attention_mask`, `decoder_input_ids` and `encoder_outputs`, like
            Hugging Face's.
        tokenizer: the tokenizer of sources, and of targets by `text_target`.
        source: a fixed text, or a function from a target to its source (`SourceTemplate`); None if every call of
            `sequence_bits` has its own sources.
        end_token: whether the end of each target is scored too.
        max_batch_tokens: the maximum number of source and target tokens fed in one call, as for `CausalScorer`.
        mode, processes: as for `CausalScorer`.

    Raises:
        InputError: the model has no decoder start token, or the source is empty or longer than the context.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        source: Source | None = None,
        end_token: bool = False,
        max_batch_tokens: int | None = None,
        mode: Mode | None = None,
        processes: Processes = SINGLE_PROCESS,
    ) -> None:
        decoder = _Decoder(model)
        super().__init__(
            decoder,
            tokenizer,
            encoder=_target_encoder(tokenizer, _start_token(model), end_token=end_token),
            max_batch_tokens=max_batch_tokens,
            mode=mode,
            processes=processes,
        )
        self.source, self._source_tokenizer, self._whole_model = source, tokenizer, model
        self._is_causal = mode is not None
        if isinstance(source, str):
            decoder.fix_source(self._source_ids([source], given=False)[source])

    def sequence_bits(self, encoded: EncodedTexts, sources: Sequence[str] | None = None) -> np.ndarray:
        """(N,) bits of each target given its source: `sources[i]` if given, else the scorer's own.

        Equal targets with equal sources get equal figures.

        Raises:
            InputError: there is no source, the numbers of sources and targets differ, or a text exceeds the context.
            NonFiniteScoreError: the model returned NaN; the message gives the target's number.
        """
        if sources is None and isinstance(self.source, str):
            return super().sequence_bits(encoded)
        if sources is None:
            source_of = self._required_source()
            sources = [source_of(text) for text in encoded.texts]
        if isinstance(sources, str) or len(sources) != len(encoded):
            rule = f"must be one text for each of the {len(encoded)} targets"
            received = "one text" if isinstance(sources, str) else f"{len(sources)} texts"
            raise InputError("sources", rule, received, "Write sources=[source] * len(texts), or one string for all.")
        if not len(encoded):
            return np.zeros(0)
        longest = int(np.argmax(encoded.matrix_NL[:, -1]))
        self._check_vocabulary(int(encoded.matrix_NL.max()))
        self._check_length(encoded.matrix_NL.shape[1], longest)
        return self._score_pairs(encoded, sources)

    def path_bits(self, prefix: Sequence[int], queries: Sequence[PathQuery]) -> list[PathBits]:
        self._refuse_search()
        return super().path_bits(prefix, queries)

    def prefix_bits(self, prefix: Sequence[int]) -> np.ndarray:
        """(P,) bits of each token of `prefix` given those before it and the source; NaN for context."""
        self._refuse_search()
        return super().prefix_bits(prefix)

    def _score_pairs(self, encoded: EncodedTexts, sources: Sequence[str]) -> np.ndarray:
        """Scores each distinct pair of a source and a target once, in batches of similar lengths."""
        ids_of = self._source_ids(sources)
        keys = [(ids_of[source], ids) for source, ids in zip(sources, encoded.ids, strict=True)]
        pairs = sorted(set(keys), key=lambda pair: (len(pair[0]) + len(pair[1]), pair))
        # Both sides are padded to the longest of a batch; in this order there is little padding.
        width_D = np.maximum.accumulate([len(source) for source, _ in pairs])
        width_D = width_D + np.maximum.accumulate([len(target) - 1 for _, target in pairs])

        def score(tokens: int) -> tuple[np.ndarray, int]:
            return score_in_batches(
                width_D,
                tokens,
                lambda rows, together: self._score_batch([pairs[row] for row in rows], pairs[together]),
                self._processes,
            )

        with evaluating(self.model):
            self._check_pairs_causal(pairs)
            self.mode, is_right = self.mode or self._mode_of_pairs(pairs), False
            if self.mode != "alone":
                bits_D, self._max_batch_tokens = score(self._batch_tokens())
                is_right = self._batches.passes(
                    min(self._max_batch_tokens, int(width_D.sum())),
                    range(len(pairs)),
                    lambda number: bits_D[number : number + 1],
                    lambda number: self._pair_alone(pairs[number]),
                    self._text_agreement_bits(encoded.matrix_NL.shape[1]),
                )
            if not is_right:
                self.mode = "alone"
                bits_D = np.array([self._pair_alone(pair)[0] for pair in pairs])
        totals = dict(zip(pairs, bits_D.tolist(), strict=True))
        totals_N = np.array([totals[key] for key in keys])
        if np.isnan(totals_N).any():
            raise NonFiniteScoreError(int(np.flatnonzero(np.isnan(totals_N))[0]))
        return totals_N

    def _mode_of_pairs(self, pairs: list[_Pair]) -> Mode:
        source, target = max(pairs, key=lambda pair: len(pair[1]))
        device = model_device(self.model)
        both = torch.as_tensor([source, source], device=device)
        inputs = {"source_ids": both, "source_mask": torch.ones_like(both)}
        return "alone" if self._rows_mix([target], **inputs) else "plain"

    def _score_batch(self, pairs: list[_Pair], together: list[_Pair]) -> np.ndarray:
        """(B,) bits of each pair, padded to the longest of those that all processes score together.

        Padding is on the right, where sources are masked and targets are not read.
        """
        device = model_device(self.model)
        longest = max((source for source, _ in together), key=len), max((target for _, target in together), key=len)
        source_BS = pad_sequences([*(source for source, _ in pairs), longest[0]])[:-1]
        target_BT = pad_sequences([*(target for _, target in pairs), longest[1]])[:-1]
        # A target's last token is not fed, and no token of a target sees what comes after it.
        fed_BT = np.where(target_BT < 0, target_BT[:, :1], target_BT)[:, :-1]
        logits = self._reader(
            input_ids=torch.as_tensor(fed_BT, device=device),
            source_ids=torch.as_tensor(np.where(source_BS < 0, source_BS[:, :1], source_BS), device=device),
            source_mask=torch.as_tensor((source_BS >= 0).astype(np.int64), device=device),
        )
        row_E, slot_E = np.nonzero(target_BT[:, self.encoder.first_scored :] >= 0)
        slot_E += self.encoder.first_scored
        bits_E = bits_at(
            logits,
            torch.as_tensor(row_E * logits.positions + slot_E - 1, device=device),
            torch.arange(len(row_E), device=device),
            torch.as_tensor(target_BT[row_E, slot_E], device=device),
        )
        return np.bincount(row_E, weights=bits_E, minlength=len(pairs))

    def _pair_alone(self, pair: _Pair) -> np.ndarray:
        """(1,) bits of a target, with only its source and itself as the model's input."""
        bits: np.ndarray = self._read_pair(*pair)[self.encoder.first_scored - 1 :].sum(keepdims=True)
        return bits

    def _read_pair(self, source: tuple[int, ...], target: tuple[int, ...]) -> np.ndarray:
        """(T - 1,) bits of the target's tokens from the second on."""
        ids = torch.as_tensor([source], device=model_device(self.model))
        tokens = np.array(target[1:], dtype=np.int64)
        return self._read_alone(target, np.arange(len(tokens)), tokens, source_ids=ids)

    def _check_pairs_causal(self, pairs: list[_Pair]) -> None:
        """Checks once that the first half of a longest target costs the same if its second half changes."""
        if self._is_causal:
            return
        source, target = max(pairs, key=lambda pair: len(pair[1]))
        half = max(1, len(target) // 2)
        follows = next((token for _, ids in pairs for token in ids if token != target[half]), int(target[half] == 0))
        changed = (*target[:half], *[follows] * (len(target) - half))
        bits = [self._read_pair(source, ids) for ids in (target, changed)]
        self._refuse_later_tokens(contradiction([target, changed], bits, agreement_bits(self._reader.dtype)))
        self._is_causal = True

    def _source_ids(self, sources: Sequence[str], *, given: bool = True) -> dict[str, tuple[int, ...]]:
        """The tokens of each distinct source, including special tokens; `given`: whether there is one source for
        each target.
        """

        def refused(rule: str, source: str, remedy: str) -> InputError:
            if given:  # it may contain the target's secret
                return RowInputError("source", rule, list(sources).index(source), remedy)
            return InputError("source", rule, described(source), remedy)

        for source in sources:
            if not isinstance(source, str) or not source:
                raise refused("must be a text of at least one character", source, "Pass source='...'.")
        distinct = list(dict.fromkeys(sources))
        encoded = self._source_tokenizer(distinct)["input_ids"] if distinct else []
        longest = context_length(self._whole_model, "encoder")
        check_vocabulary(vocabulary_entries(self._whole_model, "encoder"), max(map(max, encoded), default=0))
        for source, ids in zip(distinct, encoded, strict=True):
            if longest is not None and len(ids) > longest:
                rule = f"must fit the model's context of {longest} tokens"
                raise refused(rule, source, f"It takes {len(ids)}: use a shorter source.")
        return {source: tuple(ids) for source, ids in zip(distinct, encoded, strict=True)}

    @property
    def _whole_text(self) -> dict[str, Any]:
        """The fixed source, so that no cached result is used."""
        return {"source_ids": self.model.source_ids}

    def _required_source(self) -> Callable[[str], str]:
        if self.source is None:
            remedy = "Pass source='...' (log_perplexity: sources=[...])."
            raise InputError("source", "must be given for an encoder-decoder model", None, remedy)
        assert not isinstance(self.source, str)
        return self.source

    def _refuse_search(self) -> None:
        if not isinstance(self.source, str):
            raise InputError(
                "source",
                "must be one fixed text to search texts: one that contains the secret differs for each of them",
                self._required_source(),
                "Use measure_exposure with method='enumerate', 'sample' or 'skew_normal', or a source without holes.",
            )


class _Decoder(nn.Module):
    """The decoder with its source, as a causal model: `input_ids` are those of the decoder.

    The whole model is called each time, never its encoder alone, so that sharded models gather their weights.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.inner, self.config = model, model.config
        self.source_ids: torch.Tensor | None = None
        self._encoded: Any = None
        self._cross_cache: Any = None
        self._cache_name = "past_key_values"

    def get_output_embeddings(self) -> Any:
        return getattr(self.inner, "get_output_embeddings", lambda: None)()

    def get_decoder(self) -> Any:
        return getattr(self.inner, "get_decoder", lambda: None)()

    def get_input_embeddings(self) -> Any:
        return getattr(self.inner, "get_input_embeddings", lambda: None)()

    def fix_source(self, ids: Sequence[int]) -> None:
        self.source_ids = torch.as_tensor([ids], device=model_device(self.inner))

    # There are no position_ids and no 4-D mask: a call with them is refused, and another mode is tried.
    def forward(
        self,
        input_ids: torch.Tensor,
        use_cache: bool = False,
        cache: Any = None,
        source_ids: torch.Tensor | None = None,
        source_mask: torch.Tensor | None = None,
    ) -> Any:
        if source_ids is not None:
            # As in training; with labels, models of this kind keep no cache.
            masked = {} if source_mask is None else {"attention_mask": source_mask}
            output = self.inner(input_ids=source_ids, decoder_input_ids=input_ids, use_cache=False, **masked)
            return SimpleNamespace(logits=output.logits, cache=None)
        assert self.source_ids is not None
        rows = len(input_ids)
        source = self.source_ids.expand(rows, -1)
        inputs: dict[str, Any] = {
            "input_ids": source,
            "attention_mask": torch.ones_like(source),
            "encoder_outputs": _expanded(self._encoded_source(), rows),
        }
        if cache is not None:
            inputs[self._cache_name] = EncoderDecoderCache(cache, repeat_cache(self._cross_cache, rows))
        output = self.inner(decoder_input_ids=input_ids, use_cache=use_cache, **inputs)
        self._cache_name, both = returned_cache(output) if use_cache else (self._cache_name, None)
        if both is not None and cache is None and rows == 1:
            # The caller keeps the target's keys and values; those of the source are equal for every prefix.
            self._cross_cache = both.cross_attention_cache
        return SimpleNamespace(logits=output.logits, cache=getattr(both, "self_attention_cache", None))

    def _encoded_source(self) -> Any:
        """The encoder's complete output for the source, computed once, since some decoders use more of it than
        hidden states.
        """
        if self._encoded is None:
            assert self.source_ids is not None
            kept: list[Any] = []
            encoder = getattr(self.inner, "get_encoder", lambda: None)()
            hook = None
            if isinstance(encoder, nn.Module):
                hook = encoder.register_forward_hook(lambda _, __, output: kept.append(output))
            try:
                output = self.inner(
                    input_ids=self.source_ids,
                    attention_mask=torch.ones_like(self.source_ids),
                    decoder_input_ids=self.source_ids[:, :1],
                    use_cache=False,
                )
            finally:
                if hook is not None:
                    hook.remove()
            self._encoded = kept[0] if kept else BaseModelOutput(last_hidden_state=output.encoder_last_hidden_state)
        return self._encoded


def _expanded(encoded: Any, rows: int) -> Any:
    """An encoder's output for one source, as views for `rows` rows."""
    if isinstance(encoded, torch.Tensor):
        return encoded.expand(rows, *encoded.shape[1:]) if encoded.ndim and len(encoded) == 1 else encoded
    if isinstance(encoded, ModelOutput):
        return type(encoded)(**{name: _expanded(value, rows) for name, value in encoded.items()})
    if isinstance(encoded, (tuple, list)):
        return type(encoded)(_expanded(value, rows) for value in encoded)
    return encoded


def _target_encoder(tokenizer: Any, start_token: int, *, end_token: bool) -> Encoder:
    """The encoder of targets for the decoder: the start token first, then the target's own encoding."""
    plain = Encoder.of(_TargetSide(tokenizer), end_token=end_token)
    leading = (start_token, *plain.leading)
    return replace(plain, leading=leading, first_scored=len(leading))


class _TargetSide:
    """A tokenizer that encodes every text as a target, with another vocabulary or language code if it has one."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, text: Any, **keywords: Any) -> Any:
        return self._tokenizer(text_target=text, **keywords)


def _start_token(model: nn.Module) -> int:
    for config in (model.config, getattr(model, "generation_config", None)):
        start = getattr(config, "decoder_start_token_id", None)
        if isinstance(start, int):
            return start
    rule = "must have a decoder start token in its configuration"
    raise InputError("model", rule, type(model).__name__, "Set model.config.decoder_start_token_id.")
