"""Methods as objects: the figures of their names, their settings, and what `Auto` chooses."""

from __future__ import annotations

import inspect
import math
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from callback_runs import CANARIES as TRAINED
from callback_runs import TOKENIZER, make_callback, make_trainer
from conftest import tiny_model
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration

from hf_exposure import (
    Auto,
    Bounded,
    CanaryTemplate,
    Digits,
    Enumerate,
    ExposureCallback,
    ExposureMeter,
    ExposureReport,
    Importance,
    Sample,
    SkewNormal,
    draw_canaries,
    measure_exposure,
)
from hf_exposure.errors import InputError
from hf_exposure.measures import MeasureOptions, MeasureSettings, Method, choose, method_of

CANARIES = draw_canaries(CanaryTemplate("pin {pin} ok", pin=Digits(4)), {1: 2, 4: 2}, controls=3, seed=11)
# The contents of "settings" in report.json, written out.
KEYS = [
    "method", "references", "max_expansions", "precision_bits", "accept_bad_fit", "seed", "confidence_level",
    "end_token", "delta", "source", "context",
]  # fmt: skip


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return tiny_model("gpt2", seed=1, scale=0.5).double()


def values_of(report: ExposureReport) -> dict[str, Any]:
    """The contents of a report except when and for how long it was measured."""
    values = report.to_dict()
    values["metrics"].pop("eval_exposure_seconds")
    return {name: value for name, value in values.items() if name not in ("seconds", "run")}


BY_NAME: list[tuple[Method, dict[str, Any]]] = [
    (Enumerate(), {"method": "enumerate"}),
    (Sample(references=90), {"method": "sample", "references": 90}),
    (SkewNormal(references=90, accept_bad_fit=True), {
        "method": "skew_normal", "references": 90, "accept_bad_fit": True}),
    (Importance(references=90, precision_bits=1.5), {
        "method": "importance", "references": 90, "precision_bits": 1.5}),
    (Bounded(max_expansions=7), {"method": "bounded", "max_expansions": 7}),
    (Auto(references=300, max_expansions=40, precision_bits=2.0), {
        "references": 300, "max_expansions": 40, "precision_bits": 2.0}),
]  # fmt: skip


@pytest.mark.parametrize(("method", "flat"), BY_NAME, ids=lambda value: getattr(value, "name", ""))
def test_an_object_gives_the_report_of_its_name_and_flat_arguments(
    model: nn.Module, method: Method, flat: dict[str, Any]
) -> None:
    by_object = measure_exposure(model, TOKENIZER, CANARIES, method=method, seed=2)
    by_name = measure_exposure(model, TOKENIZER, CANARIES, seed=2, **flat)
    assert values_of(by_object) == values_of(by_name)
    assert list(by_object.settings) == KEYS
    assert {name: by_object.settings[name] for name in flat} == flat
    assert method_of(by_object.settings["method"], by_object.settings) == method


def test_settings_of_an_object_change_the_figures(model: nn.Module) -> None:
    few, many = (
        measure_exposure(model, TOKENIZER, CANARIES, method=Importance(references=references, precision_bits=0.01))
        for references in (64, 2048)
    )
    for wide, narrow in zip(few.estimates, many.estimates, strict=True):
        assert 4 * (narrow.high_bits - narrow.low_bits) < wide.high_bits - wide.low_bits
    cut, closed = (
        measure_exposure(model, TOKENIZER, CANARIES, method=Bounded(max_expansions=most)) for most in (3, 10**5)
    )
    assert {e.bound for e in closed.estimates} == {"exact"} and "lower" in {e.bound for e in cut.estimates}


def test_one_object_serves_function_meter_and_callback(tmp_path: Path) -> None:
    method = Importance(references=64)
    callback = make_callback(strategy="end", method=method, require_delivery=False)
    trainer = make_trainer(tmp_path, [callback], max_steps=2)
    trainer.train()
    assert callback.report is not None
    alone = measure_exposure(trainer.model, TOKENIZER, TRAINED, method=method)
    metered = ExposureMeter(TRAINED, TOKENIZER, method=method).measure(trainer.model)
    for report in (callback.report, alone, metered):
        assert {e.method for e in report.estimates} == {"importance"}
        assert (report.settings["method"], report.settings["references"]) == ("importance", 64)
        assert [e.exposure_bits for e in report.estimates] == [e.exposure_bits for e in alone.estimates]
    alone.save(tmp_path / "report")
    read = ExposureReport.load(tmp_path / "report")
    assert method_of(read.settings["method"], read.settings) == method


