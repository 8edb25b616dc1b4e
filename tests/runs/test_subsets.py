"""The engine of many trainings: masks, the store, kills, several processes, and bad input."""

from __future__ import annotations

import stat
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pandas
import pyarrow.dataset
import pytest
import torch
from datasets import Dataset, DatasetDict
from torch import nn
from transformers import (
    ByT5Tokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    PretrainedConfig,
    PreTrainedModel,
    TrainerCallback,
    TrainingArguments,
)

from hf_exposure import TrainerRecipe, draw_subsets, load_subset_runs, run_subsets
from hf_exposure.errors import InputError
from hf_exposure.estimators import Undefined
from hf_exposure.estimators.membership import loss
from hf_exposure.files import one_writer
from hf_exposure.runs import RunFailedError, TextScore, seed_of_run
from hf_exposure.runs.subset_data import count_rows, hash_rows, take_rows
from hf_exposure.runs.text_score import token_accuracy

ROWS = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 30.0])
MASKS = draw_subsets(6, 8)


def mean(subset):
    """A "model": the mean of its rows, plus noise that depends on the seed."""
    return float(np.mean(subset)) + 1e-3 * np.random.rand()


def closeness(model, rows):
    return -np.abs(np.asarray(rows) - model)


def done(store, train=mean, **options):
    return run_subsets(
        train, ROWS, MASKS, store=store, **{"score": closeness, "progress": False, "seed": 5, **options}
    )


@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize(
    "rows, models, share", [(10, 4, 0.5), (7, 9, 0.7), (11, 30, 0.25), (5, 3, 0.01), (5, 3, 0.99)]
)
def test_masks_have_exact_sizes(rows, models, share, balanced):
    masks = draw_subsets(rows, models, share, seed=3, balanced=balanced)
    assert masks.shape == (models, rows) and masks.dtype == bool
    assert set(masks.sum(1)) == {min(max(round(share * rows), 1), rows - 1)}
    assert (masks == draw_subsets(rows, models, share, seed=3, balanced=balanced)).all()
    assert (masks != draw_subsets(rows, models, share, seed=4, balanced=balanced)).any()


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
def test_balanced_masks_deal_each_row_as_often_as_any_other(share):
    masks = draw_subsets(40, 60, share, seed=1)
    for models in range(1, 61):
        assert np.ptp(masks[:models].sum(0)) <= 1
    # Each row is in a given model with that probability, and two rows are nearly independent.
    first = np.array([draw_subsets(40, 3, share, seed=seed)[2] for seed in range(600)])
    assert first.mean(0) == pytest.approx(round(40 * share) / 40, abs=0.08)


def test_scores_are_those_of_models_trained_on_the_masked_rows(tmp_path):
    test = np.array([1.5, 10.0])
    runs = done(tmp_path / "runs", test=test)
    for run in range(8):
        np.random.seed(seed_of_run(5, run))
        model = mean(ROWS[MASKS[run]])
        assert runs.scores_MN[run] == pytest.approx(-np.abs(ROWS - model))
        assert runs.test_scores_MK[run] == pytest.approx(-np.abs(test - model))
    assert (runs.included_MN == MASKS).all() and runs.missing == [] and runs.undefined == {}
    assert runs.influence().shape == (6, 2)
    assert len({seed_of_run(5, run) for run in range(1000)}) == 1000
    table = pyarrow.dataset.dataset(sorted((tmp_path / "runs").glob("run-*.arrow")), format="arrow").to_table()
    assert np.array(table["scores"].to_pylist()).tolist() == runs.scores_MN.tolist()
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "runs").iterdir()}
    assert modes == {0o600} and stat.S_IMODE((tmp_path / "runs").stat().st_mode) == 0o700


def test_it_continues_where_it_was_and_any_order_gives_the_same(tmp_path):
    whole, trained = done(tmp_path / "whole"), []

    def watched(subset):
        trained.append(len(subset))
        return mean(subset)

    assert done(tmp_path / "parts", watched, index=6).missing == [0, 1, 2, 3, 4, 5, 7]
    assert done(tmp_path / "parts", watched, index=[1, 6]).runs_M.tolist() == [1, 6]
    assert len(trained) == 2
    parts = done(tmp_path / "parts", watched)
    assert len(trained) == 8
    assert (parts.scores_MN == whole.scores_MN).all()
    assert (load_subset_runs(tmp_path / "parts").scores_MN == whole.scores_MN).all()


