"""The page as a reader meets it: in a real browser, without a network, in the dark, on a phone, by keyboard."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, Browser, browser
from report_samples import estimate, report

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")]
EVIL = "<script>window.broken = 1</script><img src=x onerror='window.broken = 1'>"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """10,000 canaries, some of them hostile."""
    folder = tmp_path_factory.mktemp("page")
    rows = []
    for i in range(10_000):
        repetitions = (1, 8, 64, 0)[i % 4]
        bits = {0: 0.5 + i % 30 / 20, 1: 1.0 + i % 40 / 20, 8: 6 + i % 50 / 10, 64: 29.9}[repetitions]
        name = f"{i:05x}" + (EVIL if i % 1000 == 2 else "")
        rows.append(
            estimate(bits, repetitions, canary_id=name, log_perplexity_bits=60 - bits, note=EVIL * (i % 7 == 0))
        )
    rows.sort(key=lambda one: one.is_control)
    report(*rows, space_size=10**9, template=f"{EVIL} {{pin}}", model={"name": EVIL}).save(folder)
    return folder / "report.html"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as one:
        yield one


def brightness(picture: bytes) -> float:
    from matplotlib.image import imread

    return float(np.median(imread(io.BytesIO(picture))[..., :3]))


def contrast(chromium: Browser, selector: str) -> float:
    """WCAG's contrast ratio of a text's color and the page's color."""
    colors = chromium.value(
        f"[getComputedStyle(document.querySelector({selector!r})).color,"
        " getComputedStyle(document.body).backgroundColor].map(c => c.match(/[\\d.]+/g).slice(0, 3).map(Number))"
    )
    light = []
    for color in colors:
        shares = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in color]
        light.append(float(np.dot(shares, [0.2126, 0.7152, 0.0722])))
    return (max(light) + 0.05) / (min(light) + 0.05)


def test_no_column_is_cut_on_a_phone_and_the_right_edge_is_one(page: Path, chromium: Browser) -> None:
    chromium.open(page, width=360)
    assert chromium.value("document.documentElement.scrollWidth") == 360
    cut = "[...document.querySelectorAll('.scroll')].filter(box => box.scrollWidth > box.clientWidth).length"
    assert chromium.value(cut) == 0
    chromium.open(page, width=1100)
    assert chromium.value(cut) <= 1  # the table of canaries, whose hostile names are long
    edges = "[...document.querySelectorAll('main > p, .scroll, figure, dl')].map(e => e.getBoundingClientRect().right)"
    assert len(set(chromium.value(edges))) == 1


def test_it_opens_offline_quickly_and_nothing_hostile_runs(page: Path, chromium: Browser) -> None:
    chromium.open(page)
    assert chromium.value("window.broken") is None
    assert EVIL in chromium.value("document.querySelector('dd').textContent")
    assert chromium.value("document.querySelectorAll('script').length") == 2
    assert chromium.value("document.querySelectorAll('#canaries tbody tr').length") == 100
    asked = [e["params"]["request"]["url"] for e in chromium.events if e["method"] == "Network.requestWillBeSent"]
    assert all(url.startswith(("file://", "data:")) for url in asked)
    problems = [e for e in chromium.events if e["method"] in ("Runtime.exceptionThrown", "Log.entryAdded")]
    assert not problems
    took = chromium.value("performance.timing.loadEventEnd - performance.timing.navigationStart")
    assert took < 5000
    # The images are present and not broken.
    assert chromium.value("[...document.images].every(i => i.complete && i.naturalWidth > 600)")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_follows_the_readers_light(page: Path, chromium: Browser, dark: bool) -> None:
    chromium.open(page, dark=dark)
    assert brightness(chromium.picture()) < 0.2 if dark else brightness(chromium.picture()) > 0.9
    for selector in (".verdict", "figcaption", "td", "dt", ".tools"):
        assert contrast(chromium, selector) > 4.5, selector


def test_a_phone_scrolls_down_and_never_sideways(page: Path, chromium: Browser) -> None:
    chromium.open(page, width=390, height=800)
    assert chromium.value("document.documentElement.scrollWidth") <= 390
    # Nor do tables and plots inside their frames.
    assert not chromium.value("[...document.querySelectorAll('.scroll')].some(s => s.scrollWidth > s.clientWidth)")
    assert chromium.value("parseFloat(getComputedStyle(document.querySelector('td')).fontSize)") >= 14


def test_the_keyboard_reaches_and_works_everything(page: Path, chromium: Browser) -> None:
    chromium.open(page)
    seen = []
    for _ in range(24):
        chromium.press("Tab")
        seen.append(chromium.value("document.activeElement.textContent.slice(0, 30).trim()"))
        if seen[-1] == "exposure (bits)":
            break
    assert seen[0] == "To the table"
    assert seen[-1] == "exposure (bits)"
    style = chromium.value("getComputedStyle(document.activeElement).outlineStyle")
    assert style == "solid"
    column = "[...document.querySelectorAll('#canaries tbody tr')].map(r => r.cells[2].textContent)"
    chromium.press("Enter")
    assert chromium.value("document.activeElement.closest('th').getAttribute('aria-sort')") == "ascending"
    least = chromium.value(column)
    assert least[0] == "0.55"
    assert least == sorted(least, key=float)
    chromium.press("Enter")
    assert chromium.value(column)[0] == "29.90"


def test_pages_and_counts_are_chosen(page: Path, chromium: Browser) -> None:
    chromium.open(page)
    place = "document.getElementById('canaries-place').textContent"
    assert chromium.value(place) == "1 to 100 of 10000"
    chromium.value("document.getElementById('canaries-next').click()")
    assert chromium.value(place) == "101 to 200 of 10000"
    choose = "const s = document.getElementById('canaries-counts'); s.value = 0; s.dispatchEvent(new Event('change'))"
    chromium.value(f"{{ {choose} }}")
    assert chromium.value(place) == "1 to 100 of 2500"
    assert chromium.value(
        "[...document.querySelectorAll('#canaries tbody tr')].every(r => r.cells[1].textContent == '0')"
    )
