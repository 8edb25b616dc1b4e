"""Canaries and a model in, a report out; and the protocol of measures that `MeasureCallback` schedules."""

from hf_exposure.measures.meter import ExposureMeter, measure_exposure
from hf_exposure.measures.protocol import Measure, PlainRecord, Record, SeenBatch, TrainingStart
from hf_exposure.measures.settings import MeasureSettings, Method

__all__ = [
    "ExposureMeter",
    "Measure",
    "MeasureSettings",
    "Method",
    "PlainRecord",
    "Record",
    "SeenBatch",
    "TrainingStart",
    "measure_exposure",
]
