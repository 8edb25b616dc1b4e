"""Is a language model memorising secrets, how sure is that, and could a stranger get them out?

Public names are imported on first use, so that `import hf_exposure` loads neither torch nor transformers.
"""

from __future__ import annotations

import importlib
from typing import Any

from hf_exposure.launch import register_job_token

__version__ = "0.1.0"

_HOME_OF = {
    "CanaryContext": "context",
    "CanarySet": "canaries",
    "CanaryTemplate": "canaries",
    "Canary": "canaries",
    "Choice": "canaries",
    "Digits": "canaries",
    "Letters": "canaries",
    "LuhnDigits": "canaries",
    "Pattern": "canaries",
    "VocabularyTokens": "canaries",
    "Words": "canaries",
    "draw_canaries": "canaries",
    "presets": "canaries",
    "CanaryInserter": "data",
    "DeliveryReport": "data",
    "check_delivery": "data",
    "insert_canaries": "data",
    "remove_canaries": "data",
    "log_perplexity": "scoring",
    "discoverable_extraction": "extraction",
    "extract": "extraction",
    "rank_bounds": "extraction",
    "ExposureReport": "records",
    "ExposureMeter": "measures",
    "measure_exposure": "measures",
    "ExposureCallback": "callback",
    "MeasureCallback": "callback",
    "Candidate": "records",
    "Discoverability": "records",
    "ExposureEstimate": "records",
    "Extraction": "records",
    "RankBounds": "records",
}

__all__ = sorted([*_HOME_OF, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'hf_exposure' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"hf_exposure.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def _token_of_job() -> str:
    """What makes all processes of a job draw the same canaries. Torch is loaded in a job only."""
    return str(importlib.import_module("hf_exposure.runtime.job").token_of_job())


register_job_token(_token_of_job)


def __dir__() -> list[str]:
    return __all__
