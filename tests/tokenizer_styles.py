"""Tokenizers in the styles of well-known ones, trained here on Python's own manual and on numbers, so that digits
merge. The vocabularies are small, but texts are split as in the originals."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from pydoc_data.topics import topics
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
QWEN = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
FROM_THE_RIGHT = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}{1,3}(?=(?:\p{N}{3})*(?:\P{N}|$))")


@cache
def corpus() -> tuple[str, ...]:
    """Prose and equally many numbers, alone and after words."""
    prose = "".join(topics.values())[:150_000].split("\n")
    draw = random.Random(0)
    numbers = [f"{draw.randrange(10 ** draw.randrange(1, 10))}" for _ in range(4000)]
    said = [f"the number is {number}" for number in numbers[:2000]]
    return (*prose, *numbers, *said, "pin 12-34 é è 日本 red reddish", "x = 7; code 123-456")


def _trained(backend: Tokenizer, trainer: Any) -> Tokenizer:
    backend.train_from_iterator(corpus(), trainer)
    return backend


def _byte_level(pattern: str | None, size: int, **model: Any) -> Tokenizer:
    backend = Tokenizer(models.BPE(**model))
    split = [] if pattern is None else [pre_tokenizers.Split(Regex(pattern), "isolated")]
    backend.pre_tokenizer = pre_tokenizers.Sequence([*split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, special_tokens=["<|end|>"], show_progress=False
    )
    return _trained(backend, trainer)


def _sentencepiece(size: int) -> Tokenizer:
    """BPE as in SentencePiece: splits only at spaces, which are marked; unknown characters fall back to bytes."""
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=["<unk>", "<s>", "</s>", *bytes_], show_progress=False, limit_alphabet=100
    )
    backend = _trained(backend, trainer)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return backend


def _unigram(size: int) -> Tokenizer:
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=size, unk_token="<unk>", special_tokens=["<unk>", "</s>"], show_progress=False
    )
    backend = _trained(backend, trainer)
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return backend


def _wordpiece(size: int, lowercase: bool) -> Tokenizer:
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    backend = _trained(
        backend, trainers.WordPieceTrainer(vocab_size=size, special_tokens=special, show_progress=False)
    )
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return backend


def _characters() -> Tokenizer:
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    alphabet = sorted(set("".join(corpus())))
    backend = Tokenizer(
        models.BPE(vocab={c: i for i, c in enumerate(["<unk>", *alphabet])}, merges=[], unk_token="<unk>")
    )
    return backend


_STYLES: dict[str, Callable[[], Any]] = {
    "gpt2": lambda: _byte_level(GPT2, 1500),
    "llama3": lambda: _byte_level(LLAMA3, 1500, ignore_merges=True),
    "qwen": lambda: _byte_level(QWEN, 1000),
    "from the right": lambda: _byte_level(FROM_THE_RIGHT, 1500),
    "sentencepiece": lambda: _sentencepiece(1500),
    "unigram": lambda: _unigram(1000),
    "wordpiece uncased": lambda: _wordpiece(1500, True),
    "wordpiece cased": lambda: _wordpiece(1500, False),
    "characters": _characters,
}
STYLES = (*_STYLES, "bytes")


@cache
def tokenizer_in_style(name: str) -> Any:
    """A tokenizer of `transformers` with an end token; trained once per process."""
    if name == "bytes":
        return ByT5Tokenizer()
    backend = _STYLES[name]()
    end = next((t for t in ("<|end|>", "</s>", "[SEP]", "<unk>") if backend.token_to_id(t) is not None), None)
    unknown = next((t for t in ("<unk>", "[UNK]") if backend.token_to_id(t) is not None), None)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=end, unk_token=unknown, clean_up_tokenization_spaces=False
    )
