"""The description, for a report, of the measured model and of the software that measured it."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from torch import nn

from hf_exposure.runtime.model_state import compute_dtype
from hf_exposure.runtime.precision import parameter_count

_PACKAGES = ("hf-exposure", "torch", "transformers", "numpy", "scipy")


def describe_model(model: nn.Module) -> dict[str, Any]:
    """Model metadata for the report. Reads attributes only, and never runs the model."""
    first = next(model.parameters(), None)
    config = getattr(model, "config", None)
    return {
        "class": type(model).__name__,
        "name": getattr(config, "_name_or_path", "") or "",
        "revision": getattr(config, "_commit_hash", None),
        "parameters": parameter_count(model) or None,  # a model behind an API has no parameters here
        "dtype": "" if first is None else str(compute_dtype(model)).removeprefix("torch."),
        **_quantization(config),
    }


def _quantization(config: Any) -> dict[str, str]:
    """The library that quantized the weights, if the configuration names one."""
    settings = getattr(config, "quantization_config", None)
    method = settings.get("quant_method") if isinstance(settings, dict) else getattr(settings, "quant_method", None)
    return {} if method is None else {"quantization": str(getattr(method, "value", method))}


@cache
def package_versions() -> dict[str, str]:
    """Versions of the installed packages that a measurement uses."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