def test_the_callers_random_states_are_left_alone(tmp_path):
    np.random.seed(1), torch.manual_seed(1)
    wanted = np.random.rand(), torch.rand(()).item()
    np.random.seed(1), torch.manual_seed(1)
    done(tmp_path / "runs")
    assert (np.random.rand(), torch.rand(()).item()) == wanted


def test_a_run_that_fails_stops_no_other_and_is_tried_again(tmp_path):
    broken = True

    def train(subset):
        if broken and 30.0 in subset:
            raise ValueError("no")
        return mean(subset)

    with pytest.raises(RunFailedError, match=r"4 runs failed: .*ValueError") as caught:
        done(tmp_path / "runs", train)
    assert set(caught.value.failures) == set(np.flatnonzero(MASKS[:, 5]).tolist())
    assert load_subset_runs(tmp_path / "runs").missing == sorted(caught.value.failures)
    place = f"ValueError in {Path(__file__).name}, line {train.__code__.co_firstlineno + 2}"
    assert {*caught.value.failures.values()} == {place}
    broken = False
    assert (done(tmp_path / "runs", train).scores_MN == done(tmp_path / "whole").scores_MN).all()


def test_a_library_that_exits_fails_its_run_alone(tmp_path):
    def train(subset):
        return sys.exit(1) if 30.0 in subset else mean(subset)

    with pytest.raises(RunFailedError, match="4 runs failed: .*SystemExit"):
        done(tmp_path / "runs", train)
    assert len(load_subset_runs(tmp_path / "runs").runs_M) == 4


def test_more_failures_than_are_shown_are_counted(tmp_path):
    with pytest.raises(RunFailedError, match=r"8 runs failed: 0 \(.*, 4 \(ZeroDivisionError [^)]*\) and 3 more\."):
        done(tmp_path / "runs", lambda subset: 1 / 0)


@pytest.mark.parametrize("statistic", [token_accuracy, loss])
def test_a_text_model_that_diverged_is_recorded_and_not_tried_again(tmp_path, statistic):
    rows, trained = Dataset.from_dict({"text": ["one line", "two lines", "a third", "and more"]}), []

    def train(subset):
        model = GPT2LMHeadModel(GPT2Config(vocab_size=384, n_layer=1, n_head=2, n_embd=8, n_positions=32))
        trained.append(model)
        if len(trained) == 2:
            nn.init.constant_(model.transformer.wte.weight, np.nan)
        return model

    options = {"store": tmp_path / "runs", "score": TextScore(ByT5Tokenizer(), statistic), "progress": False}
    for _ in range(2):
        runs = run_subsets(train, rows, draw_subsets(4, 3), **options)
        assert {run: "NaN" in reason for run, reason in runs.diverged.items()} == {1: True}
        assert len(trained) == 3 and runs.runs_M.tolist() == [0, 2] and np.isfinite(runs.scores_MN).all()


def test_two_commands_that_begin_a_store_take_turns(tmp_path):
    with one_writer(tmp_path):
        other = threading.Thread(target=done, args=(tmp_path,), kwargs={"index": 0})
        other.start()
        other.join(0.5)
        assert other.is_alive() and not list(tmp_path.iterdir())
    other.join()
    assert load_subset_runs(tmp_path).runs_M.tolist() == [0]


def test_a_diverged_run_is_recorded_with_its_reason_and_left_out(tmp_path):
    def score(model, rows):
        return np.where(np.asarray(rows) == 30.0, np.nan, 0.0) if model > 6 else closeness(model, rows)

    runs = done(tmp_path / "runs", score=score)
    with_30 = np.flatnonzero(MASKS[:, 5]).tolist()
    assert set(runs.diverged) == set(with_30)
    assert all(reason == "1 of 6 scores are not finite" for reason in runs.diverged.values())
    assert runs.missing == [] and np.isfinite(runs.scores_MN).all()
    assert runs.undefined[5] is Undefined.never_included
    assert np.isnan(runs.memorization().memorization_N[5])


def test_rows_that_are_in_every_subset_are_undefined(tmp_path):
    masks = MASKS.copy()
    masks[:, 0] = True
    runs = run_subsets(mean, ROWS, masks, store=tmp_path / "runs", score=closeness, progress=False)
    assert runs.undefined == {0: Undefined.never_held_out}
    assert np.isnan(runs.memorization().memorization_N).tolist() == [True] + [False] * 5


