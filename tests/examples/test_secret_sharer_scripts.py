"""Every script of the reproduction runs, at its smallest size, and stores what the page needs."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from examples.secret_sharer.options import parse_options
from examples.secret_sharer.plots import draw_plot

QUICK = (
    *("table1_first_example", "figure1_two_settings", "figure3_skew_normal", "figure5_many_settings"),
    *("figure7_translation", "figure8_every_batch", "figure9_overfitting", "figure11_search_cost", "table6_dp_sgd"),
    *("section7_4_optimizers", "section9_1_regularization", "section9_2_sanitization"),
)
SLOW = (
    *("figure4_phrases", "figure12_extraction", "section6_3_words", "table2_architectures"),
    *("table3_batch_and_width", "table4_context", "table5_natural_secrets"),
)
SCRIPTS = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]


@pytest.mark.parametrize("name", SCRIPTS)
def test_runs_at_its_smallest_size(name: str, tmp_path: Path) -> None:
    script = importlib.import_module(f"examples.secret_sharer.{name}")
    assert set(script.SIZES) == {"smallest", "small", "full"} and script.__doc__
    script.run(parse_options(script.__doc__, ["--size", "smallest", "--out", str(tmp_path)]))
    stored = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
    assert stored["result"] == name and stored["size"] == "smallest" and stored["figures"]
    assert stored["text"].get("name", "made up") in ("pydoc_data.topics", "made up")
    width = len(stored["table"]["columns"])
    assert width and all(len(row) == width for row in stored["table"]["rows"])
    for place, spec in enumerate(stored["plots"]):
        draw_plot(spec, tmp_path / f"{place}.png")
        assert (tmp_path / f"{place}.png").stat().st_size > 5_000
