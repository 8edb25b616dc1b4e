"""Every code block of the README and the user guide runs, and prints what the page says."""

from __future__ import annotations

from pathlib import Path

import pytest
from doc_blocks import ROOT, blocks_of, run_blocks, shape, transcript

MODULE_PAGE = ROOT / "spaces" / "exposure" / "README.md"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")), MODULE_PAGE]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture(autouse=True)
def nothing_outside_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches and tracker files stay in the test's own folder."""
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))


@pytest.mark.filterwarnings("ignore:.*canaries in the training data:UserWarning")  # a few rows, one step
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_quick_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_blocks(page, tmp_path, slow=False)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_all_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_blocks(page, tmp_path, slow=True)


def test_a_block_that_fails_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    for fence, error in (
        ("python\n1 / 0\n", ZeroDivisionError),
        ("bash\nfalse\n", AssertionError),
        ("console\n$ echo one\ntwo\n", AssertionError),
    ):
        page.write_text(f"Text.\n\n```{fence}```\n")
        with pytest.raises(error):
            run_blocks(page, tmp_path, slow=False)
        page.write_text(f"Text.\n\n<!-- slow -->\n\n```{fence}```\n")
        assert run_blocks(page, tmp_path, slow=False) == 0
        page.write_text(f"<!-- not run: it needs a hub -->\n\n```{fence}```\n")
        assert run_blocks(page, tmp_path, slow=True) == 0


def test_what_a_page_says_is_printed_is_compared(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    code = "```python\nprint('mean', 1.5)\n```\n\n"
    page.write_text(f"{code}<!-- prints -->\n\n```text\nmean 1.7\n```\n")
    assert run_blocks(page, tmp_path, slow=False) == 2
    page.write_text(f"{code}<!-- prints -->\n\n```text\nmedian 1.5\n```\n")
    with pytest.raises(AssertionError, match="the page shows"):
        run_blocks(page, tmp_path, slow=False)
    # Nothing is known about a block that is not run.
    page.write_text(f"<!-- slow -->\n\n{code}<!-- prints -->\n\n```text\nmedian 1.5\n```\n")
    assert run_blocks(page, tmp_path, slow=False) == 0


def test_blocks_are_found_in_order_and_share_their_names(tmp_path: Path) -> None:
    text = (
        "<!-- setup:\na = 1\n-->\n\n```python\nb = a + 1\n```\n\n```\nno code\n```\n\n```python\nassert b == 2\n```\n"
    )
    page = tmp_path / "page.md"
    page.write_text(text)
    assert [(block.kind, block.line) for block in blocks_of(text)] == [("python", 1), ("python", 5), ("python", 13)]
    assert run_blocks(page, tmp_path, slow=False) == 3


def test_a_transcript_is_compared_by_its_words() -> None:
    assert list(transcript("$ a \\\n  b\nout\n\n$ c\n")) == [("a \\\n  b", "out\n\n"), ("c", "")]
    assert shape("p = 4e-05,  12.3 bits of 1,000") == ["p = #, # bits of #"]
    assert shape("one\n\n two") == ["one", "two"]
