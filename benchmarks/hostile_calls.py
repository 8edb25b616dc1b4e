"""Makes random calls with hostile arguments: each must succeed, or report in one line what is wrong.

`python -m benchmarks.hostile_calls` makes 2,000 calls, half of the Python API and half of the command line, in this
process, offline, with a tiny model. A call starts from valid arguments, some of which are replaced by values of
another type, shape or size, or by modified files. A call passes if it

- succeeds, or raises an `ExposureError` (`InputError` is one); on the command line, ends with status 0, 1 or 2;
- takes at most 2 seconds of processor time (10 where it draws plots) and 30 seconds in all;
- shows none of the canaries' digits, neither in what it prints nor in its error, causes included.

Everything is determined by `--seed`, so `--only NUMBER` repeats a single call and shows its traceback.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import datetime
import decimal
import fractions
import io
import itertools
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"  # read when the libraries are imported

import numpy as np
import torch
import transformers
from datasets import Dataset, DatasetDict, disable_progress_bars
from torch import nn

import hf_exposure as hfe
from benchmarks.record import write_result
from hf_exposure import estimators
from hf_exposure.cli import main
from hf_exposure.errors import ExposureError, InputError

CPU_SECONDS, CPU_SECONDS_WITH_PLOTS, WALL_SECONDS = 2.0, 10.0, 30.0
MOST_BYTES = 6 * 2**30
STEPS = 8  # replaced arguments at most


class Hang(BaseException):
    """A call that took too long."""


class Awkward:
    """Raises an error whenever it is asked anything."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    def __iter__(self) -> Iterator[Any]:
        raise RuntimeError("no items")

    def __len__(self) -> int:
        raise RuntimeError("no length")

    def __bool__(self) -> bool:
        raise RuntimeError("no truth")

    def __float__(self) -> float:
        raise RuntimeError("no number")


