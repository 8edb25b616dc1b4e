"""The exposure of natural secrets: each is ranked among all texts of its format, after the words before it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import Any, Unpack

from torch import nn

from hf_exposure.canaries import NaturalSecret, NaturalSecrets
from hf_exposure.checks import instance_of
from hf_exposure.errors import ExposureError, InputError
from hf_exposure.measures.base_model import BaseModel, check_base_model
from hf_exposure.measures.described import describe_model, package_versions
from hf_exposure.measures.exposure import ExposureMeter
from hf_exposure.measures.settings import MeasureOptions, MeasureSettings
from hf_exposure.records.secrets import SecretExposure, SecretsReport
from hf_exposure.runtime.model_state import unwrap_model
from hf_exposure.scoring.arguments import check_module


def measure_secrets(
    model: nn.Module,
    tokenizer: Any,
    secrets: NaturalSecrets,
    base_model: BaseModel | None = None,
    **settings: Unpack[MeasureOptions],
) -> SecretsReport:
    """Measures the exposure of each natural secret: its rank among all texts of its format after the same words.

    A secret that cannot be measured (its words do not suit the tokenizer or the model's context) has a reason instead
    of figures; the others are still measured.

    Source: Carlini et al. 2019, "The Secret Sharer", Section 8.4 and Table 5.

    Args:
        model: a causal language model, which is left as it was found.
        tokenizer: its tokenizer.
        secrets: the result of `scan`, or `NaturalSecrets.load(path)`.
        base_model: a model that saw none of them, or "without_adapter". Natural secrets were not drawn at random, so
            only this comparison distinguishes memorization from a likely number.
        **settings: the settings of `measure_exposure`.

    Returns:
        A `SecretsReport`, with one entry for each secret.

    Raises:
        InputError: `secrets` has another type, a setting is unknown, or the base model does not suit this model.
    """
    started = time.perf_counter()
    instance_of("secrets", secrets, NaturalSecrets, "Pass what scan returns.")
    check_module("model", model)
    check_base_model(model, base_model)
    checked = MeasureSettings.of(**settings)
    return SecretsReport(
        secrets=tuple(_exposures(model, tokenizer, secrets, base_model, settings)),
        model=describe_model(unwrap_model(model)),
        settings=checked.to_dict(),
        base="" if base_model is None else base_model if isinstance(base_model, str) else type(base_model).__name__,
        rows=secrets.rows,
        seconds=time.perf_counter() - started,
        versions=dict(package_versions()),
    )


def _exposures(
    model: nn.Module,
    tokenizer: Any,
    secrets: Iterable[NaturalSecret],
    base_model: BaseModel | None,
    settings: MeasureOptions,
) -> Iterable[SecretExposure]:
    for secret in secrets:
        about: dict[str, Any] = {
            "secret_id": secret.id,
            "secret_kind": secret.kind.value,
            "occurrences": secret.occurrences,
            "examples": secret.examples,
            "log2_space_size": secret.template.log2_space_size,
        }
        try:
            meter = ExposureMeter(secret.canaries(), tokenizer, **settings)
            [found] = meter.measure(model, base_model=base_model).estimates
        except ExposureError as error:
            # The error's message may quote the words before the secret, which may contain another secret.
            what = error.argument if isinstance(error, InputError) else type(error).__name__
            nothing: dict[str, Any] = dict.fromkeys(("exposure_bits", "low_bits", "high_bits"), math.nan)
            yield SecretExposure(**about, **nothing, note=f"it cannot be measured: {what}")
            continue
        figures = ("exposure_bits", "low_bits", "high_bits", "rank_low", "rank_high", "base_exposure_bits")
        yield SecretExposure(
            **about,
            **{name: getattr(found, name) for name in (*figures, "method", "bound", "note")},
        )
