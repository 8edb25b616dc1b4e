"""Tokenizers with a chat template, built on the spot: one token per character, and special tokens for the turns."""

from __future__ import annotations

import string

from tokenizers import Tokenizer, decoders, models, processors
from transformers import PreTrainedTokenizerFast

CHATML = (
    "{% for message in messages %}<|start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}<|end|>{% endgeneration %}"
    "{% else %}{{ message['content'] }}<|end|>{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
WITH_BOS = "<s>" + CHATML


def chat_tokenizer(template: str = CHATML, *, adds_bos: bool = False) -> PreTrainedTokenizerFast:
    """`adds_bos` puts `<s>` before a plain text, as Llama's tokenizers do; a chat template writes its own or none."""
    special = ["<pad>", "<s>", "</s>", "<|start|>", "<|end|>", "<unk>"]
    vocabulary = {token: index for index, token in enumerate([*special, *string.printable])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    backend.decoder = decoders.Fuse()
    if adds_bos:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=["<|start|>", "<|end|>"],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = template
    return tokenizer
