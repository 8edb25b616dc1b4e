"""Writes pages of results with plots, such as `docs/reproduction.md`, from the stored results of scripts and queue.

A result is two files in `results/`: `{name}.json`, which its script writes, and `{name}.toml`:

    title = "Figure 8: ..."
    paper = "What the paper shows."
    script = "figure8"                                  # if another result's script also made this one
    canary_share = "one of 541 rows (0.2 %)"
    not_comparable = "Why no verdict can be given."     # only then
    remark = "How to interpret it, and what was tried."
    [[claims]]                                          # as `examples.secret_sharer.claims` reads them
    [paper_setting]                                     # the experiment in the paper's own setting, if there is one
    experiment = "base"                                 # of paper_setting/experiments.toml
    design = "..."
    remark = "..."                                      # once there are results
    [[paper_setting.claims]]                            # on {"cells": {name: [models]}, "derived": {...}}
    models = 10                                         # number of models needed
    scatter = 1.0                                       # guessed standard deviation of one number, for the power

Claims are written before the corresponding models are trained. A verdict is computed from the paper's claims
alone (`claims.verdict`). A result without a JSON file is listed as not run. `python -m examples.secret_sharer.page`

Other packages of scripts have the same two files per result, and a `Package` with their locations.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from examples.secret_sharer import RESULTS
from examples.secret_sharer.claims import (
    RULES,
    Checked,
    check_claim,
    detectable_difference,
    share_power,
    verdict,
)
from examples.secret_sharer.paper_setting.store import Finished, finished
from examples.secret_sharer.plots import draw_plot

__all__ = ["SECRET_SHARER", "Package", "Result", "load_results", "page", "write_page"]

DOCS = Path(__file__).parents[2] / "docs"
_HEAD = """# The Secret Sharer, reproduced

Every table, and every figure that shows a measurement of memorization (Figures 2, 6 and 10 are illustrations), of
Carlini, Liu, Erlingsson, Kos and Song, "The Secret Sharer: Evaluating and Testing Unintended Memorization in Neural
Networks", USENIX Security 2019 ([arXiv 1802.08232](https://arxiv.org/abs/1802.08232)), measured again with
`hf_exposure`, with one script per result in [examples/secret_sharer](../examples/secret_sharer). What this page says
about the paper was checked against its text. Numbers of tables, figures and sections are those of that version; the
first version of 2018 has others. Texts, models and numbers of seeds are smaller than the paper's, so only trends can
be compared, not values.

Figures are exposures and log-perplexities in bits, losses in bits per character. The paper does not state the unit of
its losses; they are presumably nats. A canary that a model never saw has 1.44 bits of exposure on average. Intervals
and shaded bands are 95 % t-intervals of the mean over seeds.

A claim is a rule on stored numbers, in [examples/secret_sharer/results](../examples/secret_sharer/results); a test
evaluates each rule again. Claims are the paper's, or our own where the table says so, and only the paper's decide a
verdict. It **holds** if all of them do, **holds in part** if all that were tested do, and **differs** if one does not.
**Not tested** means that the experiment says nothing about the paper's claims, **not comparable** that its setting
cannot.

Most of these small runs are weaker than the paper's in the same respects. Canaries are a larger part of the text (each
result states the share; in the paper it is about 30 characters in 5,000,000). One text has several canaries with the
same prefix. Models stop at 2.2 to 3.0 bits per character, mostly after a fixed number of epochs. Exact exposures
cannot exceed log2|R|, while the paper's are extrapolated. There are two to six seeds, while the paper averages ten
models in Tables 3 and 4 and for dropout.

Each result therefore has a second experiment, in the paper's own setting as far as 850 KB of the Penn Treebank (the
paper has 5 MB) and open data allow. Its claims, rules and numbers of models were written down before any of its models
was trained. `make paper` trains and stores the next of these models, and continues after an interruption. The page
says how many are finished; a claim is judged when all models that it needs are finished.

