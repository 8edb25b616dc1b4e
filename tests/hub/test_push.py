"""Reports pushed to a Hub on this machine, by a process of their own."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hub_server import Fault, Hub, hub_environment, running_hub

from hf_exposure import CanarySet, CanaryTemplate, Digits, draw_canaries
from hf_exposure.hub.card import BEGIN, END
from hf_exposure.records import ExposureEstimate, ExposureReport
from hf_exposure.records.run_log import EXPOSURE_LOG

pytest.importorskip("huggingface_hub")
REPO = "me/model"
TEMPLATE = CanaryTemplate("The random number is {number}", number=Digits(9))
CANARIES = draw_canaries(TEMPLATE, {1: 3, 64: 3}, controls=4, seed=5)
FOREIGN = b"""---
license: mit
pipeline_tag: text-generation
model-index:
- name: the model of others
  results:
  - task: {type: text-generation}
    dataset: {name: WikiText, type: wikitext, config: raw}
    metrics:
    - {type: perplexity, value: 12.25, name: Perplexity, unheard_of: kept}
---
# The model of others

Their words.
"""


def made(canaries: CanarySet = CANARIES, **changes: Any) -> ExposureReport:
    """A report with figures of many digits, as a measurement has them."""
    rows = []
    for place, canary in enumerate(canaries):
        bits = {0: 1.2345678, 1: 2.3456789, 64: 24.3456789}[canary.repetitions] + 0.123456 * place
        values = {"exposure_bits": bits, "low_bits": bits - 0.123, "high_bits": bits + 0.123}
        rows.append(
            ExposureEstimate(
                canary_id=canary.id,
                repetitions=canary.repetitions,
                log_perplexity_bits=61.2345678 - bits,
                rank_low=int(2 ** (29.897 - bits)),
                rank_high=int(2 ** (29.897 - bits)),
                method="bounded",
                **{**values, **changes.get("figures", {})},
            )
        )
    changes.pop("figures", None)
    values = {
        "estimates": tuple(rows), "template": canaries.template.text, "space_size": canaries.template.space_size,
        "spaces": {name: repr(space) for name, space in canaries.template.spaces.items()},
        "manifest_hash": canaries.manifest_hash, "settings": {"method": "auto", "seed": 77, "confidence_level": 0.95},
        "p_value": 0.0123456789, "model": {"class": "GPT2LMHeadModel", "name": "/home/someone/run", "parameters": 12},
    }  # fmt: skip
    return ExposureReport(**{**values, **changes})


Push = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def address() -> Iterator[list[Hub]]:
    with running_hub() as hub:
        yield [hub]


@pytest.fixture(scope="module")
def worker(address: list[Hub], tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    home = tmp_path_factory.mktemp("home")
    script = Path(__file__).with_name("push_worker.py")
    with subprocess.Popen(
        [sys.executable, str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=hub_environment(address[0], home),
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture
def hub_and_push(address: list[Hub], worker: subprocess.Popen[str]) -> tuple[Hub, Push]:
    (hub,) = address
    for held in (hub.repos, hub.pull_requests, hub.faults, hub.requests, hub.bodies):
        held.clear()

    def push(
        report: ExposureReport | None = None, repo_id: str = REPO, ratios: Sequence[float] = (), **arguments: Any
    ) -> dict[str, Any]:
        what = {"ratios": ratios} if ratios else {"report": (report or made()).to_dict()}
        request = {**what, "repo_id": repo_id, "arguments": arguments}
        assert worker.stdin is not None and worker.stdout is not None
        worker.stdin.write(json.dumps(request) + "\n")
        worker.stdin.flush()
        return json.loads(worker.stdout.readline())

    return hub, push


def metadata(card: bytes) -> dict[str, Any]:
    """The card's metadata; safe_load takes no `!!python/object`."""
    return yaml.safe_load(card.decode().split("---\n")[1])


def ours(card: bytes) -> list[dict[str, Any]]:
    (model,) = metadata(card)["model-index"]
    return [result for result in model["results"] if result["dataset"]["type"] == "hf_exposure-canaries"]


