"""Writes `docs/reproduction.md` and its plots from what the scripts stored.

A result is two files in `results/`: `{name}.json`, which its script writes, and `{name}.toml`, which a person writes
after looking at it:

    title = "Figure 8: ..."
    paper = "What the paper shows."
    unchecked = "What of that was not compared with the paper."  # left out where all of it was
    verdict = "holds"          # or "fails", or "differs"
    failing = []               # the places, from 1, of claims that do not hold; none where the verdict is "holds"
    remark = "What to make of it, and what was tried."

A result without a JSON file is listed as not run. `python -m examples.secret_sharer.page`
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.secret_sharer import RESULTS
from examples.secret_sharer.plots import draw_plot

__all__ = ["Result", "load_results", "page", "write_page"]

DOCS = Path(__file__).parents[2] / "docs"
IMAGES = "images/reproduction"
# The order in which the page shows them.
ORDER = (
    *("table1", "figure1", "figure3", "figure5", "figure4", "section6_3", "figure7", "figure8", "figure9", "table2"),
    *("table3", "section7_4", "table4", "figure11", "figure12", "table5", "section9_1", "section9_2", "table6"),
)
_VERDICTS = {"holds": "the trend holds", "fails": "the trend fails", "differs": "differs", "": "not run"}
_HEAD = """# The Secret Sharer, reproduced

Every table and figure of Carlini, Liu, Erlingsson, Kos and Song, "The Secret Sharer: Evaluating and Testing Unintended
Memorization in Neural Networks", USENIX Security 2019 ([arXiv 1802.08232](https://arxiv.org/abs/1802.08232)), measured
again with `hf_exposure`: one script a result in [examples/secret_sharer](../examples/secret_sharer). What must come
back is the trend. Texts, models and numbers of seeds are smaller than the paper's wherever a result does not say that
it was run at full size, so figures are not to be compared digit by digit.

Figures are exposures and log-perplexities in bits, losses in bits per character. A canary that a model never saw has
1.44 bits of exposure on average. Intervals and shaded bands are 95 % t-intervals of the mean over seeds. Every claim
is a rule on numbers stored in [examples/secret_sharer/results](../examples/secret_sharer/results), and a test
evaluates it anew.