class Tuples(nn.Module):
    """A language model whose output is a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(384, 384)

    def forward(self, input_ids: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.embedding(input_ids),)


def deep(depth: int) -> list[Any]:
    nested: list[Any] = []
    for _ in range(depth):
        nested = [nested]
    return nested


# Values that replace any argument. Each is created for each call, since iterators are consumed.
VALUES: list[Callable[[], Any]] = [
    *(lambda value=value: value for value in (
        None, True, False, -1, 0, 1, 2, 3, 7, 10**9, 10**18, 10**30, 10**5000, 0.0, 0.5, 1.0, 2.5, -0.5, 1e308,
        float("nan"), float("inf"), float("-inf"), "", " ", "x", "gpt2", "\ud800", "a\0b", "\u00e9", "{", "{x}", "{0}",
        "1:4", "a" * 200_000, b"x", [], [None], [1], [1.5, 2.5, 9.0], [1, 2, 3, 4, 5, 6], ["x"], ["x", "x"], [""],
        [[1, 2], [3]], (), (1, 2), {}, {"x": 1}, {1: 10**9}, {1: 2}, {"a": None}, set(), {1, 2}, frozenset("ab"),
        1 + 2j, range(3), range(10**9), Ellipsis, int, dict, lambda *arguments, **more: None, print,
        Path("nowhere"), datetime.date(2020, 1, 1), decimal.Decimal("1.5"), fractions.Fraction(1, 3),
        np.int64(3), np.float32(0.5), np.bool_(True), np.str_("x"), np.array(3), np.zeros((2, 2)), np.zeros(0),
        np.array(["1", "2"]), np.array([1.0, np.nan]), np.array([1, None], dtype=object), np.arange(40.0),
        np.array([True, False, True]), np.array(["2020-01-01"], dtype="datetime64[D]"),
    )),
    lambda: torch.tensor([1.0, 2.0, 3.0]), lambda: torch.tensor(1.0), lambda: torch.ones(3, requires_grad=True),
    lambda: itertools.count(), lambda: itertools.repeat("x"), lambda: (str(i) for i in range(3)), lambda: deep(2000),
    Awkward, object, Exception, lambda: [1] * 100_000, lambda: [10**400, 1], lambda: itertools.count,
]  # fmt: skip


@dataclass(frozen=True)
class Call:
    """A function with valid arguments."""

    name: str
    function: Callable[..., Any]
    arguments: dict[str, Any]


@dataclass
class World:
    """The inputs of the calls: canaries, a model, and files of every kind, in a separate folder."""

    folder: Path
    template: Any
    canaries: Any
    model: Any
    tokenizer: Any
    report: Any
    secrets: tuple[str, ...]

    @classmethod
    def make(cls, folder: Path) -> World:
        transformers.logging.set_verbosity_error()
        disable_progress_bars()
        torch.manual_seed(0)
        config = transformers.GPT2Config(vocab_size=384, n_layer=1, n_head=2, n_embd=16, n_positions=128)
        model, tokenizer = transformers.GPT2LMHeadModel(config).eval(), transformers.ByT5Tokenizer()
        template = hfe.CanaryTemplate("my code is {code}.", code=hfe.Digits(6))
        canaries = hfe.draw_canaries(template, {1: 2, 4: 2}, controls=3, seed=918_273_645_546)
        report = hfe.measure_exposure(model, tokenizer, canaries, references=64)
        for part in (model, tokenizer):
            part.save_pretrained(folder / "model")
        canaries.save(folder / "canaries.json")
        with patch("hf_exposure.report.plots.matplotlib_is_installed", lambda: False):
            for name in ("run", "run2"):
                report.save(folder / name)
                line = json.dumps(report.to_dict())
                (folder / name / "_exposure.jsonl").write_text(line + "\n" + line + "\n")
        log = [{"step": 1, "loss": 2.0}, {"step": 2, "eval_loss": 1.5, "epoch": 1.0}]
        (folder / "run" / "trainer_state.json").write_text(json.dumps({"log_history": log}))
        (folder / "run" / "all_results.json").write_text(json.dumps({"eval_loss": 1.5}))
        rows = [json.dumps({"text": f"row {number}", "label": number}) for number in range(40)]
        (folder / "rows.jsonl").write_text("\n".join(rows) + "\n")
        record = {
            "manifest_hash": canaries.manifest_hash,
            "context": {"prompt": "Q: "},
            "source": None,
            "name": "rows",
        }
        (folder / "inserted").mkdir()
        (folder / "inserted" / "exposure_insertion.json").write_text(json.dumps(record))
        (folder / "turns.json").write_text(json.dumps([{"role": "user", "content": "Which code?"}]))
        (folder / "options.yaml").write_text("controls: 5\nrepetitions: {1: 2, 8: 1}\nspace: [code=digits:6]\n")
        (folder / "text.txt").write_text("one two three\n" * 20)
        (folder / "empty").mkdir()
        fillings = tuple(template.parse(canary.text)["code"] for canary in canaries)
        return cls(folder, template, canaries, model, tokenizer, report, (*fillings, str(canaries.seed)))

    def own_values(self) -> list[Callable[[], Any]]:
        """Values of the package's own types, which are also wrong in most places."""
        meta = transformers.AutoConfig.from_pretrained(self.folder / "model")
        return [
            lambda: self.template, lambda: self.canaries, lambda: self.model, lambda: self.tokenizer,
            lambda: self.report, lambda: hfe.Digits(4), lambda: hfe.CanaryContext(prompt="Q: "), Tuples,
            lambda: type(self.tokenizer), lambda: nn.Linear(4, 4), lambda: self.report.estimates[0],
            lambda: transformers.GPT2ForSequenceClassification(meta), lambda: self._on_meta(meta),
            lambda: self.rows(), lambda: DatasetDict({"train": self.rows()}), lambda: {"train": self.rows()},
            lambda: [one.text for one in self.canaries], lambda: self.folder,
            lambda: str(self.folder / "canaries.json"),
        ]  # fmt: skip

    def _on_meta(self, config: Any) -> nn.Module:
        with torch.device("meta"):
            return transformers.GPT2LMHeadModel(config)

    def rows(self) -> Dataset:
        return Dataset.from_dict({"text": [f"row {number}" for number in range(40)], "label": list(range(40))})

    def calls(self) -> list[Call]:
        """Every function of the public API."""
        texts = [canary.text for canary in self.canaries]
        costs, references = [3.0, 9.0, 30.0], [float(number) for number in range(5, 45)]
        coins = [True, False, True]
        both = {"model": self.model, "tokenizer": self.tokenizer}
        measured = {
            "canaries": self.canaries, "method": "auto", "references": 64, "seed": 0, "max_expansions": 100,
            "precision_bits": 0.25, "confidence_level": 0.95, "end_token": False, "max_batch_tokens": 512,
        }  # fmt: skip
        inserted = {"canaries": self.canaries, "text_column": "text", "seed": 0, "other_columns": {"label": 1}}
        fit = estimators.fit_skew_normal(references)
        delivered = Dataset.from_dict({"input_ids": [self.tokenizer(text)["input_ids"] for text in texts]})
        path = str(self.folder / "new.json")
        return [
            Call("CanaryTemplate", _template, {"text": "pin {pin}.", "pin": hfe.Digits(4)}),
            Call("CanaryTemplate.render", self.template.render, {"code": "123456"}),
            Call("CanaryTemplate.parse", self.template.parse, {"text": "my code is 123456."}),
            Call("CanaryTemplate.contains", self.template.contains, {"text": "my code is 123456."}),
            Call("CanaryTemplate.text_at", self.template.text_at, {"index": 5}),
            Call("CanaryTemplate.index_of", self.template.index_of, {"text": "my code is 123456."}),
            Call("CanaryTemplate.from_dict", hfe.CanaryTemplate.from_dict, {"values": self.template.to_dict()}),
            Call("Digits", hfe.Digits, {"length": 4}),
            Call("Digits.text_at", hfe.Digits(4).text_at, {"index": 4}),
            Call("Digits.index_of", hfe.Digits(4).index_of, {"text": "0004"}),
            Call("Digits.contains", hfe.Digits(4).contains, {"text": "0004"}),
            Call("Letters", hfe.Letters, {"length": 4, "alphabet": "abc"}),
            Call("LuhnDigits", hfe.LuhnDigits, {"length": 16, "prefix": "4", "separator": " "}),
            Call("Words", hfe.Words, {"number": 3, "words": ["red", "green"], "separator": " "}),
            Call("Choice", hfe.Choice, {"options": ["red", "green"]}),
            Call("Pattern", hfe.Pattern, {"pattern": "[A-Z]{2}"}),
            Call("VocabularyTokens", hfe.VocabularyTokens, {
                "tokenizer": self.tokenizer, "number": 2, "separator": " "}),
            Call("presets.random_number", hfe.presets.random_number, {"digits": 4}),
            Call("presets.random_words", hfe.presets.random_words, {"number": 2, "ending": ".", "words": ["a", "b"]}),
            Call("presets.smart_compose", hfe.presets.smart_compose, {"first": "a b", "last": "c d", "words": ["e"]}),
            Call("CanaryContext", hfe.CanaryContext, {
                "prompt": [{"role": "user", "content": "x"}], "chat_template": None, "chat_template_kwargs": {}}),
            Call("draw_canaries", hfe.draw_canaries, {
                "template": self.template, "repetitions": {1: 2}, "controls": 2, "seed": 1, "coin_flips": 4}),
            Call("CanarySet", hfe.CanarySet, {
                "inserted": self.canaries.inserted, "controls": self.canaries.controls, "template": self.template,
                "seed": None, "salt": "00"}),
            Call("CanarySet of a Canary", _set_of_one, {
                "text": "my code is 123456.", "template": self.template, "repetitions": 1, "coin": None, "id": "a"}),
            Call("CanarySet.from_secrets", hfe.CanarySet.from_secrets, {
                "template": self.template, "texts": texts[:3], "repetitions": 1, "controls": 2, "seed": 0}),
            Call("CanarySet.save", self.canaries.save, {"path": path}),
            Call("CanarySet.load", hfe.CanarySet.load, {"path": self.folder / "canaries.json"}),
            Call("insert_canaries", hfe.insert_canaries, {
                "dataset": self.rows(), **inserted, "splits": ("train",), "num_proc": None, "batch_size": 10,
                "num_rows": None, "tokenizer": None, "context": None, "source": None, "source_column": "source"}),
            Call("remove_canaries", hfe.remove_canaries, {
                "dataset": self.rows(), "canaries": self.canaries, "text_column": "text", "tokenizer": None,
                "context": None, "source": None}),
            Call("CanaryInserter", hfe.CanaryInserter, {**inserted, "num_rows": 40, "row_length": None}),
            Call("check_delivery", hfe.check_delivery, {
                "dataset": delivered, "canaries": self.canaries, "tokenizer": self.tokenizer, "collator": None,
                "context": None, "source": None, "max_rows": None}),
            Call("log_perplexity", hfe.log_perplexity, {
                **both, "texts": texts, "sources": None, "end_token": False, "max_batch_tokens": 256}),
            Call("measure_exposure", hfe.measure_exposure, {
                **both, **measured, "base_model": None, "source": None, "context": None, "delta": 0.0,
                "accept_bad_fit": False}),
            Call("ExposureMeter", hfe.ExposureMeter, {**measured, "tokenizer": self.tokenizer,
                "across_processes": False}),
            Call("ExposureCallback", hfe.ExposureCallback, {
                "canaries": self.canaries, "strategy": "steps", "steps": 5, "processing_class": None,
                "on_error": "raise", "require_delivery": False, "push_to_hub": False, "references": 64, "seed": 0}),
            Call("extract", hfe.extract, {
                **both, "template": self.template, "top_k": 1, "batch_size": 16, "max_expansions": 20,
                "end_token": False, "source": None, "max_open_nodes": 10_000, "unbatched": False, "progress": False,
                "context": None}),
            Call("rank_bounds", hfe.rank_bounds, {
                **both, "text": "my code is 123456.", "template": self.template, "max_expansions": 20,
                "exclude": texts[:1], "end_token": False, "batch_size": 16, "source": None, "max_open_nodes": 10_000,
                "progress": False, "context": None}),
            Call("discoverable_extraction", hfe.discoverable_extraction, {
                **both, "template": self.template, "texts": texts[:2], "temperature": 1.0, "top_k": 5, "top_p": 0.9,
                "samples": 4, "near_edits": 1, "seed": 0}),
            Call("near_extraction", hfe.near_extraction, {
                **both, "template": self.template, "text": "my code is 123456.", "edits": 1, "temperature": 1.0,
                "top_k": 5, "top_p": 0.9, "greedy": False, "passes": 2, "width": 0.1}),
            Call("ExposureReport.from_dict", hfe.ExposureReport.from_dict, {"values": self.report.to_dict()}),
            Call("ExposureReport.load", hfe.ExposureReport.load, {"path": self.folder / "run"}),
            Call("ExposureReport.save", self.report.save, {
                "folder": self.folder / "saved", "history": (), "training_log": (), "include_secrets": False,
                "canaries": None}),
            Call("ExposureReport.to_dict", self.report.to_dict, {"include_secrets": False, "canaries": None}),
            Call("ExposureReport.with_doses", self.report.with_doses, {"doses_per_epoch": {}, "epochs": 1.0}),
            Call("control_test", estimators.control_test, {
                "inserted_costs": costs, "control_costs": references, "confidence_level": 0.95}),
            Call("epsilon_lower_bound", estimators.epsilon_lower_bound, {
                "costs": costs, "included": coins, "guesses": 2, "delta": 0.0, "confidence_level": 0.95}),
            Call("one_run_p_value", estimators.one_run_p_value, {
                "epsilon": 1.0, "delta": 0.0, "canaries": 9, "guesses": 5, "correct": 4}),
            Call("check_weights", estimators.check_weights, {"weights": [1.0, 1.0, 1.0, 1.0], "strata": [0, 0, 1, 1]}),
            Call("importance_exposure", estimators.importance_exposure, {
                "costs": costs, "references": references, "weights": [1.0] * 40, "space_size": 1000,
                "confidence_level": 0.95, "weight_limits": 1.0, "strata": [0] * 40, "includes_self": True}),
            Call("importance_exposure of rows", estimators.importance_exposure, {
                "costs": costs, "references": [references], "weights": [[1.0] * 40], "space_size": 1000,
                "shares": [[0.025] * 40]}),
            Call("sampling_exposure", estimators.sampling_exposure, {
                "costs": costs, "references": references, "space_size": 1000, "confidence_level": 0.95,
                "convention": "valid"}),
            Call("skew_normal_exposure", estimators.skew_normal_exposure, {
                "costs": costs, "references": references, "accept_bad_fit": False}),
            Call("fit_skew_normal", estimators.fit_skew_normal, {"references": references}),
            Call("judge_fit", estimators.judge_fit, {"references": references, "fit": fit}),
            Call("log_cdf", estimators.log_cdf, {"x": costs, "shape": 1.0, "loc": 0.0, "scale": 1.0}),
            Call("clopper_pearson", estimators.clopper_pearson, {"hits": [1, 2], "draws": 9, "confidence_level": 0.9}),
            Call("ranks", estimators.ranks, {"costs": costs, "competitor_costs": references}),
            Call("exposure_from_rank", estimators.exposure_from_rank, {"rank": 3, "space_size": 100}),
            Call("enumeration_exposure", estimators.enumeration_exposure, {
                "costs": costs, "competitor_costs": references, "includes_self": False, "tolerance_bits": 0.0}),
        ]  # fmt: skip