def test_a_card_is_made_where_there_is_none(hub_and_push: tuple[Hub, Push]) -> None:
    hub, push = hub_and_push
    hub.add(REPO)
    answer = push()
    head = hub.repos[REPO][-1]
    assert answer == {"url": f"{hub.endpoint}/{REPO}/commit/{head.oid}"}
    assert len(hub.repos[REPO]) == 2  # one commit on top of the first
    assert {"README.md", "exposure/report.json"} <= set(head.files)
    card = head.files["README.md"]
    assert metadata(card)["model-index"][0]["name"] == "model"
    (result,) = ours(card)
    assert result["task"]["type"] == "text-generation"
    # By hand: 24.3456789 + 0.123456 * (3, 4, 5) rounded to tenths is 24.7, 24.8, 25.0; their mean is 24.8333.
    x64 = next(m for m in result["metrics"] if m["args"].get("repetitions") == 64)
    assert x64["value"] == 24.8
    assert type(x64["value"]) is float
    assert x64["args"]["template"] == TEMPLATE.text
    assert x64["args"]["space"] == {"number": "Digits(length=9)"}
    assert {m["args"].get("repetitions") for m in result["metrics"]} == {0, 1, 64, None}
    assert "| 64 | 3 | 24.8 |" in card.decode()


def test_results_and_words_of_others_are_kept(hub_and_push: tuple[Hub, Push]) -> None:
    hub, push = hub_and_push
    hub.add(REPO, {"README.md": FOREIGN, "model.safetensors": b"weights"})
    push()
    push(made(figures={"exposure_bits": 3.04}))
    card = hub.files(REPO)["README.md"]
    before, after = metadata(FOREIGN), metadata(card)
    assert after["model-index"][0]["results"][0] == before["model-index"][0]["results"][0]
    assert after["model-index"][0]["name"] == "the model of others"
    assert {key: after[key] for key in ("license", "pipeline_tag")} == {
        "license": "mit",
        "pipeline_tag": "text-generation",
    }
    assert len(ours(card)) == 1  # replaced, not added to
    assert {m["value"] for m in ours(card)[0]["metrics"] if m["type"] == "exposure"} == {3.0}
    text = card.decode()
    assert "# The model of others\n\nTheir words.\n" in text
    assert text.count(BEGIN) == text.count(END) == 1
    assert hub.files(REPO)["model.safetensors"] == b"weights"
    assert len(hub.repos[REPO]) == 3


def test_the_same_report_twice_makes_no_second_commit(hub_and_push: tuple[Hub, Push]) -> None:
    hub, push = hub_and_push
    hub.add(REPO)
    assert push() == push()
    assert len(hub.repos[REPO]) == 2


def test_a_pull_request_leaves_the_branch_alone(hub_and_push: tuple[Hub, Push]) -> None:
    hub, push = hub_and_push
    hub.add(REPO, {"README.md": FOREIGN})
    assert push(create_pr=True) == {"url": f"{hub.endpoint}/{REPO}/discussions/1"}
    assert hub.files(REPO)["README.md"] == FOREIGN
    (proposed,) = hub.pull_requests
    assert len(ours(proposed.files["README.md"])) == 1


def test_another_commit_in_between_is_not_overwritten(hub_and_push: tuple[Hub, Push]) -> None:
    hub, push = hub_and_push
    hub.add(REPO, {"README.md": FOREIGN})
    theirs = FOREIGN.replace(b"Their words.", b"Their newer words.")

    def interfere(hub: Hub) -> None:
        hub.commit(REPO, {"README.md": theirs}, "theirs")

    hub.faults.append(Fault("POST", "/commit/", 412, once=interfere))
    assert "url" in push()
    card = hub.files(REPO)["README.md"].decode()
    assert "Their newer words." in card
    assert BEGIN in card


@pytest.mark.parametrize("status", [409, 412])
def test_conflicts_without_end_are_an_error(hub_and_push: tuple[Hub, Push], status: int) -> None:
    hub, push = hub_and_push
    hub.add(REPO)
    hub.faults.append(Fault("POST", "/commit/", status, times=99))
    answer = push()
    assert answer["error"] == "HubError", answer
    assert "was left as it was" in answer["message"]
    assert "Others keep committing: push again later." in answer["message"]
    assert hub.count("POST", "/commit/") == 4
    assert len(hub.repos[REPO]) == 1


