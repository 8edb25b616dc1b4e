"""What the runners of the paper's own setting are made of, against figures found by hand or by the library."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from examples.secret_sharer.figure8_every_batch import jumps
from examples.secret_sharer.models import make_model
from examples.secret_sharer.paper_setting import documentation, store
from examples.secret_sharer.paper_setting.derived import DERIVED
from examples.secret_sharer.paper_setting.documentation import docstrings
from examples.secret_sharer.paper_setting.known_context import FORMATS, mean_costs, text_pieces
from examples.secret_sharer.paper_setting.measuring import CanaryLook, random_texts, scorer_of
from examples.secret_sharer.paper_setting.private_models import rows_with
from examples.secret_sharer.paper_setting.store import Task, settings_of, tasks, write_model
from examples.secret_sharer.paper_setting.stream_training import StreamTraining, parts_of
from examples.secret_sharer.paper_setting.templates import TEMPLATES
from examples.secret_sharer.paper_setting.word_models import template_of, word_tokenizer
from examples.secret_sharer.training import character_tokenizer
from hf_exposure import CanaryTemplate, Digits, draw_canaries, log_perplexity, rank_bounds

TEXT = "".join(f" no it was n't black {number} times\n" for number in range(300))
TOKENIZER, PARTS = character_tokenizer(""), parts_of(TEXT, None, seed=0)
SETTINGS: dict[str, Any] = {
    **{"layers": 1, "width": 8, "row_tokens": 40, "batch_size": 16, "optimizer": "adam", "learning_rate": 1e-2},
    "epochs": 3,
}


def small_model(kind: str = "lstm") -> Any:
    torch.manual_seed(0)
    return make_model(kind, len(TOKENIZER), width=12).eval()


def test_spaces_have_the_sizes_that_the_claims_speak_of() -> None:
    assert {name: template.log2_space_size for name, template in TEMPLATES.items()} == pytest.approx(
        {"number": 9 * math.log2(10), "two words": 32.0, "four words": 60.0}
    )
    for template in TEMPLATES.values():
        assert len({len(template.text_at(at)) for at in (0, 1, template.space_size - 1)}) == 1
    assert all(CanaryTemplate(text, **holes).space_size == 10**9 for text, holes in FORMATS.values())


@pytest.mark.parametrize("kind", ["lstm", "cnn"])
def test_a_look_at_a_canary_is_what_the_library_says(kind: str) -> None:
    model, template = small_model(kind), CanaryTemplate("pin {pin}", pin=Digits(3))
    canary = draw_canaries(template, {1: 1}, controls=0, seed=1).inserted[0]
    look = CanaryLook(TOKENIZER, template, canary, random_texts(template, 200, seed=0))
    costs = log_perplexity(model, TOKENIZER, [template.text_at(at) for at in range(1000)])
    own = log_perplexity(model, TOKENIZER, [canary.text])[0]
    rank = int((costs <= own + 1e-6).sum())
    found = look.both(model, max_expansions=1000)
    assert found["log_perplexity_bits"] == pytest.approx(own, abs=1e-3)
    assert (found["rank_low"], found["rank_high"], found["certified"]) == (rank, rank, True)
    assert found["exposure_bits"] == pytest.approx(math.log2(1000 / rank)) and found["extracted"] is (rank == 1)
    assert rank_bounds(model, TOKENIZER, canary.text, template).high == rank
    among = 1 + sum(costs[template.index_of(text)] <= own for text in random_texts(template, 200, seed=0))
    open_ = look.both(model, max_expansions=1)
    assert open_["certified"] is False and open_["extracted"] is (False if open_["rank_low"] > 1 else None)
    assert open_["exposure_bits"] == pytest.approx(math.log2(201 / among))


def test_rows_in_order_are_cut_outside_the_canary() -> None:
    for seed in range(5):
        canaries = draw_canaries(TEMPLATES["number"], {1: 1}, controls=0, seed=seed)
        canary = canaries.inserted[0].text
        parts = parts_of(TEXT, canaries, seed, place=0.1)
        training = StreamTraining(SETTINGS | {"row_tokens": 100}, *parts, TOKENIZER, seed, whole=canary)
        rows_NT = training._rows(training.stream_L, training.fixed_offset)
        row = "".join(TOKENIZER.convert_ids_to_tokens(rows_NT[training.whole_in_row].tolist()))
        assert canary in row


def test_a_training_to_a_loss_ends_there(tmp_path: Path) -> None:
    whole, short = (tmp_path / name for name in ("whole", "short"))
    for folder in (whole, short):
        folder.mkdir()
    free = StreamTraining(SETTINGS, *PARTS, TOKENIZER, 0)
    free.run(whole)
    losses = [epoch["validation_bits"] for epoch in free.log]
    until = 0.5 * (losses[0] + losses[1])
    ended = StreamTraining(SETTINGS | {"until_bits": until}, *PARTS, TOKENIZER, 0)
    ended.run(short)
    assert len(ended.log) == 2 and ended.log[1]["validation_bits"] <= until
    assert ended.summary()["validation_bits"] == ended.log[1]["validation_bits"]


def test_patience_leaves_the_weights_of_the_lowest_loss(tmp_path: Path) -> None:
    training = StreamTraining(SETTINGS | {"patience": 1, "learning_rate": 1.0, "epochs": 60}, *PARTS, TOKENIZER, 0)
    training.run(tmp_path)
    losses = [epoch["validation_bits"] for epoch in training.log]
    assert min(losses) < losses[-1], "else this shows nothing"
    assert training._validation_bits() == pytest.approx(min(losses)) == training.summary()["validation_bits"]


def test_choices_and_common_losses_are_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = {
        "rates": {
            "stage": 1,
            "cells": {"a": 1, "b": 1, "c": 1},
            "variants": {
                "a": {"dropout": 0.0, "learning_rate": 0.1},
                "b": {"dropout": 0.0, "learning_rate": 0.2},
                "c": {"dropout": 0.3, "learning_rate": 0.2},
            },
        },
        "real": {
            "stage": 2,
            "rates": "rates",
            "until_times": 1.5,
            "cells": {"dry": 9},
            "settings": {"dropout": 0.0, "choices": {"width": [3, 4, 5]}},
        },
    }
    monkeypatch.setattr(store, "experiments", lambda: made)
    for task, loss in zip(tasks("rates"), [3.0, 2.0, 4.0], strict=True):
        write_model(task, {"best_validation_bits": loss}, tmp_path, text={})
    found = [settings_of(task, tmp_path) or {} for task in tasks("real")]
    assert {one["width"] for one in found} == {3, 4, 5}
    assert {(one["learning_rate"], one["until_bits"]) for one in found} == {(0.2, 6.0)}, "the worst way has 4"
    assert settings_of(Task(experiment="real", cell="dry", seed=2), tmp_path) == found[2]
    assert "choices" not in found[0] and made["real"]["settings"]["choices"]  # type: ignore[index]


def test_a_canary_is_within_one_private_row() -> None:
    canary = "The random number is 281265017"
    places = set()
    for seed in range(40):
        rows, row = rows_with("x" * 1000, canary, 50, seed)
        assert {len(one) for one in rows} == {50} and canary in rows[row] and sum("T" in one for one in rows) == 1
        places.add((row, rows[row].index(canary)))
    assert len(places) > 30, "at random"


def test_unknown_sides_are_averaged_over() -> None:
    model, pieces, fillings = small_model(), ["a man ", "of 12 "], ["123", "999"]
    found = mean_costs(scorer_of(model, TOKENIZER), pieces, fillings, "xy")
    whole = log_perplexity(model, TOKENIZER, [piece + one + "xy" for one in fillings for piece in pieces])
    alone = log_perplexity(model, TOKENIZER, pieces)
    np.testing.assert_allclose(found, (whole.reshape(2, 2) - alone).mean(axis=1), atol=1e-3)
    assert all(1 < len(piece) <= 21 and piece.endswith(" ") for piece in text_pieces(TEXT, 30, 20, seed=0))


def test_words_are_the_most_frequent_and_secrets_are_among_them() -> None:
    text = "the b a the <unk> <eos> b the c d <eos>"
    tokenizer = word_tokenizer(text, words=5)
    assert tokenizer.get_vocab() == {"<unk>": 0, "<eos>": 1, "the": 2, "b": 3, "a": 4}
    assert tokenizer("the d <eos> a")["input_ids"] == [2, 0, 1, 4]
    four, three = (template_of(name, tokenizer, 0) for name in ("four of the vocabulary", "three of seven"))
    assert (four.space_size, three.space_size) == (3**4, 3**3)
    assert four.text_at(0) == "<eos> a a a a <eos>" and len(three.text_at(0).split()) == 7


def test_docstrings_are_read_once_and_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = "It returns 3 things, each of which is longer than the last."
    (tmp_path / "a.py").write_text(f'"""{long}"""\ndef f():\n    """Short."""\nclass C:\n    """{long} So?"""\n')
    (tmp_path / "b.py").write_text(f'"""{long}"""\n')
    (tmp_path / "c.py").write_text("print 'of old Python'\n")
    monkeypatch.setattr(
        documentation.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path), "purelib": str(tmp_path)}
    )
    words = "it returns things , each of which is longer than the last ."
    assert docstrings(10_000) == f"{words}\n{words} so\n"
    assert docstrings(len(words)) == f"{words}\n"


def epochs(*pairs: tuple[float, float]) -> dict[str, Any]:
    log = [{"validation_bits": loss, "skew_normal_bits": bits} for loss, bits in pairs]
    return {"epochs": log, "best_validation_bits": min(loss for loss, _ in pairs)}


def test_optimizers_are_compared_at_the_worst_ones_best_loss() -> None:
    cells = {
        "adam": [epochs((2.5, 1), (2.0, 5), (1.5, 9)), epochs((2.0, 3), (1.9, 4))],
        "sgd": [epochs((2.6, 2), (2.1, 3)), epochs((2.5, 0), (1.8, 7))],
        "adadelta": [epochs((2.1, 8), (2.2, 1)), epochs((1.9, 6), (1.85, 2))],
    }
    found = DERIVED["optimizers"](cells)
    assert found["skew_normal_at_equal_loss"] == {"adam": [5, 4], "sgd": [3, 7], "adadelta": [8, 6]}
    # Ranks by seed: 2 1 3 and 1 3 2: sums 3, 4, 5; chi2 = 12/(2*3*4) * (9+16+25) - 3*2*4 = 1; two degrees.
    assert found["friedman_p_value"] == pytest.approx(math.exp(-0.5))


def test_what_is_derived_of_words_changelogs_and_architectures() -> None:
    def losses(*bits: float) -> list[dict[str, Any]]:
        return [{"validation_bits": loss} for loss in bits]

    apart = DERIVED["words"]({"A 1": losses(7, 8), "B 1": losses(7, 7), "A 2": losses(1)})
    assert apart == {"loss_apart": {"1": 0.5}}
    models = [
        {"validation_bits": loss, "rank_high": rank, "skew_normal_bits": bits}
        for loss, rank, bits in [(7.0, 3, 20.0), (7.01, 9, 5.0), (7.1, 1, 40.0), (8.0, 1, 50.0)]
    ]
    found = DERIVED["word_settings"]({"settings": models})
    assert (found["best_model_rank"], found["spread_at_equal_utility"]) == (3, 15.0)
    assert DERIVED["changelogs"]({"changelog": [{"rank_1_numbers": 2}, {"rank_1_numbers": 3}]}) == {
        "rank_1_numbers": 5
    }
    kinds = {
        kind: [{"skew_normal_bits": bits + seed, "validation_bits": 1 / bits} for seed in (0, 1)]
        for kind, bits in {"gru 1": 8.0, "lstm 2": 4.0, "cnn 1": 2.0, "wavenet 4": 1.0}.items()
    }
    assert DERIVED["architectures"](kinds) == {
        "recurrent_over_convolutional": [4.5, 4.5],
        "recurrent_loss_over_convolutional": pytest.approx([0.1875 - 0.75] * 2),
    }


def test_jumps_are_the_changes_at_the_canarys_batch() -> None:
    found = jumps([0, 0, 0, 0, 5, 4, 3, 9, 8], epochs=3, canary_batch=1)
    assert found["spikes"] == [5, 6] and found["mean_spike"] == 5.5 and found["batches_in_an_epoch"] == 3
    assert found["mean_other_change"] == pytest.approx((0 - 1 - 1 - 1) / 4)
