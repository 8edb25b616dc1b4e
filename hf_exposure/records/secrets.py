"""The exposure of the secrets in a dataset: figures for each secret, without any text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, Required

from pydantic import Field, Strict
from typing_extensions import TypedDict

from hf_exposure.fields import WHOLE, Amount, Count, Figure, Positive, Rank, Values
from hf_exposure.presenting import Presented
from hf_exposure.records.documents import DocumentFormat

SECRETS_FILE = "secrets_report.json"


@dataclass(frozen=True, kw_only=True)
class SecretExposure:
    """One natural secret's exposure among all texts of its format, after the words before it.

    Attributes:
        secret_id: its id in the file of secrets.
        secret_kind: the kind of its format (`SecretKind`).
        occurrences: how often it occurs in the data.
        examples: the number of records that contain it: the k of k-eidetic memorization.
        log2_space_size: log2 of the size of its format's space.
        exposure_bits: its exposure; NaN if undefined, for the reason in `note`.
        low_bits, high_bits: ends of its interval.
        rank_low, rank_high: limits of its rank; None if unknown.
        base_exposure_bits: its exposure under the base model; NaN without one. Training added the difference.
        method, bound, note: as for an `ExposureEstimate`.
    """

    secret_id: str
    secret_kind: str
    occurrences: Positive
    examples: Positive
    log2_space_size: Amount
    exposure_bits: Figure
    low_bits: Figure
    high_bits: Figure
    rank_low: Rank | None = None
    rank_high: Rank | None = None
    base_exposure_bits: Figure = math.nan
    method: str = ""
    bound: str = "undefined"
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class SecretsReport(Presented):
    """The exposure of the natural secrets of a dataset under a model. It contains no texts.

    A natural secret was not drawn at random, so its exposure has no known distribution if it was not memorized:
    compare it with that under the base model, or with that of secrets that occur once.

    Attributes:
        secrets: the results, in the order of the file of secrets.
        model: class, number of parameters, dtype, name and revision.
        settings: the settings of each measurement.
        base: the base model's class, or "without_adapter"; "" without a base model.
        rows: the number of records in the scanned dataset.
        seconds: wall time.
        versions: versions of the packages used.
    """

    kind: ClassVar[str] = "secrets"

    secrets: tuple[SecretExposure, ...]
    model: Values = field(default_factory=dict)
    settings: Values = field(default_factory=dict)
    base: str = ""
    rows: Count = 0
    seconds: Amount = math.nan
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def first(self) -> tuple[SecretExposure, ...]:
        """The secrets that certainly rank first of their format: an attacker who knows the words before them can
        extract them.
        """
        return tuple(one for one in self.secrets if one.rank_high == 1)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without texts."""
        return SECRETS_REPORT.write(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SecretsReport:
        """The report from the values of `to_dict`.

        Raises:
            InputError: the format differs, the schema is newer, or a field is missing or of the wrong type.
        """
        return SECRETS_REPORT.read(values)


class _Envelope(TypedDict, total=False):
    """Further properties of the file."""

    format: Required[Literal["hf-exposure secrets report"]]
    schema_version: Required[Annotated[int, Strict(), Field(ge=1, le=1), WHOLE]]


SECRETS_REPORT = DocumentFormat(
    name="hf-exposure secrets report",
    version=1,
    record=SecretsReport,
    envelope=_Envelope,
    about="The exposure of natural secrets. All logarithms are base 2. A figure that is undefined is null.",
)
