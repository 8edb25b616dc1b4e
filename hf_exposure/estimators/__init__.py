"""How much is exposed: plain arrays of costs in, one record per cost out. numpy and scipy only."""

from __future__ import annotations

from hf_exposure.estimators.control_test import ControlTest, control_test
from hf_exposure.estimators.difference import difference_interval
from hf_exposure.estimators.epsilon import EpsilonBound, epsilon_lower_bound, one_run_p_value
from hf_exposure.estimators.estimate import CostEstimate
from hf_exposure.estimators.importance import WeightCheck, check_weights, importance_exposure
from hf_exposure.estimators.intervals import clopper_pearson, clopper_pearson_low, mean_interval
from hf_exposure.estimators.rank import enumeration_exposure, exposure_from_rank, ranks, sampling_exposure
from hf_exposure.estimators.skew_normal import (
    FitJudgement,
    SkewNormalFit,
    fit_skew_normal,
    judge_fit,
    log_cdf,
    skew_normal_exposure,
)
from hf_exposure.estimators.similarity import (
    Dilation,
    IntrinsicDimension,
    ProbeChange,
    cka_of_batches,
    intrinsic_dimension,
    knn_agreement,
    knn_decisions,
    linear_cka,
    memorization_dilation,
    probe_change,
    svcca,
)

__all__ = [
    "ControlTest",
    "CostEstimate",
    "Dilation",
    "EpsilonBound",
    "FitJudgement",
    "IntrinsicDimension",
    "ProbeChange",
    "SkewNormalFit",
    "WeightCheck",
    "check_weights",
    "cka_of_batches",
    "clopper_pearson",
    "clopper_pearson_low",
    "control_test",
    "difference_interval",
    "enumeration_exposure",
    "epsilon_lower_bound",
    "exposure_from_rank",
    "fit_skew_normal",
    "importance_exposure",
    "intrinsic_dimension",
    "judge_fit",
    "knn_agreement",
    "knn_decisions",
    "linear_cka",
    "log_cdf",
    "mean_interval",
    "memorization_dilation",
    "one_run_p_value",
    "probe_change",
    "ranks",
    "sampling_exposure",
    "skew_normal_exposure",
    "svcca",
]