def test_a_store_of_other_masks_data_test_set_or_seed_is_refused(tmp_path):
    done(tmp_path / "runs", index=0)
    base = {"train": mean, "dataset": ROWS, "masks": MASKS, "score": closeness, "seed": 5, "progress": False}
    for changed, start, end in (
        ({"masks": draw_subsets(6, 8, seed=1)}, "masks: must be those", ", got 'another'. Pass the original masks"),
        (
            {"masks": draw_subsets(6, 9)},
            "masks: must have the number of models",
            ", 8, got 9. Pass the original masks",
        ),
        ({"dataset": ROWS + 1e-12}, "dataset: must be the one", ", got 'another'"),
        ({"dataset": ROWS[:5], "masks": MASKS[:, :5]}, "dataset: must have the number of rows", ", 6, got 5"),
        ({"test": ROWS}, "test: must have the number of rows", ", got 'another'"),
        ({"seed": 6}, "seed: must be the one", ", 5, got 6"),
        ({"data_id": "mine"}, "dataset: must be the one", ", got 'another'"),
    ):
        with pytest.raises(InputError, match=f"^{start} that the store '.*runs' was begun with{end}"):
            run_subsets(store=tmp_path / "runs", **{**base, **changed})
    assert len(list((tmp_path / "runs").glob("run-*"))) == 1


def test_damaged_and_missing_stores_are_named(tmp_path):
    with pytest.raises(InputError, match="^store: must be a folder that run_subsets wrote"):
        load_subset_runs(tmp_path)
    done(tmp_path / "runs", index=[0, 1])
    (tmp_path / "runs" / "run-000001.arrow").write_bytes(b"ARROW1")
    with pytest.raises(InputError, match="run-000001.arrow.*will be repeated"):
        load_subset_runs(tmp_path / "runs")
    (tmp_path / "runs" / "run-000001.arrow").unlink()
    assert load_subset_runs(tmp_path / "runs").runs_M.tolist() == [0]
    np.save(tmp_path / "runs" / "masks.npy", ~MASKS)
    with pytest.raises(InputError, match="damaged masks"):
        load_subset_runs(tmp_path / "runs")


@pytest.mark.parametrize(
    "options, argument",
    [
        ({"train": None}, "train"),
        ({"score": 3}, "score"),
        ({"score": lambda model, rows: [0.0]}, "score"),
        ({"score": lambda model, rows: ["a"] * 6}, "score"),
        ({"masks": MASKS[:, :4]}, "masks"),
        ({"masks": np.zeros((3, 6))}, "masks"),
        ({"masks": [True] * 6}, "masks"),
        ({"dataset": iter([1, 2])}, "dataset"),
        ({"dataset": []}, "dataset"),
        ({"dataset": DatasetDict(train=Dataset.from_dict({"x": range(6)}))}, "dataset: must be one .*'train'"),
        ({"dataset": (ROWS, ROWS[:3])}, "dataset"),
        ({"index": 8}, "index"),
        ({"index": "0"}, "index"),
        ({"n_jobs": 0}, "n_jobs"),
        ({"backend": 3}, "backend"),
        ({"data_id": 3}, "data_id"),
    ],
)
def test_wrong_arguments_are_named(tmp_path, options, argument):
    given = {"train": mean, "dataset": ROWS, "masks": MASKS, "score": closeness, "progress": False} | options
    with pytest.raises(InputError, match=f"^{argument}"):
        run_subsets(store=tmp_path / "runs", **given)
    assert not list(tmp_path.glob("runs/run-*"))


@pytest.mark.parametrize(
    "call",
    [
        lambda: draw_subsets(1, 2),
        lambda: draw_subsets(4, 0),
        lambda: draw_subsets(4, 2, 1.0),
        lambda: draw_subsets(4, 2, seed=-1),
        lambda: draw_subsets(4, 2, True),
    ],
)
def test_draws_refuse_wrong_numbers(call):
    with pytest.raises(InputError):
        call()


CONTAINERS = {
    "array": np.arange(10).reshape(5, 2),
    "tensor": torch.arange(5.0),
    "list": ["a", "b", "c", "d", "e"],
    "dataset": Dataset.from_dict({"text": list("abcde"), "label": range(5)}),
    "frame": pandas.DataFrame({"x": range(5)}),
    "tuple": (np.arange(5), list("abcde")),
    "dict": {"x": np.arange(5), "y": torch.arange(5)},
}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_rows_of_every_container(kind):
    data, rows = CONTAINERS[kind], np.array([1, 3])
    taken = take_rows(data, rows)
    assert (count_rows("dataset", data), count_rows("dataset", taken)) == (5, 2)
    assert type(taken) is type(data)
    other = take_rows(data, np.array([0, 1, 2, 3, 3]))
    assert hash_rows("dataset", data) == hash_rows("dataset", take_rows(data, np.arange(5)))
    assert hash_rows("dataset", data) != hash_rows("dataset", other)
    if kind == "dataset":
        assert taken["text"][:] == ["b", "d"]
    if kind == "tuple":
        assert taken[0].tolist() == [1, 3] and taken[1] == ["b", "d"]


