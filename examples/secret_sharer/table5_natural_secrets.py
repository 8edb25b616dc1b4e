"""Table 5: secrets that occur in a text naturally. Scan it, train on it, measure and extract what was found.

python -m examples.secret_sharer.table5_natural_secrets                        # a synthetic mailbox
python -m examples.secret_sharer.table5_natural_secrets --text-file mail.txt   # your own text

The paper trained one character model for each user of the Enron mail who had sent a credit card or social security
number; its ten secrets are those of six users. If your own text contains such numbers, it is used unchanged; otherwise
a mailbox with such numbers is made from its sentences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from examples.secret_sharer.mailbox import Mailbox, make_mailbox
from examples.secret_sharer.models import make_model
from examples.secret_sharer.natural_secrets import NaturalSecret, canary_sets, find_secrets
from examples.secret_sharer.options import Options, parse_options
from examples.secret_sharer.results import Stopwatch, write_result
from examples.secret_sharer.training import Corpus, Training, character_tokenizer, encode_rows, loss_bits, train
from hf_exposure import extract, measure_exposure


@dataclass(frozen=True, kw_only=True)
class Size:
    """The training; `references` and `max_expansions` are options of a measurement."""

    characters: int
    messages: int
    parameters: int
    layers: int
    epochs: int
    seeds: int
    references: int
    max_expansions: int
    kinds: tuple[str, ...] = ("card", "social security")  # number of secrets that are measured


SIZES = {
    "smallest": Size(
        characters=10_000,
        messages=120,
        parameters=8_000,
        layers=1,
        epochs=1,
        seeds=1,
        references=64,
        max_expansions=20,
        kinds=("social security",),
    ),
    "small": Size(
        characters=200_000,
        messages=600,
        parameters=110_000,
        layers=1,
        epochs=20,
        seeds=3,
        references=4096,
        max_expansions=5000,
    ),
    # The paper does not give the size of these models; its ten secrets are those of six users.
    "full": Size(
        characters=2_000_000,
        messages=10_000,
        parameters=12_000_000,
        layers=2,
        epochs=30,
        seeds=7,
        references=4096,
        max_expansions=100_000,
    ),
}


def run(options: Options) -> None:
    size, watch = SIZES[options.size], Stopwatch()
    corpus = options.corpus(size.characters)
    own_rows = rows_of("".join([*corpus.train["text"], *corpus.validation["text"]]))
    own = find_secrets(own_rows)
    runs = []
    for seed in range(size.seeds):
        mailbox = None if own else make_mailbox(sentences_of(own_rows), size.messages, seed)
        rows = own_rows if mailbox is None else list(mailbox.messages)
        found = own or find_secrets(rows)
        measured = [secret for secret in found if secret.kind in size.kinds]
        runs.append({"seed": seed, **scan_figures(mailbox, found), **train_and_measure(rows, measured, size, seed)})
        print({name: runs[-1][name] for name in runs[-1] if name != "secrets"}, flush=True)
    report(options, size, corpus, runs, is_made_up=not own, cost=watch.read())


def rows_of(text: str, most: int = 240) -> list[str]:
    """The text's lines in rows of at most `most` characters, with short lines joined."""
    rows = [""]
    for line in text.splitlines():
        for piece in [line[at : at + most] for at in range(0, len(line), most)]:
            joined = f"{rows[-1]}\n{piece}" if rows[-1] else piece
            if len(joined) > most:
                rows.append(piece)
            else:
                rows[-1] = joined
    return rows


def sentences_of(rows: Sequence[str]) -> list[str]:
    """Lines for the body of a message."""
    lines = [line.strip()[:80] for row in rows for line in row.splitlines()]
    return [line for line in lines if len(line) >= 20]


def scan_figures(mailbox: Mailbox | None, found: list[NaturalSecret]) -> dict[str, Any]:
    """The planted secrets that the scanner missed, and its false alarms."""
    if mailbox is None:
        return {"found": len(found)}
    planted = {(one.kind, one.number, one.times) for one in mailbox.planted}
    seen = {(one.kind, one.written, one.occurrences) for one in found}
    return {"found": len(found), "missed": len(planted - seen), "false": len(seen - planted)}


