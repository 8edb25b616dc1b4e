"""The metric as `evaluate` loads and runs it."""

from __future__ import annotations

import math
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from hf_exposure.errors import InputError
from hf_exposure.hub import metric_path

REFERENCES = [1.0, 2.0, 3.0, 3.0, 4.0, 5.0, 6.0, 7.0]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("metrics"))


@pytest.fixture(scope="module")
def load(cache: str) -> Any:
    evaluate = pytest.importorskip("evaluate")
    return lambda **arguments: evaluate.load(metric_path(), cache_dir=cache, **arguments)


def test_by_hand(load: Any) -> None:
    found = load().compute(predictions=[0.5, 3.0], references=[REFERENCES, REFERENCES])
    assert found["exposure"] == [pytest.approx(math.log2(9)), pytest.approx(math.log2(9 / 5))]
    assert found["exposure_mean"] == pytest.approx(math.log2(9) / 2 + math.log2(9 / 5) / 2)
    assert found["bound"] == ["lower", "interval"]
    assert found["high"][0] is None  # draws alone do not limit the upper end
    assert all(low <= bits for low, bits in zip(found["low"], found["exposure"], strict=True))


def test_each_canary_has_references_of_its_own(load: Any) -> None:
    found = load().compute(predictions=[3.0, 3.0], references=[[4.0], REFERENCES])
    assert found["exposure"] == [pytest.approx(1.0), pytest.approx(math.log2(9 / 5))]


def test_a_space_is_an_upper_limit(load: Any) -> None:
    found = load().compute(predictions=[0.5], references=[REFERENCES], space_size=4)
    assert found["exposure"] == [2.0]


def test_in_batches(load: Any) -> None:
    exposure = load()
    for cost in (0.5, 3.0):
        exposure.add(prediction=cost, reference=REFERENCES)
    assert exposure.compute()["exposure"] == [pytest.approx(math.log2(9)), pytest.approx(math.log2(9 / 5))]


def test_the_papers_way(load: Any) -> None:
    """Costs are quantiles of a normal law; at its mean, half of all texts are likelier, which is 1 bit."""
    from scipy.stats import norm

    references = [float(50 + 3 * norm.ppf((place + 0.5) / 400)) for place in range(400)]
    found = load().compute(predictions=[50.0], references=[references], method="skew_normal")
    assert found["exposure"] == [pytest.approx(1.0, abs=0.05)]
    assert found["low"] == [None]


def test_an_unknown_method(load: Any) -> None:
    with pytest.raises(ValueError, match="^method: must be 'sample' or 'skew_normal', got 'rank'"):
        load().compute(predictions=[1.0], references=[REFERENCES], method="rank")


def part(process: int, cache: str, costs: list[float], results: Any) -> None:
    import evaluate

    module = evaluate.load(
        metric_path(), cache_dir=cache, num_process=2, process_id=process, experiment_id="two", timeout=60
    )
    results.put((process, module.compute(predictions=costs, references=[REFERENCES] * len(costs))))


def test_two_processes_share_the_work(cache: str, load: Any) -> None:
    """The first process gets the figures of both, the other nothing."""
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    costs = [[0.5, 3.0], [7.5]]
    processes = [context.Process(target=part, args=(k, cache, costs[k], results)) for k in (0, 1)]
    for process in processes:
        process.start()
    found = dict(results.get(timeout=90) for _ in processes)
    for process in processes:
        process.join(30)
    assert found[1] is None
    expected = [math.log2(9), math.log2(9 / 5), math.log2(9 / 9)]
    assert found[0]["exposure"] == [pytest.approx(bits) for bits in expected]


def space(code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([metric_path(), *sys.path])}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)


def test_the_page_computes_what_the_metric_does() -> None:
    done = space("import app; print(app.table('0.5; 3', '1 2 3 3\\n4, 5 6 7'))")
    assert done.returncode == 0, done.stderr
    assert "'0.50', '3.17'" in done.stdout
    assert "'3.00', '0.85'" in done.stdout


@pytest.mark.parametrize("text", ["", "1 two", "nan"])
def test_the_page_says_what_it_cannot_read(text: str) -> None:
    import importlib.util

    spec = importlib.util.spec_from_file_location("space_app", Path(metric_path()) / "app.py")
    assert spec is not None and spec.loader is not None
    app = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(app)
    with pytest.raises(InputError, match="^canaries: must be (finite )?numbers, got "):
        app.table(text, "1 2")


def test_the_space_is_whole() -> None:
    folder = Path(metric_path())
    assert folder.name == "exposure"
    assert {"exposure.py", "app.py", "requirements.txt", "README.md"} <= {path.name for path in folder.iterdir()}
    card = yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])
    assert card["sdk"] == "gradio"
    assert (folder / card["app_file"]).is_file()
    assert {"evaluate", "metric"} <= set(card["tags"])
    assert len(card["title"]) <= 60
