"""Status 1 is a verdict: failures must not end with it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from cli_runs import one_line, run, start_interruptible
from typer import Exit

from hf_exposure import CanarySet
from hf_exposure.records import ExposureEstimate, ExposureReport, ReferenceCosts
from hf_exposure.records.exposure_report import report_schema

DRAW = ("draw", "--template", "pin {pin}.", "--space", "pin=digits:4", "--repetitions", "1:2")
SECRET = "number 593817."
UNREADABLE = {"deep": "[" * 60 + "]" * 60, "deeper": "[" * 5000 + "]" * 5000, "long": "9" * 5000}


def drawing(*change: str) -> list[str]:
    """The command line of a draw in which one option is replaced or added."""
    options = {**dict(zip(DRAW[1::2], DRAW[2::2], strict=True)), **dict([change] if change else [])}
    return ["draw", *(word for option in options.items() for word in option)]


@pytest.fixture
def report_folder(tmp_path: Path) -> Path:
    estimates = tuple(
        ExposureEstimate(
            canary_id=f"c{number}", repetitions=number % 2, log_perplexity_bits=20.0 + number, exposure_bits=2.0,
            low_bits=1.0, high_bits=3.0, method="sample",
        )
        for number in range(6)
    )  # fmt: skip
    report = ExposureReport(
        estimates=estimates, template="pin {pin}", spaces={"pin": "Digits(length=4)"}, space_size=10**4,
        manifest_hash="00", settings={"confidence_level": 0.95}, step=2,
    )  # fmt: skip
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps(report.to_dict()))
    return folder


@pytest.mark.parametrize(
    "kind", [RuntimeError, KeyError, RecursionError, AssertionError, ZeroDivisionError, SystemExit]
)
def test_an_unexpected_error_is_status_3(
    kind: type[BaseException], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*arguments: object, **more: object) -> None:
        raise kind(SECRET if kind is not SystemExit else 1)

    monkeypatch.setattr("hf_exposure.canaries.draw_canaries", fail)
    done = run(capsys, *DRAW, "--out", tmp_path / "c.json")
    assert done.status == 3
    assert done.out == "" and done.err.count("\n") == 1
    assert done.err.startswith(f"hf-exposure: unexpected failure: {kind.__name__} in test_exit_status.py, line ")
    assert "Add --debug" in done.err
    assert SECRET not in done.err


@pytest.mark.parametrize("place", [0, 1, -1])
def test_debug_shows_the_traceback_wherever_it_is_typed(
    place: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*arguments: object, **more: object) -> None:
        raise RuntimeError("the reason")

    monkeypatch.setattr("hf_exposure.canaries.draw_canaries", fail)
    typed: list[object] = [*DRAW, "--out", tmp_path / "c.json"]
    typed.insert(place % (len(typed) + 1), "--debug")
    done = run(capsys, *typed)
    assert done.status == 3
    assert "Traceback" in done.err and "RuntimeError: the reason" in done.err
    assert "Add --debug" not in done.err


def test_debug_is_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--debug" in run(capsys, "--help").out


def test_an_out_of_memory_error_is_named_as_such(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*arguments: object, **more: object) -> None:
        raise MemoryError

    monkeypatch.setattr("hf_exposure.canaries.draw_canaries", fail)
    done = run(capsys, *DRAW, "--out", tmp_path / "c.json")
    assert (done.status, done.err.count("\n")) == (3, 1)
    assert done.err.startswith("hf-exposure: out of memory: MemoryError in ")


def test_the_verdict_keeps_its_status(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def cross(*arguments: object, **more: object) -> None:
        raise Exit(1)

    monkeypatch.setattr("hf_exposure.canaries.draw_canaries", cross)
    assert run(capsys, *DRAW, "--out", tmp_path / "c.json").status == 1


@pytest.mark.parametrize(
    ("status", "wanted"), [(errno.EPIPE, 141), (errno.ENOSPC, 2), (errno.EACCES, 2)], ids=["pipe", "disk", "access"]
)
def test_errors_of_the_system(
    status: int, wanted: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*arguments: object, **more: object) -> None:
        raise OSError(status, os.strerror(status))

    monkeypatch.setattr("hf_exposure.canaries.draw_canaries", fail)
    done = run(capsys, *DRAW, "--out", tmp_path / "c.json")
    assert done.status == wanted
    assert done.err == ("" if wanted == 141 else f"hf-exposure: {os.strerror(status)}\n")


MAIN = "from hf_exposure.cli import main; main()"


def test_streams_that_cannot_be_written_to(tmp_path: Path) -> None:
    typed = [sys.executable, "-c", MAIN, "--help"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(typed, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (2, "hf-exposure: No space left on device\n")
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(typed, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize(
    "streams", [">&-", "2>/dev/full", "2>&-", ">/dev/full 2>/dev/full", ">&- 2>&-", "2>&1 | true"]
)
def test_errors_that_nobody_can_read_keep_their_status(streams: str) -> None:
    """A message that cannot be written does not lead to status 1, and closed output is not a failure."""
    shell = f'"$0" -c "{MAIN}" report nowhere --out x {streams}; exit ${{PIPESTATUS[0]}}'
    assert subprocess.run(["bash", "-c", shell, sys.executable], capture_output=True).returncode == 2


def test_output_that_was_closed_beforehand_is_no_failure() -> None:
    done = subprocess.run(["bash", "-c", f'"$0" -c "{MAIN}" --version >&-', sys.executable], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_terminal_without_the_characters(tmp_path: Path) -> None:
    typed = [sys.executable, "-c", MAIN, *drawing("--template", "caf\u00e9 {pin}."), "--out", str(tmp_path / "c.json")]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(typed, capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert b"{pin}." in done.stdout


def test_ctrl_c_is_130(tmp_path: Path) -> None:
    code = (
        "import time, hf_exposure.canaries as canaries\n"
        "def wait(*arguments, **more):\n    print('waiting', flush=True); time.sleep(60)\n"
        f"canaries.draw_canaries = wait\n{MAIN}"
    )
    typed = [sys.executable, "-c", code, *DRAW, "--out", str(tmp_path / "c.json")]
    process = start_interruptible(typed)
    assert process.stdout is not None and process.stdout.readline() == "waiting\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in said and "hf-exposure: interrupted." in said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--repetitions", "\u00b2:1"), "--repetitions: must read REPETITIONS:CANARIES"),
        (("--repetitions", "1:\u0663"), "--repetitions: must read REPETITIONS:CANARIES"),
        (("--repetitions", "1:" + "9" * 5000), "--repetitions: must read REPETITIONS:CANARIES"),
        (("--repetitions", "1:1_0"), "--repetitions: must read REPETITIONS:CANARIES"),
        (("--repetitions", "1:" + "9" * 18), "texts as are drawn"),
        (("--space", "pin=digits:5000"), "--space pin: must be at most 1000, got 5000"),
        (("--space", "pin=digits:\u00b2"), "--space pin: must be a kind and its size"),
        (("--space", "pin=pattern:" + "(" * 3000 + "a" + ")" * 3000), "at most 50 groups inside each other"),
        (("--template", "\udcff {pin}."), "--template, text: must be text that UTF-8 can encode"),
        (("--template", "{\udcff} {pin}."), "--template, text: must be text that UTF-8 can encode"),
        (("--space", "\udcff=digits:4"), "--space: must read NAME=KIND:SIZE"),
        (("--controls", "9" * 5000), "--controls"),
        (("--controls", "1e999"), "--controls"),
        (("--seed", "\u00b2"), "--seed"),
        (("--out", "x" * 300), "File name too long"),
    ],
)
def test_hostile_words(
    change: tuple[str, str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    one_line(run(capsys, *drawing(*change)), message)
    assert not list(tmp_path.iterdir())  # refused before anything is written


@pytest.mark.parametrize("node", ['"yes"', "5", "{}", '"\\ud800"', "1e999", *UNREADABLE.values()])
def test_a_canary_file_with_another_value(
    node: str, canary_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for field in ("coin", "repetitions", "text", "id", "template", "spaces", "seed", "salt", "canaries"):
        values = json.loads(canary_file.read_text())
        one = dict.fromkeys(("coin", "repetitions", "text", "id"), values["canaries"][0])
        {**one, "spaces": values["template"]}.get(field, values)[field] = "@"
        (tmp_path / "c.json").write_text(json.dumps(values).replace('"@"', node))
        one_line(run(capsys, "extract", "--model", "gpt2", "--canaries", tmp_path / "c.json"), "--canaries: must")


@pytest.mark.parametrize(
    "space",
    [
        {"type": "digits", "length": 10**9}, {"type": "words", "number": 10**7, "separator": " ", "words": ["a"]},
        {"type": "pattern", "pattern": "(" * 3000}, {"type": [1]}, {"type": "choice", "options": 5},
    ],
)  # fmt: skip
def test_a_canary_file_of_a_large_space(
    space: dict[str, Any], canary_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = json.loads(canary_file.read_text())
    values["template"]["spaces"]["number"] = space
    (tmp_path / "c.json").write_text(json.dumps(values))
    started = time.process_time()
    one_line(run(capsys, "extract", "--model", "gpt2", "--canaries", tmp_path / "c.json"), "--canaries: must be")
    assert time.process_time() - started < 2


@pytest.mark.parametrize("node", ["1e999", "NaN", '"\\ud800"', "9" * 400, "{}", "true", *UNREADABLE.values()])
def test_a_report_with_another_value(
    node: str, report_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (report_folder / "report.json").read_text()
    allowed = {("space_size", "9" * 400), ("rank_high", "9" * 400)}  # integers of any size
    canary = ("repetitions", "exposure_bits", "rank_high", "effective_dose", "note", "canary_id")
    for field in (*canary, "seconds", "space_size", "settings", "step", "notes", "estimates"):
        values = json.loads(whole)
        (values["estimates"][0] if field in canary else values)[field] = "@"
        (report_folder / "report.json").write_text(json.dumps(values).replace('"@"', node))
        done = run(capsys, "report", report_folder, "--out", tmp_path / field)
        if (field, node) in allowed:
            assert done.status == 0, done
        else:
            one_line(done)
            assert not (tmp_path / field).exists()


def test_every_field_of_a_report_has_a_rule() -> None:
    schema = report_schema()
    parts = {ExposureReport: schema, ExposureEstimate: schema["$defs"]["estimate"]}
    for kind, rules in {**parts, ReferenceCosts: schema["$defs"]["references"]}.items():
        assert {field.name for field in fields(kind)} <= rules["properties"].keys(), kind


@pytest.mark.parametrize(
    "log",
    ["5", "null", "[]", "{}", '{"log_history": 5}', '{"log_history": null}', '{"log_history": [5, null, [1]]}',
     '{"log_history": [{"step": "x", "loss": []}]}', '{"log_history": [{"step": 1e999, "loss": NaN}]}',
     f'{{"log_history": [{{"step": {"9" * 400}, "loss": {"9" * 400}, "eval_loss": {"9" * 400}}}]}}',
     '{"log_history": [{"step": 2, "loss": 1e308}, {"step": 3, "loss": -1e308}]}'],
)  # fmt: skip
def test_a_trainers_log_with_other_values(
    log: str, report_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (report_folder / "trainer_state.json").write_text(log)
    (report_folder / "all_results.json").write_text(log)
    earlier = json.loads((report_folder / "report.json").read_text())
    (report_folder / "_exposure.jsonl").write_text(json.dumps({**earlier, "step": 1}) + "\n")
    plots = "eval_loss" in log or "1e308" in log
    assert run(capsys, "report", report_folder, "--out", tmp_path / "page", plots=plots).status == 0
    shutil.copytree(report_folder, tmp_path / "second")
    both = (report_folder, tmp_path / "second")
    assert run(capsys, "report", *both, "--out", tmp_path / "two").status == 0


@pytest.mark.parametrize("log", ["[" * 5000, "[" * 60 + "]" * 60, "9" * 5000, "", "{", "\xff", '{"a": "\\ud800"}'])
def test_a_damaged_trainers_log(
    log: str, report_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (report_folder / "trainer_state.json").write_bytes(log.encode("latin-1"))
    one_line(run(capsys, "report", report_folder, "--out", tmp_path / "page"), "run: must have complete JSON files")


@pytest.mark.parametrize("line", ["[" * 5000, "5", "null", '{"format": 5}', "9" * 5000, "\xff\xfe", '"\\ud800"'])
def test_a_damaged_log_of_measurements(
    line: str, report_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (report_folder / "_exposure.jsonl").write_bytes(line.encode("latin-1") + b"\n")
    one_line(run(capsys, "report", report_folder, "--out", tmp_path / "page"), "must be")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: &a [x, x, x]\nb: &b [*a, *a, *a]\nrepetitions: [*b, *b, *b]", "must have no aliases"),
        ("a: &a {x: 1}\n<<: [*a, *a]", "must have no aliases"),
        ("controls: " + "[" * 5 + "]" * 5, "at most 10000 values, and 4 levels"),
        ("[" * 20_000, "at most 10000 values, and 4 levels"),
        ("controls: [" + "1," * 10_001 + "]", "at most 10000 values, and 4 levels"),
        ("#" * 1_000_001, "must be YAML"),
        ("controls: {a: {b: c}}", "must be a word or number, or a list of them"),
        ("repetitions: {1: [2]}", "must be a word or number, or a list of them"),
        ("space: [[pin=digits:4]]", "must be a word or number, or a list of them"),
        ("space: [null]", "must be a word or number, or a list of them"),
        ("controls: !!binary aGVsbG8=", "must be a word or number, or a list of them"),
        ("controls: !!set {a, b}", "must be a word or number, or a list of them"),
        ("controls: 1e999", "--controls"),
        ("controls: .inf", "--controls"),
        ("controls: " + "9" * 5000, "must be YAML"),
        ("seed: 2020-13-45", "must be YAML"),
        ("? [1]\n: 2", "must be YAML"),
        ("5: 6", "must have words as option names"),
        ("null: 1", "must have words as option names"),
        ('out: "a\\0b"', "must have no null character"),
        ("controls: !!python/object/apply:os.getcwd []", "must be YAML"),
        ("\0", "must be YAML"),
        ("as_json: maybe", "--json"),
    ],
)
def test_hostile_yaml(content: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.yaml").write_text(content)
    started = time.process_time()
    one_line(run(capsys, *DRAW, "--config", tmp_path / "c.yaml", "--out", tmp_path / "o"), message)
    assert time.process_time() - started < 2
    assert not (tmp_path / "o").exists()


def test_an_option_without_a_value_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.yaml").write_text("seed:\ncontrols: ~\n")
    done = run(capsys, *DRAW, "--config", tmp_path / "c.yaml", "--out", tmp_path / "o", "--json")
    assert (done.status, json.loads(done.out)["controls"]) == (0, 32)


@pytest.mark.parametrize("record", ["5", "[]", '{"manifest_hash": 5}', "[" * 5000, "null", '{"context": 5}'])
def test_a_damaged_record_of_an_insertion(
    record: str, canary_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "exposure_insertion.json").write_text(record)
    one_line(run(capsys, "measure", "--model", "gpt2", "--canaries", canary_file, "--dataset", tmp_path), "--dataset")


@pytest.mark.parametrize("context", [5, [], {"nothing": 1}, {"prompt": 5}, {"prompt": "x", "chat_template": 5}])
def test_a_record_with_another_context(
    context: Any, canary_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = {"manifest_hash": CanarySet.load(canary_file).manifest_hash, "context": context, "source": 5}
    (tmp_path / "exposure_insertion.json").write_text(json.dumps(record))
    one_line(run(capsys, "measure", "--model", "gpt2", "--canaries", canary_file, "--dataset", tmp_path), "--dataset")
