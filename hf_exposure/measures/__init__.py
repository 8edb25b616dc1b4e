"""Measures: functions that measure a model and return a report, and the protocol that `MeasureCallback` schedules."""

from hf_exposure.measures.batch_dynamics import BatchDynamicsMeasure
from hf_exposure.measures.critical import CriticalSampleRatio
from hf_exposure.measures.dynamics import DynamicsMeasure
from hf_exposure.measures.exposure import ExposureMeter, measure_exposure
from hf_exposure.measures.membership import MembershipMeasure, MembershipMeter, MembershipOptions, measure_membership
from hf_exposure.measures.methods import Enumerate, Method, MethodName, Sample, SkewNormal
from hf_exposure.measures.protocol import Measure, SeenBatch, TrainingStart
from hf_exposure.measures.search_methods import Auto, Bounded, Importance, choose
from hf_exposure.measures.secrets import measure_secrets
from hf_exposure.measures.settings import FurtherOptions, MeasureOptions, MeasureSettings, method_of
from hf_exposure.records.run_log import PlainRecord, Record

__all__ = [
    "Auto",
    "BatchDynamicsMeasure",
    "Bounded",
    "CriticalSampleRatio",
    "DynamicsMeasure",
    "Enumerate",
    "ExposureMeter",
    "FurtherOptions",
    "Importance",
    "Measure",
    "MeasureOptions",
    "MeasureSettings",
    "MembershipMeasure",
    "MembershipMeter",
    "MembershipOptions",
    "Method",
    "MethodName",
    "PlainRecord",
    "Record",
    "Sample",
    "SeenBatch",
    "SkewNormal",
    "TrainingStart",
    "choose",
    "measure_exposure",
    "measure_membership",
    "measure_secrets",
    "method_of",
]
