"""How exposed the secrets are that a dataset holds: one figure for each, and no text of any."""

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
    """One natural secret's exposure among all texts of its format, behind its own words.

    Attributes:
        secret_id: its id in the file of secrets.
        secret_kind: of format (`SecretKind`).
        occurrences: how often it occurs in the data.
        examples: how many records hold it: the k of k-eidetic memorization.
        log2_space_size: of its format.
        exposure_bits: NaN where undefined, for the reason in `note`.
        low_bits, high_bits: of its interval.
        rank_low, rank_high: limits of its rank; None where unknown.
        base_exposure_bits: under the base model, NaN without one. What training added is the difference.
        method, bound, note: as of an `ExposureEstimate`.
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
    """The exposure of the natural secrets of a dataset under a model. Holds no texts.

    A natural secret was not drawn at random, so its exposure has no known law where it was not memorized: compare it
    with the base model's, or with that of secrets that occur once.

    Attributes:
        secrets: in the order of their file.
        model: class, number of parameters, dtype, name and revision.
        settings: of each measurement.
        base: the base model's class, or "without_adapter"; "" where there was none.
        rows: records of the dataset that was scanned.
        seconds: wall time.
        versions: of the packages that took part.
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
        """Those that certainly rank first of their format: an attacker who knows the words before obtains them."""
        return tuple(one for one in self.secrets if one.rank_high == 1)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without texts."""
        return SECRETS_REPORT.write(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SecretsReport:
        """The report that `to_dict` wrote.

        Raises:
            InputError: another format, a newer schema, or a field that is missing or of the wrong type.
        """
        return SECRETS_REPORT.read(values)


class _Envelope(TypedDict, total=False):
    """What the file holds besides the report."""

    format: Required[Literal["hf-exposure secrets report"]]
    schema_version: Required[Annotated[int, Strict(), Field(ge=1, le=1), WHOLE]]


SECRETS_REPORT = DocumentFormat(
    name="hf-exposure secrets report",
    version=1,
    record=SecretsReport,
    envelope=_Envelope,
    about="The exposure of natural secrets. All logarithms are base 2. A figure that is undefined is null.",
)
