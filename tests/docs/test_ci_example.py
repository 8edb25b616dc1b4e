"""The example workflow uses commands and options that exist, in an order that works."""

from __future__ import annotations

import re
import shlex

import yaml
from doc_blocks import ROOT
from typer.main import get_command

from hf_exposure.cli import app


def test_the_workflow_uses_what_exists() -> None:
    workflow = yaml.safe_load((ROOT / "examples" / "ci" / "memorization.yml").read_text(encoding="utf-8"))
    (job,) = workflow["jobs"].values()
    script = "\n".join(step["run"] for step in job["steps"] if "run" in step).replace("\\\n", " ")
    typed = [shlex.split(line)[1:] for line in script.splitlines() if line.strip().startswith("hf-exposure ")]
    assert [words[0] for words in typed] == ["draw", "insert", "measure"]
    commands = get_command(app).commands  # type: ignore[attr-defined]
    for name, *words in typed:
        known = {option for parameter in commands[name].params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known
    # A later step reads what an earlier one writes.
    written = re.findall(r"--out (\S+)", script)
    assert written == ["canaries.json", "train_with_canaries", "exposure"]
    for name in written[:2]:
        assert re.search(rf"--(canaries|dataset) {name}", script)
    # The gate fails the job: nothing after it hides its status.
    gate = next(step["run"] for step in job["steps"] if "--fail-above" in step.get("run", ""))
    assert "||" not in gate and "continue-on-error" not in str(job)
