"""How much is exposed: plain arrays of costs in, one record per cost out. numpy and scipy only."""

from __future__ import annotations

from hf_exposure.estimators.importance import WeightCheck, check_weights, importance_exposure
from hf_exposure.estimators.intervals import clopper_pearson
from hf_exposure.estimators.rank import enumeration_exposure, exposure_from_rank, ranks
from hf_exposure.estimators.sampling import sampling_exposure
from hf_exposure.records import CostEstimate

__all__ = [
    "CostEstimate",
    "WeightCheck",
    "check_weights",
    "clopper_pearson",
    "enumeration_exposure",
    "exposure_from_rank",
    "importance_exposure",
    "ranks",
    "sampling_exposure",
]
