"""`measure` and `extract` with a file of natural secrets instead of canaries. None of its texts is printed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from hf_exposure.errors import ExposureError, InputError
from hf_exposure.files import make_private_folder, write_aside
from hf_exposure.runtime.progress import calls_shown

if TYPE_CHECKING:
    from hf_exposure.canaries import NaturalSecrets
    from hf_exposure.loading import ModelSource
    from hf_exposure.measures import MeasureOptions

_CROSSED = 1


def natural_secrets(path: Path | None, without: Mapping[str, object]) -> NaturalSecrets | None:
    """The secrets of a file, or None if there is no file or it is a canary file.

    Args:
        path: the value of `--canaries`.
        without: the typed options, by name, that cannot be combined with secrets.

    Raises:
        InputError: the file of secrets is damaged, or one of these options was typed.
    """
    from hf_exposure.canaries.natural_secrets import NaturalSecrets, is_secrets_file

    if path is None or not is_secrets_file(path):
        return None
    for option, value in without.items():
        if value:
            rule = "goes with canaries: a natural secret is scored after the words that it was found after"
            raise InputError(option, rule, value, "Leave it out.")
    try:
        found = NaturalSecrets.load(path)
    except InputError as error:
        raise type(error)("--canaries", error.rule, error.value, error.remedy) from None
    if not found.secrets:
        raise InputError("--canaries", "must hold at least one secret", str(path), "Scan other data.")
    return found


def measure_secrets(
    secrets: NaturalSecrets,
    origin: ModelSource,
    base: ModelSource | str | None,
    settings: MeasureOptions,
    out: Path | None,
    fail_above: float | None,
    *,
    as_json: bool,
) -> None:
    """Prints and writes the exposure of every secret. Exits with status 1 if one is above the threshold or
    undefined.
    """
    from hf_exposure.measures.secrets import measure_secrets as measure
    from hf_exposure.records.secrets import SECRETS_FILE

    model, tokenizer = origin.load()
    base_model: Any = base if base is None or isinstance(base, str) else base.load()[0]
    with calls_shown(model, "measuring"):
        found = measure(model, tokenizer, secrets, base_model, **settings)
    found = replace(found, model={**found.model, "name": origin.full_name})
    document = json.dumps(found.to_dict(), indent=1, allow_nan=False)
    if out is not None:
        make_private_folder(out)
        write_aside(out / SECRETS_FILE, document + "\n", private=True)
    typer.echo(document if as_json else str(found))
    if fail_above is None:
        return
    top = max(found.secrets, key=lambda one: math.inf if math.isnan(one.exposure_bits) else one.exposure_bits)
    about = f"exposure of secret {top.secret_id}: {top.exposure_bits:.1f} bits"
    if not top.exposure_bits <= fail_above:
        typer.echo(f"hf-exposure: above the threshold of {fail_above:g} bits: {about}", err=True)
        raise typer.Exit(_CROSSED)
    typer.echo(f"hf-exposure: within the threshold of {fail_above:g} bits: {about}", err=True)


def extract_secrets(
    secrets: NaturalSecrets,
    origin: ModelSource,
    top_k: int,
    max_expansions: int | None,
    batch_size: int,
    *,
    as_json: bool,
) -> None:
    """Searches the format of each secret, and prints which secrets are found and at which rank."""
    from hf_exposure.extraction import extract
    from hf_exposure.report.table import aligned

    model, tokenizer = origin.load()
    rows: list[dict[str, Any]] = []
    with calls_shown(model, "searching"):
        for secret in secrets:
            row: dict[str, Any] = {
                "secret_id": secret.id,
                "kind": secret.kind.value,
                "occurrences": secret.occurrences,
                "examples": secret.examples,
                "place": None,
                "certified": False,
                "note": "",
            }
            try:
                found = extract(model, tokenizer, secret.template, top_k, batch_size, max_expansions)
            except ExposureError as error:
                # The error's message may quote the words before the secret, which may contain another secret.
                what = error.argument if isinstance(error, InputError) else type(error).__name__
                rows.append({**row, "note": f"it cannot be searched for: {what}"})
                continue
            texts = [candidate.text for candidate in found.candidates]
            place = texts.index(secret.whole_text) + 1 if secret.whole_text in texts else None
            rows.append({**row, "place": place, "certified": found.certified})
    if as_json:
        typer.echo(json.dumps({"model": origin.full_name, "top_k": top_k, "secrets": rows}, indent=1))
        return
    extracted = [row for row in rows if row["place"] is not None]
    typer.echo(f"{len(extracted)} of {len(rows)} natural secrets are among the {top_k} most likely of their format:\n")
    heads = ["secret", "kind", "occurrences", "records", "place", "certified"]
    lines = [
        [
            row["secret_id"], row["kind"], str(row["occurrences"]), str(row["examples"]),
            "" if row["place"] is None else str(row["place"]), "yes" if row["certified"] else row["note"] or "no",
        ]
        for row in rows
    ]  # fmt: skip
    typer.echo(aligned([heads, *lines]))
