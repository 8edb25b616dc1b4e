"""Records as JSON documents: the schema is that of the records, and files of earlier versions load."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Required

import numpy as np
import pytest
from report_samples import estimate, mixed, report
from typing_extensions import TypedDict

from hf_exposure import ExposureReport
from hf_exposure.errors import InputError
from hf_exposure.fields import Count, Figure, Share, Values
from hf_exposure.records import Validity
from hf_exposure.records.documents import DocumentFormat
from hf_exposure.records.exposure_report import report_schema

ROOT = Path(__file__).resolve().parents[1]


def test_the_schema_that_ships_is_the_one_of_the_records() -> None:
    spec = importlib.util.spec_from_file_location("make_schema", ROOT / "docs" / "make_schema.py")
    assert spec is not None and spec.loader is not None
    make_schema = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_schema)
    assert make_schema.FILE.read_text(encoding="utf-8") == make_schema.render(), "run: python docs/make_schema.py"


def test_the_schema_says_what_each_field_is() -> None:
    schema = report_schema()
    parts = {"report": schema, **schema["$defs"]}
    silent = [
        f"{part}.{name}"
        for part, rules in parts.items()
        for name, rule in rules.get("properties", {}).items()  # an enumeration has none
        if part != "settings" and "description" not in rule
    ]
    assert silent == ["report.format", "report.schema_version"]
    assert "NaN" not in json.dumps(schema) and "None" not in json.dumps(schema)
    kinds = [rule["anyOf"] for rule in schema["$defs"]["estimate"]["properties"].values() if "anyOf" in rule]
    assert all(options[1] == {"type": "null"} for options in kinds) and len(kinds) == 10


OLDEST: dict[str, Any] = {
    "format": "hf-exposure report",
    "schema_version": 1,
    "estimates": [
        {
            "canary_id": "a0", "repetitions": 4, "log_perplexity_bits": 12.5, "exposure_bits": 6.0, "low_bits": 5.5,
            "high_bits": None, "rank_low": None, "rank_high": None, "method": "sample", "note": "a lower bound",
        },
        {
            "canary_id": "b1", "repetitions": 0, "log_perplexity_bits": None, "exposure_bits": None, "low_bits": None,
            "high_bits": None, "method": "skew_normal",
        },
    ],
    "template": "pin {pin}", "spaces": {"pin": "Digits(length=3)"}, "space_size": 1000, "manifest_hash": "",
    "settings": {"seed": 3, "method": "auto", "confidence_level": 0.95, "context": {"prompt": "Q: "}}, "notes": ["n"],
    "p_value": None,
}  # fmt: skip


def test_a_report_of_the_first_version_loads() -> None:
    """It has no `bound`, doses, delivery, validity, data set, scoring mode or metrics."""
    found = ExposureReport.from_dict(OLDEST)
    first, control = found.estimates
    assert (first.bound, control.bound) == ("lower", "undefined")
    assert math.isnan(first.high_bits) and control.log_perplexity_bits == math.inf
    assert math.isnan(first.effective_dose) and math.isnan(found.p_value) and math.isnan(found.auc)
    assert (found.validity, found.scoring_mode, found.delivery) == (Validity.UNCHECKED, "", None)
    assert (found.notes, type(found.estimates)) == (("n",), tuple)
    # Settings keep all their entries, and their order, which a page shows.
    assert list(found.settings.items()) == list(OLDEST["settings"].items())


def test_values_of_numpy_and_undefined_ones_are_plain_in_every_field() -> None:
    one = report(
        estimate(2.0, 1, rank_low=np.int64(3), base_exposure_bits=-math.inf, effective_dose=np.float32(1.5)),
        seconds=np.float32(0.5), epoch=math.nan, step=np.int64(4), model={"a": math.inf, "b": (np.int64(2),)},
        epsilon={"low": math.nan}, settings={"confidence_level": np.float64(0.9), "x": np.int64(1), "y": None},
    )  # fmt: skip
    values = one.to_dict()
    json.dumps(values, allow_nan=False)
    assert (values["seconds"], values["epoch"], values["step"]) == (0.5, None, 4)
    assert (values["model"], values["epsilon"]) == ({"a": None, "b": [2]}, {"low": None})
    assert values["settings"] == {"confidence_level": 0.9, "x": 1, "y": None}
    (row,) = values["estimates"]
    assert (row["rank_low"], row["base_exposure_bits"], row["effective_dose"]) == (3, None, 1.5)
    assert ExposureReport.from_dict(values).settings == values["settings"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"exposure_bits": None}, r"report\.estimates\[1\]\.bound: must be 'undefined' if exposure_bits is NaN"),
        ({"rank_high": 0}, r"report\.estimates\[1\]\.rank_high: must be at least 1, got 0"),
        ({"rank_high": 1.5}, r"report\.estimates\[1\]\.rank_high: must be of type integer, got 1\.5"),
        ({"repetitions": 10**13}, r"report\.estimates\[1\]\.repetitions: must be at most 1000000000000, got"),
        ({"repetitions": True}, r"report\.estimates\[1\]\.repetitions: must be of type integer, got True"),
        ({"note": 3}, r"report\.estimates\[1\]\.note: must be of type string, got 3"),
        ({"effective_dose": -1}, r"report\.estimates\[1\]\.effective_dose: must be at least 0, got -1"),
        ({"low_bits": 1e300}, r"report\.estimates\[1\]\.low_bits: must be at most 1e\+100"),
        ({"low_bits": "3"}, r"report\.estimates\[1\]\.low_bits: must be of type number, got '3'"),
    ],
)
def test_what_is_wrong_is_named_by_its_path(change: dict[str, Any], message: str) -> None:
    values = mixed().to_dict()
    values["estimates"][1].update(change)
    with pytest.raises(InputError, match=f"^{message}") as caught:
        ExposureReport.from_dict(values)
    assert caught.value.__context__ is None  # pydantic's own error would quote the value


def test_a_secret_in_a_report_is_quoted_in_no_error() -> None:
    for secrets in ({"a": ["281265017"]}, {"a": 281265017}, ["281265017"], "281265017", {"281265017": None}):
        with pytest.raises(InputError, match=r"^report\.secrets") as caught:
            ExposureReport.from_dict({**mixed().to_dict(), "secrets": secrets})
        assert "281265017" not in str(caught.value).replace("report.secrets.281265017", "")


class _Others(TypedDict, total=False):
    """What is next to it.

    Attributes:
        unit: of the figures.
    """

    format: Required[Literal["temperatures"]]
    schema_version: Required[Count]
    unit: str


@dataclass(frozen=True, kw_only=True)
class Temperatures:
    """Some temperatures.

    Attributes:
        degrees: one a day; NaN where the thermometer was broken.
    """

    kind: ClassVar[str] = "temperatures"
    degrees: tuple[Figure, ...]
    humidity: Share = math.nan
    more: Values


def test_another_record_has_a_document_of_its_own() -> None:
    form = DocumentFormat("temperatures", 2, Temperatures, _Others, "Of one week.")
    record = Temperatures(degrees=(21.0, math.nan), more={"place": "here"})
    values = form.write(record)
    assert values == {
        "format": "temperatures", "schema_version": 2, "degrees": [21.0, None], "humidity": None,
        "more": {"place": "here"},
    }  # fmt: skip
    read = form.read({**values, "unit": "C"})
    assert (read.degrees[0], read.more) == (21.0, {"place": "here"}) and math.isnan(read.degrees[1])
    with pytest.raises(InputError, match=r"^temperatures\.humidity: must be at most 1, got 2"):
        form.read({**values, "humidity": 2})
    schema = form.schema()
    assert schema["properties"]["degrees"]["description"] == "one a day; null where the thermometer was broken."
    assert schema["properties"]["unit"] == {"type": "string", "description": "of the figures."}
    assert set(schema["required"]) == {"format", "schema_version", "degrees", "more"}
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator(schema).validate(values)
    assert isinstance(values, Mapping)