def _template(text: Any, pin: Any) -> Any:
    return hfe.CanaryTemplate(text, pin=pin)


def _set_of_one(**arguments: Any) -> Any:
    return hfe.CanarySet(inserted=(hfe.Canary(**arguments),), template=arguments["template"])


# Possible inputs for a number, a name, a file or a word.
WORDS = (
    "", " ", "0", "-1", "1", "2", "\u00b2", "1e999", "nan", "inf", "-inf", "9" * 30, "9" * 5000, "0.5", "1.5", "x",
    "\udcff", "\u00e9", "a=b", "pin=digits:4", "code=digits:5000", "code=digits:\u00b2", "code=pattern:" + "(" * 3000,
    "code=pattern:(a{900}){900}", "code=choice:", "code=words:10000000", "code=luhn:1", "code=", "=digits:3",
    "self=digits:3", "text=digits:3", "code=digits:6", "1:4", "1:4,1:4", "1:1000000000", "1000000000:4", "\u00b2:1",
    "1:" + "9" * 5000, ":", "{", "{code}", "{code} {code}", "{0}", "{}", "no hole", "my code is {code}.", "[", "[]",
    "{}", "5", '"x"', "[5]", '[{"role": "user"}]', '[{"role": "user", "content": "x"}]', "[" * 5000, "1e400",
    '["\\ud800"]', "auto", "sample", "bounded", "enumerate", "importance", "skew_normal", "cpu", "cuda:99", "nope",
    "float16", "train", "text", "label", "none", "me/model", "gpt2", "./nope", "nope.jsonl", "a/b/c", "checkpoint-9",
    "label=x", "label=1", "text=1", "nothing=1", "/dev/null", "/dev/zero", ".",
    "--help", "--json", "-",
)  # fmt: skip


