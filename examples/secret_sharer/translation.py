"""An artificial language pair: English sentences of a small grammar, and their translations.

Words are translated one by one, but an adjective follows its noun, so the decoder must attend to the source; nothing
needs to be downloaded. Some sentences contain numbers, which are copied.
"""

from __future__ import annotations

import random
from typing import Any

from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

__all__ = ["SOURCE", "TARGET", "make_pairs", "pair_tokenizer"]

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


def make_pairs(pairs: int, seed: int = 0) -> Dataset:
    """Columns `source` and `target` with `pairs` rows; every fifth sentence contains a number."""
    generator = random.Random(seed)
    rows = [_with_number(generator) if place % 5 == 0 else _sentence(generator) for place in range(pairs)]
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
