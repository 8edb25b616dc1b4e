"""Training data extracted by sampling from a model: ranked texts with their matches in the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from hf_exposure.fields import plain


@dataclass(frozen=True, kw_only=True)
class SampledText:
    """One distinct text that the model generated.

    Attributes:
        text: the text without special tokens. Left out of `repr`.
        times: how often it was drawn.
        score: its score by the ranking statistic; a higher score means that it was trained on.
        match: the longest part of it that occurs in the data; "" if none is long enough. Left out of `repr`.
        examples: the number of records that contain that part: the k of k-eidetic memorization.
        secrets: ids of known secrets that it contains.
    """

    text: str = field(repr=False)
    times: int
    score: float
    match: str = field(repr=False)
    examples: int
    secrets: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SamplingExtraction:
    """The result of extraction by sampling. Texts are ranked, the likeliest member first.

    Attributes:
        texts: the distinct texts.
        samples: the number of drawn samples.
        statistic: the statistic that ranks them.
        least_characters: the smallest length of a match.
        rows: the number of records in the data.
        secrets: the number of known secrets that were searched for.
        settings: the settings of the draw.
        seconds: wall time.
    """

    texts: tuple[SampledText, ...]
    samples: int
    statistic: str
    least_characters: int
    rows: int
    secrets: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def matched(self) -> tuple[SampledText, ...]:
        """The texts of which a part occurs in the data."""
        return tuple(one for one in self.texts if one.match)

    def precision_at(self, top: int) -> float:
        """The share of the first `top` texts of which a part occurs in the data."""
        first = self.texts[:top]
        return sum(bool(one.match) for one in first) / len(first) if first else 0.0

    @property
    def by_examples(self) -> dict[int, int]:
        """The number of distinct matches that occur in exactly k records, by k."""
        counts: dict[int, int] = {}
        for examples in {one.match: one.examples for one in self.matched}.values():
            counts[examples] = counts.get(examples, 0) + 1
        return dict(sorted(counts.items()))

    @property
    def secrets_found(self) -> tuple[str, ...]:
        """Ids of the known secrets that some text contains."""
        return tuple(sorted({identifier for one in self.texts for identifier in one.secrets}))

    def to_dict(self, *, include_texts: bool = False) -> dict[str, Any]:
        """Plain values; with texts and matches only if requested, else their lengths."""
        rows = []
        for one in self.texts:
            row = asdict(one)
            text, match = row.pop("text"), row.pop("match")
            row |= {"text": text, "match": match} if include_texts else {}
            rows.append({**row, "characters": len(text), "match_characters": len(match), "secrets": list(one.secrets)})
        values = {
            "format": "hf-exposure sampling",
            "version": 1,
            "samples": self.samples,
            "distinct": len(self.texts),
            "matched": len(self.matched),
            "by_examples": {str(k): count for k, count in self.by_examples.items()},
            "secrets": self.secrets,
            "secrets_found": list(self.secrets_found),
            "statistic": self.statistic,
            "least_characters": self.least_characters,
            "rows": self.rows,
            "settings": dict(self.settings),
            "seconds": self.seconds,
            "texts": rows,
        }
        return dict(plain(values))