NOT_NEXT = r"must not be given next to method={}\(\.\.\.\), an object, got {}\. "


@pytest.mark.parametrize(
    ("method", "flat", "message"),
    [
        (Importance(), {"references": 64}, "^references: " + NOT_NEXT.format("Importance", 64)
         + r"Write method=Importance\(references=64\)\.$"),
        (Auto(), {"precision_bits": 0.5}, "^precision_bits: " + NOT_NEXT.format("Auto", 0.5)
         + r"Write method=Auto\(precision_bits=0\.5\)\.$"),
        (Enumerate(), {"max_expansions": 9}, "^max_expansions: " + NOT_NEXT.format("Enumerate", 9)
         + r"Leave it out: Enumerate has none\.$"),
        (Bounded(), {"accept_bad_fit": True}, "^accept_bad_fit: .*Leave it out"),
        (Importance, {}, r"^method: must be an object, not a class, got 'Importance'\. Write method=Importance\(\)"),
    ],
)  # fmt: skip
def test_settings_next_to_an_object_and_a_class_are_refused(
    method: Method, flat: dict[str, Any], message: str
) -> None:
    calls = (
        lambda: measure_exposure(nn.Linear(1, 1), TOKENIZER, CANARIES, method=method, **flat),
        lambda: ExposureMeter(CANARIES, TOKENIZER, method=method, **flat),
        lambda: ExposureCallback(CANARIES, method=method, **flat),
    )
    for call in calls:
        with pytest.raises(InputError, match=message):
            call()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Auto(references=0),
            r"^references: must be a whole number of at least 1, got 0\. Leave",
        ),
        (lambda: Sample(references=2.5), "^references: must be a whole number"),  # type: ignore[arg-type]
        (lambda: Sample(references=10_000_001), "^references: must be at most 10000000"),
        (lambda: SkewNormal(references=19), "^references: must be at least 20 for a fit, got 19"),
        (lambda: SkewNormal(accept_bad_fit=1), "^accept_bad_fit: must be True or False"),  # type: ignore[arg-type]
        (lambda: Importance(precision_bits=0.0), r"^precision_bits: must be above 0, got 0\.0"),
        (lambda: Importance(precision_bits=math.nan), "^precision_bits: must be above 0, got nan"),
        (lambda: Bounded(max_expansions=-1), "^max_expansions: must be a whole number of at least 1, got -1"),
        (lambda: Bounded(max_expansions=2**63), "^max_expansions: must be at most"),
    ],
)
def test_objects_check_their_own_settings(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_an_object_has_no_setting_of_another_method() -> None:
    with pytest.raises(TypeError, match="references"):
        Bounded(references=64)  # type: ignore[call-arg]
    rule = r"^method: must be an object, not a class, got 'Importance'\. Write method=Importance\(\)\.$"
    with pytest.raises(InputError, match=rule):
        MeasureSettings.of(method=Importance)  # type: ignore[arg-type]


def test_flat_arguments_of_other_methods_are_checked_kept_and_not_used() -> None:
    settings = MeasureSettings.of(method="bounded", references=64, precision_bits=0.5)
    assert settings.method == Bounded()
    assert (settings.to_dict()["references"], settings.to_dict()["precision_bits"]) == (64, 0.5)
    with pytest.raises(InputError, match="^precision_bits: must be above 0"):
        MeasureSettings.of(method="bounded", precision_bits=-1.0)


WHY = "the model reads both ways"
NO_SEARCH = f"no search, uniform references instead: {WHY}"


@pytest.mark.parametrize(
    ("method", "space_size", "why", "expected"),
    [
        (Auto(references=100), 100, "", (Enumerate(), "")),
        (Auto(references=100), 100, WHY, (Enumerate(), "")),
        (Auto(references=100), 101, "", (Auto(references=100), "")),
        (Auto(references=100), 101, WHY, (Sample(references=100), NO_SEARCH)),
        # Beyond a million texts nothing is enumerated, however many references were asked for.
        (Auto(references=2_000_000), 1_000_000, "", (Enumerate(), "")),
        (Auto(references=2_000_000), 1_000_001, "", (Auto(references=2_000_000), "")),
        (Enumerate(), 1_000_000, WHY, (Enumerate(), "")),
        (Enumerate(), 1_000_001, "", "^method: 'enumerate' takes spaces of at most 1000000 texts, got 'a space of 10"),
        (Sample(), 10**9, WHY, (Sample(), "")),
        (Sample(), 10, "", (Sample(), "")),
        (SkewNormal(), 10**9, WHY, (SkewNormal(), "")),
        (Importance(), 10**9, "", (Importance(), "")),
        (Importance(), 10, WHY, "^method: must be 'auto', .* here, since the model reads both ways, got 'importance'"),
        (Bounded(), 10**9, "", (Bounded(), "")),
        (Bounded(), 10**9, WHY, "^method: must be 'auto', .* here, since the model reads both ways, got 'bounded'"),
    ],
)
def test_what_is_chosen(method: Method, space_size: int, why: str, expected: Any) -> None:
    if isinstance(expected, str):
        with pytest.raises(InputError, match=expected):
            choose(method, space_size, why)
    else:
        assert choose(method, space_size, why) == expected


def test_an_error_that_allows_no_search_is_raised_as_it_is_or_quoted() -> None:
    error = InputError("template", "must be short", "long", "Shorten it.")
    for method in (Bounded(), Importance()):
        with pytest.raises(InputError) as caught:
            choose(method, 10**9, error)
        assert caught.value is error
    assert choose(Auto(), 10**9, error)[1] == f"no search, uniform references instead: {error}"
    assert choose(Sample(), 10**9, error) == (Sample(), "")


def test_auto_without_search_gives_the_figures_of_uniform_references_and_says_why() -> None:
    config = T5Config(
        vocab_size=384, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0
    )  # fmt: skip
    model, source = T5ForConditionalGeneration(config).eval(), "It is {pin}"
    auto = measure_exposure(model, TOKENIZER, CANARIES, method=Auto(references=50), source=source)
    uniform = measure_exposure(model, TOKENIZER, CANARIES, method=Sample(references=50), source=source)
    assert auto.estimates == uniform.estimates and auto.references == uniform.references
    assert auto.settings["method"] == "auto"
    assert auto.notes == ("no search, uniform references instead: the source contains the secret too",)
    assert uniform.notes == ()


@pytest.mark.parametrize(("max_expansions", "budget"), [(3000, 3000), (10**5, 5000)])
def test_auto_searches_and_draws_by_its_own_settings(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch, max_expansions: int, budget: int
) -> None:
    """`auto` consists of these methods; a search has no more expansions than there are references."""
    used: list[Method] = []
    for kind, function in ((Bounded, "search"), (Importance, "draw")):
        original = getattr(kind, function)
        monkeypatch.setattr(
            kind, function, lambda self, *a, of=original, **more: used.append(self) or of(self, *a, **more)
        )
    auto = Auto(references=5000, max_expansions=max_expansions, precision_bits=1e-3)
    measure_exposure(model, TOKENIZER, CANARIES, method=auto)
    assert used == [Importance(references=5000, precision_bits=1e-3), Bounded(max_expansions=budget)]


def test_the_declared_options_are_the_settings() -> None:
    """Function, meter and callback share one declaration, which lists the settings that are checked and stored."""
    declared = set(get_type_hints(MeasureOptions))
    assert declared == {*KEYS, "max_batch_tokens", "lead"}
    for name in declared - {"method", "source", "context", "max_batch_tokens"}:
        with pytest.raises(InputError, match=f"^{name}: "):
            MeasureSettings.of(**{name: "wrong"})  # type: ignore[arg-type]
    for function, before in (
        (measure_exposure, ["model", "tokenizer", "canaries", "method", "references"]),
        (ExposureMeter, ["canaries", "tokenizer"]),
    ):
        parameters = inspect.signature(function).parameters.values()
        positional = [one.name for one in parameters if one.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
        assert positional == before


@pytest.mark.parametrize("kind", [Auto, Bounded, Importance, Sample, SkewNormal])
def test_settings_of_a_method_are_given_by_name_and_stay(kind: type[Any]) -> None:
    with pytest.raises(TypeError):
        kind(100)
    method = kind()
    with pytest.raises(AttributeError):
        method.references = 5


def test_the_weights_account_for_the_space_without_the_inserted_canaries(model: nn.Module) -> None:
    """A tenth of the space is inserted. The weights of the rest have a mean of 1, so that no note warns of them."""
    canaries = draw_canaries(CanaryTemplate("pin {pin}", pin=Digits(3)), {1: 100}, controls=20, seed=3)
    exact, drawn = (
        measure_exposure(model, TOKENIZER, canaries, method)
        for method in (Enumerate(), Importance(references=8192, precision_bits=1e-9))
    )
    assert not any("should be 1" in estimate.note for estimate in drawn.estimates)
    covered = [
        one.low_bits - 1e-6 <= other.exposure_bits <= one.high_bits + 1e-6
        for one, other in zip(drawn.estimates, exact.estimates, strict=True)
    ]
    assert sum(covered) >= 0.9 * len(covered)
