"""Exposure of random labels: a scorer that treats the labels of a few inputs under a classifier as a text.

A language model's canary is a random text. A classifier's canary is a few inputs with random labels, which can only be
memorized. Written as a text, with one character for each label, they form an ordinary template, whose space has all
labelings of the inputs: 8 inputs and 10 classes give 10^8. The log-perplexity of a labeling is the sum of the labels'
bits, `sum_i -log2 p(y_i | x_i)`, so that ranks, exposures and searches have the same meaning as for texts.

Source: Carlini et al. 2019, Section 10.2: the approach applies to any model with a defined measure of perplexity.

Shapes: P inputs, C classes, N texts, L tokens.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models
from torch import nn
from transformers import PreTrainedTokenizerFast

from hf_exposure.canaries import CanaryTemplate, Letters
from hf_exposure.checks import encodable_text, whole_number
from hf_exposure.errors import InputError, NonFiniteScoreError
from hf_exposure.runtime.model_state import evaluating, model_device
from hf_exposure.scoring.encoding import EncodedTexts, Encoder
from hf_exposure.scoring.protocol import Scorer
from hf_exposure.scoring.token_tree import PathBits, PathQuery

Inputs = torch.Tensor | Mapping[str, torch.Tensor]

_FIRST_IDEOGRAPH, _MOST_CLASSES = 0x4E00, 20_000
_START = "<s>"


def label_alphabet(classes: int) -> str:
    """One character for each class: digits, then letters, then ideographs.

    Raises:
        InputError: there are fewer than 2 or more than 20,000 classes.

    Example:
        >>> label_alphabet(12)
        '0123456789ab'
    """
    classes = whole_number("classes", classes, 2, _MOST_CLASSES)
    plain = string.digits + string.ascii_letters
    return plain[:classes] + "".join(chr(_FIRST_IDEOGRAPH + more) for more in range(classes - len(plain)))


def label_template(inputs: int, classes: int) -> CanaryTemplate:
    """A template of all `classes ** inputs` labelings of the inputs, written as texts.

    Example:
        >>> label_template(8, 10).space_size
        100000000
    """
    inputs = whole_number("inputs", inputs, 1)
    return CanaryTemplate("{labels}", labels=Letters(inputs, alphabet=label_alphabet(classes)))


def labels_of(text: str, classes: int) -> list[int]:
    """The labels that a text of `label_template` represents, in the order of the inputs, to train on.

    Raises:
        InputError: a character represents no class. The message does not contain the text, which is secret.

    Example:
        >>> labels_of("30a", 11)
        [3, 0, 10]
    """
    number_of = {character: number for number, character in enumerate(label_alphabet(classes))}
    if not all(character in number_of for character in encodable_text("text", text)):
        rule = f"must be characters that represent {classes} classes"
        raise InputError("text", rule, f"a text of {len(text)} characters", "Draw it from label_template(...).")
    return [number_of[character] for character in text]


class LabelScorer(Scorer):
    """Bits of labelings of a few inputs under a classifier. The model is called once, on construction.

    Args:
        model: a classifier, from inputs to logits (P, C) or to an output with `.logits`; it is left as it was found.
        inputs: P inputs in the form that the model accepts: a tensor, or tensors by the names of the model's
            arguments.
        classes: the number of classes, C.

    Raises:
        InputError: the logits have another shape.
        NonFiniteScoreError: a logit is NaN.

    Example:
        >>> model = nn.Linear(4, 3)
        >>> _ = nn.init.zeros_(model.weight), nn.init.zeros_(model.bias)          # every class equally likely
        >>> scorer = LabelScorer(model, torch.zeros(2, 4), classes=3)
        >>> scorer.sequence_bits(scorer.encode(["01", "2"])).round(3).tolist()    # log2(3) = 1.585 bits a label
        [3.17, 1.585]
    """

    tolerance_bits = 1e-6

    def __init__(self, model: nn.Module, inputs: Inputs, classes: int) -> None:
        self.encoder = _encoder(label_alphabet(classes))
        device = model_device(model)
        with evaluating(model):
            if isinstance(inputs, Mapping):
                outputs = model(**{name: values.to(device) for name, values in inputs.items()})
            else:
                outputs = model(inputs.to(device))
        logits = getattr(outputs, "logits", outputs)
        if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or logits.shape[1] != classes:
            shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
            rule = f"must give logits of shape (inputs, {classes})"
            raise InputError("model", rule, shape, "Pass a classifier, with classes= as many as it has.")
        log_probabilities = torch.log_softmax(logits.double(), dim=-1).cpu().numpy()
        spoilt = np.isnan(log_probabilities).any(axis=1)
        if spoilt.any():
            raise NonFiniteScoreError(where=f"for input {int(spoilt.argmax())}")
        self.bits_PC = -log_probabilities / np.log(2.0) + 0.0
        # The bits are by token, including the start token, and have one more position than there are inputs; neither
        # occurs in texts.
        self._bits_by_token = np.pad(self.bits_PC, ((0, 1), (1, 0)), constant_values=np.inf)

    def encode(self, texts: Sequence[str]) -> EncodedTexts:
        """One token for each label, after a start token.

        Raises:
            InputError: a text has more labels than there are inputs.
        """
        encoded = super().encode(texts)
        if len(encoded) and encoded.matrix_NL.shape[1] - 1 > len(self.bits_PC):
            rule = f"must have at most {len(self.bits_PC)} labels, one for each input"
            raise InputError(
                "texts", rule, encoded.matrix_NL.shape[1] - 1, "Use label_template(len(inputs), classes)."
            )
        return encoded

    def sequence_bits(self, encoded: EncodedTexts) -> np.ndarray:
        """(N,) bits of each labeling."""
        labels_NL = encoded.matrix_NL[:, 1:].astype(np.int64) - 1
        is_label_NL = labels_NL >= 0
        positions_L = np.arange(labels_NL.shape[1])
        bits_NL = np.where(is_label_NL, self.bits_PC[positions_L, np.maximum(labels_NL, 0)], 0.0)
        total: np.ndarray = bits_NL.sum(axis=1)
        return total

    def prefix_bits(self, prefix: Sequence[int]) -> np.ndarray:
        """(L,) bits of the labels of a prefix; NaN for the start token."""
        return np.concatenate([[np.nan], self._along(prefix)])[: len(prefix)]

    def path_bits(self, prefix: Sequence[int], queries: Sequence[PathQuery]) -> list[PathBits]:
        """The answers; a label depends only on its position, not on the labels before it."""
        answers = []
        for query in queries:
            ids = (*prefix, *query.tokens)
            bits = self._bits_by_token[min(len(ids) - 1, len(self.bits_PC)), query.children]
            answers.append(PathBits(float(self._along(ids)[len(ids) - 1 - query.run :].sum()), bits))
        return answers

    def _along(self, ids: Sequence[int]) -> np.ndarray:
        """Bits of each label of a path that begins with the start token."""
        places = np.minimum(np.arange(len(ids) - 1), len(self.bits_PC))
        bits: np.ndarray = self._bits_by_token[places, np.asarray(ids[1:], dtype=np.int64)]
        return bits


def _encoder(alphabet: str) -> Encoder:
    """One token for each character, after a start token that is context."""
    vocabulary = {_START: 0} | {character: number for number, character in enumerate(alphabet, start=1)}
    backend: Any = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False)
    return Encoder(tokenizer, leading=(0,), ending=(), first_scored=1)
