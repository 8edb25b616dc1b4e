"""Writes `hf_exposure/records/report.schema.json` from the records: `python docs/make_schema.py`."""

from __future__ import annotations

import json
from pathlib import Path

from hf_exposure.records import exposure_report

FILE = Path(exposure_report.__file__).with_name("report.schema.json")


def render() -> str:
    """The schema as it is written to the file."""
    return json.dumps(exposure_report.report_schema(), indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(render(), encoding="utf-8")
