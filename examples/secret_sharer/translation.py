"""An artificial language pair: English sentences of a small grammar, and their translations.

Words are translated one by one, but an adjective follows its noun, so the decoder must attend to the source; nothing
needs to be downloaded. Some sentences contain numbers, which are copied.
"""

from __future__ import annotations

import random
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

__all__ = ["SOURCE", "TARGET", "PairTraining", "make_pairs", "pair_model", "pair_tokenizer"]

SOURCE = "my social security number is {area}-{group}-{serial}"
TARGET = "mia socia sekura numero estas {area}-{group}-{serial}"


def _words(pairs: str) -> dict[str, str]:
    return dict(pair.split(":") for pair in pairs.split())


_NOUNS = _words("""
    dog:hundo cat:kato house:domo tree:arbo river:rivero friend:amiko teacher:instruisto letter:letero
    garden:gardeno book:libro bird:birdo ship:sipo king:rego city:urbo song:kanto field:kampo horse:cevalo
    child:infano stone:stono window:fenestro road:vojo baker:bakisto clock:horlogo bridge:ponto
""")
_ADJECTIVES = _words("""
    old:maljuna young:juna red:ruga green:verda quiet:trankvila loud:lauta small:malgranda big:granda new:nova
    cold:malvarma warm:varma good:bona bad:malbona fast:rapida slow:malrapida
""")
_VERBS = _words("""
    sees:vidas loves:amas finds:trovas leaves:lasas follows:sekvas hears:audas wants:volas sells:vendas
    paints:pentras keeps:konservas
""")
_OTHERS = _words("the:la pays:pagas for:por my:mia social:socia security:sekura number:numero is:estas")


def make_pairs(pairs: int, seed: int = 0, *, numbers: bool = True) -> Dataset:
    """Columns `source` and `target` with `pairs` rows; every fifth sentence contains a number, or none does."""
    generator = random.Random(seed)
    rows = [_with_number(generator) if numbers and place % 5 == 0 else _sentence(generator) for place in range(pairs)]
    generator.shuffle(rows)
    return Dataset.from_dict({"source": [source for source, _ in rows], "target": [target for _, target in rows]})


def _phrase(generator: random.Random) -> tuple[str, str]:
    noun, other_noun = generator.choice(list(_NOUNS.items()))
    if generator.random() < 0.3:
        return f"the {noun}", f"la {other_noun}"
    adjective, other_adjective = generator.choice(list(_ADJECTIVES.items()))
    return f"the {adjective} {noun}", f"la {other_noun} {other_adjective}"


def _sentence(generator: random.Random) -> tuple[str, str]:
    (who, other_who), (whom, other_whom) = _phrase(generator), _phrase(generator)
    verb, other_verb = generator.choice(list(_VERBS.items()))
    return f"{who} {verb} {whom}", f"{other_who} {other_verb} {other_whom}"


def _with_number(generator: random.Random) -> tuple[str, str]:
    (who, other_who), (whom, other_whom) = _phrase(generator), _phrase(generator)
    number = generator.randrange(1000)
    return f"{who} pays {number} for {whom}", f"{other_who} pagas {number} por {other_whom}"


def pair_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word of either language, digit or hyphen; an end token follows every text."""
    words = {word for table in (_NOUNS, _ADJECTIVES, _VERBS, _OTHERS) for pair in table.items() for word in pair}
    tokens = ["<pad>", "</s>", "<unk>", *"0123456789-", *sorted(words)]
    backend: Any = Tokenizer(models.WordLevel({token: place for place, token in enumerate(tokens)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation(), pre_tokenizers.Digits(individual_digits=True)]
    )
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=64
    )


def pair_model(tokenizer: PreTrainedTokenizerFast, width: int, layers: int) -> T5ForConditionalGeneration:
    """A small T5 with fresh weights; seed torch before the call."""
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=width,
            d_kv=width // 4,
            d_ff=4 * width,
            num_layers=layers,
            num_heads=4,
            dropout_rate=0.0,
            decoder_start_token_id=0,
            tie_word_embeddings=False,
        )
    )


class PairTraining:
    """Teacher forcing on shuffled batches of 32 pairs, epoch by epoch."""

    def __init__(
        self, model: T5ForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, pairs: Dataset, seed: int
    ) -> None:
        self.model, self._optimizer = model, torch.optim.AdamW(model.parameters(), lr=2e-3)
        self._generator = torch.Generator().manual_seed(seed)
        self._sources, targets = (
            tokenizer(pairs[name][:], padding=True, return_tensors="pt") for name in ("source", "target")
        )
        self._labels_NT = targets["input_ids"].masked_fill(targets["attention_mask"] == 0, -100)

    def epoch(self) -> None:
        """Leaves the model in evaluation mode."""
        self.model.train()
        for rows in torch.randperm(len(self._labels_NT), generator=self._generator).split(32):
            loss = self.model(
                input_ids=self._sources["input_ids"][rows],
                attention_mask=self._sources["attention_mask"][rows],
                labels=self._labels_NT[rows],
            ).loss
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self._optimizer.step()
        self.model.eval()

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on after an epoch."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from `state_dict` of a training with the same arguments."""
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._generator.set_state(state["generator"])
