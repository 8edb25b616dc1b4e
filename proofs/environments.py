"""Runs the tests in other environments: the lowest versions that the metadata allow, and the newest transformers.

`make environments` makes each environment in a separate folder, installs the package there, runs the tests and stores
their duration in `benchmarks/results/environments.json`. All use the torch version in `TORCH`, since a second one
would take several gigabytes; the lowest version in the metadata is therefore that version.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

from hf_exposure.files import write_aside

__all__ = ["lowest_requirements"]

ROOT = Path(__file__).resolve().parent.parent
TORCH = "torch==2.13.0"
RESULTS = ROOT / "benchmarks" / "results" / "environments.json"
# Packages that are newer in the newest environment than in `constraints.txt`.
NEWEST = ("transformers==5.24.0",)
_FLOOR = re.compile(r"^(?P<name>[A-Za-z0-9_.-]+)\s*>=\s*(?P<version>[0-9.]+)$")


def lowest_requirements(pyproject: Path = ROOT / "pyproject.toml") -> list[str]:
    """Returns all dependencies of the package and its extra "all", except torch, at their lowest allowed versions."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    (names,) = re.findall(r"\[(.*)\]", *extras["all"])
    declared = [*project["dependencies"], *(each for name in names.split(",") for each in extras[name])]
    floors = [_FLOOR.match(requirement) for requirement in declared]
    return [f"{floor['name']}=={floor['version']}" for floor in floors if floor and floor["name"] != "torch"]


def run_suite(name: str, folder: Path, arguments: list[str]) -> dict[str, object]:
    """Makes the environment if it does not exist, and runs the tests in it."""
    python = folder / "bin" / "python"
    if not (folder / ".installed").exists():
        pip = [str(python), "-m", "pip", "install", "--quiet"]
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([*pip, TORCH], check=True)
        if name == "lowest":
            subprocess.run([*pip, *lowest_requirements()], check=True)
            # The extras and tools have any versions that fit.
            subprocess.run([*pip, *lowest_requirements(), "-e", f"{ROOT}[dev]"], check=True)
        else:
            subprocess.run([*pip, "-c", str(ROOT / "constraints.txt"), "-e", f"{ROOT}[dev]"], check=True)
            subprocess.run([*pip, *NEWEST], check=True)
        (folder / ".installed").touch()
    frozen = subprocess.run(
        [str(python), "-m", "pip", "list", "--format", "json"], check=True, capture_output=True, text=True
    )
    versions = {each["name"]: each["version"] for each in json.loads(frozen.stdout)}
    started = time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    # Other versions have other warnings, which are not errors here.
    command = [str(python), "-m", "pytest", "-q", "-W", "default", *(arguments or ["-n", "2"])]
    finished = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    print(finished.stdout[-20_000:], finished.stderr[-2_000:], sep="\n")
    lines = [line for line in finished.stdout.splitlines() if line.strip()]
    packages = ("torch", "transformers", "huggingface_hub", "accelerate", "datasets", "numpy", "scipy", "typer")
    return {
        "status": finished.returncode,
        "summary": lines[-1] if lines else "",
        "seconds": round(time.perf_counter() - started),
        "versions": {package: versions[package] for package in packages if package in versions},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=["lowest", "newest"])
    parser.add_argument("--folder", type=Path, default=ROOT / ".environments")
    parser.add_argument(
        "--pytest", nargs=argparse.REMAINDER, default=[], help="arguments for pytest, instead of all tests"
    )
    chosen = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in chosen.names:
        results[name] = run_suite(name, chosen.folder / name, chosen.pytest)
        print(name, results[name])
        if not chosen.pytest:
            write_aside(RESULTS, json.dumps(results, indent=1) + "\n")
    sys.exit(any(results[name]["status"] for name in chosen.names))


if __name__ == "__main__":
    main()
