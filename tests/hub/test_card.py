"""The card's text: sections replaced in place, data escaped, line ends kept."""

from __future__ import annotations

import re

import pytest
import yaml
from report_samples import estimate, mixed, report

from hf_exposure.hub import published
from hf_exposure.hub.card import BEGIN, END, exposure_section, updated_card

HOSTILE = f"a`b | <script>alert(1)</script> {END} *x* [y](z) {{pin}}\n\n# title"


def card(content: str | None = None, **changes: object) -> str:
    return updated_card(content, published(mixed(**changes)), name="model", files=["a.png", "report.json"])


def test_text_around_a_section_stays_in_its_place() -> None:
    first = card("---\nlicense: mit\n---\n# Title\n\nBefore.\n")
    assert first.endswith(f"{END}\n")
    moved = first.rstrip() + "\n\nAfter.\n"
    again = card(moved)
    assert again == moved
    assert again.index("Before.") < again.index(BEGIN) < again.index(END) < again.index("After.")


def test_a_marker_without_its_end_swallows_nothing() -> None:
    broken = f"---\n{{}}\n---\n# Title\n\n{BEGIN}\nhalf a section\n\nTheir words.\n"
    once = card(broken)
    assert card(once) == once
    assert "Their words." in once


def test_a_card_without_metadata_gets_some() -> None:
    text = card("# Title\n")
    assert yaml.safe_load(text.split("---\n")[1])["model-index"][0]["name"] == "model"
    assert "# Title\n" in text


def test_line_ends_are_kept() -> None:
    text = card("---\r\nlicense: mit\r\n---\r\n# Title\r\n")
    assert not re.search(r"(?<!\r)\n", text)


def test_data_are_text() -> None:
    text = card(template=HOSTILE, spaces={"pin": "<b>"})
    body = text.split("---\n", 2)[2]
    assert "<script" not in body
    assert "<b>" not in body
    assert body.count(END) == 1
    # The data stay on one line and contain no markup: no table row, heading or link.
    (line,) = [line for line in body.splitlines() if "alert" in line]
    code = re.search(r"<code>(.*?)</code>", line)
    assert code is not None
    assert not re.search(r"[`|<>*\[\]#](?!\d)", code[1].replace("&#", "&"))
    metadata = yaml.safe_load(text.split("---\n")[1])
    assert metadata["model-index"][0]["results"][0]["metrics"][0]["args"]["template"] == HOSTILE


def test_the_table_by_hand() -> None:
    section = exposure_section(published(report(estimate(9.04, 8, rank_high=1), estimate(2.0, 0))), ["p_q.png"])
    assert "| 8 | 1 | 9.0 | 9.0 | 1 of 1 (at least 5 %) |" in section
    assert "| controls | 1 | 2.0 | 2.0 | 0 of 1 |" in section
    assert "**1 of 1 canaries inserted 8 times ranks first among " in section
    # One of each: the larger one is the inserted one with probability 1/2.
    assert "p = 0.5." in section
    assert "![P q](exposure/p_q.png)" in section


def test_an_undefined_mean_is_shown_and_not_among_the_results() -> None:
    text = card()
    assert "| 1 | 2 | undefined | 2.0, undefined | 0 of 2 |" in text
    assert "| 8 | 2 | at least 7.0 | 9.0, ≥ 5.0 | 1 of 2 (at least 2 %) |" in text  # one of the two is a lower bound
    metrics = yaml.safe_load(text.split("---\n")[1])["model-index"][0]["results"][0]["metrics"]
    assert sorted(m["args"]["repetitions"] for m in metrics if m["type"] == "exposure") == [0, 8]


@pytest.mark.parametrize(
    ("model", "tag", "task"),
    [
        ("GPT2LMHeadModel", None, "text-generation"),
        ("T5ForConditionalGeneration", None, "text2text-generation"),
        ("BertForMaskedLM", None, "fill-mask"),
        ("T5ForConditionalGeneration", "translation", "translation"),
    ],
)
def test_the_task_is_the_models(model: str, tag: str | None, task: str) -> None:
    content = f"---\npipeline_tag: {tag}\n---\n" if tag else None
    text = card(content, model={"class": model})
    (result,) = yaml.safe_load(text.split("---\n")[1])["model-index"][0]["results"]
    assert result["task"]["type"] == task
