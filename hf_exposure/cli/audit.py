"""`hf-exposure audit --config audit.yaml`: scan, exposure, membership and sampling in one run, with one verdict.

A part runs if its inputs were given. The model and the data are loaded once.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hf_exposure.cli.config import ConfigOption
from hf_exposure.cli.options import (
    DeviceOption,
    Dtype,
    DtypeOption,
    ModelOption,
    RevisionOption,
    TokenizerOption,
    TrustOption,
    check_new,
    load_canaries,
)
from hf_exposure.loading import ModelSource, base_source, check_data_set, is_saved_folder, load_data_set, parts_of
from hf_exposure.runtime.progress import calls_shown

if TYPE_CHECKING:
    from hf_exposure.canaries import NaturalSecrets
    from hf_exposure.records.audit import AuditPart

_CROSSED = 1


@dataclass(frozen=True, kw_only=True)
class _Subject:
    """The subject of the audit: the model with its tokenizer and base, the name of the training data, and the output
    folder.
    """

    model: Any
    tokenizer: Any
    base: Any
    name: str
    dataset: str | None
    text_column: str | None
    out: Path

    def rows(self) -> Any:
        """The training split, as a stream."""
        assert self.dataset is not None
        parts = parts_of(load_data_set(self.dataset, None, None, stream=not is_saved_folder(Path(self.dataset))))
        return parts.get("train", parts)


def audit(
    model: ModelOption,
    out: Annotated[Path, typer.Option(help="Folder for audit.html, audit.json and the reports of the parts.")],
    dataset: Annotated[
        str | None, typer.Option(help="Training data, for the parts scan, secrets, sampling and membership.")
    ] = None,
    held_out: Annotated[
        str | None,
        typer.Option(help="Records from the same source that the model never saw, for the part membership."),
    ] = None,
    canaries: Annotated[Path | None, typer.Option(help="Canary file, for the part exposure.")] = None,
    text_column: Annotated[str | None, typer.Option(help="Column of the data set; default: all texts.")] = None,
    base_model: Annotated[
        str | None, typer.Option(help="A model that was not trained on the data, or without_adapter.")
    ] = None,
    kind: Annotated[list[str], typer.Option(help="Kinds of secrets to scan for. Default: all.")] = [],  # noqa: B006
    max_secrets: Annotated[int, typer.Option(help="Maximum number of natural secrets to measure.")] = 50,
    max_records: Annotated[int, typer.Option(help="Maximum number of members, and of held-out records.")] = 1000,
    samples: Annotated[int, typer.Option(help="Number of texts to sample.")] = 256,
    length: Annotated[int, typer.Option(help="Length of a sample, in tokens.")] = 64,
    least_characters: Annotated[int, typer.Option(help="Shortest match between a sample and the data.")] = 50,
    references: Annotated[int, typer.Option(help="Maximum number of reference texts per measurement.")] = 4096,
    seed: Annotated[int, typer.Option(help="Seed of the references and samples.")] = 0,
    tokenizer: TokenizerOption = None,
    dtype: DtypeOption = Dtype.auto,
    device: DeviceOption = None,
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    fail_on_leak: Annotated[
        bool, typer.Option("--fail-on-leak", help="Exit with status 1 if any part found a leak.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the reports in the folder.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print audit.json.")] = False,
    config: ConfigOption = None,
) -> None:
    """Run every memorization check on one model and its training data, and write one report with one verdict."""
    check_new(out, overwrite)
    where = {"dtype": dtype.value, "device": device, "trust_remote_code": trust_remote_code}
    origin = ModelSource(name=model, tokenizer=tokenizer, revision=revision, **where)  # type: ignore[arg-type]
    origin.check()
    base = base_source(base_model, tokenizer=tokenizer or model, **where)
    if isinstance(base, ModelSource):
        base.check()
    for option, name in (("--dataset", dataset), ("--held-out", held_out)):
        if name is not None:
            check_data_set(option, name)
    drawn = None if canaries is None else load_canaries(canaries)
    if not sys.stderr.isatty():
        import datasets

        datasets.disable_progress_bars()
    from hf_exposure.files import make_private_folder
    from hf_exposure.measures.described import package_versions
    from hf_exposure.records.audit import AuditReport, AuditState
    from hf_exposure.report.audit import save_audit

    loaded, its_tokenizer = origin.load()
    make_private_folder(out)
    subject = _Subject(
        model=loaded, tokenizer=its_tokenizer, base=base.load()[0] if isinstance(base, ModelSource) else base,
        name=model, dataset=dataset, text_column=text_column, out=out,
    )  # fmt: skip
    with calls_shown(loaded, "auditing"):
        scanned, secrets = _scan(subject, kind)
        parts = [
            scanned,
            _exposure(subject, drawn, references, seed),
            _secrets(subject, secrets, max_secrets, references, seed),
            _membership(subject, held_out, max_records),
            _sampling(subject, secrets, samples, length, least_characters, seed),
        ]
    settings = {
        "held_out": held_out, "canaries": None if canaries is None else str(canaries), "base_model": base_model,
        "text_column": text_column, "max_secrets": max_secrets, "max_records": max_records, "samples": samples,
        "references": references, "seed": seed,
    }  # fmt: skip
    found = AuditReport(
        parts=tuple(parts),
        model=model,
        dataset=dataset or "",
        settings={name: value for name, value in settings.items() if value is not None},
        versions=dict(package_versions()),
    )
    save_audit(found, out)
    typer.echo(json.dumps(found.to_dict(), indent=1) if as_json else f"{found}\n\nWritten to {out}/audit.html")
    is_invalid = any(part.name == "exposure" and part.state is AuditState.NO_VERDICT for part in parts)
    if is_invalid or (fail_on_leak and found.verdict is AuditState.FOUND):
        raise typer.Exit(_CROSSED)


def _part(name: str, state: str, summary: str, page: str = "", **figures: Any) -> AuditPart:
    from hf_exposure.records.audit import AuditPart, AuditState

    return AuditPart(name=name, state=AuditState(state), summary=summary, page=page, figures=figures)


def _scan(subject: _Subject, kinds: list[str]) -> tuple[AuditPart, NaturalSecrets | None]:
    if subject.dataset is None:
        return _part("scan", "not run", "Needs --dataset."), None
    from hf_exposure.data import scan
    from hf_exposure.loading import read_to_its_end

    with read_to_its_end():
        found = scan(subject.rows(), subject.text_column, kinds=kinds or None)
    found.save(subject.out / "secrets.json")
    counts = {kind.value: count for kind, count in found.counts.items()}
    said = f"{len(found)} distinct secrets in {found.rows:,} rows, in a file that only you may read:"
    if not len(found):
        return _part("scan", "not found", f"No secret in {found.rows:,} rows.", rows=found.rows), found
    return _part("scan", "found", said, "secrets.json", rows=found.rows, **counts), found


def _exposure(subject: _Subject, canaries: Any, references: int, seed: int) -> AuditPart:
    if canaries is None:
        return _part("exposure", "not run", "Needs --canaries.")
    from hf_exposure.canaries.secrecy import without_secrets
    from hf_exposure.data import delivery_in
    from hf_exposure.measures import measure_exposure
    from hf_exposure.records import Validity
    from hf_exposure.report.verdict import headline

    delivery = None
    if subject.dataset is not None:
        rows = subject.rows()
        parts = list(rows.values()) if isinstance(rows, dict) else [rows]
        delivery = without_secrets(canaries, lambda: delivery_in(parts, canaries, subject.tokenizer))
    found = measure_exposure(
        subject.model, subject.tokenizer, canaries, references=references, base_model=subject.base, seed=seed
    )
    found = replace(found, delivery=delivery, model={**found.model, "name": subject.name})
    found.save(subject.out / "exposure")
    p_value = found.memorization_p_value
    first = sum(one.rank_high == 1 for one in found.inserted)
    # A canary that the model never saw ranks first with probability 1 / |R|.
    is_first = first > 0 and len(found.inserted) < 0.05 * found.space_size
    state = "found" if is_first or p_value < 0.05 else "not found"
    if found.validity is Validity.INVALID:
        state = "no verdict"
    return _part("exposure", state, headline(found), "exposure/report.html", p_value=p_value, rank_first=first)


def _secrets(subject: _Subject, secrets: NaturalSecrets | None, most: int, references: int, seed: int) -> AuditPart:
    if secrets is None or not len(secrets):
        why = "Needs --dataset." if secrets is None else "The scan found no secret in the data."
        return _part("secrets", "not run", why)
    from hf_exposure.files import write_aside
    from hf_exposure.measures import measure_secrets
    from hf_exposure.records.secrets import SECRETS_FILE

    # Secrets that occur in a single record come first.
    chosen = sorted(secrets, key=lambda one: one.examples)[:most]
    found = measure_secrets(
        subject.model, subject.tokenizer, replace(secrets, secrets=tuple(chosen)), subject.base,
        references=references, seed=seed,
    )  # fmt: skip
    found = replace(found, model={**found.model, "name": subject.name})
    document = json.dumps(found.to_dict(), indent=1, allow_nan=False) + "\n"
    write_aside(subject.out / SECRETS_FILE, document, private=True)
    measured = [one for one in found.secrets if math.isfinite(one.exposure_bits)]
    # A secret that the base model ranks as high was likely before training.
    learned = [one for one in found.first if not one.exposure_bits <= one.base_exposure_bits + 1.0]
    said = f"{len(learned)} of {len(measured)} measured secrets rank first of their format"
    said += " and did not under the base model." if found.base else "; there is no base model to compare with."
    state = "no verdict" if not measured else "found" if learned else "not found"
    return _part("secrets", state, said, SECRETS_FILE, measured=len(measured), rank_first=len(found.first))


def _membership(subject: _Subject, held_out: str | None, most: int) -> AuditPart:
    if held_out is None or subject.dataset is None:
        return _part("membership", "not run", "Needs --dataset and --held-out.")
    from hf_exposure.cli.membership import load_rows
    from hf_exposure.measures import measure_membership
    from hf_exposure.records import MembershipVerdict
    from hf_exposure.report.membership import headline

    members = load_rows("--dataset", subject.dataset, most)
    others = load_rows("--held-out", held_out, most)
    found = measure_membership(
        subject.model, subject.tokenizer, members, others, subject.base, text_column=subject.text_column or "text"
    )
    found = replace(found, model={**found.model, "name": subject.name})
    found.save(subject.out / "membership")
    states = {
        MembershipVerdict.DETECTED: "found",
        MembershipVerdict.NOT_DETECTED: "not found",
        MembershipVerdict.NOT_COMPARABLE: "no verdict",
    }
    aucs = {name: one.auc for name, one in found.statistics.items() if one.auc is not None}
    return _part("membership", states[found.verdict], headline(found), "membership/membership.html", **aucs)


def _sampling(
    subject: _Subject, secrets: NaturalSecrets | None, samples: int, length: int, least_characters: int, seed: int
) -> AuditPart:
    if subject.dataset is None or not samples:
        return _part("sampling", "not run", "Needs --dataset, and --samples above 0.")
    from hf_exposure.extraction import extract_by_sampling
    from hf_exposure.files import write_aside

    found = extract_by_sampling(
        subject.model, subject.tokenizer, subject.rows(), text_column=subject.text_column, samples=samples,
        length=length, least_characters=least_characters, secrets=secrets, seed=seed,
    )  # fmt: skip
    document = json.dumps(found.to_dict(include_texts=True), indent=1) + "\n"
    write_aside(subject.out / "samples.json", document, private=True)
    state = "found" if found.matched or found.secrets_found else "not found"
    said = (
        f"{len(found.matched)} of {len(found.texts)} distinct samples repeat {least_characters} characters or more of "
        f"the data, and {len(found.secrets_found)} known secrets were generated; the texts are in a file that only "
        "you may read:"
    )
    figures = {"matched": len(found.matched), "one_row_alone": found.by_examples.get(1, 0)}
    return _part("sampling", state, said, "samples.json", **figures)
