"""The part of a report that is safe to show to anyone with the model, and a final check of files before an upload.

`published` leaves out everything that helps to guess a secret; `refuse_secrets` searches files for secrets in any
encoding.
"""

from __future__ import annotations

import base64
import binascii
import html
import math
import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote_plus

from hf_exposure.canaries import CanarySet
from hf_exposure.errors import SecretFoundError
from hf_exposure.records import ExposureEstimate, ExposureReport
from hf_exposure.records.groups import table_order

# Shorter fillings occur in files by chance; for those, the whole text is searched.
SHORTEST_FILLING = 6
_PNG = b"\x89PNG\r\n\x1a\n"
_BASE64 = re.compile(rb"base64,\s*([A-Za-z0-9+/=]+)")
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U(000[0-9a-fA-F]{5}|0010[0-9a-fA-F]{4})|([\"'\\/]))")
_SURROGATES = re.compile(r"[\ud800-\udbff][\udc00-\udfff]")
# JSON in HTML in an attribute is escaped three times; unescaping continues while it changes something.
_MOST_ROUNDS = 5


def refuse_secrets(files: Mapping[str, bytes], canaries: CanarySet) -> None:
    """Raises an error if a file contains a canary: the filling of a hole, or the whole text if no filling has 6
    characters.

    Files are unescaped before they are searched: JSON and YAML escapes, HTML entities, percent-encoding, base64 data
    in pages and compressed text of PNG files, also nested, and line breaks in place of spaces. Text in the pixels of a
    picture is not read.

    Args:
        files: contents by name.
        canaries: the set; inserted canaries and controls are both searched for.

    Raises:
        SecretFoundError: the message names the file and the canary's id, never the secret.

    Example:
        >>> from hf_exposure import CanaryTemplate, Digits
        >>> canaries = CanarySet.from_secrets(CanaryTemplate("pin {pin}", pin=Digits(6)), ["pin 382946"])
        >>> refuse_secrets({"a.txt": b"pin {pin}"}, canaries)
        >>> refuse_secrets({"a.txt": b"p%69n &#51;8294&#x36;"}, canaries)    # doctest: +IGNORE_EXCEPTION_DETAIL
        Traceback (most recent call last):
        SecretFoundError: a.txt holds the secret of canary ...
    """
    owners = {_folded(needle): canary.id for canary in canaries for needle in _needles(canary.text, canaries)}
    lengths = sorted(set(map(len, owners)))
    for name, content in files.items():
        for view in _views(content):
            found = _first_found(view, owners, lengths)
            if found is not None:
                raise SecretFoundError(
                    f"{name} contains the secret of canary {owners[found]}; nothing was uploaded. Remove it from the "
                    "template, the notes or the card, and publish again."
                )


def _first_found(view: str, owners: Mapping[str, str], lengths: Iterable[int]) -> str | None:
    """Looks up every substring of the lengths of secrets, so that ten thousand secrets cost no more than one."""
    stretches = (view[start : start + length] for length in lengths for start in range(len(view) - length + 1))
    return next((stretch for stretch in stretches if stretch in owners), None)


def _needles(text: str, canaries: CanarySet) -> Iterable[str]:
    fillings = canaries.template.parse(text).values()
    # A text contains its fillings, so it is only searched for as a whole if none of them is long enough.
    return [filling for filling in fillings if len(filling) >= SHORTEST_FILLING] or [text]


def _views(content: bytes) -> Iterator[str]:
    """Yields the content as text, again each time that unescaping changes it, and then the contents of packed
    parts.
    """
    # Latin-1 maps every byte to a character, for files that are not text.
    for text in {content.decode("utf-8", errors="replace"), content.decode("latin-1")}:
        for _ in range(_MOST_ROUNDS):
            yield _folded(text)
            plainer = _unescaped(text)
            if plainer == text:
                break
            text = plainer
    for packed in _BASE64.findall(content):
        try:
            yield from _views(base64.b64decode(packed))
        except binascii.Error:
            continue
    if content.startswith(_PNG):
        for text_chunk in _png_texts(content):
            yield from _views(text_chunk)


def _unescaped(text: str) -> str:
    text = _ESCAPE.sub(lambda match: match[4] or chr(int(match[1] or match[2] or match[3], 16)), text)
    # JSON may write a character beyond U+FFFF as two escapes.
    text = _SURROGATES.sub(lambda pair: pair[0].encode("utf-16", "surrogatepass").decode("utf-16"), text)
    return unquote_plus(html.unescape(text))


def _folded(text: str) -> str:
    """Replaces each run of whitespace, including YAML line continuations, by one space."""
    return re.sub(r"(?:\\?\s)+", " ", text)


def _png_texts(content: bytes) -> Iterator[bytes]:
    place = len(_PNG)
    while place + 8 <= len(content):
        length, kind = struct.unpack(">I4s", content[place : place + 8])
        body = content[place + 8 : place + 8 + length]
        place += 12 + length
        if kind == b"tEXt":
            yield body.replace(b"\0", b" ")
        if kind in (b"zTXt", b"iTXt"):
            yield body
            # The compressed part begins after the keyword and some flags, so decompression is tried at every position
            # there.
            for start in range(len(body)):
                try:
                    yield zlib.decompress(body[start:])
                    break
                except zlib.error:
                    continue


# All settings but the seed, since people may draw and measure with the same seed, and that of the draw is secret.
_SETTINGS = (
    "method", "references", "max_expansions", "precision_bits", "confidence_level", "end_token", "accept_bad_fit",
    "delta", "source",
)  # fmt: skip
# All facts about the model but its name, which may be a local path; the repository is its name.
_MODEL = ("class", "parameters", "dtype")


def published(report: ExposureReport) -> ExposureReport:
    """Returns a report that is safe to publish with a public model. Everything that is published is made from it.

    Anyone with the model can score every text of the template, so an exact rank or an exact log-perplexity reveals the
    secret. The report keeps exposures and their intervals, rounded to 0.1 bit; rank 1, which rounding cannot hide;
    tests over all canaries; and the template, spaces and settings. It drops other ranks, log-perplexities, figures
    under a base model (a second figure about the same secret), ids and the order of the set (which would link the
    figures of two pushes), the seed of the measurement, notes on single canaries, and the model's local path. Fields
    that later versions add to the report are dropped until they are listed here.

    Groups of a published report use the order of exposures instead of that of log-perplexities, so their p-values may
    differ from the original's if rounding causes ties.

    Args:
        report: the measured report.

    Returns:
        An `ExposureReport` whose estimates are sorted by exposure within each repetition count and renumbered.

    Example:
        >>> from hf_exposure.records import ExposureEstimate
        >>> row = ExposureEstimate(canary_id="8f02", repetitions=4, log_perplexity_bits=33.1234, exposure_bits=11.2345,
        ...     low_bits=11.2345, high_bits=11.2345, rank_low=414, rank_high=414, method="bounded")
        >>> report = ExposureReport(estimates=(row,), template="pin {pin}", spaces={"pin": "Digits(length=6)"},
        ...     space_size=10**6, manifest_hash="", settings={"confidence_level": 0.95, "seed": 7})
        >>> seen = published(report)
        >>> seen.estimates[0].canary_id, seen.estimates[0].exposure_bits, seen.estimates[0].rank_low, seen.settings
        ('x4-1', 11.2, None, {'confidence_level': 0.95})
    """
    return ExposureReport(
        estimates=tuple(_renumbered(report.estimates)),
        template=report.template,
        spaces=dict(report.spaces),
        space_size=report.space_size,
        manifest_hash=report.manifest_hash,
        settings=_chosen(report.settings, _SETTINGS),
        p_value=report.p_value,
        auc=report.auc,
        auc_low=report.auc_low,
        auc_high=report.auc_high,
        epsilon=report.epsilon,
        gaussian_epsilons=report.gaussian_epsilons,
        seconds=_tenth(report.seconds),
        model=_chosen(report.model, _MODEL),
        versions=dict(report.versions),
        step=report.step,
        epoch=report.epoch,
        delivery=report.delivery,
        notes=tuple(report.notes),
        uniform_draw=report.uniform_draw,
        complete_search=report.complete_search,
    )


def _renumbered(estimates: Iterable[ExposureEstimate]) -> Iterable[ExposureEstimate]:
    groups: dict[int, list[ExposureEstimate]] = {}
    for estimate in estimates:
        groups.setdefault(estimate.repetitions, []).append(estimate)
    for repetitions in sorted(groups, key=table_order):
        name = f"x{repetitions}" if repetitions else "control"
        ordered = sorted(groups[repetitions], key=lambda e: (math.isnan(e.exposure_bits), -e.exposure_bits))
        for number, estimate in enumerate(ordered, start=1):
            yield _rounded(estimate, f"{name}-{number}")


def _rounded(estimate: ExposureEstimate, name: str) -> ExposureEstimate:
    first = 1 if estimate.rank_high == 1 else None
    return ExposureEstimate(
        canary_id=name,
        repetitions=estimate.repetitions,
        log_perplexity_bits=math.nan,
        exposure_bits=_tenth(estimate.exposure_bits),
        low_bits=_tenth(estimate.low_bits),
        high_bits=_tenth(estimate.high_bits),
        rank_low=first,
        rank_high=first,
        method=estimate.method,
        bound=estimate.bound,
        # The note is replaced, since the original may quote counts from which a rank can be computed.
        note={"undefined": "undefined", "lower": "a lower bound"}.get(estimate.bound, ""),
    )


def _tenth(value: float) -> float:
    return round(float(value), 1) if math.isfinite(value) else math.nan


def _chosen(values: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: values[name] for name in names if name in values}
