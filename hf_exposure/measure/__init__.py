"""Canaries and a model in, a report out."""

from hf_exposure.measure.meter import ExposureMeter, measure_exposure
from hf_exposure.measure.settings import MeasureSettings, Method

__all__ = ["ExposureMeter", "MeasureSettings", "Method", "measure_exposure"]
