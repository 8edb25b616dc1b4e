"""`hf-exposure extract --by-sampling`: samples from the model, looked up in its training data."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from hf_exposure.cli.options import check_new, load_canaries
from hf_exposure.errors import InputError
from hf_exposure.files import write_aside
from hf_exposure.loading import check_data_set, is_saved_folder, load_data_set, read_to_its_end
from hf_exposure.runtime.progress import calls_shown

if TYPE_CHECKING:
    from hf_exposure.loading import ModelSource
    from hf_exposure.records import SamplingExtraction

_SHOWN = 20


def sample(
    origin: ModelSource,
    base: ModelSource | str | None,
    dataset: str | None,
    canaries: Path | None,
    drawing: dict[str, Any],
    out: Path | None,
    *,
    as_json: bool,
) -> None:
    """Draws, ranks and looks up; the table holds no text, and the file of `--out` holds them all."""
    if dataset is None:
        raise InputError("--by-sampling", "needs the training data", None, "Type --dataset train.jsonl.")
    check_data_set("--dataset", dataset)
    if out is not None:
        check_new(out, False, is_file=True)
    known = None if canaries is None else _known(canaries)
    origin.check()
    if isinstance(base, str):
        raise InputError("--base-model", "must be a model of its own here", base, "Name a folder or Hub id.")
    if not sys.stderr.isatty():
        import datasets

        datasets.disable_progress_bars()
    data = load_data_set(dataset, None, None, stream=not is_saved_folder(Path(dataset)))
    from hf_exposure.extraction import extract_by_sampling

    model, tokenizer = origin.load()
    base_module = None if base is None else base.load()[0]
    with calls_shown(model, "sampling"), read_to_its_end():
        found = extract_by_sampling(model, tokenizer, data, base_model=base_module, secrets=known, **drawing)
    if out is not None:
        write_aside(out, json.dumps(found.to_dict(include_texts=True), indent=1) + "\n", private=True)
    typer.echo(json.dumps(found.to_dict(), indent=1) if as_json else _shown(found))
    if out is not None and not as_json:
        typer.echo(f"\nThe texts are in {out}, which only you may read.")


def _known(path: Path) -> Any:
    from hf_exposure.canaries.natural_secrets import NaturalSecrets, is_secrets_file

    return NaturalSecrets.load(path) if is_secrets_file(path) else load_canaries(path)


def _shown(found: SamplingExtraction) -> str:
    from hf_exposure.report.table import aligned

    least = f"{found.least_characters} characters or more"
    lines = [
        f"{len(found.matched)} of {len(found.texts)} distinct samples ({found.samples} drawn) repeat {least} of the "
        f"{found.rows:,} rows."
    ]
    if found.secrets:
        lines.append(f"{len(found.secrets_found)} of {found.secrets} known secrets were written by the model.")
    if found.matched:
        once = found.by_examples.get(1, 0)
        distinct = sum(found.by_examples.values())
        lines.append(f"{once} of {distinct} distinct matches occur in a single row.")
        tops = [top for top in (10, 100, 1000) if top <= len(found.texts)]
        shares = ", ".join(f"{found.precision_at(top):.0%} of the first {top}" for top in tops)
        lines.append(f"By {found.statistic}: {shares}." if tops else "")
        heads = ["place", "score", "characters", "that match", "rows", "times"]
        rows = [
            [
                str(place),
                f"{one.score:.3f}",
                str(len(one.text)),
                str(len(one.match)),
                str(one.examples),
                str(one.times),
            ]
            for place, one in enumerate(found.texts, start=1)
            if one.match
        ]
        lines += ["", aligned([heads, *rows[:_SHOWN]])]
    return "\n".join(lines)