@dataclass(frozen=True)
class Command:
    """A valid command line: options and values; None marks a flag, "" an argument without an option."""

    name: str
    options: tuple[tuple[str, str | None], ...]
    more: tuple[tuple[str, str | None], ...] = ()
    refused: tuple[tuple[str, str], ...] = ()  # one of them is always given
    prints_secrets: bool = False


def commands(folder: Path) -> list[Command]:
    """Every command, with options that may be added."""
    model, canaries = str(folder / "model"), str(folder / "canaries.json")
    common = (("--json", None), ("--config", str(folder / "options.yaml")))
    around = (
        ("--prompt", "Q: "), ("--messages", str(folder / "turns.json")), ("--source", "x"), ("--end-token", None),
    )  # fmt: skip
    loading = (
        ("--dtype", "float32"), ("--device", "cpu"), ("--revision", "main"), ("--tokenizer", model),
    )  # fmt: skip
    return [
        Command(
            "draw",
            (("--template", "my code is {code}."), ("--space", "code=digits:6"), ("--repetitions", "1:2,8:1"),
             ("--out", str(folder / "drawn.json")), ("--overwrite", None)),
            (("--controls", "3"), ("--coin-flips", "4"), ("--seed", "1"), *common),
        ),
        Command(
            "insert",
            (("--dataset", str(folder / "rows.jsonl")), ("--canaries", canaries), ("--out", str(folder / "with")),
             ("--overwrite", None)),
            (("--text-column", "text"), ("--other-column", "label=0"), ("--split", "train"), ("--stream", None),
             ("--num-rows", "40"), ("--num-proc", "1"), ("--seed", "1"), ("--source-column", "label"),
             ("--tokenizer", model), *around[:3], *common),
        ),
        Command(
            "measure",
            (("--model", model), ("--canaries", canaries), ("--references", "64"), ("--max-expansions", "50")),
            (("--out", str(folder / "measured")), ("--overwrite", None), ("--method", "sample"), ("--fail-above", "5"),
             ("--precision-bits", "0.5"), ("--confidence-level", "0.9"), ("--seed", "1"), ("--max-batch-tokens", "99"),
             ("--base-model", model), ("--dataset", str(folder / "inserted")), *around, *loading, *common),
        ),
        Command(
            "extract",
            (("--model", model), ("--canaries", canaries), ("--max-expansions", "20")),
            (("--template", "my code is {code}."), ("--space", "code=digits:6"), ("--top-k", "2"),
             ("--batch-size", "8"), *around, *loading, *common),
            prints_secrets=True,
        ),
        Command(
            "extract",
            (("--model", model), ("--canaries", canaries), ("--discoverable", None), ("--samples", "4")),
            (("--probability", "0.5"), ("--near-edits", "1"), ("--temperature", "1"), ("--sample-top-k", "4"),
             ("--sample-top-p", "0.9"), ("--seed", "1"), *loading, *common),
        ),
        Command(
            "report",
            (("", str(folder / "run")), ("--out", str(folder / "page")), ("--overwrite", None)),
            (("", str(folder / "run2")), ("--utility", "eval_loss"), ("--tolerance", "0.1"), *common),
        ),
        Command(
            "push",
            (("", str(folder / "run")), ("--repo-id", "me/model")),
            (("--create-pr", None), ("--revision", "x"), ("--canaries", canaries), *common),
        ),
        Command(
            "demo",
            (("--out", str(folder / "demo")), ("--text-file", str(folder / "text.txt")), ("--text-bytes", "200")),
            (("--seed", "1"), ("--epochs", "1"), ("--top-k", "1"), ("--config", str(folder / "options.yaml"))),
            refused=(("--model", "./nope"), ("--tokenizer", "a/b/c"), ("--dataset", "x.jsonl"), ("--epochs", "0"),
                     ("--text-file", "nope"), ("--digits", "5000"), ("--repetitions", "\u00b2:1"), ("--seed", "-1"),
                     ("--learning-rate", "nan"), ("--controls", "1000000000"), ("--batch-size", "0")),
        ),
    ]  # fmt: skip


