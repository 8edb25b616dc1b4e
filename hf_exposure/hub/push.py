"""Uploads figures to a model's repository on the Hub, in a separate commit or in the one that a `Trainer` pushes.

`Trainer.push_to_hub` calls `on_push_begin`, then writes its card again, with empty results, then uploads the output
folder. No callback runs after the card is written. So `complete_cards` extends the trainer's own `create_model_card`:
card, report and weights are then uploaded in the trainer's one commit, with its token, branch and retries.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hf_exposure.canaries import CanarySet
from hf_exposure.canaries.secrecy import without_secrets
from hf_exposure.checks import encodable_text, flag, instance_of, path_of
from hf_exposure.errors import HubError, InputError, first_line
from hf_exposure.files import write_aside
from hf_exposure.hub.card import FOLDER, card_with, updated_card
from hf_exposure.hub.published import published, refuse_secrets
from hf_exposure.presenting import Presented
from hf_exposure.records import ExposureReport
from hf_exposure.records.run_log import EXPOSURE_LOG
from hf_exposure.report.save import save_report

# Waiting times before each new attempt, in seconds.
WAITS = (1.0, 2.0, 4.0)
_CARD = "README.md"
_CANARIES = "canaries.json"
# Statuses of a concurrent commit: start again from the new state.
_CONFLICT = (409, 412)
_PASSING = (408, 429, 500, 502, 503, 504)


def push_to_hub(
    report: ExposureReport,
    repo_id: str,
    *,
    create_pr: bool = False,
    token: str | bool | None = None,
    folder: str | Path | None = None,
    revision: str | None = None,
    private: bool | None = None,
    canaries: CanarySet | None = None,
) -> str:
    """Writes a report into a model repository: results in the card's `model-index`, a section of its text, and files.

    It pushes `published(report)`, and pictures and pages made from it, in `exposure/`. There is one commit on top of
    the state that was read, so an interrupted push leaves the repository as it was, and a concurrent commit is never
    overwritten: the push starts again from there. A second push replaces the first.

    Args:
        report: the measured report.
        repo_id: "user/model"; the repository must exist, unless `private` is given.
        create_pr: whether to propose the commit as a pull request, for which read access is enough.
        token: as everywhere in `huggingface_hub`; by default the stored one.
        folder: a run's folder, as the callback writes it: the earlier measurements in its log are published too, as a
            plot of exposure against step. None of its files is uploaded unchanged.
        revision: the branch; "main" by default.
        private: True or False to create the repository, if missing, with that visibility.
        canaries: the inserted set; everything is searched for its secrets before it is sent. By default the set of
            `folder`/canaries.json, if there is one.

    Returns:
        The address of the commit, or of the pull request.

    Raises:
        InputError: `repo_id` is malformed, the repository does not exist or is not visible, the card's metadata cannot
            be read or are refused, or the canary file is damaged.
        SecretFoundError: a file to upload contains a canary; nothing was sent.
        HubError: the Hub refused, or could not be reached; nothing was written.

    Example (needs the Hub):
        >>> push_to_hub(report, "me/model", create_pr=True)                                     # doctest: +SKIP
        'https://huggingface.co/me/model/discussions/1'
    """
    encodable_text("repo_id", repo_id)
    flag("create_pr", create_pr)
    if private is not None:
        flag("private", private)
    if canaries is not None:
        instance_of("canaries", canaries, CanarySet, "Pass CanarySet.load(path).")
    if folder is not None:
        folder = path_of("folder", folder)
    if canaries is None and folder is not None and (Path(folder) / _CANARIES).is_file():
        canaries = CanarySet.load(Path(folder) / _CANARIES)
    # The present card may contain a canary, which an error about its metadata would quote.
    return without_secrets(
        canaries,
        lambda: _push(
            report,
            repo_id,
            canaries,
            create_pr=create_pr,
            token=token,
            folder=folder,
            revision=revision,
            private=private,
        ),
    )


def _push(
    report: ExposureReport,
    repo_id: str,
    canaries: CanarySet | None,
    *,
    create_pr: bool,
    token: str | bool | None,
    folder: str | Path | None,
    revision: str | None,
    private: bool | None,
) -> str:
    history = EXPOSURE_LOG.read(folder) if folder is not None else []
    files = published_files(report, history, canaries)

    def changed(card: str | None, name: str) -> dict[str, bytes]:
        text = updated_card(card, published(report), name=name, files=list(files)).encode("utf-8")
        if canaries is not None:
            refuse_secrets({_CARD: text}, canaries)
        return {_CARD: text, **{f"{FOLDER}/{file}": content for file, content in files.items()}}

    return _push_changes(
        repo_id,
        changed,
        "Publish the exposure of canaries",
        create_pr=create_pr,
        token=token,
        revision=revision,
        private=private,
    )


def push_card(
    run: Presented,
    repo_id: str,
    *,
    create_pr: bool = False,
    token: str | bool | None = None,
    revision: str | None = None,
    private: bool | None = None,
) -> str:
    """Writes the part of a measure into the card of a model repository: results in its `model-index`, and a section.

    Like `push_to_hub` for exposure, it makes one commit on top of the state that was read. It replaces an earlier push
    of the same measure, and keeps the parts of other measures.

    Args:
        run: a record for whose kind a "card" presenter is registered, such as a `CriticalRun`.
        repo_id, create_pr, token, revision, private: as for `push_to_hub`.

    Returns:
        the address of the commit, or of the pull request.

    Raises:
        InputError: the record has no such part, or `push_to_hub` refuses the repository.
        HubError: the Hub refused, or could not be reached. Nothing was written.
    """
    encodable_text("repo_id", repo_id)
    flag("create_pr", create_pr)
    if private is not None:
        flag("private", private)
    _check_card(run)

    def changed(card: str | None, name: str) -> dict[str, bytes]:
        return {_CARD: _with_part(card, run, name)}

    message = f"Publish {run.kind} figures"
    return _push_changes(
        repo_id, changed, message, create_pr=create_pr, token=token, revision=revision, private=private
    )


def _check_card(run: Any) -> None:
    if not isinstance(run, Presented) or not run.can_be("card"):
        rule = "must be a record that supports model cards"
        raise InputError("run", rule, type(run).__name__, "Pass what read_critical(folder) returns.")


def _with_part(card: str | None, run: Presented, name: str) -> bytes:
    return card_with(card, lambda tag: run.presented("card", tag), name=name).encode("utf-8")


def _push_changes(
    repo_id: str,
    changed: Callable[[str | None, str], dict[str, bytes]],
    message: str,
    *,
    create_pr: bool,
    token: str | bool | None,
    revision: str | None,
    private: bool | None,
) -> str:
    """Makes one commit with the files that `changed` returns for the card and the model's name; repeats it on a
    conflict.
    """
    from huggingface_hub import HfApi, errors

    # The base class of the transport's errors, in httpx or httpx2, depending on the library's version.
    transport_error: type[Exception] = errors.HfHubHTTPError.__mro__[1]
    unreachable = (transport_error, errors.LocalEntryNotFoundError, ConnectionError, errors.LocalTokenNotFoundError)
    api = HfApi(token=token, library_name="hf_exposure")
    last = len(WAITS)
    for attempt in range(last + 1):
        try:
            if private is not None:
                api.create_repo(repo_id, private=private, exist_ok=True)
            commit = _commit(api, repo_id, changed, message, revision=revision, create_pr=create_pr)
            return str(commit.pr_url if create_pr else commit.commit_url)
        except errors.HFValidationError as error:
            raise InputError("repo_id", f"must name a repository ({error})", repo_id, "Write user/model.") from error
        except errors.RepositoryNotFoundError as error:
            rule = "must be a model repository that exists and that your token may see"
            remedy = "Log in with `hf auth login`, or pass private=True to create it."
            raise InputError("repo_id", rule, repo_id, remedy) from error
        except unreachable as error:
            # A commit on top of a known state cannot be made twice; a pull request could.
            if attempt == last or not _may_pass(error, conflicts_only=create_pr):
                raise HubError(_explained(error, repo_id)) from error
            time.sleep(WAITS[attempt])
    raise AssertionError("unreachable")


def published_files(
    report: ExposureReport, history: Sequence[ExposureReport] = (), canaries: CanarySet | None = None
) -> dict[str, bytes]:
    """The files next to the card: `ExposureReport.save` of the published report, by name.

    Raises:
        SecretFoundError: one of them contains a canary.
    """
    with TemporaryDirectory() as folder:
        save_report(published(report), folder, [published(earlier) for earlier in history])
        files = {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}
    if canaries is not None:
        refuse_secrets(files, canaries)
    return files


def _commit(
    api: Any,
    repo_id: str,
    changed: Callable[[str | None, str], dict[str, bytes]],
    message: str,
    *,
    revision: str | None,
    create_pr: bool,
) -> Any:
    from huggingface_hub import CommitOperationAdd, errors

    head = api.model_info(repo_id, revision=revision).sha
    uploads = changed(_read_card(api, repo_id, head), repo_id.rsplit("/", 1)[-1])
    try:
        return api.create_commit(
            repo_id,
            [CommitOperationAdd(path, content) for path, content in uploads.items()],
            commit_message=message,
            revision=revision,
            create_pr=create_pr,
            parent_commit=head,
        )
    except errors.HfHubHTTPError:
        raise
    except ValueError as error:
        # The Hub first checks the card's metadata, including those of other tools.
        rule = "must have metadata that the Hub accepts"
        raise InputError(_CARD, rule, str(error), "Repair the block between the two lines of ---.") from error


def _read_card(api: Any, repo_id: str, head: str | None) -> str | None:
    """The card at a commit; None if there is none."""
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    with TemporaryDirectory() as folder:
        try:
            path = api.hf_hub_download(repo_id, _CARD, revision=head, local_dir=folder)
        except LocalEntryNotFoundError:
            # The Hub was not reached. The class of the error means "no such entry", but a card may exist.
            raise
        except EntryNotFoundError:
            return None
        # Read bytes, so that line ends stay as they are.
        return Path(path).read_bytes().decode("utf-8-sig")


def _may_pass(error: Exception, *, conflicts_only: bool) -> bool:
    from huggingface_hub import constants, errors

    status = _status(error)
    if status in _CONFLICT:
        return True
    if conflicts_only or constants.HF_HUB_OFFLINE or isinstance(error, errors.LocalTokenNotFoundError):
        return False
    return status is None or status in _PASSING


def _status(error: BaseException) -> int | None:
    """The HTTP status behind an error, if there was a response."""
    response = getattr(error, "response", None)
    if response is None and error.__cause__ is not None:
        return _status(error.__cause__)
    return getattr(response, "status_code", None)


def _explained(error: Exception, repo_id: str) -> str:
    status = _status(error)
    remedies = {
        401: "Log in with `hf auth login`, or pass a token.",
        403: "The token may not write there: use one that may, or create_pr=True.",
        409: "Others keep committing: push again later.",
        412: "Others keep committing: push again later.",
    }
    remedy = remedies.get(status or 0, "Push again later.")
    return f"{repo_id} was left as it was: {type(error).__name__}: {first_line(error)} {remedy}"


_TEXTS = (".csv", ".html", ".json", ".jsonl", ".md", ".txt", ".yaml", ".yml")
# Larger files are vocabularies and data, which take seconds to search.
_LARGEST_TEXT = 1_000_000


class _Callback(Protocol):
    canaries: CanarySet

    @property
    def reports(self) -> list[ExposureReport]: ...


def write_published(reports: Sequence[ExposureReport], folder: str | Path, canaries: CanarySet) -> None:
    """Writes the published form of the last report, if any, into `folder`/exposure, with plots of the run's history.

    The trainer is about to upload the whole `folder`, so its other small text files are searched for canaries too,
    such as a canary file or a list of samples that was saved there.

    Raises:
        SecretFoundError: one of the files contains a canary; none was written, and the push does not happen.
    """
    _refuse_secrets_beside(Path(folder), canaries)
    if not reports:
        return
    target = Path(folder) / FOLDER
    target.mkdir(parents=True, exist_ok=True)
    for name, content in published_files(reports[-1], reports, canaries).items():
        write_aside(target / name, content)


def _refuse_secrets_beside(folder: Path, canaries: CanarySet) -> None:
    """Searches the files that the trainer uploads, which exclude names that begin with an underscore, and
    checkpoints.
    """
    texts = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.suffix in _TEXTS
        and not path.relative_to(folder).parts[0].startswith(("_", PREFIX_CHECKPOINT_DIR))
        and path.is_file()
        and path.stat().st_size <= _LARGEST_TEXT
    }
    refuse_secrets(texts, canaries)


def complete_cards(trainer: Any, owner: object, completed: Callable[[str | None, str, Path], bytes | None]) -> None:
    """Extends every model card that a trainer writes from now on by `completed`. A second call has no effect.

    Args:
        owner: the callback; a trainer that it already extends is left unchanged.
        completed: a function from the present card, the model's name and the output folder to the new card, or None
            to leave the card unchanged.
    """
    write_card = trainer.create_model_card
    if owner in getattr(write_card, "completed_by", ()):
        return

    @functools.wraps(write_card)
    def create_model_card(*arguments: Any, **named: Any) -> Any:
        returned = write_card(*arguments, **named)
        if trainer.is_world_process_zero():
            folder = Path(trainer.args.output_dir)
            path, name = folder / _CARD, (trainer.hub_model_id or "").rsplit("/", 1)[-1]
            content = path.read_bytes().decode("utf-8-sig") if path.exists() else None
            card = completed(content, name or folder.absolute().name, folder)
            if card is not None:
                write_aside(path, card)
        return returned

    create_model_card.completed_by = (*getattr(write_card, "completed_by", ()), owner)  # type: ignore[attr-defined]
    trainer.create_model_card = create_model_card


def card_with_runs(content: str | None, name: str, runs: Iterable[Presented]) -> bytes | None:
    """The card with the part of each run; None if there are no runs."""
    card = None
    for run in runs:
        card = _with_part(content, run, name)
        content = card.decode("utf-8")
    return card


def card_with_report(callback: _Callback, content: str | None, name: str, folder: Path) -> bytes | None:
    """The card with the published form of the callback's last report; None if there is no report.

    Raises:
        SecretFoundError: it contains a canary.
    """
    if not callback.reports:
        return None
    files = sorted(file.name for file in (folder / FOLDER).iterdir()) if (folder / FOLDER).is_dir() else []
    card = updated_card(content, published(callback.reports[-1]), name=name, files=files).encode("utf-8")
    refuse_secrets({_CARD: card}, callback.canaries)
    return card
