"""Several measurements of one model and its data in a single record, with one verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

from hf_exposure.fields import plain
from hf_exposure.presenting import Presented

AUDIT_FILE, AUDIT_PAGE = "audit.json", "audit.html"


class AuditState(StrEnum):
    """The result of one part of an audit, or of the whole audit."""

    FOUND = "found"
    """The model reveals some of its training data."""
    NOT_FOUND = "not found"
    """The parts that ran found nothing, which proves nothing."""
    NO_VERDICT = "no verdict"
    """The part ran but is inconclusive: the run is invalid, or groups cannot be compared."""
    NOT_RUN = "not run"
    """Its inputs were not given."""


@dataclass(frozen=True, kw_only=True)
class AuditPart:
    """One part of an audit.

    Attributes:
        name: scan, exposure, secrets, membership or sampling.
        state: its result. A scan tests no model; its NOT_FOUND or FOUND says whether the data contain secrets, and
            does not count for the verdict.
        summary: one sentence, without a secret.
        page: the path of its own report, relative to the audit's folder; "" if there is none.
        figures: numbers by name.
    """

    name: str
    state: AuditState
    summary: str
    page: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class AuditReport(Presented):
    """The results of an audit of a model and its data, with one verdict. It contains no secret.

    Attributes:
        parts: the parts, in the order in which they ran.
        model, dataset: the names of the model and the data.
        settings: the settings of the audit.
        versions: versions of the packages used.

    Example:
        >>> parts = (AuditPart(name="membership", state=AuditState.NOT_FOUND, summary="Nothing."),)
        >>> AuditReport(parts=parts, model="gpt2").verdict.value
        'not found'
    """

    kind: ClassVar[str] = "audit"

    parts: tuple[AuditPart, ...]
    model: str
    dataset: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def verdict(self) -> AuditState:
        """FOUND if any part found something; else NO_VERDICT if a part is inconclusive; else NOT_FOUND, if any part
        ran.
        """
        states = {part.state for part in self.parts if part.name != "scan"} - {AuditState.NOT_RUN}
        for state in (AuditState.FOUND, AuditState.NO_VERDICT, AuditState.NOT_FOUND):
            if state in states:
                return state
        return AuditState.NOT_RUN

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        head = {"format": "hf-exposure audit", "version": 1, "verdict": self.verdict.value}
        return {**head, **dict(plain(asdict(self)))}
