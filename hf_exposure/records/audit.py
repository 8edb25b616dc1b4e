"""Several measurements of one model and its data in one record, with one verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

from hf_exposure.fields import plain
from hf_exposure.presenting import Presented

AUDIT_FILE, AUDIT_PAGE = "audit.json", "audit.html"


class AuditState(StrEnum):
    """What one part of an audit, or all of it, allows to say."""

    FOUND = "found"
    """The model gives away something of its training data."""
    NOT_FOUND = "not found"
    """Nothing was found by what was run. That is no proof."""
    NO_VERDICT = "no verdict"
    """It was run and cannot be read: an invalid run, or groups that cannot be compared."""
    NOT_RUN = "not run"
    """What it needs was not given."""


@dataclass(frozen=True, kw_only=True)
class AuditPart:
    """One part.

    Attributes:
        name: scan, exposure, secrets, membership or sampling.
        state: what it allows to say; of a scan, which looks at no model, NOT_FOUND or FOUND says whether the data hold
            secrets, and does not count for the verdict.
        summary: one sentence, without a secret.
        page: its own report, as a path from the audit's folder; "" where there is none.
        figures: numbers by name.
    """

    name: str
    state: AuditState
    summary: str
    page: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class AuditReport(Presented):
    """What was run on a model and its data, and the one verdict. Holds no secret.

    Attributes:
        parts: in the order in which they ran.
        model, dataset: their names.
        settings: of the audit.
        versions: of the packages that took part.

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
        """FOUND if any part found something; else NO_VERDICT if one cannot be read; else NOT_FOUND, if any ran."""
        states = {part.state for part in self.parts if part.name != "scan"} - {AuditState.NOT_RUN}
        for state in (AuditState.FOUND, AuditState.NO_VERDICT, AuditState.NOT_FOUND):
            if state in states:
                return state
        return AuditState.NOT_RUN

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        head = {"format": "hf-exposure audit", "version": 1, "verdict": self.verdict.value}
        return {**head, **dict(plain(asdict(self)))}
