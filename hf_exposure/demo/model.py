"""The demo's model and tokenizer: built from a config on the spot, or loaded from a folder or the Hub."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    ByT5Tokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from hf_exposure.errors import InputError

SMALL_MODELS = ("small-gpt2", "small-llama")
_LAYERS, _WIDTH, _HEADS = 4, 128, 4
_BPE_VOCABULARY = 1_000


def load_tokenizer(name: str, rows: Iterable[str]) -> PreTrainedTokenizerBase:
    """`bytes` (needs no files), `bpe` (trained on `rows`, digits kept single), or a folder or Hub id."""
    if name == "bytes":
        return ByT5Tokenizer()
    if name == "bpe":
        return _train_bpe(rows)
    tokenizer = _loaded("--tokenizer", name, AutoTokenizer)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(name: str, tokenizer: PreTrainedTokenizerBase, context: int) -> PreTrainedModel:
    """`small-gpt2` or `small-llama` from a config, or a folder or Hub id."""
    if name not in SMALL_MODELS:
        return _loaded("--model", name, AutoModelForCausalLM)
    special = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if name == "small-gpt2":
        # No dropout: a run this short is far from overfitting.
        dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        size = {"n_layer": _LAYERS, "n_embd": _WIDTH, "n_head": _HEADS, "n_positions": context}
        return GPT2LMHeadModel(GPT2Config(**size, **dropout, **special))
    return LlamaForCausalLM(
        LlamaConfig(
            num_hidden_layers=_LAYERS,
            hidden_size=_WIDTH,
            intermediate_size=2 * _WIDTH,
            num_attention_heads=_HEADS,
            max_position_embeddings=context,
            **special,
        )
    )


def _loaded(option: str, name: str, auto_class: Any) -> Any:
    try:
        return auto_class.from_pretrained(name)
    except (OSError, ValueError) as error:
        # The library's own message runs over many lines; its first says what is wrong.
        rule = f"must be a folder or Hub id that loads ({str(error).strip().splitlines()[0]})"
        raise InputError(option, rule, name, f"Leave {option} out for one that is made on the spot.") from None


def _train_bpe(rows: Iterable[str]) -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer: Any = Tokenizer(models.BPE())
    # Single digits, as in Llama and Gemma: a number is then searched digit by digit.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_BPE_VOCABULARY,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(rows, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>")
