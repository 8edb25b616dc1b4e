"""Canaries and a model in, a report out."""

from hf_exposure.measures.meter import ExposureMeter, measure_exposure
from hf_exposure.measures.methods import Enumerate, Method, MethodName, Sample, SkewNormal
from hf_exposure.measures.search_methods import Auto, Bounded, Importance, choose
from hf_exposure.measures.settings import FurtherOptions, MeasureOptions, MeasureSettings, method_of

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
