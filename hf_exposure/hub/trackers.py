"""The final report in the experiment trackers: an artifact if the tracker supports it, else text."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers.integrations.integration_utils import (
    MLflowCallback,
    TensorBoardCallback,
    TrackioCallback,
    WandbCallback,
)

from hf_exposure.canaries import CanarySet
from hf_exposure.canaries.secrecy import message_of
from hf_exposure.hub.card import exposure_section
from hf_exposure.hub.published import published
from hf_exposure.hub.push import published_files
from hf_exposure.records import ExposureReport

ARTIFACT, ARTIFACT_TYPE = "exposure-report", "exposure-report"


def attach_report(reports: list[ExposureReport], callbacks: Iterable[Any], canaries: CanarySet) -> None:
    """Attaches the last report of a run, in its published form, to the trackers among a trainer's callbacks.

    W&B and trackio get an artifact named `exposure-report` with the files of `ExposureReport.save`, MLflow gets the
    same files in a folder of that name, and TensorBoard (which has no artifacts) the card's section as text. Call it
    before the trackers close. If attaching fails, or a file contains a canary, there is only a warning, so that a
    finished training is not lost.

    Args:
        reports: the reports of the run, oldest first; without reports, nothing is attached.
        callbacks: the trainer's callbacks; those that are no trackers are ignored.
        canaries: the set whose secrets must not be attached.
    """
    trackers = [callback for callback in callbacks if _way(callback) is not None]
    if not reports or not trackers:
        return
    files = functools.cache(lambda: published_files(reports[-1], reports, canaries))
    with TemporaryDirectory() as folder:
        for tracker in trackers:
            try:
                for name, content in files().items():
                    (Path(folder) / name).write_bytes(content)
                _way(tracker)(tracker, Path(folder), reports[-1])
            except Exception as error:
                name = type(tracker).__name__.removesuffix("Callback")
                why = f"{type(error).__name__}: {message_of(error, canaries)}"
                warnings.warn(f"the report was not attached to {name}: {why}", stacklevel=2)


def _to_tensorboard(tracker: Any, folder: Path, report: ExposureReport) -> None:
    if tracker.tb_writer is not None:
        tracker.tb_writer.add_text("exposure/report", exposure_section(published(report)), report.step)


def _to_wandb(tracker: Any, folder: Path, report: ExposureReport) -> None:
    run = tracker._wandb.run
    artifact = tracker._wandb.Artifact(f"{ARTIFACT}-{run.id}", type=ARTIFACT_TYPE)
    artifact.add_dir(str(folder))
    run.log_artifact(artifact)


def _to_trackio(tracker: Any, folder: Path, report: ExposureReport) -> None:
    # Older versions of trackio have a callback but no artifacts.
    if hasattr(tracker._trackio, "log_artifact"):
        tracker._trackio.log_artifact(folder, name=ARTIFACT, type=ARTIFACT_TYPE)


def _to_mlflow(tracker: Any, folder: Path, report: ExposureReport) -> None:
    # Without an active run, MLflow would start a new one.
    if tracker._ml_flow.active_run() is not None:
        tracker._ml_flow.log_artifacts(str(folder), artifact_path=ARTIFACT)


_WAYS = {
    TensorBoardCallback: _to_tensorboard,
    WandbCallback: _to_wandb,
    TrackioCallback: _to_trackio,
    MLflowCallback: _to_mlflow,
}


def _way(callback: Any) -> Any:
    return next((way for kind, way in _WAYS.items() if isinstance(callback, kind)), None)