def test_a_token_that_is_refused(hub_and_push: tuple[Hub, Push]) -> None:
    hub, push = hub_and_push
    hub.add(REPO)
    answer = push(token="hf_wrong")
    assert answer["error"] in ("HubError", "InputError"), answer
    assert "Log in with `hf auth login`" in answer["message"]
    assert "hf_wrong" not in answer["message"]
    assert len(hub.repos[REPO]) == 1


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/api/models/"), ("HEAD", "/resolve/"), ("POST", "/commit/")],
    ids=["info", "card", "commit"],
)
def test_a_server_error_is_retried(hub_and_push: tuple[Hub, Push], method: str, path: str) -> None:
    hub, push = hub_and_push
    hub.add(REPO, {"README.md": FOREIGN})
    hub.faults.append(Fault(method, path, 503, times=2))
    assert "url" in push()
    assert "Their words." in hub.files(REPO)["README.md"].decode()
    assert len(hub.repos[REPO]) == 2


def test_a_card_that_cannot_be_read_is_not_taken_for_missing(hub_and_push: tuple[Hub, Push]) -> None:
    hub, push = hub_and_push
    hub.add(REPO, {"README.md": FOREIGN})
    hub.faults.append(Fault("HEAD", "/resolve/", 500, times=99))
    answer = push()
    assert answer["error"] == "HubError", answer
    assert hub.files(REPO)["README.md"] == FOREIGN


def test_a_lost_answer_does_not_commit_twice(hub_and_push: tuple[Hub, Push]) -> None:
    hub, push = hub_and_push
    hub.add(REPO)
    hub.faults.append(Fault("POST", "/commit/", 502, after=True))
    assert "url" in push()
    assert len(hub.repos[REPO]) == 2


def test_a_lost_answer_does_not_open_two_pull_requests(hub_and_push: tuple[Hub, Push]) -> None:
    hub, push = hub_and_push
    hub.add(REPO)
    hub.faults.append(Fault("POST", "/commit/", 502, after=True))
    assert push(create_pr=True)["error"] == "HubError"
    assert len(hub.pull_requests) == 1


def test_an_interrupted_upload_leaves_nothing_behind(hub_and_push: tuple[Hub, Push]) -> None:
    hub, push = hub_and_push
    hub.add(REPO, {"README.md": FOREIGN})
    hub.faults.append(Fault("POST", "/commit/", 0, times=99))
    answer = push()
    assert answer["error"] == "HubError", answer
    assert "me/model was left as it was" in answer["message"]
    assert hub.files(REPO) == {".gitattributes": b"", "README.md": FOREIGN}
    hub.faults.clear()
    assert "url" in push()


def test_a_repository_that_does_not_exist(hub_and_push: tuple[Hub, Push]) -> None:
    hub, push = hub_and_push
    answer = push(repo_id="me/modle")
    assert answer["error"] == "InputError"
    assert answer["message"].startswith("repo_id: must be a model repository that exists")
    assert "'me/modle'" in answer["message"]
    assert not hub.repos
    assert "url" in push(repo_id="me/modle", private=True)
    assert hub.private["me/modle"] in (True, "private")
    assert "README.md" in hub.files("me/modle")


def test_a_malformed_name(hub_and_push: tuple[Hub, Push]) -> None:
    hub, push = hub_and_push
    answer = push(repo_id="me/model/exposure")
    assert answer["error"] == "InputError"
    assert answer["message"].startswith("repo_id: must name a repository")
    assert not hub.requests


@pytest.mark.parametrize(
    ("card", "rule"),
    [
        (b"---\na: [1\n---\n", "must have YAML metadata"),
        (b"---\n- a\n---\n", "must have YAML metadata"),
        (b"---\nmodel-index: 3\n---\n", "must have a list of models as model-index"),
        (b"---\nmodel-index:\n- name: a\n  results: [{}]\n---\n", "must have metadata that the Hub accepts"),
    ],
    ids=["cut", "list", "index", "refused by the Hub"],
)
def test_a_card_that_makes_no_sense_is_left_alone(hub_and_push: tuple[Hub, Push], card: bytes, rule: str) -> None:
    hub, push = hub_and_push
    hub.add(REPO, {"README.md": card})
    answer = push()
    assert answer["error"] == "InputError", answer
    assert answer["message"].startswith(f"README.md: {rule}")
    assert hub.files(REPO)["README.md"] == card