BUDGETS = (
    "--max-expansions",
    "--references",
    "--samples",
    "--text-bytes",
    "--discoverable",
    "",
)  # without them the call takes long


# Values that replace any value in JSON; texts are inserted verbatim.
NODES = (
    "null", "true", "-1", "0", "3", "1e999", "NaN", "Infinity", "1e308", "1e-400", "9" * 30, "9" * 400, "9" * 5000,
    '""', '"x"', '"yes"', '"\\ud800"', '"\\u0000"', "[]", "{}", "[5]", '{"a": 5}', "0.5", "[" * 60 + "]" * 60,
    "[" * 3000 + "]" * 3000, '{"type": "digits", "length": 1000000000}', '{"type": "words", "number": 9}',
    '{"type": "pattern", "pattern": "[a-z]{0,900}{0,900}"}', '{"type": []}', '"a/../b"', "[[1, 2], 3]",
)  # fmt: skip
YAML = (
    "controls: 1e999", "controls: [1, 2]", "controls: {a: {b: c}}", "seed:", "seed: 2020-13-45", "? [1]\n: 2",
    "a: &a [x, x]\nrepetitions: [*a, *a]", "<<: {controls: 3}", "controls: !!python/object:os.system x", "- x",
    "controls: " + "[" * 200, "[" * 20_000, "controls: " + "9" * 5000, "5: 6", "null: 1", "controls: '\\0'", "\0",
    'controls: "\\0"', "controls: !!binary aGVsbG8=", "controls: !!set {a, b}", "template: \"\\ud800{x}\"", "\t: x",
    "json: maybe", "as_json: [true]", "out: 5", "canaries: \"a\\0b\"", "space: [null]", "trust_remote_code: yes",
)  # fmt: skip
FILES = (
    "canaries.json", "run/report.json", "run/_exposure.jsonl", "run/trainer_state.json", "run/all_results.json",
    "inserted/exposure_insertion.json", "turns.json", "options.yaml", "model/config.json", "rows.jsonl",
)  # fmt: skip


