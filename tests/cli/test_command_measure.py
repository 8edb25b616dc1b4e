"""`hf-exposure measure`."""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_runs import one_line, run
from conftest import tiny_model
from datasets import Dataset, DatasetDict, disable_progress_bars, load_dataset
from transformers import AutoModelForCausalLM, ByT5Tokenizer

from hf_exposure import CanarySet, ExposureReport, measure_exposure

disable_progress_bars()


@pytest.fixture(autouse=True)
def quiet_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


QUICK = ("--references", "64", "--method", "sample")


def measure(capsys: pytest.CaptureFixture[str], model: Path, canaries: Path, *more: object) -> Any:
    return run(capsys, "measure", "--model", model, "--canaries", canaries, *QUICK, *more)


def test_the_figures_are_those_of_the_library(
    tmp_path: Path, model_folder: Path, canary_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    done = measure(capsys, model_folder, canary_file, "--out", out)
    assert done.status == 0, done.err
    assert {"report.json", "report.html"} <= {path.name for path in out.iterdir()}
    canaries = CanarySet.load(canary_file)
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    direct = measure_exposure(model, ByT5Tokenizer(), canaries, method="sample", references=64)
    loaded = ExposureReport.load(out)
    assert [e.exposure_bits for e in loaded.estimates] == [e.exposure_bits for e in direct.estimates]
    assert (loaded.model["name"], loaded.model["dtype"]) == (str(model_folder), "float32")
    assert "once             2" in done.out and "held out         3" in done.out
    everything = done.out + done.err + (out / "report.json").read_text() + (out / "report.html").read_text()
    secrets = [canaries.template.parse(canary.text)["number"] for canary in canaries]
    assert not any(secret in everything for secret in [*secrets, str(canaries.seed), canaries.salt])


def test_json_is_the_report(model_folder: Path, canary_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = measure(capsys, model_folder, canary_file, "--json", "--dtype", "bfloat16", "--device", "cpu", "--seed", 5)
    report = ExposureReport.from_dict(json.loads(done.out))
    assert (report.model["dtype"], report.settings["seed"], report.dataset) == ("bfloat16", 5, {})


@pytest.mark.parametrize(("bits", "status"), [(30.0, 0), (0.0, 1), (-1.0, 1)])
def test_a_threshold_is_a_test(
    bits: float, status: int, tmp_path: Path, model_folder: Path, canary_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = measure(capsys, model_folder, canary_file, "--out", tmp_path / "run", "--fail-above", bits)
    assert done.status == status
    word = "above" if status else "within"
    assert f"hf-exposure: {word} the threshold of {bits:g} bits: mean exposure of canaries inserted" in done.err
    assert (tmp_path / "run" / "report.json").exists()


@pytest.mark.parametrize(
    ("means", "status"),
    [({1: 2.0, 64: 5.0}, 0), ({1: 6.0, 64: 2.0}, 1), ({1: 1.0, 64: math.nan}, 1), ({1: 5.0}, 0)],
)
def test_the_threshold_looks_at_the_most_exposed_count_and_what_is_undefined_crosses_it(
    means: dict[int, float], status: int
) -> None:
    import typer

    from hf_exposure.cli.measure import _gate
    from hf_exposure.records import ExposureEstimate

    rows = tuple(
        ExposureEstimate(
            canary_id=str(count), repetitions=count, log_perplexity_bits=1.0, exposure_bits=bits, low_bits=bits,
            high_bits=bits, method="sample",
        )
        for count, bits in {**means, 0: 29.0}.items()
    )  # fmt: skip
    report = ExposureReport(
        estimates=rows, template="", spaces={}, space_size=10**9, manifest_hash="", settings={"confidence_level": 0.95}
    )
    if status:
        with pytest.raises(typer.Exit) as stopped:
            _gate(report.with_run(threshold_bits=5.0))
        assert stopped.value.exit_code == 1
    else:
        _gate(report.with_run(threshold_bits=5.0))


def rows_of(canaries: CanarySet, repetitions: dict[str, int] | None = None) -> list[str]:
    """Texts of a training set: each inserted canary as often as requested; `repetitions` overrides counts by id."""
    wanted = {canary.id: canary.repetitions for canary in canaries.inserted} | (repetitions or {})
    held = [f"So {canary.text} it is." for canary in canaries for _ in range(wanted.get(canary.id, 0))]
    return [f"row {i}" for i in range(20)] + held


def written(texts: list[str], kind: str, folder: Path) -> Path:
    """A training set as people store it."""
    data = Dataset.from_dict({"text": texts})
    path = folder / {"jsonl": "train.jsonl", "csv": "train.csv", "parquet": "train.parquet"}.get(kind, "data")
    if kind in ("jsonl", "csv", "parquet"):
        getattr(data, {"jsonl": "to_json"}.get(kind, f"to_{kind}"))(path)
    elif kind == "chat":
        turns = [[{"role": "user", "content": "?"}, {"role": "assistant", "content": text}] for text in texts]
        DatasetDict({"train": Dataset.from_dict({"messages": turns}), "test": data.select([0])}).save_to_disk(path)
    elif kind == "tokens":
        data.map(lambda row: dict(ByT5Tokenizer()(row["text"])), remove_columns="text").save_to_disk(path)
    else:
        data.save_to_disk(path)
    return path


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "saved", "chat", "tokens"])
def test_the_training_data_are_read_for_the_canaries(
    kind: str, tmp_path: Path, model_folder: Path, canary_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    canaries = CanarySet.load(canary_file)
    first, *_, last = canaries.inserted
    cases: list[tuple[dict[str, int], str, int, tuple[int, ...]]] = [
        ({}, "valid", 0, (4, 4, 0)),
        ({last.id: 2}, "impaired", 0, (4, 4, 1)),
        ({canaries.controls[0].id: 1}, "impaired", 0, (4, 4, 0)),
        ({first.id: 0}, "invalid", 1, (3, 3, 0)),
        ({canary.id: 0 for canary in canaries.inserted}, "invalid", 1, (0, 0, 0)),
    ]
    if kind != "saved":
        cases = [cases[0], cases[-1]]
    for number, (changed, validity, status, counts) in enumerate(cases):
        folder = tmp_path / str(number)
        folder.mkdir()
        data = written(rows_of(canaries, changed), kind, folder)
        for threshold in ([], ["--fail-above", 30]):
            done = measure(capsys, model_folder, canary_file, "--dataset", data, "--json", *threshold)
            assert done.status == status, done.err
        values = json.loads(done.out)
        assert (values["validity"], values["dataset"]["name"]) == (validity, str(data))
        rows = values["dataset"]["rows"]
        assert rows == len(rows_of(canaries, changed))
        if data.is_file():
            digest = hashlib.sha256(data.read_bytes()).hexdigest()
            assert values["dataset"]["fingerprint"] == f"SHA-256 {digest}"
        assert values["outcome"] == ("invalid" if status else "pass")
        assert values["run"]["threshold_bits"] == 30
        assert values["run"]["command"].startswith("hf-exposure ")
        assert tuple(values["delivery"][name] for name in ("found", "trained", "reduced")) == counts
        said = f"INVALID: {counts[0]} of 4 inserted canaries were found in the training data."
        assert (said in done.err) == bool(status)
        assert ("hf-exposure: impaired: " in done.err) == (validity == "impaired")


def test_an_invalid_run_says_so_wherever_it_is_read(
    tmp_path: Path, model_folder: Path, canary_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = written([f"row {i}" for i in range(20)], "jsonl", tmp_path)
    done = measure(capsys, model_folder, canary_file, "--dataset", data, "--out", tmp_path / "run")
    said = "INVALID: 0 of 4 inserted canaries were found in the training data."
    assert done.status == 1 and done.out.startswith(said) and f"hf-exposure: {said}" in done.err
    assert "No verdict" in done.out and "memorized canaries" not in done.out and "memorization" not in done.out
    assert f'class="verdict invalid">{said}<' in (tmp_path / "run" / "report.html").read_text()
    again = run(capsys, "report", tmp_path / "run", "--out", tmp_path / "page")
    assert again.status == 1 and again.out.startswith(said) and said in again.err
    # In a comparison with a valid run there is no finding, and no page that could be read as one.
    assert measure(capsys, model_folder, canary_file, "--out", tmp_path / "other").status == 0
    both = run(capsys, "report", tmp_path / "run", tmp_path / "other", "--out", tmp_path / "both")
    assert (both.status, both.out) == (1, "") and f"run: {said} It is not compared." in both.err
    assert not (tmp_path / "both").exists()


def test_a_run_whose_training_data_nobody_named_is_unchecked(
    model_folder: Path, canary_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = json.loads(measure(capsys, model_folder, canary_file, "--json").out)
    assert (values["validity"], values["delivery"]) == ("unchecked", None)
    # A gate that passes such a run says what is unknown.
    done = measure(capsys, model_folder, canary_file, "--fail-above", 30)
    assert done.status == 0 and "warning: it was not checked that the canaries were trained on: name the " in done.err


def test_the_training_data_is_named_and_must_hold_these_canaries(
    tmp_path: Path, model_folder: Path, canary_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    canaries = CanarySet.load(canary_file)
    data = written(rows_of(canaries), "saved", tmp_path)
    record = {"name": "news", "seed": 3, "manifest_hash": canaries.manifest_hash}
    (data / "exposure_insertion.json").write_text(json.dumps(record))
    named = ExposureReport.from_dict(
        json.loads(measure(capsys, model_folder, canary_file, "--dataset", data, "--json").out)
    )
    assert {name: named.dataset[name] for name in record} == record
    assert named.dataset["rows"] == len(rows_of(canaries))
    before = named.dataset["fingerprint"]
    (data / "more.arrow").write_bytes(b"x")
    after = json.loads(measure(capsys, model_folder, canary_file, "--dataset", data, "--json").out)
    assert after["dataset"]["fingerprint"] != before
    (data / "exposure_insertion.json").write_text(json.dumps({**record, "manifest_hash": "00"}))
    done = measure(capsys, model_folder, canary_file, "--dataset", data)
    one_line(done, "--dataset: must hold the canaries of --canaries; others were inserted")


def test_secrets_are_in_the_report_only_if_typed(
    tmp_path: Path, model_folder: Path, canary_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert measure(capsys, model_folder, canary_file, "--out", tmp_path / "r", "--include-secrets").status == 0
    values = json.loads((tmp_path / "r" / "report.json").read_text())
    assert values["secrets"] == {canary.id: canary.text for canary in CanarySet.load(canary_file)}
    assert (tmp_path / "r" / "report.json").stat().st_mode & 0o777 == 0o600


def test_a_base_model_is_measured_too(
    model_folder: Path, canary_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = measure(capsys, model_folder, canary_file, "--base-model", model_folder, "--json")
    rows = json.loads(done.out)["estimates"]
    assert [row["base_exposure_bits"] for row in rows] == [row["exposure_bits"] for row in rows]


def test_an_adapter_is_measured_on_its_base(
    tmp_path: Path, model_folder: Path, canary_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    peft = pytest.importorskip("peft")
    base = AutoModelForCausalLM.from_pretrained(model_folder)
    config = peft.LoraConfig(
        task_type="CAUSAL_LM", target_modules=["c_attn"], fan_in_fan_out=True, init_lora_weights=False
    )
    adapted = peft.get_peft_model(base, config)
    adapted.save_pretrained(tmp_path / "lora")
    done = measure(capsys, tmp_path / "lora", canary_file, "--tokenizer", model_folder, "--json")
    assert done.status == 0, done.err
    direct = measure_exposure(adapted, ByT5Tokenizer(), CanarySet.load(canary_file), method="sample", references=64)
    costs = [row["log_perplexity_bits"] for row in json.loads(done.out)["estimates"]]
    assert costs == pytest.approx([e.log_perplexity_bits for e in direct.estimates], abs=1e-3)


def test_ctrl_c_leaves_no_folder_and_says_what_to_type(
    tmp_path: Path, model_folder: Path, canary_file: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def stop(*arguments: object, **more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hf_exposure.measures.measure_exposure", stop)
    done = measure(capsys, model_folder, canary_file, "--out", tmp_path / "a b")
    assert done.status == 130
    assert f"--out '{tmp_path}/a b'" in done.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--model": "./no-such-folder"}, "--model: must be a folder that exists, got './no-such-folder'"),
        ({"--model": "{tmp}/empty"}, "--model: must be a folder with a config.json or adapter_config.json"),
        ({"--model": "{tmp}/cut.json"}, "--model: must be a folder that exists"),
        ({"--tokenizer": "{tmp}/empty"}, "--tokenizer: must be a folder with a tokenizer"),
        ({"--model": "{tmp}/empty", "--tokenizer": "{model}"}, "--model: must be a folder with a config.json"),
        ({"--canaries": "{tmp}/cut.json"}, "--canaries: must be complete JSON"),
        ({"--canaries": "{tmp}/newer.json"}, "--canaries, version: must be at most 1, what hf-exposure"),
        ({"--method": "guess"}, "method: must be one of auto, enumerate"),
        ({"--references": "0"}, "references: must be a whole number of at least 1"),
        # No value exceeds NaN or infinity: such a gate would never fail.
        ({"--fail-above": "nan"}, "--fail-above: must be a finite number, got nan"),
        ({"--fail-above": "inf"}, "--fail-above: must be a finite number, got inf"),
        ({"--dtype": "int3"}, "--dtype"),
        ({"--device": "qpu"}, "--device: must be a device of this machine"),
        ({"--out": "{tmp}/full"}, "--out: must not exist yet"),
        ({"--out": "{tmp}/cut.json/x"}, "--out: must be a folder that can be made ("),
        # Refused before a model is loaded, since the measurement may take an hour.
        ({"--out": "{tmp}/cut.json/x", "--model": "./no-such-folder"}, "--out: must be a folder that can be made ("),
        ({"--dataset": "{tmp}/nosuch"}, "--dataset: must be a file or folder that exists"),
        ({"--dataset": "nosuch.jsonl"}, "--dataset: must be a file or folder that exists"),
        # The name is looked up on the Hub, which no test can reach.
        ({"--dataset": "me/nosuch"}, "--dataset: must be a data set that loads ("),
        ({"--dataset": "{tmp}/empty"}, "--dataset: must be a folder with a data set"),
        ({"--dataset": "{tmp}/cut.parquet"}, "--dataset: must be a data set that"),
        ({"--dataset": "{tmp}/full"}, "--dataset: must have a complete exposure_insertion.json"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_bad_input(
    change: dict[str, str], message: str, tmp_path: Path, model_folder: Path, canary_file: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "exposure_insertion.json").write_text("{")
    (tmp_path / "cut.json").write_text(canary_file.read_text()[:200])
    (tmp_path / "newer.json").write_text(json.dumps({**json.loads(canary_file.read_text()), "version": 99}))
    typed = {"--model": str(model_folder), "--canaries": str(canary_file), "--references": "64"}
    places = {"{tmp}": tmp_path, "{model}": model_folder}
    for key, value in change.items():
        for mark, place in places.items():
            value = value.replace(mark, str(place))
        typed[key] = value
    one_line(run(capsys, "measure", *(part for pair in typed.items() for part in pair)), message)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission(
    tmp_path: Path, model_folder: Path, canary_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tmp_path.chmod(0o500)
    one_line(measure(capsys, model_folder, canary_file, "--out", tmp_path / "x"), "--out: must be a folder that can")


def test_the_bar_counts_calls_on_a_terminal_and_is_gone_elsewhere(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from hf_exposure.runtime.progress import calls_shown

    model = tiny_model("lstm")
    inputs = ByT5Tokenizer()("ab", return_tensors="pt").input_ids
    for is_terminal in (True, False):
        monkeypatch.setattr(sys.stderr, "isatty", lambda shown=is_terminal: shown, raising=False)
        with calls_shown(model, "measuring"):
            model(inputs)
        assert ("measuring" in capsys.readouterr().err) == is_terminal
        assert not model._forward_hooks


@pytest.mark.parametrize("command", ["measure", "insert", "insert --stream"])
def test_an_error_about_a_row_with_a_canary_does_not_quote_it(
    command: str, tmp_path: Path, model_folder: Path, canary_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A column changes from numbers to texts after the first 10 MB: new versions of datasets quote that text."""
    text = CanarySet.load(canary_file).inserted[0].text
    rows = [{"text": "x" * 200_000, "n": 1}] * 60 + [{"text": "row", "n": text}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    typed = ("--dataset", tmp_path / "rows.jsonl")
    if command == "measure":
        done = measure(capsys, model_folder, canary_file, *typed)
    else:
        more = ("--stream", "--num-rows", 61) if "--stream" in command else ()
        done = run(capsys, "insert", "--canaries", canary_file, *typed, "--out", tmp_path / "new", *more)
    with pytest.raises(Exception) as own:
        load_dataset("json", data_files=str(tmp_path / "rows.jsonl"), cache_dir=str(tmp_path / "cache"))
    causes = (own.value, own.value.__cause__, own.value.__context__)
    is_quoted = any(text in str(cause) for cause in causes)
    one_line(done, "its message is withheld because it quotes canary " if is_quoted else "must be a data set that ")
    assert text.split()[-1].strip(".") not in done.err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("stream", [False, True])
def test_damaged_rows_are_bad_input(
    stream: bool, tmp_path: Path, canary_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "row"}\n' * 30 + '{"text": "ro')
    more = ("--stream", "--num-rows", 31) if stream else ()
    typed = ("--dataset", tmp_path / "rows.jsonl", "--canaries", canary_file, "--out", tmp_path / "new", *more)
    # Depending on the version of datasets, a stream is found damaged when it is opened or when its end is read.
    rule = "must be a data set that " if stream else "must be a data set that loads ("
    one_line(run(capsys, "insert", *typed), f"--dataset: {rule}")
