"""Callbacks that decide when to measure during a training, and that log the figures."""

from hf_exposure.callback.exposure_callback import ExposureCallback
from hf_exposure.callback.measure_callback import MeasureCallback, Strategy

__all__ = ["ExposureCallback", "MeasureCallback", "Strategy"]
