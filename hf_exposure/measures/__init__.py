"""Canaries and a model in, a report out."""

from hf_exposure.measures.meter import ExposureMeter, measure_exposure
from hf_exposure.measures.methods import (
    Auto,
    Bounded,
    Enumerate,
    Importance,
    Method,
    MethodName,
    Sample,
    SkewNormal,
    choose,
    method_of,
)
from hf_exposure.measures.settings import FurtherOptions, MeasureOptions, MeasureSettings

__all__ = [
    "Auto",
    "Bounded",
    "Enumerate",
    "ExposureMeter",
    "FurtherOptions",
    "Importance",
    "MeasureOptions",
    "MeasureSettings",
    "Method",
    "MethodName",
    "Sample",
    "SkewNormal",
    "choose",
    "measure_exposure",
    "method_of",
]