def test_nothing_that_is_not_finite_is_written(hub_and_push: tuple[Hub, Push]) -> None:
    hub, push = hub_and_push
    hub.add(REPO)
    figures = {"exposure_bits": math.nan, "low_bits": math.nan, "high_bits": math.inf}
    push(made(figures=figures, p_value=math.nan), plots=True)
    files = hub.files(REPO)
    assert b"undefined" in files["README.md"]
    for name in ("README.md", "exposure/report.json"):
        words = files[name].decode().lower().replace("undefined", "").split()
        assert not [word for word in words if word.strip('",:|') in ("nan", ".nan", "inf", ".inf", "infinity")], name

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads(files["exposure/report.json"], parse_constant=refuse)


def test_the_history_of_a_run_becomes_a_plot(hub_and_push: tuple[Hub, Push], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    hub, push = hub_and_push
    hub.add(REPO)
    for step in (1, 2):
        EXPOSURE_LOG.append(tmp_path, made(step=step))
    CANARIES.save(tmp_path / "canaries.json")
    push(made(step=2), folder=str(tmp_path), plots=True)
    files = hub.files(REPO)
    assert "exposure/exposure_by_step.png" in files
    assert "exposure/exposure_by_step.png" in files["README.md"].decode()
    assert [row["step"] for row in json.loads(files["exposure/report.json"])["history"]] == [1, 2]
    assert not [name for name in files if "canaries" in name or "jsonl" in name]


def test_a_secret_stops_the_push_before_anything_is_sent(hub_and_push: tuple[Hub, Push], tmp_path: Path) -> None:
    hub, push = hub_and_push
    hub.add(REPO)
    CANARIES.save(tmp_path / "canaries.json")
    secret = CANARIES.inserted[0]
    answer = push(made(notes=(f"we saw {secret.text}",)), canaries=str(tmp_path / "canaries.json"))
    assert answer["error"] == "SecretFoundError"
    assert re.match(rf"report\.(html|json) contains the secret of canary {secret.id}; nothing was", answer["message"])
    assert not hub.requests
    digits = TEMPLATE.parse(secret.text)["number"]
    assert digits not in answer["traceback"]
    hub.add(REPO, {"README.md": f"# {secret.text}\n".encode()})
    answer = push(folder=str(tmp_path))  # the canaries in the run's folder are looked for without being named
    assert answer["message"].startswith("README.md contains the secret")
    assert hub.count("POST", "/commit/") == 0


def test_no_byte_that_is_sent_gives_a_secret_away(hub_and_push: tuple[Hub, Push], tmp_path: Path) -> None:
    hub, push = hub_and_push
    hub.add(REPO)
    for step in (1, 2):
        EXPOSURE_LOG.append(tmp_path, made(step=step))
    report = made(step=2)
    push(report, folder=str(tmp_path), plots=True)
    sent = b"\n".join([*hub.bodies, *hub.files(REPO).values()])
    secrets = [TEMPLATE.parse(canary.text)["number"] for canary in CANARIES]
    assert len(secrets) == 10
    for secret in secrets:
        assert secret.encode() not in sent
    for canary in CANARIES:
        assert canary.id.encode() not in sent
    for estimate in report.estimates:
        for figure in (estimate.exposure_bits, estimate.log_perplexity_bits, estimate.low_bits):
            # Five digits of any figure would be more precise than a tenth of a bit.
            assert str(figure)[:6].encode() not in hub.files(REPO)["exposure/report.json"]
            assert str(figure)[:6].encode() not in hub.files(REPO)["README.md"]
    assert b"/home/someone" not in sent
    # The scan finds a text that is present.
    assert b"Digits(length=9)" in sent


def test_critical_samples_are_pushed_next_to_exposure(hub_and_push: tuple[Hub, Push]) -> None:
    hub, push = hub_and_push
    hub.add(REPO, {"README.md": FOREIGN})
    push()
    assert push(ratios=[0.3, 0.9])["url"].startswith(hub.endpoint)
    push(ratios=[0.3, 0.8], create_pr=False)
    card = hub.files(REPO)["README.md"]
    (model,) = metadata(card)["model-index"]
    kinds = [result["dataset"]["type"] for result in model["results"]]
    assert kinds == ["wikitext", "hf_exposure-canaries", "hf_exposure-critical"]
    assert model["results"][2]["metrics"][0]["value"] == 0.8
    text = card.decode()
    assert text.count(BEGIN) == text.count("<!-- hf_exposure critical: begin -->") == 1 and "Their words." in text
    assert push(repo_id="me/none", ratios=[0.5])["error"] == "InputError"