def damage(file: Path, choose: random.Random) -> None:
    """Changes a file as a person, a killed process or an attacker might."""
    content = file.read_bytes()
    way = choose.random()
    if file.suffix == ".yaml":
        file.write_text(choose.choice(YAML), encoding="utf-8", errors="surrogatepass")
    elif way < 0.1:
        file.write_bytes(content[: choose.randrange(len(content))])
    elif way < 0.2:
        at = choose.randrange(len(content))
        file.write_bytes(content[:at] + choose.randbytes(3) + content[at + 3 :])
    elif way < 0.25:
        file.write_text(choose.choice(NODES))
    else:
        first, *others = content.decode().splitlines() if file.suffix == ".jsonl" else [content.decode()]
        file.write_text("\n".join([_with_another_node(json.loads(first), choose), *others]) + "\n")


def _with_another_node(values: Any, choose: random.Random) -> str:
    """The JSON of `values` with one value replaced, at any depth."""
    values, marker = copy.deepcopy(values), "replaced here"
    places = [(parent, key) for parent in _parents(values) for key in _keys(parent)]
    parent, key = choose.choice(places)
    if isinstance(parent, dict) and choose.random() < 0.15:
        del parent[key]
        return json.dumps(values)
    parent[key] = marker
    return json.dumps(values).replace(f'"{marker}"', choose.choice(NODES))


