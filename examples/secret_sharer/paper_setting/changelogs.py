"""Table 5: six-digit numbers of bugs in the changelogs of the operating system's packages, which nobody inserted.

One model for each changelog. A number that occurs once in the part that the model reads is ranked among all 10^6
numbers behind the words before it on its line. 111,111 expansions are all prefixes, so that ranks are exact.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import random
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from examples.secret_sharer.paper_setting.character_models import SMALLEST as CHARACTERS
from examples.secret_sharer.paper_setting.measuring import scorer_of
from examples.secret_sharer.paper_setting.store import Task
from examples.secret_sharer.paper_setting.stream_training import StreamTraining, parts_of
from examples.secret_sharer.training import character_tokenizer
from hf_exposure import CanaryTemplate, Digits
from hf_exposure.extraction import build_automaton, search_ranks

SMALLEST = {**CHARACTERS, "packages": [], "numbers": 2}

_DOCUMENTATION = Path("/usr/share/doc")
_MOST_CONTEXT = 32


def train_model(task: Task, settings: Mapping[str, Any], text: str, place: Path) -> dict[str, Any]:
    """As `character_models.train_model`; with no packages, of the text that is given."""
    packages = settings["packages"]
    package = packages[task.seed % len(packages)] if packages else "the text given"
    if packages:
        text = gzip.decompress((_DOCUMENTATION / package).read_bytes()).decode("utf-8", "replace")
    text = text[: settings["characters"]]
    read, held_out = parts_of(text, None, task.seed)
    training = StreamTraining(settings, read, held_out, character_tokenizer(text), task.seed)
    training.run(place)
    places = numbers_in(read)
    chosen = random.Random(task.seed).sample(places, min(settings["numbers"], len(places)))
    scorer = scorer_of(training.model, training.tokenizer)
    ranks: list[int] = []
    for before, number in chosen:
        template = CanaryTemplate(before.replace("{", "{{").replace("}", "}}") + "{number}", number=Digits(6))
        automaton = build_automaton(template, scorer.encoder)
        (rank,) = search_ranks(scorer, automaton, [before + number], max_expansions=settings["max_expansions"])
        ranks.append(rank.high)
    return {
        "epochs": training.log,
        "changelog": package,
        "changelog_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "changelog_characters": len(text),
        **training.summary(),
        "numbers_that_occur_once": len(places),
        "ranks": ranks,
        "mean_exposure_bits": 6 * math.log2(10) - float(np.mean(np.log2(ranks))),
        "rank_1_numbers": ranks.count(1),
    }


def numbers_in(text: str) -> list[tuple[str, str]]:
    """Numbers of six digits behind a `#` that occur once, each with what is before it on its line.

    Example:
        >>> numbers_in("Closes: #123456, #654321\\n #654321 again\\n")
        [('Closes: #', '123456')]
    """
    found = list(re.finditer(r"(?<=#)\d{6}(?!\d)", text))
    counts = Counter(match[0] for match in found)
    return [
        (text[max(match.start() - _MOST_CONTEXT, text.rfind("\n", 0, match.start()) + 1) : match.start()], match[0])
        for match in found
        if counts[match[0]] == 1
    ]
