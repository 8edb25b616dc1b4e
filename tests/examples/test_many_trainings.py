"""The studies with many training runs run from end to end, continue after a kill, and the page shows their results."""

from __future__ import annotations

import json
import tomllib

import numpy as np
import pytest

from examples.many_trainings import (
    RESULTS,
    canaries,
    deduplication,
    dissection,
    early_end,
    extraction,
    images,
    null,
    one_run,
    onion,
    onion_attack,
    pretraining,
    robust_training,
    subwords,
    subwords_early,
    texts,
    texts_transformer,
    texts_transformer_longer,
)
from examples.many_trainings.page import PAGE, with_results
from examples.many_trainings.study import Options
from examples.secret_sharer.claims import numbers_at

STUDIES = [
    canaries,
    deduplication,
    dissection,
    early_end,
    extraction,
    images,
    null,
    one_run,
    onion,
    onion_attack,
    pretraining,
    robust_training,
    subwords,
    subwords_early,
    texts,
    texts_transformer,
    texts_transformer_longer,
]


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.__name__.rsplit(".", 1)[-1])
def test_the_smallest_size_measures_what_the_rules_are_about(study, tmp_path):
    options = Options(size="smallest", data=None, store=tmp_path / "runs", out=tmp_path, jobs=1)
    study.run(options)
    name = study.__name__.rsplit(".", 1)[-1]
    stored = tmp_path / f"{name}.json"
    figures = json.loads(stored.read_text())["figures"]
    for claim in tomllib.loads((RESULTS / f"{name}.toml").read_text())["claims"]:
        assert numbers_at(figures, claim["numbers"])
    stored.unlink()
    study.run(options)
    assert json.loads(stored.read_text())["figures"] == figures


def test_the_exposure_of_a_code_is_its_rank_among_those_that_were_not_inserted():
    model = canaries.NextCharacter()
    rows = [("the code is 0042.", 1), ("the code is 7777.", 4), ("the code is 1234.", 1)]
    costs = canaries._costs_of_codes(model)
    found = canaries.scores(model, rows)
    for (text, _), exposure in zip(rows, found, strict=True):
        code = int(text[12:16])
        rank = 1 + sum(costs[other] <= costs[code] for other in range(10_000) if other not in (42, 7777, 1234))
        assert exposure == pytest.approx(np.log2(9998) - np.log2(rank))


def test_the_page_is_up_to_date():
    page = PAGE.read_text(encoding="utf-8")
    assert page == with_results(page), "run: python -m examples.many_trainings.page"
