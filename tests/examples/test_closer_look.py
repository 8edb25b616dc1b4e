"""The closer look's scripts run at their smallest size, and its page agrees with the stored numbers."""

from __future__ import annotations

import importlib
import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_secret_sharer_results import bears_out

from examples.closer_look.figure2_filters import neighbor_correlation
from examples.closer_look.images import Images, noisy, parse_options
from examples.closer_look.page import CLOSER_LOOK
from examples.closer_look.resumed import each_run
from examples.closer_look.training import Training, look, network, train
from examples.secret_sharer.claims import RULES, check_claim
from examples.secret_sharer.page import load_results, page
from examples.secret_sharer.plots import draw_plot
from hf_exposure.estimators import area_under_margin, forgetting_events, noise_curves

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "examples" / "closer_look" / "results"
OF_TEXTS = ("text_noise", "canary_forgetting")
STORED = sorted(path.stem for path in RESULTS.glob("*.json"))
# A second study needs a script that has a first one.
SCRIPTS = [name for name in CLOSER_LOOK.order if not name.endswith("_second")]
SECOND = [name for name in CLOSER_LOOK.order if name.endswith("_second")]


def record(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def words(name: str) -> dict[str, Any]:
    return tomllib.loads((RESULTS / f"{name}.toml").read_text(encoding="utf-8"))


@pytest.mark.filterwarnings("ignore:Precision loss occurred:RuntimeWarning")
@pytest.mark.parametrize("name", STORED)
def test_every_claim_is_what_its_numbers_say(name: str) -> None:
    stored = record(name)
    assert stored["size"] in (("second",) if name in SECOND else ("small", "full"))
    assert stored["cost"]["seconds"] > 0 and "claims" not in stored
    of_texts = name.removesuffix("_second") in OF_TEXTS
    assert stored["settings"]["data"].startswith("pydoc_data.topics " if of_texts else "MNIST ")
    (result,) = [result for result in load_results(CLOSER_LOOK) if result.name == name]
    for made in result.claims:
        if "untested" in made.words:
            assert made.holds is None
        else:
            assert made.values, made.words["sentence"]
            assert bears_out(dict(made.words), stored["figures"]) == made.holds, made.words["sentence"]
    assert result.words["remark"].strip()


@pytest.mark.parametrize("name", CLOSER_LOOK.order)
def test_a_claim_of_a_paper_says_where_it_is_made(name: str) -> None:
    for made in words(name)["claims"]:
        assert made["source"] in ("paper", "ours")
        assert ("section" in made) == (made["source"] == "paper"), made["sentence"]
        assert "work" not in made or made["source"] == "paper"
        assert ("untested" in made) != (made.get("rule") in RULES), made["sentence"]


def test_the_page_is_up_to_date() -> None:
    results = load_results(CLOSER_LOOK)
    assert [result.name for result in results] == list(CLOSER_LOOK.order)
    shown = (ROOT / "docs" / "closer_look.md").read_text(encoding="utf-8")
    assert shown == page(results)
    for result in results:
        assert (ROOT / "examples" / "closer_look" / f"{result.words.get('script', result.name)}.py").exists()
        assert all(made["sentence"] in shown for made in result.words["claims"])
        for image in result.images:
            assert (ROOT / "docs" / image).read_bytes().startswith(b"\x89PNG")


# The smallest size shows nothing: untrained networks agree everywhere, and means over empty sets warn.
@pytest.mark.filterwarnings("ignore:Mean of empty slice:RuntimeWarning", "ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("name", SCRIPTS)
def test_each_script_runs_at_its_smallest_size(name: str, tmp_path: Path) -> None:
    script = importlib.import_module(f"examples.closer_look.{name}")
    studies = [name, *[f"{name}_second"] * (f"{name}_second" in SECOND)]
    assert set(script.SIZES) == {"smallest", "small", "full", *["second"] * (len(studies) - 1)} and script.__doc__
    script.run(parse_options(script.__doc__, ["--size", "smallest", "--out", str(tmp_path)]))
    stored = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
    assert stored["result"] == name
    assert stored["settings"]["data"].startswith("pydoc_data.topics " if name in OF_TEXTS else "made up")
    for made in (each for study in studies for each in words(study)["claims"]):
        assert "untested" in made or check_claim(made, stored["figures"]).values, made["sentence"]
    width = len(stored["table"]["columns"])
    assert width and all(len(row) == width for row in stored["table"]["rows"])
    for place, spec in enumerate(stored["plots"]):
        draw_plot(spec, tmp_path / f"{place}.png")
        assert (tmp_path / f"{place}.png").stat().st_size > 5_000


def test_the_interval_of_a_share_is_drawn_within_0_and_1(tmp_path: Path) -> None:
    def drawn(low: float, high: float, **how: bool) -> bytes:
        series = {"name": "one", "x": [1, 2], "y": [0.5, 0.9], "low": [low, 0.8], "high": [high, 0.95]}
        draw_plot({"title": "", "x": "", "y": "", "series": [series], **how}, tmp_path / "plot.png")
        return (tmp_path / "plot.png").read_bytes()

    assert drawn(-0.7, 1.8, y_is_share=True) == drawn(0, 1) != drawn(-0.7, 1.8)
    assert drawn(0.2, 0.7, y_is_share=True) == drawn(0.2, 0.7)


@pytest.mark.parametrize("name", SECOND)
def test_a_second_study_stands_next_to_the_first_and_has_seeds_of_its_own(name: str) -> None:
    first = name.removesuffix("_second")
    place = CLOSER_LOOK.order.index(name)
    assert CLOSER_LOOK.order[place - 1] == first == words(name)["script"]
    assert "script" not in words(first)
    if name in STORED:
        assert not set(record(name)["seeds"]) & set(record(first)["seeds"])


def test_a_second_study_is_a_size_with_a_name_and_seeds() -> None:
    first, second = (parse_options("Some.", ["--size", size], ("small", "second")) for size in ("small", "second"))
    assert (first.named("some"), first.seeds(2)) == ("some", [0, 1])
    assert (second.named("some"), second.seeds(2)) == ("some_second", [10, 11])
    with pytest.raises(SystemExit):
        parse_options("Some.", ["--size", "second"])


def test_a_script_that_was_killed_continues(tmp_path: Path) -> None:
    options = parse_options("Some script.", ["--size", "smallest", "--out", str(tmp_path)])
    asked: list[int] = []

    def make(seed: int) -> dict[str, Any]:
        if seed == 2 and len(asked) < 3:
            raise KeyboardInterrupt
        asked.append(seed)
        return {"seed": seed, "figure": (0.5, seed)}

    with pytest.raises(KeyboardInterrupt):
        each_run(options, "some", {"size": 1}, [(0,), (1,), (2,)], make)
    asked.append(-1)
    runs, cost = each_run(options, "some", {"size": 1}, [(0,), (1,), (2,)], make)
    assert asked == [0, 1, -1, 2] and runs == [{"seed": seed, "figure": [0.5, seed]} for seed in range(3)]
    assert set(cost) == {"seconds", "processor_seconds"}
    # Runs with other settings are not used.
    each_run(options, "some", {"size": 2}, [(0,)], make)
    assert asked[-1] == 0


@pytest.mark.parametrize("seed", [0, 1])
def test_on_handwritten_digits_the_noise_is_fit_last_and_found_by_its_margin(seed: int) -> None:
    """Uses the images of scikit-learn; the bounds come from the paper's trend, not from measurements."""
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    whole = Images((digits.data / 16).astype(np.float32), digits.target.astype(np.int64), "digits")
    order = np.random.default_rng(seed).permutation(len(whole))
    first, held_out = whole.take(order[:800]), whole.take(order[800:])
    first, noise = noisy(first, seed, labels=0.4)
    training = Training(width=128, epochs=40, seed=seed)
    model, looks, accuracy = network(64, training), [], []

    def after_epoch(epoch: int) -> None:
        looks.append(look(model, first))
        accuracy.append(look(model, held_out).correct_N.mean())

    train(model, first, training, after_epoch)
    best, correct_TN = int(np.argmax(accuracy)), np.array([one.correct_N for one in looks])
    curves, events = noise_curves(correct_TN, noise.changed), forgetting_events(correct_TN).counts_N
    assert accuracy[best] > 0.8 and accuracy[-1] < accuracy[best] - 0.05
    assert curves.clean_T[best] > 0.8 and curves.noisy_T[best] < 0.15 < curves.noisy_T[-1]
    assert events[noise.changed].mean() > events[~noise.changed].mean()
    areas_N = area_under_margin([one.margin_N for one in looks[: best + 1]])
    candidates = np.argsort(areas_N)[: noise.changed.sum()]
    assert noise.changed[candidates].mean() > 0.8


def test_neighboring_weights() -> None:
    rows = np.array([[1.0, 1.0, -1.0, -1.0] * 4, [1.0, -1.0, 1.0, -1.0, -1.0, 1.0, -1.0, 1.0] * 2, [0.0] * 16])
    # By hand: to the right 1, -1, 1 of three and downwards always 1; a chessboard; a unit that learned nothing.
    assert neighbor_correlation(rows).tolist() == [pytest.approx((1 / 3 + 1) / 2), -1.0, 0.0]
