"""Every size has a limit: at the limit calls succeed, just above it they are refused quickly before anything is
built.
"""

from __future__ import annotations

import inspect
import itertools
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, IterableDataset

from hf_exposure import (
    Canary,
    CanarySet,
    CanaryTemplate,
    Choice,
    Digits,
    Letters,
    LuhnDigits,
    Pattern,
    VocabularyTokens,
    Words,
    discoverable_extraction,
    draw_canaries,
    insert_canaries,
    limits,
)
from hf_exposure.canaries import parse_space
from hf_exposure.errors import InputError
from hf_exposure.estimators import exposure_from_rank
from hf_exposure.files import parse_json, read_bytes
from hf_exposure.measures import MeasureSettings

SECONDS = 2.0
PIN = CanaryTemplate("pin {pin}.", pin=Digits(9))
ROOT = Path(__file__).resolve().parents[1]


@contextmanager
def quickly() -> Iterator[None]:
    """Limits the processor time, since other tests may run at the same time."""
    started = time.process_time()
    yield
    assert time.process_time() - started < SECONDS


def refused(make: Callable[[], Any], message: str) -> None:
    with quickly(), pytest.raises(InputError, match=message) as caught:
        make()
    assert len(str(caught.value)) < 1000


def holes(number: int, space: Any) -> CanaryTemplate:
    spaces = {f"h{index}": space for index in range(number)}
    return CanaryTemplate(" ".join(f"{{{name}}}" for name in spaces), **spaces)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Digits(1_001), "^length: must be at most 1000, got 1001"),
        (lambda: Digits(10**9), "^length: must be at most 1000"),
        (lambda: Digits(10**5000), "^length: must be at most 1000, got <int>"),
        (lambda: Letters(1_001), "^length: must be at most 1000"),
        (lambda: Letters(1_000, "".join(map(chr, range(32, 20_000)))), "at most 10.4000 candidate secrets"),
        (lambda: LuhnDigits(1_001), "^length: must be at most 1000"),
        (lambda: Words(501), "^number: must be at most 500"),
        (lambda: Words(10**7), "^number: must be at most 500"),
        (lambda: Words(500, words=map(str, range(10**9))), "^words: must hold at most 1000000 entries"),
        (lambda: Words(2, words=["a"], separator=" " * 1001), "^separator: must be at most 1000 characters"),
        (lambda: Choice(map(str, itertools.count())), "^options: must hold at most 1000000 entries"),
        (lambda: Choice(["a" * 10_001]), "^options: must hold texts of at most 10000 characters"),
        (lambda: VocabularyTokens(None, 10**9), "^number: must be at most 500"),
        (lambda: parse_space("digits:" + "9" * 5000), "^space: must be a kind and its size"),
        (lambda: Pattern("a" * 10_001), "at most 10000 characters"),
        (lambda: Pattern("(" * 51 + "a" + ")" * 51), "at most 50 groups inside each other"),
        (lambda: Pattern("(" * 3_000 + "a" + ")" * 3_000), "at most 50 groups inside each other"),
        (lambda: Pattern("a{1001}"), "texts of at most 1000 characters"),
        (lambda: Pattern(r"(a{300}){400}"), "at most 100000 states"),
        (lambda: Pattern("(){1000000000}"), "at most 100000 states"),
        (lambda: Pattern("(((a{0,900}){0,900}){0,900}){0,900}"), "at most 100000 states"),
        (lambda: Pattern("((((){1000}){1000}){1000}){1000}"), "at most 1000000 characters"),
        (lambda: Pattern("[\u0000-\U0010ffff]{2}"), "at most 1000000 characters"),
        (lambda: Pattern("[\u4e00-\u9fff]{1000}"), "at most 1000000 characters"),
        (lambda: Pattern("(.{1,30}){1,30}"), "at most 1000000 characters"),
        (lambda: Pattern("a{99999999999999}"), "must be a regular expression"),
        (lambda: CanaryTemplate("x" * 100_000 + "{pin}", pin=Digits(1)), "^text: must be at most 100000 characters"),
        (lambda: holes(101, Digits(1)), "^text: must have at most 100 holes"),
        (lambda: holes(2_000, Digits(1)), "^text: must have at most 100 holes"),
        (lambda: holes(5, Digits(999)), r"^spaces: must have at most 10\^4000 candidate secrets"),
        (lambda: draw_canaries(PIN, {1: 10**9}), "^template: must have at least as many texts|at most 100000"),
        (lambda: draw_canaries(PIN, {1: 100_001}, controls=0), "^canaries: must be at most 100000"),
        (lambda: draw_canaries(PIN, {1: 1}, controls=10**9 - 1), "^canaries: must be at most 100000"),
        (lambda: draw_canaries(PIN, {}, coin_flips=10**8), "^canaries: must be at most 100000"),
        (lambda: draw_canaries(PIN, {10_000_001: 1}), "must be inserted into at most 10000000 rows in all"),
        (lambda: draw_canaries(PIN, {10**9: 1}), "must be inserted into at most 10000000 rows in all"),
        (lambda: draw_canaries(PIN, {10**5000: 1}), "^repetitions: must be at most"),
        (lambda: draw_canaries(PIN, {1: 1}, seed=2**512), "^seed: must be at most"),
        (lambda: CanarySet.from_secrets(PIN, itertools.repeat("pin 000000000.")), "^texts: must hold at most 100000"),
        (lambda: CanarySet.from_secrets(PIN, ["pin 000000000."], controls=10**6), "^canaries: must be at most 100000"),
        (lambda: CanarySet.from_secrets(PIN, ["pin 000000000."], 10**9), "at most 10000000 rows"),
        (lambda: CanarySet(inserted=itertools.repeat(None), template=PIN), "^inserted: must hold at most 100000"),
        (lambda: MeasureSettings.of(references=10_000_001), "^references: must be at most 10000000"),
        (lambda: MeasureSettings.of(max_expansions=2**63), "^max_expansions: must be at most"),
        (lambda: MeasureSettings(seed=2**512), "^seed: must be at most"),
        (lambda: exposure_from_rank(1, 10**4001), r"^space_size: must be at most 10\^4000"),
    ],
)
def test_above_the_limit_nothing_is_built(make: Callable[[], Any], message: str) -> None:
    refused(make, message)


