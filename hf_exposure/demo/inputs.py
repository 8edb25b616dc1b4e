"""The demo's training text, tokenizer and model: built by the demo, or loaded by the names that the user types."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from datasets import Dataset, get_dataset_config_names
from transformers import (
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
from hf_exposure.loading import is_saved_folder, load_data_set, load_pretrained, parts_of

SMALL_MODELS = ("small-gpt2", "small-llama")
_LAYERS, _WIDTH, _HEADS = 4, 128, 4
_BPE_VOCABULARY = 1_000


def load_rows(text_file: Path | None, dataset: str | None, most_bytes: int, row_characters: int) -> Dataset:
    """Rows of about `row_characters` from the first `most_bytes` of a text, in a column `text`.

    The text is that of `text_file`, or of a dataset's `text` column, or the language reference that comes with Python
    (`pydoc_data.topics`), which is always available.

    Raises:
        InputError: both are given, the file cannot be read, the dataset has no `text` column, or the text is empty.
    """
    if text_file is not None and dataset is not None:
        raise InputError("--text-file", "cannot be combined with --dataset", str(text_file), "Give one of them.")
    text = _python_reference()
    if text_file is not None:
        try:
            text = Path(text_file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                "--text-file",
                f"must be a readable UTF-8 file ({error})",
                str(text_file),
                "Give another path, or leave it out.",
            ) from None
    if dataset is not None:
        text = _dataset_text(dataset, most_bytes)
    text = text.encode("utf-8")[:most_bytes].decode("utf-8", errors="ignore")
    rows = [text[i : i + row_characters] for i in range(0, len(text), row_characters)]
    rows = [row for row in rows if row.strip()]
    if not rows:
        option = "--dataset" if dataset is not None else "--text-file"
        raise InputError(option, "must contain some text", str(dataset or text_file), "Give another, or leave it out.")
    return Dataset.from_dict({"text": rows})


def _python_reference() -> str:
    from pydoc_data.topics import topics

    return "\n\n".join(topics.values())


def _dataset_text(name: str, most_bytes: int) -> str:
    """The first `most_bytes` of a data set's training split, which is streamed unless `save_to_disk` wrote it."""
    stream = not is_saved_folder(Path(name))
    parts = parts_of(load_data_set(name, _configuration(name) if stream else None, None, stream=stream))
    texts: list[str] = []
    size = 0
    for row in parts.get("train", next(iter(parts.values()))):
        if "text" not in row:
            raise InputError("--dataset", "must have a column named 'text'", sorted(row), "Use --text-file instead.")
        texts.append(row["text"])
        size += len(row["text"].encode("utf-8")) + 1
        if size >= most_bytes:
            break
    return "\n".join(texts)


def _configuration(name: str) -> str | None:
    """The first of several configurations, since only the first bytes of the data are read."""
    if Path(name).exists():
        return None
    try:
        names = get_dataset_config_names(name)
    except Exception:  # loading it raises the same error with a better message
        return None
    return names[0] if names and "default" not in names else None


def load_tokenizer(name: str, rows: Iterable[str]) -> PreTrainedTokenizerBase:
    """`bytes` (needs no files), `bpe` (trained on `rows`, digits kept single), or a folder or Hub id."""
    if name == "bytes":
        return ByT5Tokenizer()
    if name == "bpe":
        return _train_bpe(rows)
    tokenizer: PreTrainedTokenizerBase = load_pretrained("AutoTokenizer", name, "--tokenizer")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(name: str, tokenizer: PreTrainedTokenizerBase, context: int) -> PreTrainedModel:
    """`small-gpt2` or `small-llama` from a config, or a folder or Hub id."""
    if name not in SMALL_MODELS:
        loaded: PreTrainedModel = load_pretrained("AutoModelForCausalLM", name, "--model")
        return loaded
    special: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if name == "small-gpt2":
        # There is no dropout, since a run this short is far from overfitting.
        dropout: dict[str, Any] = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        size: dict[str, Any] = {"n_layer": _LAYERS, "n_embd": _WIDTH, "n_head": _HEADS, "n_positions": context}
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


def _train_bpe(rows: Iterable[str]) -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer: Any = Tokenizer(models.BPE())
    # Each digit is one token, as in Llama and Gemma, so that a number is searched digit by digit.
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
