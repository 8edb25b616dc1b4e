"""Plain data that is passed between the parts and stored in files. It needs no torch, and has no text of a canary
unless requested.
"""

from hf_exposure.records.cost_plan import CostPlan, Spent
from hf_exposure.records.doses import CanaryDose, Doses, Uncounted
from hf_exposure.records.dynamics import DynamicsRecord
from hf_exposure.records.estimates import (
    Candidate,
    Discoverability,
    ExposureEstimate,
    Extraction,
    NearExtraction,
    RankBounds,
)
from hf_exposure.records.exposure_report import ExposureReport
from hf_exposure.records.groups import RepetitionGroup
from hf_exposure.records.membership import MembershipReport, MembershipVerdict
from hf_exposure.records.pool import PooledGroup, PooledReport, pool_reports
from hf_exposure.records.references import ReferenceCosts
from hf_exposure.records.run_facts import Outcome, RunFacts
from hf_exposure.records.sampling import SampledText, SamplingExtraction
from hf_exposure.records.secrets import SecretExposure, SecretsReport
from hf_exposure.records.validity import Delivery, Validity

__all__ = [
    "CanaryDose",
    "Candidate",
    "CostPlan",
    "Delivery",
    "Discoverability",
    "Doses",
    "DynamicsRecord",
    "ExposureEstimate",
    "ExposureReport",
    "Extraction",
    "MembershipReport",
    "MembershipVerdict",
    "NearExtraction",
    "Outcome",
    "PooledGroup",
    "PooledReport",
    "RankBounds",
    "ReferenceCosts",
    "RepetitionGroup",
    "RunFacts",
    "SampledText",
    "SamplingExtraction",
    "SecretExposure",
    "SecretsReport",
    "Spent",
    "Uncounted",
    "Validity",
    "pool_reports",
]
