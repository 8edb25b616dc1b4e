"""The page of a recorded training run, its files and the command agree with the record."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dynamics_samples import CLASSES, EXAMPLES, MEASUREMENTS, write_run

from hf_exposure.errors import InputError
from hf_exposure.records.dynamics import DynamicsStore
from hf_exposure.report.dynamics import cleanlab_input, dynamics_of, headline, read_dynamics, save_dynamics, summary


def test_the_summary_is_that_of_the_record(tmp_path: Path) -> None:
    record = write_run(tmp_path)
    found = read_dynamics(tmp_path)
    values = summary(found)
    noisy_N = record.noisy_N
    # By hand: the margins of noisy examples are -1.5, -4.5, .5, -2.5, 2.5, -.5, so all are right at the third.
    assert values["forgetting_events_noisy"] == 2.0 and values["forgetting_events_clean"] == 0.0
    assert values["last_noisy_accuracy"] == 0.0 and values["last_clean_accuracy"] == 1.0
    assert values["unforgettable_fraction"] == (~noisy_N).mean() and values["fit_at_step"] == 20.0
    assert values["noise_found_by_margin"] == 1.0
    assert sorted(values["lowest_margins"][:8]) == np.flatnonzero(noisy_N).tolist()
    assert values["best_validation_step"] == 20.0 and values["last_validation_accuracy"] == pytest.approx(0.6)
    assert values["noisy_accuracy_at_best"] == 1.0
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert "Of 8 noisy examples, 0% are memorized (clean: 100% right)" in headline(found)


def test_the_files_for_people_and_for_cleanlab(tmp_path: Path) -> None:
    record = write_run(tmp_path / "run")
    found = dynamics_of(record)
    written = save_dynamics(found, tmp_path / "page")
    names = {path.name for path in written}
    assert names == {path.name for path in (tmp_path / "page").iterdir()} and "dynamics.html" in names
    with (tmp_path / "page" / "examples.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["forgetting_events"]) for row in rows] == found.events.counts_N.tolist()
    assert [float(row["area_under_margin"]) for row in rows] == pytest.approx(record.margin_TN.mean(axis=0), rel=1e-5)
    labels, probabilities = (
        np.load(tmp_path / "page" / name) for name in ("cleanlab_labels.npy", "cleanlab_pred_probs.npy")
    )
    # Requirements of cleanlab.filter.find_label_issues for its arguments.
    assert labels.shape == (EXAMPLES,) and labels.dtype.kind == "i" and set(labels) == set(range(CLASSES))
    assert probabilities.shape == (EXAMPLES, CLASSES) and np.allclose(probabilities.sum(axis=1), 1.0)
    assert probabilities.min() >= 0 and probabilities.max() <= 1
    np.testing.assert_allclose(probabilities[range(EXAMPLES), labels], found.map.confidence_N, rtol=1e-5)
    page = (tmp_path / "page" / "dynamics.html").read_text()
    assert page.count("<img") == 3 and "cleanlab_pred_probs.npy" in page and "Content-Security-Policy" in page


def test_a_record_until_a_step(tmp_path: Path) -> None:
    record = write_run(tmp_path)
    early = record.until(29)
    assert early.steps_T.tolist() == [0.0, 10.0, 20.0] and early.noisy_N is record.noisy_N
    for name in ("epochs_T", "loss_bits_TN", "probability_TN", "correct_TN", "margin_TN", "class_probability_TNC"):
        np.testing.assert_array_equal(getattr(early, name), getattr(record, name)[:3])
    assert {key: len(values) for key, values in early.figures_T.items()} == dict.fromkeys(record.figures_T, 3)
    # By hand: the noisy margins are then -1.5, -4.5 and 0.5, and their draw of noise is below 0.1.
    assert summary(dynamics_of(early))["last_noisy_accuracy"] == 1.0
    with pytest.raises(InputError, match="of step 0"):
        record.until(-1)


def test_cleanlab_reads_the_files(tmp_path: Path) -> None:
    """A quarter of the rows have a wrong label; the network gives it 1/10 to 3/10, and the rest to the true one."""
    pytest.importorskip("cleanlab")
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    record = write_run(tmp_path / "run")
    generator, wrong_N = np.random.default_rng(1), np.arange(EXAMPLES) % 4 == 1
    true_N = (record.label_N + wrong_N) % CLASSES
    classes = np.full((MEASUREMENTS, EXAMPLES, CLASSES), 0.0)
    low_TN = generator.uniform(0.1, 0.3, size=(MEASUREMENTS, EXAMPLES))
    classes[:, np.arange(EXAMPLES), (true_N + 1) % CLASSES] = low_TN / 2
    classes[:, np.arange(EXAMPLES), (true_N + 2) % CLASSES] = low_TN / 2
    classes[:, np.arange(EXAMPLES), true_N] = 1 - low_TN
    record = replace(record, class_probability_TNC=classes)
    save_dynamics(dynamics_of(record), tmp_path / "page")
    labels, pred_probs = (np.load(tmp_path / "page" / f"cleanlab_{name}.npy") for name in ("labels", "pred_probs"))
    found = find_label_issues(labels, pred_probs, return_indices_ranked_by="self_confidence", n_jobs=1)
    assert sorted(found.tolist()) == np.flatnonzero(wrong_N).tolist()
    own = classes.mean(axis=0)[np.arange(EXAMPLES), labels]
    assert found.tolist() == sorted(found.tolist(), key=lambda row: own[row])
    np.testing.assert_allclose(get_label_quality_scores(labels, pred_probs), own, atol=1e-6)


@pytest.mark.parametrize("noise", [True, False])
def test_tokens_of_a_language_model(noise: bool, tmp_path: Path) -> None:
    found = dynamics_of(write_run(tmp_path / "run", tokens=True, noise=noise))
    assert cleanlab_input(found.record) is None and found.record.unit == "tokens"
    written = {path.name for path in save_dynamics(found, tmp_path / "page")}
    assert not any(name.startswith("cleanlab") for name in written) and "data_map.png" in written
    values = summary(found)
    assert values["examples"] == 10 and len(values["exact_memorization"]) == MEASUREMENTS
    assert ("last_noisy_accuracy" in values) == noise


def test_another_number_of_examples_is_no_record(tmp_path: Path) -> None:
    write_run(tmp_path)
    short = {name: np.ones(3) for name in ("loss_bits", "probability", "correct", "margin")}
    DynamicsStore(tmp_path / "_dynamics").append(MEASUREMENTS, short)
    with pytest.raises(InputError, match="as many rows"):
        read_dynamics(tmp_path)