def _parents(values: Any) -> Iterator[Any]:
    if isinstance(values, (dict, list)):
        yield values
        for item in values.values() if isinstance(values, dict) else values:
            yield from _parents(item)


def _keys(parent: Any) -> list[Any]:
    return list(parent) if isinstance(parent, dict) else list(range(len(parent)))


@dataclass(frozen=True)
class Outcome:
    """How a call ended. `verdict` is "" if the result is as expected."""

    kind: str
    verdict: str
    shown: str


def api_call(number: int, seed: int, world: World, debug: bool = False) -> Outcome:
    choose = random.Random(f"api {seed} {number}")
    calls = world.calls()
    call = calls[number % len(calls)]
    arguments = dict(call.arguments)
    replaced = choose.sample(sorted(arguments), min(len(arguments), choose.choice((1, 1, 1, 2, STEPS))))
    shown = {}
    for name in replaced:
        pool = world.own_values() if choose.random() < 0.25 else VALUES
        arguments[name] = choose.choice(pool)()
        shown[name] = type(arguments[name]).__name__ + " " + _shown(arguments[name])
    printed = io.StringIO()
    title = f"api {number}: {call.name} with {shown}"
    try:
        with limits(CPU_SECONDS), captured(printed):
            call.function(**arguments)
        kind, error = "success", None
    except Hang:
        return Outcome("hang", "hang", title)
    except BaseException as caught:
        error = caught
        kind = "refused" if isinstance(error, InputError) else "documented error"
        if not isinstance(error, ExposureError):
            if debug:
                traceback.print_exception(error)
            return Outcome("another exception", f"{type(error).__name__}: {_shown(error)}", title)
    said = printed.getvalue() + "".join(_chain(error))
    if any(secret in said for secret in world.secrets):
        return Outcome(kind, "a secret is shown", f"{title}: {said[-300:]}")
    if error is not None and debug:
        print(error)
    return Outcome(kind, "", title)


def _chain(error: BaseException | None) -> Iterator[str]:
    """Returns the messages of an error, of its causes and of its contexts."""
    while error is not None:
        yield str(error)
        error = error.__cause__ or error.__context__


def _shown(value: Any) -> str:
    try:
        return repr(value)[:80]
    except Exception:
        return "<no repr>"


