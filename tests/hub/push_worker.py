"""A process that pushes: `HF_ENDPOINT` is read when huggingface_hub is imported, so it is set before this starts.

Each line of standard input is a JSON request, and each line of standard output a JSON answer.
"""

from __future__ import annotations

import functools
import json
import sys
import time
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from critical_samples_of_runs import critical_run

from hf_exposure.canaries import CanarySet
from hf_exposure.records import ExposureReport
from hf_exposure.report import plots

# Attempts are counted, not timed: neither our waits nor the library's.
time.sleep = lambda seconds: None


def main() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        if "ratios" in request:
            report: Any = critical_run(*request["ratios"])
        else:
            report = ExposureReport.from_dict(request["report"])
        arguments = request["arguments"]
        # Most tests do not need plots, which take a second.
        wanted = arguments.pop("plots", False)
        plots.matplotlib_is_installed = functools.partial(bool, wanted)
        if "canaries" in arguments:
            arguments["canaries"] = CanarySet.load(arguments["canaries"])
        try:
            answer = {"url": report.push_to_hub(request["repo_id"], **arguments)}
        except Exception as error:
            answer = {"error": type(error).__name__, "message": str(error), "traceback": traceback.format_exc()}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
