"""Texts that come with every Python: help topics of the language reference, cut into rows of words, by topic.

They are the data of a text classifier, which predicts the topic of a row, and of a language model.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import dataclass
from pydoc_data.topics import topics

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

__all__ = ["Rows", "draw_rows", "word_tokenizer"]


@dataclass(frozen=True, eq=False)
class Rows:
    """Texts with equal numbers of words, and the numbers of their topics.

    Attributes:
        texts, labels_N: texts and topics of N rows.
        name: name of the data, with a hash of all topics, which differ between versions of Python.
    """

    texts: list[str]
    labels_N: npt.NDArray[np.int64]
    name: str

    def __len__(self) -> int:
        return len(self.texts)


def draw_rows(seed: int, *counts: int, words: int, num_topics: int, most: int) -> list[Rows]:
    """Disjoint random parts of the rows, with these sizes.

    Args:
        words: number of words in a row.
        num_topics: number of topics, the longest ones.
        most: maximum number of rows per topic.
    """
    longest = sorted(topics, key=lambda topic: (-len(topics[topic]), topic))[:num_topics]
    generator = np.random.default_rng([seed, 11])
    found: list[tuple[str, int]] = []
    for label, topic in enumerate(longest):
        own = re.findall(r"[a-z_]+", topics[topic].lower())
        starts = np.arange(0, len(own) - words + 1, words)
        found += [(" ".join(own[at : at + words]), label) for at in generator.permutation(starts)[:most].tolist()]
    if len(found) < sum(counts):
        raise ValueError(f"{sum(counts)} rows were requested, but there are only {len(found)}")
    order, ends = generator.permutation(len(found)), np.cumsum(counts)
    whole = "\n".join(topics[topic] for topic in sorted(topics))
    name = f"pydoc_data.topics {hashlib.sha256(whole.encode()).hexdigest()[:16]}"
    return [
        Rows([found[at][0] for at in chosen], np.array([found[at][1] for at in chosen]), name)
        for chosen in (order[end - count : end] for end, count in zip(ends, counts, strict=True))
    ]


def word_tokenizer(texts: list[str], rows: int = 1) -> PreTrainedTokenizerFast:
    """One token for each word that occurs in at least `rows` texts, and one token for all others."""
    found = Counter(word for text in texts for word in set(text.split()))
    words = sorted(word for word, count in found.items() if count >= rows)
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
