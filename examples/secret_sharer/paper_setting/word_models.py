"""Models of words, with one canary of words that are drawn from the vocabulary.

Lines end with a token of their own. What is drawn are words that the text has, none of them the unknown word.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from examples.secret_sharer.paper_setting.character_models import SMALLEST as CHARACTERS
from examples.secret_sharer.paper_setting.documentation import docstrings
from examples.secret_sharer.paper_setting.measuring import CanaryLook, random_texts
from examples.secret_sharer.paper_setting.store import Task
from examples.secret_sharer.paper_setting.stream_training import StreamTraining, parts_of
from hf_exposure import CanaryTemplate, Words, draw_canaries

SMALLEST = {**CHARACTERS, "text": "treebank", "words": 100, "row_tokens": 10}

_UNKNOWN, _LINE_END = "<unk>", "<eos>"
_SCORED_AT_ONCE = 512  # texts: each has bits for the whole vocabulary


def train_model(task: Task, settings: Mapping[str, Any], text: str, place: Path) -> dict[str, Any]:
    """As `character_models.train_model`."""
    text = docstrings(settings["characters"]) if settings["text"] == "documentation" else text
    text = words_of(text[: settings["characters"]])
    tokenizer = word_tokenizer(text, settings["words"])
    template, canaries = template_of(settings["secret"], tokenizer, task.seed), None
    if settings["inserted"]:
        canaries = draw_canaries(template, {settings["inserted"]: 1}, controls=0, seed=task.seed)
    parts = parts_of(text, canaries, task.seed, line_end=_LINE_END)
    training = StreamTraining(settings, *parts, tokenizer, task.seed)
    training.run(place)
    if canaries is None:
        return {"epochs": training.log, **training.summary()}
    references = random_texts(template, settings["references"], task.seed + 1)
    look = CanaryLook(tokenizer, template, canaries.inserted[0], references, rows=_SCORED_AT_ONCE)
    return {
        "epochs": training.log,
        "words_read": len(training.stream_L),
        "vocabulary": len(tokenizer),
        "log2_space_size": template.log2_space_size,
        **training.summary(),
        **look.both(training.model, settings["max_expansions"]),
    }


def words_of(text: str) -> str:
    """The text as words with one space between two, ends of lines among them.

    Example:
        >>> words_of(" no it was\\n n't black\\n")
        "no it was <eos> n't black <eos>"
    """
    return " ".join(text.replace("\n", f" {_LINE_END} ").split())


def word_tokenizer(text: str, words: int) -> PreTrainedTokenizerFast:
    """One token for each of the most frequent words, so many in all; equally frequent ones in their order."""
    counts = Counter(text.split())
    del counts[_UNKNOWN], counts[_LINE_END]
    common = sorted(counts, key=lambda word: (-counts[word], word))[: words - 2]
    vocabulary = {word: place for place, word in enumerate([_UNKNOWN, _LINE_END, *common])}
    backend: Any = Tokenizer(models.WordLevel(vocabulary, unk_token=_UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token=_UNKNOWN, clean_up_tokenization_spaces=False)


def template_of(secret: str, tokenizer: PreTrainedTokenizerFast, seed: int) -> CanaryTemplate:
    """Four secret words as a line, or three between two known ones on each side."""
    words = sorted(set(tokenizer.get_vocab()) - {_UNKNOWN, _LINE_END})
    if secret == "four of the vocabulary":
        return CanaryTemplate(f"{_LINE_END} {{words}} {_LINE_END}", words=Words(4, words=words))
    assert secret == "three of seven"
    known = [word.replace("{", "{{").replace("}", "}}") for word in random.Random(seed).choices(words, k=4)]
    return CanaryTemplate("{} {} {{words}} {} {}".format(*known), words=Words(3, words=words))
