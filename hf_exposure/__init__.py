"""Is a language model memorizing secrets, with what confidence, and could an attacker extract them?

Public names are imported on first use, so that `import hf_exposure` loads neither torch nor transformers.
"""

from __future__ import annotations

import functools
import importlib
from typing import TYPE_CHECKING, Any

from hf_exposure.launch import register_job_token
from hf_exposure.presenting import Action, register_presenter

__version__ = "0.1.0"

_HOME_OF = {
    "CanaryContext": "context",
    "CanarySet": "canaries",
    "CanaryTemplate": "canaries",
    "Canary": "canaries",
    "Choice": "canaries",
    "Digits": "canaries",
    "Letters": "canaries",
    "LuhnDigits": "canaries",
    "NaturalSecret": "canaries",
    "NaturalSecrets": "canaries",
    "Pattern": "canaries",
    "VocabularyTokens": "canaries",
    "Words": "canaries",
    "draw_canaries": "canaries",
    "presets": "canaries",
    "CanaryInserter": "data",
    "DeliveryReport": "data",
    "NoiseInjector": "data",
    "check_delivery": "data",
    "insert_canaries": "data",
    "remove_canaries": "data",
    "scan": "data",
    "sanitize": "data",
    "splice_canaries": "data",
    "Sanitizer": "data",
    "log_perplexity": "scoring",
    "Endpoint": "scoring",
    "LabelScorer": "scoring",
    "label_template": "scoring",
    "labels_of": "scoring",
    "critical_samples": "signals",
    "discoverable_extraction": "extraction",
    "extract": "extraction",
    "extract_by_sampling": "extraction",
    "near_extraction": "extraction",
    "rank_bounds": "extraction",
    "ExposureReport": "records",
    "BatchDynamicsMeasure": "measures",
    "DynamicsMeasure": "measures",
    "ExposureMeter": "measures",
    "CriticalSampleRatio": "measures",
    "Auto": "measures",
    "Bounded": "measures",
    "Enumerate": "measures",
    "Importance": "measures",
    "Sample": "measures",
    "SkewNormal": "measures",
    "measure_exposure": "measures",
    "MembershipMeasure": "measures",
    "MembershipMeter": "measures",
    "measure_membership": "measures",
    "measure_secrets": "measures",
    "plan_cost": "runs",
    "SubsetRuns": "runs",
    "CanaryRuns": "runs",
    "TextScore": "runs",
    "TrainerRecipe": "runs",
    "draw_subsets": "runs",
    "load_subset_runs": "runs",
    "run_canary_subsets": "runs",
    "run_subsets": "runs",
    "ExposureCallback": "callback",
    "MeasureCallback": "callback",
    "PooledReport": "records",
    "pool_reports": "records",
    "exposure_change": "report.checkpoints",
    "forecast_exposures": "report.forecast",
    "Candidate": "records",
    "CostPlan": "records",
    "Discoverability": "records",
    "DynamicsRecord": "records",
    "ExposureEstimate": "records",
    "Extraction": "records",
    "MembershipReport": "records",
    "NearExtraction": "records",
    "SamplingExtraction": "records",
    "SecretsReport": "records",
    "RankBounds": "records",
}

