"""A `Trainer` that pushes to the Hub: its card gets the figures, its output folder the published report.

`Trainer.push_to_hub` calls `on_push_begin`, then writes its card anew, with empty results, then uploads the output
folder. Nothing is called after the card. So `attach` lets the trainer's own `create_model_card` end with ours: card,
report and weights go up in the trainer's one commit, with its token, branch and retries.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hf_exposure.canaries import CanarySet
from hf_exposure.files import write_aside
from hf_exposure.hub.card import FOLDER, updated_card
from hf_exposure.hub.published import published
from hf_exposure.hub.push import published_files
from hf_exposure.hub.secret_check import refuse_secrets
from hf_exposure.report import ExposureReport

__all__ = ["complete_cards", "write_published"]

_TEXTS = (".csv", ".html", ".json", ".jsonl", ".md", ".txt", ".yaml", ".yml")
# Larger ones are vocabularies and data, which take seconds to search.
_LARGEST_TEXT = 1_000_000


class _Callback(Protocol):
    canaries: CanarySet
    reports: list[ExposureReport]


def write_published(reports: Sequence[ExposureReport], folder: str | Path, canaries: CanarySet) -> None:
    """The published form of the last report into `folder`/exposure, its plots with the run's history; none, nothing.

    The trainer is about to upload all of `folder`, so its other small text files are searched for canaries too: a
    canary file that was saved there, a list of samples.

    Raises:
        SecretFoundError: a canary stands in one of the files; none was written, and the push does not happen.
    """
    _refuse_secrets_beside(Path(folder), canaries)
    if not reports:
        return
    target = Path(folder) / FOLDER
    target.mkdir(parents=True, exist_ok=True)
    for name, content in published_files(reports[-1], reports, canaries).items():
        write_aside(target / name, content)


def _refuse_secrets_beside(folder: Path, canaries: CanarySet) -> None:
    """As the trainer's own upload: not what begins with an underscore, nor checkpoints."""
    texts = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.suffix in _TEXTS
        and not path.relative_to(folder).parts[0].startswith(("_", PREFIX_CHECKPOINT_DIR))
        and path.is_file()
        and path.stat().st_size <= _LARGEST_TEXT
    }
    refuse_secrets(texts, canaries)


def complete_cards(trainer: Any, callback: _Callback) -> None:
    """Makes every model card that a trainer writes from now on hold the callback's last report. Once is enough."""
    write_card = trainer.create_model_card
    if getattr(write_card, "completed_by", None) is callback:
        return

    @functools.wraps(write_card)
    def create_model_card(*arguments: Any, **named: Any) -> Any:
        returned = write_card(*arguments, **named)
        if trainer.is_world_process_zero() and callback.reports:
            _complete(Path(trainer.args.output_dir), callback, trainer.hub_model_id or "")
        return returned

    create_model_card.completed_by = callback  # type: ignore[attr-defined]
    trainer.create_model_card = create_model_card


def _complete(folder: Path, callback: _Callback, repo_id: str) -> None:
    path = folder / "README.md"
    content = path.read_bytes().decode("utf-8-sig") if path.exists() else None
    files = sorted(file.name for file in (folder / FOLDER).iterdir()) if (folder / FOLDER).is_dir() else []
    name = repo_id.rsplit("/", 1)[-1] or folder.absolute().name
    card = updated_card(content, published(callback.reports[-1]), name=name, files=files).encode("utf-8")
    refuse_secrets({path.name: card}, callback.canaries)
    write_aside(path, card)