This page is made by `python -m examples.secret_sharer.page`. `make reproduce` measures Table 1 and Figures 1, 3, 8, 9
and 11 again, which takes half an hour on one core, and then makes the page.
"""


@dataclass(frozen=True, kw_only=True)
class Package:
    """A folder of scripts, and the page that shows their results.

    Attributes:
        name: name of the folder in `examples`.
        results: the folder with their TOML and JSON files.
        page: name of the page in `docs`, without its suffix; its plots are in `docs/images/{page}`.
        order: the results' names, or what they start with, in the order in which the page shows them.
        head, tail: Markdown above the overview and below the last result.
    """

    name: str
    results: Path
    page: str
    order: tuple[str, ...]
    head: str
    tail: str = ""

    def place(self, name: str) -> int:
        starts = enumerate(self.order)
        return next((at for at, start in starts if name == start or name.startswith(start + "_")), len(self.order))


SECRET_SHARER = Package(
    name="secret_sharer",
    results=RESULTS,
    page="reproduction",
    order=(
        *("table1", "figure1", "figure3", "figure5", "figure4", "section6_3", "figure7", "figure8", "figure9"),
        *("table2", "table3", "section7_4", "table4", "figure11", "figure12", "table5", "section9_1", "section9_2"),
        "table6",
    ),
    head=_HEAD,
)


@dataclass(frozen=True)
class Result:
    """One result: its text and claims, and the stored record if it was run."""

    package: Package
    name: str
    words: dict[str, Any]
    record: dict[str, Any] | None
    others: Mapping[str, dict[str, Any]]

    @cached_property
    def claims(self) -> list[Checked]:
        """Every claim, checked on the stored figures of this result or of the result that the claim names."""
        if self.record is None:
            return []
        figures = {None: self.record["figures"], **{name: record["figures"] for name, record in self.others.items()}}
        return [check_claim(made, figures[made.get("of")]) for made in self.words["claims"]]

    @property
    def verdict(self) -> str:
        if self.record is None:
            return "not run"
        return "not comparable" if "not_comparable" in self.words else verdict(self.claims)

    @property
    def has_paper_setting(self) -> bool:
        return "paper_setting" in self.words

    @cached_property
    def experiments(self) -> dict[str, Finished]:
        """The stored models of the experiments in the paper's own setting that this result needs."""
        if not self.has_paper_setting:
            return {}
        setting = self.words["paper_setting"]
        names = [setting["experiment"], *(made.get("experiment") for made in setting["claims"])]
        return {name: finished(name) for name in dict.fromkeys(names) if name}

    @cached_property
    def paper_claims(self) -> list[Checked]:
        """The claims on the experiment in the paper's own setting; claims with missing models are untested."""
        if not self.has_paper_setting:
            return []
        setting, found = self.words["paper_setting"], []
        for made in setting["claims"]:
            models = self.experiments[made.get("experiment", setting["experiment"])]
            missing = models.missing_for(made)
            if missing:
                there, needed = missing
                found.append(check_claim({**made, "untested": f"{there} of {needed} models so far"}, {}))
            else:
                found.append(check_claim(made, models.figures))
        return found

    @property
    def paper_verdict(self) -> str:
        """ "not run" as long as no claim has all its models."""
        return "not run" if all(made.holds is None for made in self.paper_claims) else verdict(self.paper_claims)

    @property
    def images(self) -> list[str]:
        count = len(self.record["plots"]) if self.record else 0
        folder = f"images/{self.package.page}"
        return [f"{folder}/{self.name}{'' if at == 0 else f'_{at + 1}'}.png" for at in range(count)]

    @property
    def script(self) -> str:
        name = self.words.get("script", self.name)
        return f"[{name}.py](../examples/{self.package.name}/{name}.py)"


def load_results(package: Package = SECRET_SHARER) -> list[Result]:
    """All results that have a TOML file, in the page's order."""
    folder = package.results
    records = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")}
    found = [
        Result(package, path.stem, tomllib.loads(path.read_text(encoding="utf-8")), records.get(path.stem), records)
        for path in folder.glob("*.toml")
    ]
    return sorted(found, key=lambda result: (package.place(result.name), result.name))


def page(results: list[Result]) -> str:
    """The whole page of one package's results, as Markdown."""
    package, has_setting = results[0].package, any(result.has_paper_setting for result in results)
    verdicts = ("small runs", "in the paper's setting") if has_setting else ("verdict",)
    columns = ["result", verdicts[0], "the paper's claims that hold", *verdicts[1:]]
    rows = []
    for result in results:
        claims = [made for made in result.claims if made.is_the_papers]
        held = f"{sum(made.holds is True for made in claims)} of {len(claims)}" if claims else ""
        link = f"[{result.words['title']}](#{_anchor(result)})"
        rows.append([link, result.verdict, held, *[_in_paper_setting(result)] * has_setting])
    overview = _table({"columns": columns, "rows": rows})
    sections = (section(result) for result in results)
    return "\n".join([package.head, *overview, "", *sections, package.tail]).rstrip() + "\n"


_CLAIMS = ("| claim | of | needed | found | holds |", "|---|---|---|---|---|")


def section(result: Result) -> str:
    """The section of one result."""
    words, parts = result.words, [f'<a id="{_anchor(result)}"></a>', "", f"## {result.words['title']}", ""]
    parts += [f"**The paper.** {_flat(words['paper'])}", ""]
    if result.record is None:
        remark = f" {_flat(words['remark'])}" if "remark" in words else ""
        parts += [f"**Not run** beyond the smallest size of {result.script}, by a test.{remark}", ""]
        rows = [_claim_row(check_claim({"untested": "not run"} | made, {})) for made in words["claims"]]
        return "\n".join([*parts, *_CLAIMS, *rows, "", *_paper_setting(result)])
    reason = (
        f" The paper's claims are not judged: {_flat(words['not_comparable'])}." if "not_comparable" in words else ""
    )
    parts += [f"**Verdict: {result.verdict}.**{reason} {_flat(words['remark'])}", ""]
    parts += [*_table(result.record["table"]), ""]
    parts += [line for image in result.images for line in (f"![{words['title']}]({image})", "")]
    parts += [*_CLAIMS, *(_claim_row(made) for made in result.claims)]
    return "\n".join([*parts, "", _how(result), "", *_paper_setting(result)])


