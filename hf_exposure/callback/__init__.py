"""When to measure during a training, and what becomes of the figures."""

from hf_exposure.callback.exposure_callback import ExposureCallback
from hf_exposure.callback.measure_callback import MeasureCallback, Strategy

__all__ = ["ExposureCallback", "MeasureCallback", "Strategy"]
