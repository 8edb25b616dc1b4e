"""`hf-exposure env`: what is installed, for a bug report. `hf-exposure doctor`: whether it works on this machine."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import typer

from hf_exposure.errors import ExposureError

_PACKAGES = (
    "hf-exposure", "torch", "transformers", "accelerate", "datasets", "huggingface_hub", "tokenizers", "numpy",
    "scipy", "pydantic", "typer", "jinja2",
)  # fmt: skip
# For each extra: one of its modules, what it is needed for, and the package that provides it.
_EXTRAS = (
    ("matplotlib", "plots", "matplotlib"),
    ("fpdf", "report.pdf", "fpdf2"),
    ("peft", "base_model='without_adapter'", "peft"),
    ("trl", "SFTTrainer", "trl"),
    ("opacus", "private training in the examples", "opacus"),
    ("bitsandbytes", "quantized models", "bitsandbytes"),
    ("stdnum", "scan for card numbers", "python-stdnum"),
    ("detect_secrets", "scan for keys", "detect-secrets"),
    ("tensorboard", "TensorBoard", "tensorboard"),
    ("trackio", "trackio", "trackio"),
)
_FAILED = 3


def env(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Print the versions of Python, packages, extras and devices, to paste into a bug report."""
    values = environment()
    if as_json:
        typer.echo(json.dumps(values, indent=1))
        return
    width = max(map(len, values))
    for name, value in values.items():
        typer.echo(f"{name:<{width}}  {value}")


def environment() -> dict[str, str]:
    """Names and versions, without any path, user or host name."""
    values = {"python": platform.python_version(), "platform": f"{platform.system()} {platform.machine()}"}
    values |= {name: _version(name) for name in _PACKAGES}
    for module, purpose, package in _EXTRAS:
        found = _version(package) if importlib.util.find_spec(module) else "not installed"
        values[f"{package} ({purpose})"] = found
    import torch

    values["CPU cores"] = str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    values["CUDA"] = torch.version.cuda or "none"
    count = torch.cuda.device_count()
    values["GPUs"] = ", ".join(torch.cuda.get_device_name(number) for number in range(count)) or "none"
    return values


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Draw, insert, measure, search and report on a tiny model, and print which steps work. No network is needed.

    Every figure is compared with one that was computed in another way. A step that fails gives exit status 3.
    """
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for name, check in _checks(Path(folder)).items():
            started = time.perf_counter()
            try:
                said, works = check(), True
            except ExposureError as error:
                said, works = str(error), False
            except Exception as error:  # a broken installation may raise any exception
                said, works = f"{type(error).__name__}: {error}", False
            seconds = round(time.perf_counter() - started, 2)
            results.append({"check": name, "works": works, "said": said, "seconds": seconds})
            if not as_json:
                typer.echo(f"{'ok  ' if works else 'FAIL'}  {name:<8}  {said}")
            if not works:
                break
    if as_json:
        typer.echo(json.dumps(results, indent=1))
    if not all(one["works"] for one in results):
        raise typer.Exit(_FAILED)


def _checks(folder: Path) -> dict[str, Callable[[], str]]:
    """The steps, in the order of a real run. Each returns a summary of its result, and raises if the result is
    wrong.
    """
    made: dict[str, Any] = {}

    def imports() -> str:
        import datasets

        import hf_exposure

        datasets.disable_progress_bars()
        made["package"] = hf_exposure
        return f"Python {platform.python_version()}, hf-exposure {_version('hf-exposure')}, torch {_version('torch')}"

    def draw() -> str:
        package = made["package"]
        template = package.CanaryTemplate("pin {pin}", pin=package.Digits(3))
        made["canaries"] = package.draw_canaries(template, {2: 2}, controls=2, seed=0)
        return "2 canaries and 2 controls of 1,000 candidate secrets"

    def insert() -> str:
        from datasets import Dataset

        rows = Dataset.from_dict({"text": [f"row {number}" for number in range(20)]})
        texts = made["package"].insert_canaries(rows, made["canaries"], text_column="text")["text"]
        counts = [texts.count(canary.text) for canary in made["canaries"]]
        _expect(counts, [2, 2, 0, 0])
        return "each canary occurs twice among 24 rows, and no control does"

    def measure() -> str:
        import torch
        from transformers import ByT5Tokenizer, GPT2Config, GPT2LMHeadModel

        torch.manual_seed(0)
        made["tokenizer"] = ByT5Tokenizer()
        config = GPT2Config(vocab_size=384, n_layer=1, n_head=2, n_embd=16, bos_token_id=1, eos_token_id=1)
        made["model"] = GPT2LMHeadModel(config).eval()
        report = made["package"].measure_exposure(made["model"], made["tokenizer"], made["canaries"])
        made["report"] = report
        texts = [f"pin {number:03d}" for number in range(1000)]
        bits = made["package"].log_perplexity(made["model"], made["tokenizer"], texts)
        others = {one.text for one in made["canaries"].inserted}
        for canary, estimate in zip(made["canaries"], report.estimates, strict=True):
            own = bits[texts.index(canary.text)]
            rivals = [bit for text, bit in zip(texts, bits, strict=True) if text not in others | {canary.text}]
            rank = 1 + int(sum(bit <= own for bit in rivals))
            # Near ties widen the limits of a rank, since rounding depends on the batch.
            _expect(estimate.rank_low <= rank <= estimate.rank_high <= estimate.rank_low + 20, True)
        return "the ranks of 4 canaries equal those from scoring all 1,000 texts"

    def search() -> str:
        package = made["package"]
        found = package.extract(made["model"], made["tokenizer"], made["canaries"].template, top_k=1)
        texts = [f"pin {number:03d}" for number in range(1000)]
        bits = package.log_perplexity(made["model"], made["tokenizer"], texts)
        _expect((found.candidates[0].text == texts[int(bits.argmin())], found.certified), (True, True))
        return "the likeliest of 1,000 texts was found, with a certificate"

    def report() -> str:
        from hf_exposure.records.sums import verify_files

        made["report"].save(folder / "report")
        verify_files(folder / "report")
        _expect(made["package"].ExposureReport.load(folder / "report") == made["report"], True)
        kinds = (
            "page, plots and checksums" if importlib.util.find_spec("matplotlib") else "page and checksums, no plots"
        )
        return f"written, read back and verified: {kinds}"

    return {
        "import": imports,
        "draw": draw,
        "insert": insert,
        "measure": measure,
        "search": search,
        "report": report,
    }


def _expect(found: object, expected: object) -> None:
    if found != expected:
        raise AssertionError(f"found {found}, expected {expected}")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed" if package not in sys.modules else "unknown"
