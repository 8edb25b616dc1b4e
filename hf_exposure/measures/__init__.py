"""Canaries and a model in, a report out."""

from hf_exposure.measures.meter import ExposureMeter, measure_exposure
from hf_exposure.measures.settings import MeasureSettings, Method

__all__ = ["ExposureMeter", "MeasureSettings", "Method", "measure_exposure"]
