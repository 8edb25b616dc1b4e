"""Writes a benchmark's results together with the machine and versions they were measured on."""

from __future__ import annotations

import datetime
import json
import math
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

_RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("torch", "transformers", "datasets", "pyarrow", "numpy", "scipy")


def write_result(name: str, figures: dict[str, Any]) -> Path:
    """Write `figures` to `benchmarks/results/{name}.json` with the machine's kind, the versions and the date.

    The description of the machine is generic: processor, cores and system, no host or user name.
    """
    record = {"benchmark": name, **_finite(figures), "machine": machine(), "versions": versions()}
    record["date"] = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    _RESULTS.mkdir(exist_ok=True)
    path, aside = _RESULTS / f"{name}.json", _RESULTS / f".{name}.json.{os.getpid()}"
    aside.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    os.replace(aside, path)
    return path


def _finite(value: Any) -> Any:
    """Replaces NaN, which JSON does not have, by None."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def machine() -> dict[str, Any]:
    """Processor, cores, system, and the accelerator if torch sees one."""
    described: dict[str, Any] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    try:
        import torch

        described["accelerator"] = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    except ImportError:
        described["accelerator"] = None
    return described


def versions() -> dict[str, str]:
    """The versions of Python and of the installed packages that affect speed."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    # On most Linux systems, platform.processor() is empty or only the architecture.
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