def test_map_style_data_sets_of_torch():
    data = torch.utils.data.TensorDataset(torch.arange(4.0), torch.arange(4))
    taken = take_rows(data, np.array([2, 0]))
    assert [row[1].item() for row in taken] == [2, 0]
    assert hash_rows("dataset", data) == hash_rows("dataset", torch.utils.data.Subset(data, range(4)))


def test_tensors_of_numbers_that_numpy_lacks_are_told_apart():
    ones = torch.ones(3, 2, dtype=torch.bfloat16)
    other = ones.clone()
    other[2, 1] = 2.0
    assert hash_rows("dataset", ones) == hash_rows("dataset", ones.clone())
    assert len({hash_rows("dataset", each) for each in (ones, other, ones.reshape(2, 3), ones.half())}) == 4


def test_what_returns_no_rows_by_their_number_is_named(tmp_path):
    table = pyarrow.table({"x": range(6)})  # table[0] is a column
    with pytest.raises(InputError, match="^dataset: must return each of its rows by their number.*got 'Table'"):
        run_subsets(mean, table, MASKS, store=tmp_path / "runs", score=closeness, progress=False)


def test_rows_that_cannot_be_hashed_need_a_name(tmp_path):
    rows = [object() for _ in range(6)]
    options = {"store": tmp_path / "runs", "progress": False, "score": lambda model, rows: np.zeros(len(rows))}
    with pytest.raises(InputError, match="data_id"):
        run_subsets(len, rows, MASKS, **options)
    assert run_subsets(len, rows, MASKS, data_id="six objects", **options).missing == []


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_runs_side_by_side_give_the_same(tmp_path, backend):
    pytest.importorskip("joblib")
    # Runs in threads share the process's random generators.
    train = mean if backend == "loky" else np.mean
    one, many = done(tmp_path / "one", train), done(tmp_path / "many", train, n_jobs=2, backend=backend)
    assert (one.scores_MN == many.scores_MN).all()
    with pytest.raises(RunFailedError, match="ZeroDivisionError"):
        done(tmp_path / "failing", lambda subset: 1 / 0, n_jobs=2, backend=backend)


JOB = """
import sys, time
import numpy as np
from hf_exposure import draw_subsets, run_subsets

def train(subset):
    time.sleep(0.3)
    return float(np.mean(subset)) + 1e-3 * np.random.rand()

rows, masks = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 30.0]), draw_subsets(6, 8)
run_subsets(train, rows, masks, store=sys.argv[1], seed=5, score=lambda model, rows: -np.abs(rows - model))
"""


def test_a_kill_loses_the_run_that_was_under_way_and_no_other(tmp_path):
    command = [sys.executable, "-c", JOB, str(tmp_path / "runs")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        limit = time.monotonic() + 120
        while len(list((tmp_path / "runs").glob("run-*"))) < 2:
            assert process.poll() is None and time.monotonic() < limit
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("run-*")}
    assert 2 <= len(before) < 8
    found = done(tmp_path / "runs")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert found.scores_MN == pytest.approx(done(tmp_path / "whole").scores_MN)


def test_processes_of_one_run_write_once(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert done(tmp_path / "runs", index=0).runs_M.tolist() == []
    monkeypatch.setenv("RANK", "0")
    assert done(tmp_path / "runs", index=0).runs_M.tolist() == [0]
    for name, value in {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="^n_jobs"):
        done(tmp_path / "runs", n_jobs=2)
    # A process that continued after a failure would join the others in a different run, or wait for them forever.
    with pytest.raises(RunFailedError) as caught:
        done(tmp_path / "runs", lambda subset: 1 / 0)
    assert [*caught.value.failures] == [1]


class Config(PretrainedConfig):
    model_type = "subset-test"


class Classifier(PreTrainedModel):
    config_class = Config

    def __init__(self, config):
        super().__init__(config)
        self.linear = nn.Linear(2, 2)
        self.post_init()

    def _init_weights(self, module):
        pass

    def forward(self, x, labels=None):
        logits = self.linear(x)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits}


