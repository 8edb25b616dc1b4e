"""What people look at: the report of a measurement, its JSON and its plots."""

from hf_exposure.report.exposure_report import ExposureReport
from hf_exposure.report.groups import RepetitionGroup
from hf_exposure.report.references import ReferenceCosts

__all__ = ["ExposureReport", "ReferenceCosts", "RepetitionGroup"]