def test_at_the_limit_it_works() -> None:
    for space in (
        Digits(1_000),
        LuhnDigits(1_000),
        Letters(1_000),
        Words(500),
        Pattern(r"\d{1000}"),
        Pattern("a|b{999}"),
    ):
        with quickly():
            last = space.text_at(space.size - 1)
            assert space.index_of(last) == space.size - 1
            assert str(space.size).isdigit()
    with quickly():
        template = holes(100, Words(2))
        assert template.index_of(template.text_at(12_345)) == 12_345
    with quickly():
        assert Pattern("(" * 50 + "a" + ")" * 50).size == 1
    with quickly():
        assert Pattern("[\u4e00-\u9fff]{8}").size == 20_992**8
    with quickly():
        assert Choice([str(number) for number in range(10**6)]).size == 10**6
    with quickly():
        assert CanaryTemplate("x" * 99_995 + "{pin}", pin=Digits(1)).contains("x" * 99_995 + "7")
    assert draw_canaries(PIN, {10_000_000: 1}).total_insertions == 10**7
    assert exposure_from_rank(1, 10**4000) == pytest.approx(4000 * np.log2(10))


@pytest.mark.slow
def test_a_hundred_thousand_canaries_are_drawn() -> None:
    drawn = draw_canaries(PIN, {1: 60_000}, controls=30_000, coin_flips=10_000)
    assert len({canary.text for canary in drawn}) == 100_000


def test_samples_and_batches(make_model: Callable[..., Any], byte_tokenizer: Any) -> None:
    model = make_model("gpt2")

    def ask(**arguments: Any) -> Any:
        return discoverable_extraction(model, byte_tokenizer, PIN, ["pin 000000000."], **arguments)

    refused(lambda: ask(samples=10**9), "^samples: must be at most 1000000")
    refused(lambda: ask(near_edits=10**9), "^near_edits: must be at most 1000000")


def test_a_stream_of_many_insertions_is_refused_before_it_is_planned() -> None:
    """With 10^9 repetitions the plan alone took 82 GiB."""
    canary = Canary(text="pin 000000000.", template=PIN, repetitions=10**9)
    refused(lambda: CanarySet(inserted=(canary,), template=PIN), "at most 10000000 rows")
    stream = Dataset.from_dict({"text": ["a"]}).to_iterable_dataset()
    assert isinstance(stream, IterableDataset)
    few = draw_canaries(PIN, {1_000: 1}, controls=0)
    refused(lambda: insert_canaries(stream, few, num_rows=999), "^num_rows: must be at least the number of insertions")


def test_json_has_a_depth_and_a_size(tmp_path: Path) -> None:
    def nested(depth: int) -> str:
        return "[" * depth + "]" * depth

    assert parse_json(nested(51))
    for depth in (52, 900, 100_000):
        with quickly(), pytest.raises(ValueError, match="too many nested lists"):
            parse_json(nested(depth))
    with pytest.raises(ValueError, match="too many nested lists"):
        parse_json('{"a":' * 60 + "1" + "}" * 60)
    (tmp_path / "ten").write_bytes(b"x" * 10)
    assert read_bytes(tmp_path / "ten", 10) == b"x" * 10
    for path in (tmp_path / "ten", Path("/dev/zero")):
        with quickly(), pytest.raises(ValueError, match="more than 9 bytes"):
            read_bytes(path, 9)


@pytest.mark.parametrize(
    "text", ["NaN", "[1e999]", "-Infinity", '"\\ud800"', '{"\\udfff": 1}', "9" * 5000, "\ud800", ""]
)
def test_json_without_figures_and_texts_that_cannot_be_written_again(text: str) -> None:
    with pytest.raises(ValueError):
        parse_json(text)


def test_json_of_a_trainer_may_hold_nan() -> None:
    assert parse_json("[NaN, 1e999]", constants=True)[1] == float("inf")
    assert parse_json('["\\ud83d\\ude00"]') == ["\U0001f600"]


def test_the_page_states_every_limit() -> None:
    page = (ROOT / "docs" / "limits.md").read_text(encoding="utf-8")
    stated = dict(re.findall(r"^\| `([A-Z_]+)` \| ([^|]+?) \|", page, re.MULTILINE))
    known = {name: value for name, value in vars(limits).items() if name.isupper()}
    assert stated.keys() == known.keys()
    for name, value in known.items():
        shown = {limits.LARGEST_SEED: "2^512 - 1", limits.LARGEST_COUNT: "2^63 - 1", 2**31 - 1: "2^31 - 1"}.get(value)
        assert stated[name] == (shown or (f"{value:,}" if isinstance(value, int) else f"{value:g}")), name


def test_every_limit_is_used() -> None:
    code = "".join(
        path.read_text(encoding="utf-8")
        for path in (ROOT / "hf_exposure").rglob("*.py")
        if path.name != Path(inspect.getfile(limits)).name
    )
    for name in vars(limits):
        if name.isupper():
            assert len(re.findall(rf"\b{name}\b", code)) > 1, name