def test_a_trainer_trains_each_model_with_the_runs_seed(tmp_path):
    generator = np.random.default_rng(0)
    labels = generator.integers(2, size=20)
    data = Dataset.from_dict(
        {"x": (labels[:, None] + 0.3 * generator.normal(size=(20, 2))).tolist(), "labels": labels}
    )
    seen = []

    def model_init():
        model = Classifier(Config())
        seen.append(model.linear.weight.detach().clone())
        return model

    def score(model, rows):
        with torch.no_grad():
            logs = model(torch.tensor(rows["x"][:]))["logits"].log_softmax(1)
        return logs[torch.arange(len(rows)), torch.tensor(rows["labels"][:])]

    args = TrainingArguments(
        str(tmp_path / "out"), num_train_epochs=20, learning_rate=0.1, save_strategy="no", report_to="none",
        use_cpu=True, disable_tqdm=True, logging_strategy="no", dataloader_pin_memory=False,
    )  # fmt: skip
    recipe = TrainerRecipe(model_init, args)
    masks = draw_subsets(20, 2)
    options = {"score": score, "progress": False}
    runs = run_subsets(recipe, data, masks, store=tmp_path / "runs", **options)
    assert not torch.equal(seen[0], seen[1])
    again = run_subsets(recipe, data, masks, store=tmp_path / "again", **options, index=1)
    assert (again.scores_MN[0] == runs.scores_MN[1]).all()
    # The model learned: chance level is log(1/2).
    assert runs.scores_MN.mean() > np.log(0.5) / 2
    assert args.seed == 42
    with pytest.raises(InputError, match="^model_init"):
        TrainerRecipe(Classifier(Config()), args)
    with pytest.raises(InputError, match="^args"):
        TrainerRecipe(model_init, None)
    with pytest.raises(InputError, match="^train_dataset"):
        TrainerRecipe(model_init, args, train_dataset=data)


class StopsAfterSteps(TrainerCallback):
    """Counts over all training runs that it sees."""

    steps = 0

    def on_step_end(self, args, state, control, **others):
        self.steps += 1
        control.should_training_stop = self.steps >= 5
        return control


def test_a_callback_carries_nothing_from_one_run_into_the_next(tmp_path):
    data = Dataset.from_dict({"x": np.eye(2).tolist() * 10, "labels": [0, 1] * 10})
    args = TrainingArguments(
        str(tmp_path / "out"), learning_rate=0.1, save_strategy="no", report_to="none", use_cpu=True,
        disable_tqdm=True, logging_strategy="no", dataloader_pin_memory=False,
    )  # fmt: skip

    def score(model, rows):
        return model(torch.tensor(rows["x"][:]))["logits"][:, 0]

    def runs(store, **index):
        recipe = TrainerRecipe(lambda: Classifier(Config()), args, callbacks=[StopsAfterSteps()])
        return run_subsets(recipe, data, draw_subsets(20, 3), store=store, score=score, progress=False, **index)

    assert (runs(tmp_path / "all").scores_MN[2] == runs(tmp_path / "one", index=2).scores_MN[0]).all()
    recipe = TrainerRecipe(lambda: Classifier(Config()), args, callbacks=[threading.Lock()])
    with pytest.raises(InputError, match="^callbacks: must be something that can be copied"):
        recipe(data)
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
    with pytest.raises(InputError, match="^optimizers.*optimizer_cls_and_kwargs"):
        TrainerRecipe(lambda: Classifier(Config()), args, optimizers=(optimizer, None))


@pytest.mark.slow
def test_ray_runs_them_too(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    # Where the cores are busy a worker takes minutes to import torch, and ray would begin another.
    monkeypatch.setenv("RAY_worker_register_timeout_seconds", "600")
    ray = pytest.importorskip("ray")
    ray_joblib = pytest.importorskip("ray.util.joblib")
    pytest.importorskip("joblib")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ray's own warnings, on files and processes
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        # Workers cannot import this file by its name.
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        try:
            ray_joblib.register_ray()
            many = done(tmp_path / "many", n_jobs=2, backend="ray")
        finally:
            ray.shutdown()
    assert (many.scores_MN == done(tmp_path / "one").scores_MN).all()


@pytest.mark.slow
def test_dask_runs_them_too(tmp_path):
    distributed = pytest.importorskip("distributed")
    pytest.importorskip("joblib")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # dask's own warnings, on ports and sockets
        cluster = distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
        with cluster, distributed.Client(cluster):
            many = done(tmp_path / "many", n_jobs=2, backend="dask")
    assert (many.scores_MN == done(tmp_path / "one").scores_MN).all()


def test_paths_may_be_strings(tmp_path):
    assert done(str(tmp_path / "runs"), index=0).runs_M.tolist() == [0]
    assert Path(tmp_path / "runs" / "store.json").exists()
