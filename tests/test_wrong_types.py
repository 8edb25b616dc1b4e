"""Arguments of the wrong kind are answered by an `InputError` that names them, at every function of the public API."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
import transformers
from datasets import Dataset, DatasetDict
from torch import nn

from hf_exposure import (
    Canary,
    CanaryContext,
    CanaryInserter,
    CanarySet,
    CanaryTemplate,
    Choice,
    Digits,
    ExposureCallback,
    ExposureMeter,
    ExposureReport,
    Letters,
    Pattern,
    VocabularyTokens,
    Words,
    check_delivery,
    checks,
    discoverable_extraction,
    draw_canaries,
    extract,
    insert_canaries,
    log_perplexity,
    measure_exposure,
    near_extraction,
    presets,
    rank_bounds,
    remove_canaries,
)
from hf_exposure.errors import CanaryFileError, InputError
from hf_exposure.estimators import (
    check_weights,
    clopper_pearson,
    control_test,
    enumeration_exposure,
    epsilon_lower_bound,
    exposure_from_rank,
    fit_skew_normal,
    importance_exposure,
    judge_fit,
    log_cdf,
    one_run_p_value,
    ranks,
    sampling_exposure,
    skew_normal_exposure,
)

PIN = CanaryTemplate("pin {pin}.", pin=Digits(4))
CANARIES = draw_canaries(PIN, {1: 2}, controls=2, seed=0)
SECRETS = [canary.text for canary in CANARIES]
DATA = Dataset.from_dict({"text": ["one", "two", "three"]})
COSTS = [3.0, 5.0, 9.0]
MANY = list(range(40))


def refused(call: Callable[[], Any], argument: str) -> None:
    with pytest.raises(InputError, match=rf"^{argument}") as caught:
        call()
    error = caught.value
    assert isinstance(error, ValueError)
    assert error.rule and error.remedy
    assert not any(secret in str(error) for secret in SECRETS)


WRONG_TEXTS = [None, 5, b"x", ["x"], SECRETS, object()]
WRONG_NUMBERS = [None, "5", 1.5, True, [5], SECRETS, np.array([1, 2]), float("nan"), object()]


@pytest.mark.parametrize("value", WRONG_TEXTS)
def test_texts(value: Any) -> None:
    for call, argument in (
        (lambda: CanaryTemplate(value, pin=Digits(4)), "text"),
        (lambda: Letters(3, alphabet=value), "alphabet"),
        (lambda: Words(2, separator=value), "separator"),
        (lambda: Pattern(value), "pattern"),
        (lambda: Digits(3).index_of(value), "text"),
        (lambda: presets.random_words(2, ending=value), "ending"),
        (lambda: presets.smart_compose(first=value), "first"),
        (lambda: CanaryContext(prompt="x", chat_template=value), "chat_template") if value is not None else (None, ""),
        (lambda: CanarySet(inserted=[Canary(text=value, template=PIN, repetitions=1)], template=PIN), "inserted"),
        (lambda: insert_canaries(DATA, CANARIES, text_column=value), "text_column"),
        (lambda: CanaryInserter(CANARIES, 3, text_column=value), "text_column"),
    ):
        if call is not None:
            refused(call, argument)


@pytest.mark.parametrize("value", WRONG_NUMBERS)
def test_whole_numbers(value: Any) -> None:
    for call, argument in (
        (lambda: Digits(value), "length"),
        (lambda: Letters(value), "length"),
        (lambda: Words(value), "number"),
        (lambda: PIN.text_at(value), "index"),
        (lambda: Digits(3).text_at(value), "index"),
        (lambda: draw_canaries(PIN, {1: value}), r"repetitions\[1\]"),
        (lambda: draw_canaries(PIN, {1: 1}, controls=value), "controls"),
        (lambda: draw_canaries(PIN, {1: 1}, coin_flips=value), "coin_flips"),
        (lambda: CanarySet.from_secrets(PIN, SECRETS[:1], controls=value), "controls"),
        (lambda: CanaryInserter(CANARIES, value), "num_rows"),
        (lambda: insert_canaries(DATA, CANARIES, seed=value), "seed"),
        (lambda: insert_canaries(DATA, CANARIES, batch_size=value), "batch_size"),
        (lambda: ExposureCallback(CANARIES, references=value), "references"),
        (lambda: ExposureCallback(CANARIES, strategy="steps", steps=value), "steps"),
    ):
        refused(call, argument)


def test_whole_numbers_of_other_libraries_pass() -> None:
    assert Digits(np.int64(3)) == Digits(3)
    assert draw_canaries(PIN, {np.int32(1): np.uint8(2)}, controls=torch.tensor(1), seed=np.int64(5)).seed == 5
    callback = ExposureCallback(CANARIES, references=np.int64(64), seed=np.int64(3))
    assert callback.measures[0].measure_arguments["references"] == 64


@pytest.mark.parametrize(
    "value", [None, "pin {pin}.", {"text": "x"}, SECRETS, PIN.to_dict(), CanaryTemplate, CANARIES]
)
def test_templates_and_sets(value: Any, make_model: Callable[..., nn.Module], byte_tokenizer: Any) -> None:
    model = make_model("gpt2")
    for call, argument in (
        (lambda: draw_canaries(value, {1: 1}), "template"),
        (lambda: CanarySet.from_secrets(value, SECRETS), "template"),
        (lambda: CanarySet(inserted=CANARIES.inserted, template=value), "template"),
        (lambda: extract(model, byte_tokenizer, value), "template"),
        (lambda: rank_bounds(model, byte_tokenizer, SECRETS[0], value), "template"),
        (lambda: discoverable_extraction(model, byte_tokenizer, value, SECRETS), "template"),
        (lambda: near_extraction(model, byte_tokenizer, value, SECRETS[0]), "template"),
    ):
        refused(call, argument)
    if value is CANARIES:
        return
    for call in (
        lambda: measure_exposure(model, byte_tokenizer, value),
        lambda: ExposureMeter(value, byte_tokenizer),
        lambda: ExposureCallback(value),
        lambda: insert_canaries(DATA, value),
        lambda: remove_canaries(DATA, value),
        lambda: check_delivery(DATA, value, byte_tokenizer),
    ):
        refused(call, "canaries")


@pytest.mark.parametrize("value", [None, "texts", 5, [5], [None], {"a": "b"}, b"x", [b"x"]])
def test_lists_of_texts(value: Any, make_model: Callable[..., nn.Module], byte_tokenizer: Any) -> None:
    model = make_model("gpt2")
    for call, argument in (
        (lambda: Choice(value), "options") if not isinstance(value, dict) else (None, ""),
        (lambda: CanarySet.from_secrets(PIN, value), "texts"),
        (lambda: log_perplexity(model, byte_tokenizer, value), "texts"),
        (lambda: discoverable_extraction(model, byte_tokenizer, PIN, value), "texts"),
        (lambda: near_extraction(model, byte_tokenizer, PIN, value), "text"),
        (lambda: rank_bounds(model, byte_tokenizer, SECRETS[0], PIN, exclude=value), "exclude"),
        (lambda: CanarySet(inserted=value, template=PIN), "inserted"),
    ):
        if call is not None:
            refused(call, argument)


def test_arrays_and_series_of_texts_pass(make_model: Callable[..., nn.Module], byte_tokenizer: Any) -> None:
    model = make_model("gpt2")
    expected = log_perplexity(model, byte_tokenizer, ["ab", "cd"])
    for texts in (np.array(["ab", "cd"]), pandas.Series(["ab", "cd"]), iter(["ab", "cd"]), ("ab", "cd")):
        assert np.array_equal(log_perplexity(model, byte_tokenizer, texts), expected)
    assert Choice(np.array(["a", "b"])) == Choice(pandas.Series(["b", "a"]))
    assert len(CanarySet.from_secrets(PIN, np.array(SECRETS), repetitions=np.array([1, 2, 3, 4]))) == 4
    assert CanarySet.from_secrets(PIN, SECRETS, repetitions=np.int64(3)).total_insertions == 12


class Returns(nn.Module):
    """A model that returns the result of a given function of the logits."""

    def __init__(self, make: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.embedding, self.make = nn.Embedding(384, 384), make

    def forward(self, input_ids: torch.Tensor) -> Any:
        return self.make(self.embedding(input_ids))


class Output:
    def __init__(self, logits: Any) -> None:
        self.logits = logits


def on_meta() -> nn.Module:
    config = transformers.GPT2Config(vocab_size=384, n_layer=1, n_head=2, n_embd=16)
    with torch.device("meta"):
        return transformers.GPT2LMHeadModel(config)


def classifier(pad_token_id: int | None = 0) -> nn.Module:
    """A model that accepts only one row without a padding token."""
    config = transformers.GPT2Config(vocab_size=384, n_layer=1, n_head=2, n_embd=16, pad_token_id=pad_token_id)
    return transformers.GPT2ForSequenceClassification(config)


def encoder() -> nn.Module:
    return transformers.BertModel(transformers.BertConfig(vocab_size=384, num_hidden_layers=1, hidden_size=24))


def without_return_dict() -> nn.Module:
    config = transformers.GPT2Config(vocab_size=384, n_layer=1, n_head=2, n_embd=16, return_dict=False)
    return transformers.GPT2LMHeadModel(config)


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda: None, "must be a torch module, got 'NoneType'"),
        (lambda: "gpt2", "must be a torch module, got 'gpt2'"),
        (lambda: transformers.GPT2LMHeadModel, "must be a torch module, got 'type'"),
        (lambda: lambda input_ids: None, "must be a torch module, got 'function'"),
        (on_meta, "must have its weights, got 'weights on the meta device'"),
        (classifier, "must be a language model"),
        (lambda: classifier(pad_token_id=None), "must be a language model"),
        (encoder, "must return an object with .logits, got 'BertModel, which returns a BaseModelOutput"),
        (without_return_dict, "must return objects, but its configuration has return_dict=False"),
        (lambda: Returns(lambda logits: (logits,)), "must return an object with .logits"),
        (lambda: Returns(lambda logits: logits), "must return an object with .logits"),
        (lambda: Returns(lambda logits: {"logits": logits}), "must return an object with .logits"),
        (lambda: Returns(lambda logits: Output(None)), "must return an object with .logits"),
        (lambda: Returns(lambda logits: Output(logits.numpy())), "must return an object with .logits"),
        (lambda: Returns(lambda logits: Output(logits[:, -1])), "must be a language model"),
        (lambda: Returns(lambda logits: Output(logits[:, :1])), "must be a language model"),
        (lambda: Returns(lambda logits: Output(logits.argmax(-1))), "must be a language model"),
        (lambda: Returns(lambda logits: Output(logits.long())), "must be a language model"),
        (lambda: nn.Linear(4, 4), "must be a language model"),
    ],
)
def test_models(make: Callable[[], Any], rule: str, byte_tokenizer: Any) -> None:
    model = make()
    for call in (
        lambda: log_perplexity(model, byte_tokenizer, ["ab"]),
        lambda: measure_exposure(model, byte_tokenizer, CANARIES, method="sample", references=8),
        lambda: extract(model, byte_tokenizer, PIN),
        lambda: rank_bounds(model, byte_tokenizer, SECRETS[0], PIN),
        lambda: discoverable_extraction(model, byte_tokenizer, PIN, SECRETS),
        lambda: near_extraction(model, byte_tokenizer, PIN, SECRETS[0]),
    ):
        with pytest.raises(InputError) as caught:
            call()
        assert str(caught.value).startswith(f"model: {rule}")
        assert "from_pretrained" in caught.value.remedy or "return_dict" in caught.value.remedy


def test_an_encoder_decoder_without_a_language_model_head(byte_tokenizer: Any) -> None:
    config = transformers.T5Config(vocab_size=384, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    for kind in (transformers.T5Model, transformers.T5ForSequenceClassification):
        refused(
            lambda kind=kind: log_perplexity(kind(config), byte_tokenizer, ["ab"], sources="x"),
            "model: must be an enc",
        )


def test_progress(make_model: Callable[..., nn.Module], byte_tokenizer: Any) -> None:
    model = make_model("gpt2")
    for value in ("yes", 1, np.zeros((2, 2))):
        refused(lambda v=value: extract(model, byte_tokenizer, PIN, progress=v), "progress")
        refused(lambda v=value: rank_bounds(model, byte_tokenizer, SECRETS[0], PIN, progress=v), "progress")


@pytest.mark.parametrize("value", ["gpt2", 5, [], classifier])
def test_base_models(value: Any, make_model: Callable[..., nn.Module], byte_tokenizer: Any) -> None:
    refused(
        lambda: measure_exposure(make_model("gpt2"), byte_tokenizer, CANARIES, "sample", 8, base_model=value),
        "base_model: must be a model",
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: None, lambda: "gpt2", lambda: transformers.ByT5Tokenizer, classifier, lambda: len, lambda: SECRETS,
        lambda: transformers.AutoTokenizer,
    ],
)  # fmt: skip
def test_tokenizers(make: Callable[[], Any], make_model: Callable[..., nn.Module]) -> None:
    model, tokenizer = make_model("gpt2"), make()
    for call in (
        lambda: log_perplexity(model, tokenizer, ["ab"]),
        lambda: measure_exposure(model, tokenizer, CANARIES),
        lambda: ExposureMeter(CANARIES, tokenizer, source="x"),
        lambda: extract(model, tokenizer, PIN),
        lambda: rank_bounds(model, tokenizer, SECRETS[0], PIN),
        lambda: discoverable_extraction(model, tokenizer, PIN, SECRETS),
        lambda: near_extraction(model, tokenizer, PIN, SECRETS[0]),
        lambda: check_delivery(DATA, CANARIES, tokenizer),
        lambda: VocabularyTokens(tokenizer, 2),
        *([lambda: insert_canaries(DATA, CANARIES, tokenizer=tokenizer)] if tokenizer is not None else []),
    ):
        refused(call, "tokenizer: must be a Hugging Face tokenizer")


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"method": "smaple"}, "method: must be one of auto"), ({"method": ["auto"]}, "method"),
        ({"method": None}, "method"),
        ({"method": np.array(["auto", "sample"])}, "method"), ({"references": "64"}, "references"),
        ({"precision_bits": "0.25"}, "precision_bits"), ({"precision_bits": None}, "precision_bits"),
        ({"precision_bits": math.nan}, "precision_bits"), ({"precision_bits": True}, "precision_bits"),
        ({"delta": "0"}, "delta"), ({"delta": None}, "delta"), ({"delta": math.nan}, "delta"), ({"delta": 1}, "delta"),
        ({"confidence_level": "0.95"}, "confidence_level"), ({"confidence_level": [0.9]}, "confidence_level"),
        ({"max_batch_tokens": "9"}, "max_batch_tokens"), ({"max_batch_tokens": 1.5}, "max_batch_tokens"),
        ({"max_batch_tokens": True}, "max_batch_tokens"), ({"end_token": 1}, "end_token"),
        ({"end_token": "no"}, "end_token"),
        ({"accept_bad_fit": None}, "accept_bad_fit"), ({"source": 5}, "source"), ({"context": "Q: "}, "context"),
        ({"seed": None}, "seed"), ({"seed": "0"}, "seed"), ({"max_expansions": 1e5}, "max_expansions"),
        ({"nothing": 1}, "nothing: must be an argument of measure_exposure"),
        ({"across_processes": 1}, "across_processes"),
    ],
)  # fmt: skip
def test_settings(
    change: dict[str, Any], argument: str, make_model: Callable[..., nn.Module], byte_tokenizer: Any
) -> None:
    refused(lambda: measure_exposure(make_model("gpt2"), byte_tokenizer, CANARIES, **change), argument)


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"temperature": "1"}, "temperature"), ({"temperature": None}, "temperature"),
        ({"temperature": math.inf}, "temperature"),
        ({"top_k": 1.5}, "top_k"), ({"top_k": "5"}, "top_k"), ({"top_p": "0.5"}, "top_p"), ({"top_p": True}, "top_p"),
        ({"samples": None}, "samples"), ({"samples": 2.0}, "samples"), ({"near_edits": "1"}, "near_edits"),
        ({"seed": None}, "seed"), ({"seed": -1}, "seed"),
    ],
)  # fmt: skip
def test_sampling(
    change: dict[str, Any], argument: str, make_model: Callable[..., nn.Module], byte_tokenizer: Any
) -> None:
    refused(lambda: discoverable_extraction(make_model("gpt2"), byte_tokenizer, PIN, SECRETS, **change), argument)


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"other_columns": 5}, "other_columns"), ({"other_columns": [("a", 1)]}, "other_columns"),
        ({"other_columns": {5: 1}}, "other_columns"), ({"splits": 5}, "splits"), ({"context": "Q: "}, "context"),
        ({"source": 5}, "source"), ({"source_column": 5}, "source_column"), ({"num_proc": 1.5}, "num_proc"),
        ({"num_proc": 0}, "num_proc"),
    ],
)  # fmt: skip
def test_insertion(change: dict[str, Any], argument: str) -> None:
    from datasets import DatasetDict

    refused(lambda: insert_canaries(DatasetDict({"train": DATA}), CANARIES, **change), argument)


@pytest.mark.parametrize("dataset", [None, 5, "rows.jsonl", ["one"], {"text": ["one"]}, DATA.to_pandas(), Dataset])
def test_data_sets(dataset: Any) -> None:
    refused(lambda: insert_canaries(dataset, CANARIES), "dataset")
    refused(lambda: remove_canaries(dataset, CANARIES), "dataset")


@pytest.mark.parametrize("path", [None, 5, [], b"x", "a\0b", "x" * 5000, {}])
def test_paths(path: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    report = ExposureReport(
        estimates=(), template="", spaces={}, space_size=9, manifest_hash="", settings={"confidence_level": 0.9}
    )
    refused(lambda: CANARIES.save(path), "path")
    refused(lambda: CanarySet.load(path), "path")
    refused(lambda: ExposureReport.load(path), "path")
    refused(lambda: report.save(path), "folder")


def test_reports() -> None:
    report = ExposureReport(
        estimates=(), template="", spaces={}, space_size=9, manifest_hash="", settings={"confidence_level": 0.9}
    )
    for value in (None, 5, [], "x", {}, {"format": "hf-exposure report"}):
        refused(lambda value=value: ExposureReport.from_dict(value), "report")
    for number in (math.inf, math.nan, 1e300, 10**400, "1", None, True, [1]):
        values = {**report.to_dict(), "seconds": number}
        if number is not None:
            refused(lambda values=values: ExposureReport.from_dict(values), "report.seconds")
    refused(lambda: ExposureReport.from_dict({**report.to_dict(), "space_size": math.inf}), "report.space_size")
    refused(lambda: report.to_dict(include_secrets=1), "include_secrets")
    refused(lambda: report.to_dict(include_secrets=True, canaries="x"), "canaries")
    refused(lambda: report.with_doses(None, 1.0), "doses_per_epoch")
    refused(lambda: report.with_doses({}, "1"), "epochs")
    refused(lambda: report.push_to_hub(None), "repo_id")
    refused(lambda: report.push_to_hub("me/model", create_pr="yes"), "create_pr")
    refused(lambda: report.push_to_hub("me/model", private="yes"), "private")
    refused(lambda: report.push_to_hub("me/model", canaries=SECRETS), "canaries")
    refused(lambda: report.push_to_hub("me/model", folder=5), "folder")
    refused(lambda: report.save("nowhere", history={"train": 1}), "history")
    refused(lambda: report.save("nowhere", training_log=[5]), "training_log")
    for trainer in (None, "trainer", ExposureCallback(CANARIES)):
        refused(lambda trainer=trainer: ExposureCallback(CANARIES).attach(trainer), "trainer")


def test_a_collator_that_fails(byte_tokenizer: Any) -> None:
    rows = [byte_tokenizer(text) for text in SECRETS]

    def fail(rows: Any) -> Any:
        raise KeyError(SECRETS[0])

    for collator, data in ((fail, rows), (byte_tokenizer, rows)):
        refused(
            lambda c=collator, d=data: check_delivery(d, CANARIES, byte_tokenizer, collator=c),
            "collator: must collate",
        )


def test_canaries_and_their_coins() -> None:
    for coin in ("yes", 1, 0, [], np.True_):
        canary = Canary(text=SECRETS[0], template=PIN, repetitions=1, coin=coin)
        refused(lambda canary=canary: CanarySet(inserted=(canary,), template=PIN), r"inserted\[0\]\.coin")
    refused(lambda: CanarySet(inserted=CANARIES.inserted, template=PIN, seed="x"), "seed")
    refused(lambda: CanarySet(inserted=CANARIES.inserted, template=PIN, salt=5), "salt")


NOT_COSTS = [
    None, "x", ["1", "2", "3"], [[1.0, 2.0], [3.0]], [[1.0, 2.0, 3.0]], 5.0, [1.0, None, 2.0], [1.0, math.nan, 2.0],
    [1.0, -math.inf, 2.0], {"a": 1}, {1.0, 2.0}, [1j, 2j], np.array(["1.0"]), np.zeros((2, 2)), [10**400, 1, 2],
    np.array(["2020-01-01"], dtype="datetime64[D]"), torch.ones(3, requires_grad=True), [1e200, 1.0, 2.0], object(),
    [b"1"], len, (number for number in COSTS),
]  # fmt: skip


@pytest.mark.parametrize(
    "value", NOT_COSTS, ids=[f"{place} {type(value).__name__}" for place, value in enumerate(NOT_COSTS)]
)
def test_costs(value: Any) -> None:
    for call, argument in (
        (lambda: ranks(value, MANY), "costs"),
        (lambda: ranks(COSTS, value), "competitor_costs"),
        (lambda: control_test(value, MANY), "inserted_costs"),
        (lambda: control_test(COSTS, value), "control_costs"),
        (lambda: enumeration_exposure(value, MANY, includes_self=False), "costs"),
        (lambda: enumeration_exposure(COSTS, value, includes_self=False), "competitor_costs"),
        (lambda: sampling_exposure(value, MANY), "costs"),
        (lambda: sampling_exposure(COSTS, value), "references"),
        (lambda: importance_exposure(value, MANY, space_size=99), "costs"),
        (lambda: importance_exposure(COSTS, value, space_size=99), "references"),
        (lambda: skew_normal_exposure(value, MANY), "costs"),
        (lambda: skew_normal_exposure(COSTS, value), "references"),
        (lambda: fit_skew_normal(value), "references"),
        (lambda: epsilon_lower_bound(value, [True, False, True]), "costs"),
    ):
        refused(call, argument)


def test_arrays_of_other_libraries_pass() -> None:
    expected = ranks(COSTS, MANY).tolist()
    arrays = (np.array(COSTS, dtype=np.float16), np.array(COSTS, dtype=object))
    for costs in (*arrays, pandas.Series(COSTS), torch.tensor(COSTS)):
        assert ranks(costs, MANY).tolist() == expected
    assert ranks([np.inf, 2**70], MANY).tolist() == [41, 41]


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: sampling_exposure(COSTS, MANY, space_size=1e9), "space_size"),
        (lambda: sampling_exposure(COSTS, MANY, space_size="9"), "space_size"),
        (lambda: sampling_exposure(COSTS, MANY, confidence_level="0.9"), "confidence_level"),
        (lambda: sampling_exposure(COSTS, MANY, confidence_level=math.nan), "confidence_level"),
        (lambda: sampling_exposure(COSTS, MANY, convention=["valid"]), "convention"),
        (lambda: importance_exposure(COSTS, MANY, ["x"] * 40, space_size=99), "weights"),
        (lambda: importance_exposure(COSTS, MANY, np.ones((4, 10)), space_size=99), "weights"),
        (lambda: importance_exposure(COSTS, MANY, [1.0] * 39, space_size=99), "weights"),
        (lambda: importance_exposure(COSTS, MANY, space_size=99, weight_limits="x"), "weight_limits"),
        (lambda: importance_exposure(COSTS, MANY, space_size=99, weight_limits=[1.0, 2.0]), "weight_limits"),
        (lambda: importance_exposure(COSTS, MANY, space_size=99, strata=[0, 1]), "strata"),
        (lambda: importance_exposure(COSTS, MANY, space_size=99, strata=[0, "a", None] + [1] * 37), "strata"),
        (lambda: importance_exposure(COSTS, MANY, space_size=99, includes_self="no"), "includes_self"),
        (lambda: importance_exposure(COSTS, MANY, space_size=99, includes_self=[True, False]), "includes_self"),
        (lambda: importance_exposure(COSTS, MANY, space_size=99, includes_self=0.5), "includes_self"),
        (lambda: enumeration_exposure(COSTS, MANY, includes_self=None), "includes_self"),
        (lambda: enumeration_exposure(COSTS, MANY, includes_self=False, tolerance_bits="0"), "tolerance_bits"),
        (lambda: enumeration_exposure(COSTS, MANY, includes_self=False, tolerance_bits=math.nan), "tolerance_bits"),
        (lambda: check_weights("x"), "weights"),
        (lambda: check_weights(None), "weights"),
        (lambda: check_weights([1.0, math.nan]), "weights"),
        (lambda: clopper_pearson("5", 9), "hits"),
        (lambda: clopper_pearson([1, 2], [3, 4, 5]), "draws"),
        (lambda: clopper_pearson([1], None), "draws"),
        (lambda: exposure_from_rank("1", 9), "rank"),
        (lambda: exposure_from_rank(None, 9), "rank"),
        (lambda: exposure_from_rank(True, 9), "rank"),
        (lambda: exposure_from_rank(1.5, 9), "rank"),
        (lambda: exposure_from_rank(math.nan, 9), "rank"),
        (lambda: exposure_from_rank([1], 9), "rank"),
        (lambda: epsilon_lower_bound(COSTS, ["yes", "no", "yes"]), "included"),
        (lambda: epsilon_lower_bound(COSTS, [True, False]), "included"),
        (lambda: epsilon_lower_bound(COSTS, [[True, False, True]]), "included"),
        (lambda: epsilon_lower_bound(COSTS, "yes"), "included"),
        (lambda: epsilon_lower_bound(COSTS, [True, False, True], guesses="2"), "guesses"),
        (lambda: epsilon_lower_bound(COSTS, [True, False, True], guesses=1.5), "guesses"),
        (lambda: epsilon_lower_bound(COSTS, [True, False, True], delta="0"), "delta"),
        (lambda: epsilon_lower_bound(COSTS, [True, False, True], delta=math.nan), "delta"),
        (lambda: one_run_p_value("1", delta=0, canaries=5, guesses=4, correct=3), "epsilon"),
        (lambda: one_run_p_value(math.nan, delta=0, canaries=5, guesses=4, correct=3), "epsilon"),
        (lambda: one_run_p_value(1.0, delta=0, canaries=5, guesses=6, correct=3), "guesses"),
        (lambda: one_run_p_value(1.0, delta=0, canaries=5, guesses=4, correct=5), "correct"),
        (lambda: one_run_p_value(1.0, delta=0, canaries=None, guesses=4, correct=5), "canaries"),
        (lambda: judge_fit(MANY, None), "fit"),
        (lambda: judge_fit(MANY, (1.0, 0.0, 1.0)), "fit"),
        (lambda: log_cdf("x", 1.0), "x"),
        (lambda: log_cdf([1.0], "1"), "shape, loc, scale"),
        (lambda: log_cdf([1.0], None), "shape, loc, scale"),
        (lambda: log_cdf([1.0], 1.0, loc=torch.ones(2)), "shape, loc, scale"),
        (lambda: log_cdf([1.0], 1.0, 0.0, 0.0), "shape, loc, scale"),
        (lambda: skew_normal_exposure(COSTS, MANY, accept_bad_fit="no"), "accept_bad_fit"),
        (lambda: fit_skew_normal([5.0] * 40), "references: must not all be equal"),
        (lambda: fit_skew_normal([1e99, *([1e99 + 1e83] * 39)]), "references: must not all be equal"),
    ],
)
def test_other_arguments_of_estimators(call: Callable[[], Any], argument: str) -> None:
    refused(call, argument)


def test_an_error_can_always_be_shown() -> None:
    class Mute:
        def __repr__(self) -> str:
            raise RuntimeError

    for value in (10**5000, Mute(), "x" * 10**7, b"x" * 10**7, list(range(10**6)), {1: "x" * 10**6}):
        assert len(str(InputError("a", "must be b", value, "Do c."))) < 200
    assert str(InputError("a", "must be b", "x" * 119, "Do c.")).count("x") == 116
    assert "got 10000" in str(InputError("a", "must be b", 10**4, "Do c."))


def test_numbers_within_intervals() -> None:
    def number(value: Any, **interval: Any) -> float:
        return checks.real_number("a", value, "must be so", "Do c.", **interval)

    assert number(np.float32(0.5)) == 0.5 and number(torch.tensor(2)) == 2.0 and number(3) == 3.0
    assert number(1.0, at_most=1.0) == number(1.0, at_least=1.0) == 1.0
    assert number(math.inf, above=0.0, infinite=True) == math.inf
    for value, interval in (
        (1.0, {"below": 1.0}), (1.0, {"above": 1.0}), (1.1, {"at_most": 1.0}), (0.9, {"at_least": 1.0}),
        (math.inf, {}), (-math.inf, {"infinite": True, "above": 0.0}), (math.nan, {}), (np.array([1.0]), {}),
        (10**400, {}), ("1", {}), (True, {}), (np.True_, {}), (1j, {}),
    ):  # fmt: skip
        with pytest.raises(InputError, match="^a: must be so"):
            number(value, **interval)


def test_a_damaged_canary_file_is_still_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text("[" * 10_000)
    with pytest.raises(CanaryFileError, match="must be complete JSON"):
        CanarySet.load(tmp_path / "c.json")


def test_splits_are_no_training_set() -> None:
    splits = DatasetDict(train=Dataset.from_dict({"input_ids": [[1, 2]]}))
    refused(lambda: check_delivery(splits, CANARIES, transformers.ByT5Tokenizer()), "dataset")


def test_ranges_beyond_any_memory() -> None:
    for many in (range(10**9), range(10**12), range(10**30)):
        refused(lambda: fit_skew_normal(many), "")  # noqa: B023
        refused(lambda: check_weights([1.0, 2.0], strata=many), "strata")  # noqa: B023
        refused(lambda: Choice(many), "options")  # noqa: B023
    refused(lambda: CanarySet.from_secrets(PIN, ["pin 1234."], repetitions=10**5000), "repetitions")
