"""Measurements of membership: on an overfitted model, on an untrained one, and as a measure during training."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_model
from scipy import stats
from torch import nn
from toy_measures import start_of
from transformers import ByT5Tokenizer, T5Config, T5ForConditionalGeneration
from trl import SFTConfig, SFTTrainer

from hf_exposure import MeasureCallback, MembershipMeasure, MembershipMeter, MembershipReport, measure_membership
from hf_exposure.errors import InputError
from hf_exposure.estimators import TokenSignals
from hf_exposure.records import MembershipVerdict
from hf_exposure.testing import check_measure

TOKENIZER = ByT5Tokenizer()


def texts(count: int, seed: int, length: int = 24) -> list[str]:
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice(list("abcdefgh "), length)) for _ in range(count)]


MEMBERS, HELD_OUT = texts(24, 1), texts(40, 2)


@pytest.fixture(scope="module")
def overfitted() -> nn.Module:
    model = tiny_model("gpt2", scale=0.1).train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ids = torch.tensor(TOKENIZER(MEMBERS, add_special_tokens=False)["input_ids"])
        optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
        for _ in range(150):
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return model.eval()


def longest_token(text: TokenSignals, base: TokenSignals | None) -> float:
    return float(text.log_probability_T.min())


def test_an_overfitted_model_is_detected(overfitted: nn.Module, tmp_path: Path) -> None:
    base = tiny_model("gpt2", scale=0.1)
    report = measure_membership(
        overfitted, TOKENIZER, MEMBERS, HELD_OUT, base, statistics={"longest": longest_token},
        false_positive_rates=(0.01, 0.1),
    )  # fmt: skip
    assert list(report.statistics) == [
        "loss", "zlib", "min_k", "min_k_plus_plus", "base_calibrated", "error_zone", "longest"
    ]  # fmt: skip
    assert all(one.auc is not None and one.auc > 0.9 for one in report.statistics.values()), report
    assert report.verdict is MembershipVerdict.DETECTED and report.p_value < 1e-6
    assert report.members.exact_memorization.mean > 0.8 > 0.5 > report.held_out.exact_memorization.mean
    assert report.members.extraction_strength.median > report.held_out.extraction_strength.maximum
    assert (report.members.records, report.held_out.records) == (24, 40) and report.base == "GPT2LMHeadModel"
    loss = report.statistics["loss"]
    assert loss.tpr[0.1].rate is not None and loss.tpr[0.1].rate > 0.8 and loss.tpr[0.1].low <= loss.tpr[0.1].rate
    assert loss.tpr[0.01].rate is None and "needs 100 held-out records, and there are 40" in loss.tpr[0.01].reason
    assert loss.roc[0][0] == 0.0 and loss.roc[-1] == (1.0, 1.0) and len(loss.most_exposed) == 10
    # Files contain no texts, are readable by their owner only, and load unchanged.
    report.save(tmp_path / "run")
    assert MembershipReport.load(tmp_path / "run") == report
    assert MembershipReport.load(tmp_path / "run" / "membership.json") == report
    for file in (tmp_path / "run").iterdir():
        assert file.stat().st_mode & 0o77 == 0
        assert not any(text.encode() in file.read_bytes() for text in (*MEMBERS, *HELD_OUT))
    values = json.loads((tmp_path / "run" / "membership.json").read_text())
    assert values["verdict"] == "detected" and values["metrics"]["eval_membership_loss_auc"] == loss.auc
    assert "AUC" in str(report) and "corrected p" in str(report) and len(report.to_pandas()) == 7
    assert "Members can be told" in (report._repr_html_() or "")


def test_a_model_that_saw_neither_finds_nothing() -> None:
    p_values = {name: [] for name in ("loss", "zlib", "min_k", "min_k_plus_plus", "base_calibrated", "error_zone")}
    model, base = tiny_model("gpt2", seed=1), tiny_model("gpt2", seed=2)
    detected = 0
    for seed in range(60):
        drawn = texts(40, 100 + seed, length=12)
        report = measure_membership(model, TOKENIZER, drawn[:16], drawn[16:], base)
        detected += report.verdict is MembershipVerdict.DETECTED
        for name, found in p_values.items():
            found.append(report.statistics[name].p_value)
    for name, found in p_values.items():
        assert stats.kstest(found, "uniform").pvalue > 1e-3, name
    assert stats.binomtest(detected, 60, 0.05, alternative="greater").pvalue > 1e-3


def test_without_a_base_model_two_statistics_are_undefined() -> None:
    report = measure_membership(tiny_model("gpt2"), TOKENIZER, MEMBERS[:4], HELD_OUT[:4])
    for name in ("base_calibrated", "error_zone"):
        one = report.statistics[name]
        assert one.auc is None and one.tpr[0.01].rate is None and "base_model" in one.reason
    assert report.base == "" and "base_loss" not in report.blind
    assert not any("error_zone" in key for key in report.metrics())
    assert "error_zone: it needs a base model" in str(report)


def test_a_statistic_that_is_undefined_somewhere_says_so() -> None:
    def even(text: TokenSignals, base: TokenSignals | None) -> float:
        return math.nan if text.log_probability_T.size % 2 else 1.0

    report = measure_membership(
        tiny_model("gpt2"), TOKENIZER, ["abc", "abcd"], ["cd", "cde"], statistics={"even": even}
    )
    assert report.statistics["even"].auc is None
    assert report.statistics["even"].reason == "the statistic is undefined for 2 of 4 records"
    assert math.isnan(report.metrics()["eval_membership_even_auc"])


def test_members_among_the_held_out_are_left_out_and_other_groups_are_not_compared() -> None:
    model = tiny_model("gpt2")
    report = measure_membership(model, TOKENIZER, MEMBERS, [*HELD_OUT, *MEMBERS[:3], "a"])
    assert report.shared == 3 and report.held_out.records == 40 and report.held_out.left_out == 1
    assert any("3 held-out records are members too" in note for note in report.notes)
    longer = measure_membership(model, TOKENIZER, MEMBERS, texts(40, 3, length=30))
    assert longer.verdict is MembershipVerdict.NOT_COMPARABLE and "tokens" in longer.differences
    assert "No verdict: members and held-out records differ in their number of tokens" in str(longer)
    with pytest.raises(InputError, match="held_out: must hold at least one record"):
        measure_membership(model, TOKENIZER, MEMBERS, MEMBERS[:2])
    with pytest.raises(InputError, match="members: must hold at least one record"):
        measure_membership(model, TOKENIZER, [], HELD_OUT)


def test_adapters_switched_off_are_the_base() -> None:
    peft = pytest.importorskip("peft")
    model = tiny_model("gpt2")
    expected = measure_membership(tiny_model("gpt2", seed=0), TOKENIZER, MEMBERS, HELD_OUT, tiny_model("gpt2"))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True))
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(weight, std=0.5)
    report = measure_membership(adapted, TOKENIZER, MEMBERS, HELD_OUT, "without_adapter")
    assert report.base == "without_adapter" and report.blind["base_loss"].auc == expected.blind["base_loss"].auc
    assert report.statistics["loss"].auc != expected.statistics["loss"].auc
    with pytest.raises(InputError, match="needs a model with PEFT adapters"):
        measure_membership(tiny_model("gpt2"), TOKENIZER, MEMBERS, HELD_OUT, "without_adapter")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"statistics": {"loss": longest_token}}, "other than"),
        ({"statistics": {"mine": 3}}, "must be functions"),
        ({"false_positive_rates": (0.0,)}, "strictly between 0 and 1"),
        ({"false_positive_rates": "0.1"}, "must be numbers in a list"),
        ({"confidence_level": 1.0}, "confidence_level"),
        ({"max_batch_tokens": 0}, "max_batch_tokens"),
        ({"max_tokens": 1}, "max_tokens"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        measure_membership(tiny_model("gpt2"), TOKENIZER, MEMBERS, HELD_OUT, **settings)


def test_models_of_other_kinds_are_refused() -> None:
    config = T5Config(vocab_size=384, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0)
    with pytest.raises(InputError, match="must be a causal language model"):
        measure_membership(T5ForConditionalGeneration(config), TOKENIZER, MEMBERS, HELD_OUT)
    with pytest.raises(InputError, match="must be a torch module"):
        measure_membership("gpt2", TOKENIZER, MEMBERS, HELD_OUT)


def test_it_is_a_measure() -> None:
    check_measure(
        lambda: MembershipMeasure(MEMBERS[:6], iter(HELD_OUT[:6])),
        tiny_model("gpt2"),
        start_of(tiny_model("gpt2"), tokenizer=TOKENIZER),
    )


def test_a_base_is_read_once_and_records_again_where_the_context_changes() -> None:
    base, model = tiny_model("gpt2", seed=3), tiny_model("gpt2")
    calls: list[int] = []
    base.register_forward_hook(lambda *_: calls.append(1))
    meter = MembershipMeter(iter(MEMBERS), iter(HELD_OUT), TOKENIZER)
    first = meter.measure(model, base_model=base)
    read = len(calls)
    assert meter.measure(model, base_model=base).statistics == first.statistics and len(calls) == read
    short = meter.measure(tiny_model("gpt2", n_positions=16))
    assert short.members.cut == 24 and short.members.tokens == 24 * 15


@pytest.mark.filterwarnings("ignore:This sequence already has")
def test_it_is_logged_in_a_real_training(tmp_path: Path) -> None:
    from datasets import Dataset

    model = tiny_model("llama")
    measure = MembershipMeasure(MEMBERS[:8], HELD_OUT[:8])
    arguments = SFTConfig(
        output_dir=str(tmp_path), num_train_epochs=2, report_to="none", use_cpu=True, save_strategy="no",
        learning_rate=5e-3, max_length=64, disable_tqdm=True, logging_steps=1000,
    )  # fmt: skip
    tokenizer = ByT5Tokenizer()
    trainer = SFTTrainer(
        model=model, args=arguments, train_dataset=Dataset.from_dict({"text": MEMBERS}), processing_class=tokenizer
    )
    callback = MeasureCallback(measure, strategy="epoch")
    callback.attach(trainer)
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "eval_membership_loss_auc" in entry]
    assert len(logged) == 2 and (tmp_path / "_membership.jsonl").exists()