def _anchor(result: Result) -> str:
    return result.name.replace("_", "-")


def _flat(text: str) -> str:
    return " ".join(text.split())


def _table(table: dict[str, Any]) -> list[str]:
    lines = ["| " + " | ".join(str(name) for name in table["columns"]) + " |", "|---" * len(table["columns"]) + "|"]
    return lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in table["rows"]]


def _claim_row(made: Checked) -> str:
    words = made.words
    source = f"{words.get('work', 'the paper')}, {words['section']}" if made.is_the_papers else "ours"
    if made.holds is None:
        return f"| {words['sentence']} | {source} | {_needed(words)} | {words['untested']} | not tested |"
    found = _found(made)
    return f"| {words['sentence']} | {source} | {_needed(words)} | {found} | {'yes' if made.holds else '**no**'} |"


def _needed(words: Mapping[str, Any]) -> str:
    if "rule" not in words:
        return ""
    return RULES[words["rule"]].format(f"{words['than']:g}", share=words.get("share", 1.0))


def _found(made: Checked) -> str:
    if not made.values:
        return "no number"
    mean, low, high = (f"{value:.3g}" for value in made.spread)
    if made.words["rule"] == "interval_holds":
        return f"{low} to {high}"
    if len(made.values) == 1:
        return mean
    return f"{mean} ({low} to {high}), {len(made.values)} numbers"


def _power(words: Mapping[str, Any]) -> str:
    """The power of a claim in words, computed before any of its models is trained."""
    models = int(words["models"])
    if words["rule"].startswith("mean") and "scatter" in words:
        shown = detectable_difference(float(words["scatter"]), models)
        return f"{models} models that scatter by {words['scatter']:g} show a difference of {shown:.2g} (power 80 %)"
    if models > 1 and words["rule"].startswith(("share", "all")):
        share = float(words.get("share", 1.0))
        likely, unlikely = (share_power(models, share, true) for true in (0.95, 0.5))
        met = f"met with probability {likely:.2f} where 95 % of models do it, {unlikely:.2g} where half do"
        return f"{models} models; {met}"
    return f"{models} model{'s' if models > 1 else ''}"


def _paper_setting(result: Result) -> list[str]:
    if not result.has_paper_setting:
        return []
    setting = result.words["paper_setting"]
    counts = ", ".join(f"{one.count} of {one.planned} of `{name}`" for name, one in result.experiments.items())
    head = (
        f"**In the paper's own setting: {result.paper_verdict}.** {_flat(setting['design'])} Models so far: {counts}. "
        + _flat(setting.get("remark", ""))
    ).rstrip()
    rows = [_claim_row(made)[:-1] + f"| {_power(made.words)} |" for made in result.paper_claims]
    return [head, "", "| claim | of | needed | found | holds | power |", "|---|---|---|---|---|---|", *rows, ""]


def _in_paper_setting(result: Result) -> str:
    if not result.has_paper_setting:
        return ""
    first = next(iter(result.experiments.values()))
    return f"{result.paper_verdict} ({first.count} of {first.planned} models)"


def _how(result: Result) -> str:
    record = result.record
    assert record is not None
    text, cost, machine = record["text"], record["cost"], record["machine"]
    source = f"{text['characters']:,} characters of `{text['name']}`; " if text.get("characters") else ""
    device = machine["accelerator"] or f"{machine['threads']} CPU core" + ("s" if machine["threads"] > 1 else "")
    canaries = f"canaries: {result.words['canary_share']}; " if "canary_share" in result.words else ""
    seeds = ", ".join(map(str, record["seeds"]))
    return (
        f"Run at size `{record['size']}` by {result.script}: {source}{canaries}"
        f"seed{'s' if len(record['seeds']) > 1 else ''} {seeds}; {cost['processor_seconds'] / 60:.1f} minutes of "
        f"processor time on {device}; torch {record['versions']['torch']}, transformers "
        f"{record['versions']['transformers']}."
    )


def write_page(package: Package = SECRET_SHARER, docs: Path = DOCS) -> None:
    """Writes the page and all plots."""
    results = load_results(package)
    for result in results:
        for spec, image in zip(result.record["plots"] if result.record else [], result.images, strict=True):
            draw_plot(spec, docs / image)
    (docs / f"{package.page}.md").write_text(page(results), encoding="utf-8")


if __name__ == "__main__":
    write_page()