def command_call(number: int, seed: int, world: World, debug: bool = False) -> Outcome:
    choose = random.Random(f"command {seed} {number}")
    folder = world.folder.parent / "copy"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(world.folder, folder)
    known = commands(folder)
    command = known[number % len(known)]
    options = [*command.options, *choose.sample(command.more, choose.randint(0, min(3, len(command.more))))]
    if command.refused:
        options.append(choose.choice(command.refused))
    damaged = ""
    if choose.random() < 0.5 and not command.refused:
        used = " ".join(value or "" for _, value in options)
        at_hand = [name for name in FILES if str(folder / name.split("/")[0]) in used] or list(FILES)
        damaged = choose.choice(at_hand)
        damage(folder / damaged, choose)
    else:
        for _ in range(choose.choice((1, 1, 2))):
            place = choose.randrange(len(options))
            option, value = options[place]
            if value is not None and (option, value) not in command.refused:
                options[place] = (option, choose.choice(WORDS))
            elif option not in BUDGETS and choose.random() < 0.3:
                del options[place]
    if command.refused and not set(options) & set(command.refused):
        options.append(command.refused[0])
    arguments = [command.name, *(word for option in options for word in option if word)]
    with_plots = choose.random() < 0.1
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    title = f"command {number}: {' '.join(a[:60] for a in arguments)} (damaged: {damaged or 'none'})"
    try:
        with limits(CPU_SECONDS_WITH_PLOTS if with_plots or command.name == "demo" else CPU_SECONDS):
            status = run_command(arguments, out, err, with_plots=with_plots, debug=debug)
    except Hang:
        return Outcome("hang", "hang", title)
    except BaseException as error:
        if debug:
            traceback.print_exception(error)
        return Outcome("another exception", f"{type(error).__name__}: {_shown(error)}", title)
    said_out, said_err = (stream.buffer.getvalue().decode(errors="replace") for stream in (out, err))
    if debug:
        print(said_out[-2000:], said_err[-6000:])
    if " Hang in " in said_err:  # the entry point treats it as a failure of the command
        return Outcome("hang", "hang", title)
    verdict = "" if status in (0, 1, 2) else f"status {status}: {said_err.strip()[-200:]}"
    if status == 2 and said_err.count("\n") != 1 and "Warning" not in said_err:
        verdict = f"more than one line: {said_err[-300:]}"
    may_print = command.prints_secrets and status == 0
    if any(secret in said_err or (secret in said_out and not may_print) for secret in world.secrets):
        verdict = f"a secret is shown: {said_out[-300:]}{said_err[-300:]}"
    return Outcome(f"status {status}", verdict, title)


def run_command(
    arguments: list[str], out: io.TextIOWrapper, err: io.TextIOWrapper, *, with_plots: bool, debug: bool
) -> int:
    typed = ["hf-exposure", *arguments, *(["--debug"] if debug else [])]
    drawn = contextlib.nullcontext() if with_plots else patch("hf_exposure.report.plots.matplotlib_is_installed", no)
    with patch.object(sys, "argv", typed), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), drawn:
        try:
            main()
        except SystemExit as stopped:
            return int(stopped.code or 0)
    return 0


def no() -> bool:
    return False


@contextlib.contextmanager
def limits(seconds: float) -> Iterator[None]:
    """Raises `Hang` if the call takes longer, in processor time, since other work may share the machine."""

    def stop(*_: Any) -> None:
        raise Hang

    signal.signal(signal.SIGPROF, stop)
    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, WALL_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)


@contextlib.contextmanager
def captured(printed: io.StringIO) -> Iterator[None]:
    """Redirects output and warnings to `printed`."""
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed), warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *_, **__: printed.write(f"{message}\n")  # type: ignore[assignment]
        yield


def soak(calls: int, seed: int, only: str | None = None) -> dict[str, Any]:
    """Makes the calls and counts how they ended."""
    kinds: dict[str, Counter[str]] = {"api": Counter(), "command": Counter()}
    failures = []
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        (Path(place) / "world").mkdir()
        world = World.make(Path(place) / "world")
        for arguments in (["measure", "--help"], ["report", str(world.folder / "run"), "--out", "warm"]):
            streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2)]
            run_command(arguments, *streams, with_plots=True, debug=False)  # imports are not part of any call
        size = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (_address_space() + MOST_BYTES, size[1]))
        for number in range(calls):
            way = ("api", "command")[number % 2]
            if only is not None and only != f"{way}:{number // 2}":
                continue
            make = api_call if way == "api" else command_call
            outcome = make(number // 2, seed, world, debug=only is not None)
            kinds[way][outcome.kind] += 1
            if outcome.verdict:
                failures.append(f"{outcome.shown}: {outcome.verdict}")
                print(failures[-1][:600], file=sys.stderr, flush=True)
        resource.setrlimit(resource.RLIMIT_AS, size)
    return {
        "calls": sum(sum(counter.values()) for counter in kinds.values()),
        "seed": seed,
        "api": dict(sorted(kinds["api"].items())),
        "command_line": dict(sorted(kinds["command"].items())),
        "failures": failures,
    }


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="api:NUMBER or command:NUMBER, with its traceback")
    parser.add_argument("--no-record", action="store_true", help="do not write to benchmarks/results")
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = soak(given.calls, given.seed, given.only)
    print(json.dumps({key: value for key, value in found.items() if key != "failures"}, indent=1))
    if not given.no_record and given.only is None:
        write_result("hostile_calls", found)
    sys.exit(1 if found["failures"] else 0)
