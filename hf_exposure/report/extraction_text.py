"""What search brought out of a model, for a terminal. Secrets are in it: that is its purpose."""

from __future__ import annotations

from hf_exposure.canaries import CanarySet
from hf_exposure.records import Extraction

__all__ = ["describe_extraction"]


def describe_extraction(extraction: Extraction, canaries: CanarySet | None = None) -> str:
    """The likeliest secrets in order; with a canary set, each with whether it was inserted."""
    if not extraction.candidates:
        return f"No secret came out within {extraction.expansions} expansions ({extraction.seconds:.1f} s of search)."
    inserted = {canary.text: canary for canary in canaries.inserted} if canaries else {}
    controls = {canary.text for canary in canaries.controls} if canaries else set()
    guarantee = (
        "certified: no other secret of the template is likelier"
        if extraction.certified
        else f"not certified: {extraction.note}"
    )
    lines = [
        f"The {len(extraction.candidates)} likeliest secrets ({guarantee}; {extraction.expansions} expansions, "
        f"{extraction.model_rows} model rows, {extraction.seconds:.1f} s):"
    ]
    for rank, candidate in enumerate(extraction.candidates, start=1):
        canary = inserted.get(candidate.text)
        mark = f"<- inserted {canary.repetitions} times" if canary else ""
        mark = "<- a control, never inserted" if candidate.text in controls else mark
        lines.append(f"{rank:4d}  {candidate.log_perplexity_bits:8.2f} bits  {candidate.text}  {mark}".rstrip())
    return "\n".join(lines)