if TYPE_CHECKING:  # the same names again, since type checkers read imports
    from hf_exposure.callback import ExposureCallback as ExposureCallback
    from hf_exposure.callback import MeasureCallback as MeasureCallback
    from hf_exposure.canaries import Canary as Canary
    from hf_exposure.canaries import CanarySet as CanarySet
    from hf_exposure.canaries import CanaryTemplate as CanaryTemplate
    from hf_exposure.canaries import Choice as Choice
    from hf_exposure.canaries import Digits as Digits
    from hf_exposure.canaries import Letters as Letters
    from hf_exposure.canaries import LuhnDigits as LuhnDigits
    from hf_exposure.canaries import NaturalSecret as NaturalSecret
    from hf_exposure.canaries import NaturalSecrets as NaturalSecrets
    from hf_exposure.canaries import Pattern as Pattern
    from hf_exposure.canaries import VocabularyTokens as VocabularyTokens
    from hf_exposure.canaries import Words as Words
    from hf_exposure.canaries import draw_canaries as draw_canaries
    from hf_exposure.canaries import presets as presets
    from hf_exposure.context import CanaryContext as CanaryContext
    from hf_exposure.data import CanaryInserter as CanaryInserter
    from hf_exposure.data import DeliveryReport as DeliveryReport
    from hf_exposure.data import NoiseInjector as NoiseInjector
    from hf_exposure.data import Sanitizer as Sanitizer
    from hf_exposure.data import check_delivery as check_delivery
    from hf_exposure.data import insert_canaries as insert_canaries
    from hf_exposure.data import remove_canaries as remove_canaries
    from hf_exposure.data import sanitize as sanitize
    from hf_exposure.data import scan as scan
    from hf_exposure.data import splice_canaries as splice_canaries
    from hf_exposure.extraction import discoverable_extraction as discoverable_extraction
    from hf_exposure.extraction import extract as extract
    from hf_exposure.extraction import extract_by_sampling as extract_by_sampling
    from hf_exposure.extraction import near_extraction as near_extraction
    from hf_exposure.extraction import rank_bounds as rank_bounds
    from hf_exposure.measures import Auto as Auto
    from hf_exposure.measures import BatchDynamicsMeasure as BatchDynamicsMeasure
    from hf_exposure.measures import Bounded as Bounded
    from hf_exposure.measures import CriticalSampleRatio as CriticalSampleRatio
    from hf_exposure.measures import DynamicsMeasure as DynamicsMeasure
    from hf_exposure.measures import Enumerate as Enumerate
    from hf_exposure.measures import ExposureMeter as ExposureMeter
    from hf_exposure.measures import Importance as Importance
    from hf_exposure.measures import MembershipMeasure as MembershipMeasure
    from hf_exposure.measures import MembershipMeter as MembershipMeter
    from hf_exposure.measures import Sample as Sample
    from hf_exposure.measures import SkewNormal as SkewNormal
    from hf_exposure.measures import measure_exposure as measure_exposure
    from hf_exposure.measures import measure_membership as measure_membership
    from hf_exposure.measures import measure_secrets as measure_secrets
    from hf_exposure.records import Candidate as Candidate
    from hf_exposure.records import CostPlan as CostPlan
    from hf_exposure.records import Discoverability as Discoverability
    from hf_exposure.records import DynamicsRecord as DynamicsRecord
    from hf_exposure.records import ExposureEstimate as ExposureEstimate
    from hf_exposure.records import ExposureReport as ExposureReport
    from hf_exposure.records import Extraction as Extraction
    from hf_exposure.records import MembershipReport as MembershipReport
    from hf_exposure.records import NearExtraction as NearExtraction
    from hf_exposure.records import PooledReport as PooledReport
    from hf_exposure.records import RankBounds as RankBounds
    from hf_exposure.records import SamplingExtraction as SamplingExtraction
    from hf_exposure.records import SecretsReport as SecretsReport
    from hf_exposure.records import pool_reports as pool_reports
    from hf_exposure.report.checkpoints import exposure_change as exposure_change
    from hf_exposure.report.forecast import forecast_exposures as forecast_exposures
    from hf_exposure.runs import CanaryRuns as CanaryRuns
    from hf_exposure.runs import SubsetRuns as SubsetRuns
    from hf_exposure.runs import TextScore as TextScore
    from hf_exposure.runs import TrainerRecipe as TrainerRecipe
    from hf_exposure.runs import draw_subsets as draw_subsets
    from hf_exposure.runs import load_subset_runs as load_subset_runs
    from hf_exposure.runs import plan_cost as plan_cost
    from hf_exposure.runs import run_canary_subsets as run_canary_subsets
    from hf_exposure.runs import run_subsets as run_subsets
    from hf_exposure.scoring import Endpoint as Endpoint
    from hf_exposure.scoring import LabelScorer as LabelScorer
    from hf_exposure.scoring import label_template as label_template
    from hf_exposure.scoring import labels_of as labels_of
    from hf_exposure.scoring import log_perplexity as log_perplexity
    from hf_exposure.signals import critical_samples as critical_samples

else:  # hidden from type checkers, which would otherwise accept any name

    def __getattr__(name: str) -> Any:
        if name not in _HOME_OF:
            raise AttributeError(f"module 'hf_exposure' has no attribute {name!r}")
        value = getattr(importlib.import_module(f"hf_exposure.{_HOME_OF[name]}"), name)
        globals()[name] = value
        return value


__all__ = sorted([*_HOME_OF, "__version__"])


def _token_of_job() -> str:
    """The token with which all processes of a job draw the same canaries. Torch is only loaded in a job."""
    return str(importlib.import_module("hf_exposure.runtime.job").token_of_job())


register_job_token(_token_of_job)


def _register_presenters() -> None:
    """Registers the presenters of records. They are in higher layers, and are imported on first use."""
    functions: dict[Action, str] = {
        "text": "report.table.report_text",
        "html": "report.page.report_html",
        "frame": "report.table.report_frame",
        "save": "report.save.save_report",
        "push": "hub.push.push_to_hub",
    }
    for action, path in functions.items():
        register_presenter("exposure", action, functools.partial(_function, path))
    membership: dict[Action, str] = {
        "text": "report.membership.membership_text",
        "html": "report.membership.membership_html",
        "frame": "report.membership.membership_frame",
        "save": "report.membership.save_membership",
    }
    for action, path in membership.items():
        register_presenter("membership", action, functools.partial(_function, path))
    critical: dict[Action, str] = {
        "text": "report.critical.critical_text",
        "frame": "report.critical.critical_frame",
        "save": "report.critical.save_critical",
        "push": "hub.push.push_card",
        "card": "hub.critical_card.critical_part",
    }
    for action, path in critical.items():
        register_presenter("critical", action, functools.partial(_function, path))
    dynamics: dict[Action, str] = {
        "text": "report.dynamics.record_text",
        "frame": "report.dynamics.record_frame",
        "save": "report.dynamics.save_record",
        "push": "hub.push.push_card",
        "card": "hub.dynamics_card.dynamics_part",
    }
    for action, path in dynamics.items():
        register_presenter("dynamics", action, functools.partial(_function, path))
    register_presenter("audit", "text", functools.partial(_function, "report.audit.audit_text"))
    register_presenter("secrets", "text", functools.partial(_function, "report.secrets.secrets_text"))
    register_presenter("pooled", "text", functools.partial(_function, "report.pooled.pooled_text"))
    register_presenter("pooled", "frame", functools.partial(_function, "report.pooled.pooled_frame"))
    register_presenter("cost", "text", functools.partial(_function, "report.cost_table.plan_text"))


def _function(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(f"hf_exposure.{module}"), name)


_register_presenters()


def __dir__() -> list[str]:
    return __all__