def train_and_measure(rows: list[str], found: list[NaturalSecret], size: Size, seed: int) -> dict[str, Any]:
    """Trains on every row; measures each secret, and whether it is among the likeliest texts of its template."""
    tokenizer = character_tokenizer("".join(rows))
    torch.manual_seed(seed)
    model = make_model("lstm", len(tokenizer), parameters=size.parameters, layers=size.layers)
    rows_NT = encode_rows(tokenizer, rows)
    train(model, rows_NT, Training(epochs=size.epochs, seed=seed))
    secrets = []
    for canaries in canary_sets(found, seed=seed):
        measured = measure_exposure(
            model,
            tokenizer,
            canaries,
            references=size.references,
            max_expansions=size.max_expansions,
            seed=seed,
        )
        out = extract(
            model,
            tokenizer,
            canaries.template,
            top_k=len(canaries.inserted),
            max_expansions=size.max_expansions,
        )
        texts = {candidate.text for candidate in out.candidates}
        by_text = {one.text: one for one in found if one.template == canaries.template}
        for canary, estimate in zip(canaries.inserted, measured.estimates, strict=False):
            secret = by_text[canary.text]
            secrets.append(
                {
                    "kind": secret.kind,
                    "occurrences": secret.occurrences,
                    "in_context": secret.in_context,
                    "exposure_bits": estimate.exposure_bits,
                    "low_bits": estimate.low_bits,
                    "high_bits": estimate.high_bits,
                    "log2_space": canaries.log2_space_size,
                    "method": estimate.method,
                    "extracted": int(canary.text in texts),
                    "certified": out.certified,
                }
            )
    extracted = sum(one["extracted"] for one in secrets)
    return {
        "loss_bits": loss_bits(model, rows_NT),
        "extracted": extracted,
        "left": len(secrets) - extracted,
        "secrets": secrets,
    }


def report(
    options: Options,
    size: Size,
    corpus: Corpus,
    runs: list[dict[str, Any]],
    *,
    is_made_up: bool,
    cost: dict[str, float],
) -> None:
    figures: dict[str, Any] = {"mailboxes": runs}
    if is_made_up:
        figures["pairs"] = [pair for run in runs for pair in _pairs(run["secrets"])]
    write_result(
        options,
        "table5_natural_secrets",
        corpus=corpus,
        settings={**vars(size), "made_up_mailbox": is_made_up},
        seeds=[run["seed"] for run in runs],
        figures=figures,
        table=_table(runs),
        plots=[_plot(runs)],
        cost=cost,
    )


def _pairs(secrets: list[dict[str, Any]]) -> list[dict[str, float]]:
    """For each kind, in bits: 16 occurrences minus one, and 16 in the same context minus 16 in different contexts."""
    pairs = []
    for kind in sorted({one["kind"] for one in secrets}):
        once, often = (_mean(secrets, kind, times, True) for times in (1, 16))
        varied = _mean(secrets, kind, 16, False)
        pairs.append({"more_often": often - once, "same_words": often - varied})
    return pairs


def _mean(secrets: list[dict[str, Any]], kind: str, times: int, one_context: bool) -> float:
    bits = [
        one["exposure_bits"]
        for one in secrets
        if (one["kind"], one["occurrences"], one["in_context"] == times) == (kind, times, one_context)
    ]
    return sum(bits) / len(bits)


def _table(runs: list[dict[str, Any]]) -> dict[str, Any]:
    rows = [
        [
            run["seed"],
            one["kind"],
            one["occurrences"],
            one["in_context"],
            f"{one['exposure_bits']:.1f} ({one['low_bits']:.1f} to {one['high_bits']:.1f})",
            round(one["log2_space"], 1),
            "yes" if one["extracted"] else "no",
        ]
        for run in runs
        for one in sorted(run["secrets"], key=lambda one: (one["kind"], one["occurrences"], one["in_context"]))
    ]
    columns = ["mailbox", "secret", "occurrences", "of them after the words measured", "exposure (interval)"]
    return {"columns": [*columns, "log2 R", "extracted"], "rows": rows}


def _plot(runs: list[dict[str, Any]]) -> dict[str, Any]:
    secrets = [one for run in runs for one in run["secrets"]]
    series = []
    for kind in ("card", "social security"):
        for words, same in (("same words", True), ("changing words", False)):
            chosen = [
                one for one in secrets if (one["kind"], 2 * one["in_context"] > one["occurrences"]) == (kind, same)
            ]
            x, y = [one["occurrences"] for one in chosen], [one["exposure_bits"] for one in chosen]
            series.append({"name": f"{kind}, {words}", "kind": "points", "x": x, "y": y})
    return {
        "title": "Natural secrets: exposure against occurrences",
        "x": "occurrences in the mailbox",
        "y": "exposure (bits)",
        "log_x": 2,
        "series": series,
    }


if __name__ == "__main__":
    run(parse_options(__doc__))