What is said of the paper was compared with its tables and figures as others show them (captions, screenshots and
transcriptions of its first version of 2018 and of USENIX 2019, and the authors' own article on it), not with its PDF;
what could not be compared is named. Numbers of tables and figures are those of one of its versions and differ between
them: USENIX has the translation model in Figure 6 and differential privacy in Table 3.

This page is made by `python -m examples.secret_sharer.page`; `make reproduce` measures Table 1 and Figures 1, 3, 8, 9
and 11 again, in half an hour of one core, and then makes it. No result was run at full size: that takes a GPU.
"""


@dataclass(frozen=True)
class Result:
    """One result: what a person wrote of it, and what its script stored, if it was run; `package` is where it is."""

    name: str
    words: dict[str, Any]
    record: dict[str, Any] | None
    package: str = "secret_sharer"

    @property
    def verdict(self) -> str:
        return _VERDICTS[self.words.get("verdict", "") if self.record else ""]

    @property
    def images(self) -> list[str]:
        count = len(self.record["plots"]) if self.record else 0
        folder = IMAGES if self.package == "secret_sharer" else f"images/{self.package}"
        return [f"{folder}/{self.name}{'' if at == 0 else f'_{at + 1}'}.png" for at in range(count)]

    @property
    def script(self) -> str:
        return f"[{self.name}.py](../examples/{self.package}/{self.name}.py)"


def load_results(folder: Path = RESULTS) -> list[Result]:
    """All results that have words, in the page's order."""
    found = []
    for path in folder.glob("*.toml"):
        data = path.with_suffix(".json")
        record = json.loads(data.read_text(encoding="utf-8")) if data.exists() else None
        found.append(Result(path.stem, tomllib.loads(path.read_text(encoding="utf-8")), record))
    return sorted(found, key=lambda result: (_place(result.name), result.name))


def _place(name: str) -> int:
    return next((place for place, start in enumerate(ORDER) if name == start or name.startswith(start + "_")), 99)


def page(results: list[Result], head: str = _HEAD) -> str:
    """The whole page as Markdown."""
    overview = ["| result | verdict | claims that hold |", "|---|---|---|"]
    for result in results:
        claims = result.record["claims"] if result.record else []
        held = f"{sum(made['holds'] for made in claims)} of {len(claims)}" if claims else ""
        overview.append(f"| [{result.words['title']}](#{_anchor(result)}) | {result.verdict} | {held} |")
    return "\n".join([head, *overview, "", *(section(result) for result in results)]).rstrip() + "\n"


def section(result: Result) -> str:
    """One result: the paper's, ours, plots, claims, verdict, and how it was run."""
    words, parts = result.words, [f'<a id="{_anchor(result)}"></a>', "", f"## {result.words['title']}", ""]
    unchecked = f" (Not compared with it: {words['unchecked']}.)" if "unchecked" in words else ""
    parts += [f"**The paper.** {_flat(words['paper'])}{unchecked}", ""]
    if result.record is None:
        not_run = (
            f"**Not run** beyond the smallest size of {result.script}, by a test. {_flat(words.get('remark', ''))}"
        )
        return "\n".join([*parts, not_run.rstrip(), ""])
    parts += [f"**Verdict: {result.verdict}.** {_flat(words['remark'])}", "", *_table(result.record["table"]), ""]
    parts += [line for image in result.images for line in (f"![{words['title']}]({image})", "")]
    parts += ["| claim | needed | found | holds |", "|---|---|---|---|"]
    parts += [_claim_row(made) for made in result.record["claims"]]
    return "\n".join([*parts, "", _how(result), ""])


def _anchor(result: Result) -> str:
    return result.name.replace("_", "-")


def _flat(text: str) -> str:
    return " ".join(text.split())


def _table(table: dict[str, Any]) -> list[str]:
    lines = ["| " + " | ".join(str(name) for name in table["columns"]) + " |", "|---" * len(table["columns"]) + "|"]
    return lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in table["rows"]]


def _claim_row(made: dict[str, Any]) -> str:
    needed = {
        "mean_above": "95 % interval of the mean above {}",
        "mean_below": "95 % interval of the mean below {}",
        "mean_holds": "95 % interval of the mean holds {}",
        "all_at_least": "every one at least {}",
        "all_at_most": "every one at most {}",
    }[made["rule"]].format(f"{made['than']:g}")
    mean, low, high = ("?" if value is None else f"{value:.3g}" for value in made["mean_low_high"])
    count = f"{made['count']} number" + ("s" if made["count"] > 1 else "")
    spread = f"{mean} ({low} to {high}), {count}" if made["count"] > 1 else f"{mean}, {count}"
    return f"| {made['sentence']} | {needed} | {spread} | {'yes' if made['holds'] else '**no**'} |"


def _how(result: Result) -> str:
    record = result.record
    assert record is not None
    text, cost, machine = record["text"], record["cost"], record["machine"]
    source = f"{text['characters']:,} characters of `{text['name']}`; " if text.get("characters") else ""
    device = machine["accelerator"] or f"{machine['threads']} CPU core" + ("s" if machine["threads"] > 1 else "")
    seeds = ", ".join(map(str, record["seeds"]))
    return (
        f"Run at size `{record['size']}` by {result.script}: {source}"
        f"seed{'s' if len(record['seeds']) > 1 else ''} {seeds}; {cost['processor_seconds'] / 60:.1f} minutes of "
        f"processor time on {device}; torch {record['versions']['torch']}, transformers "
        f"{record['versions']['transformers']}."
    )


def write_page(docs: Path = DOCS) -> None:
    """The page, and every plot."""
    results = load_results()
    for result in results:
        for spec, image in zip(result.record["plots"] if result.record else [], result.images, strict=True):
            draw_plot(spec, docs / image)
    (docs / "reproduction.md").write_text(page(results), encoding="utf-8")


if __name__ == "__main__":
    write_page()
