"""What stands around a canary, as options: the same ones put it there and score it there."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hf_exposure.errors import InputError
from hf_exposure.files import parse_json, read_json

if TYPE_CHECKING:
    from hf_exposure.context import CanaryContext


# A bar that shows that a model is at work; there is none where the output is no terminal.


@contextmanager
def calls_shown(model: Any, what: str) -> Iterator[None]:
    """Counts the model's forward calls. Nobody knows how many are to come: a search ends when it ends."""
    from tqdm import tqdm

    with tqdm(desc=what, unit=" model calls", disable=None, file=sys.stderr, leave=False) as bar:
        hook = model.register_forward_hook(lambda *_: bar.update())
        try:
            yield
        finally:
            hook.remove()


PromptOption = Annotated[str | None, typer.Option(help="A text before each canary, which is not scored.")]
MessagesOption = Annotated[
    str | None,
    typer.Option(
        metavar="JSON", help="The turns of a chat before each canary, which the assistant says; JSON, or a .json file."
    ),
]
SourceOption = Annotated[str | None, typer.Option(help="What an encoder-decoder model reads.")]
_EXAMPLE = """Type --messages '[{"role": "user", "content": "What is my number?"}]'."""


def context_of(prompt: str | None, messages: str | None) -> CanaryContext | None:
    """The context that is typed, or none.

    Raises:
        InputError: both are typed, JSON that is damaged, messages without role and content.

    Example:
        >>> context_of("Q: my number? A: ", None).prompt
        'Q: my number? A: '
    """
    from hf_exposure.context import CanaryContext

    if prompt is not None and messages is not None:
        raise InputError("--messages", "does not go with --prompt", messages, "Leave one of them out.")
    if messages is None:
        return None if prompt is None else CanaryContext(prompt=prompt)
    try:
        turns = read_json(messages) if messages.endswith(".json") else parse_json(messages)
    except OSError as error:
        rule = f"must be JSON, or a file that can be read ({error.strerror})"
        raise InputError("--messages", rule, messages, _EXAMPLE) from None
    except ValueError:
        raise InputError("--messages", "must be JSON, or a file of it", messages, _EXAMPLE) from None
    if not isinstance(turns, list):
        raise InputError("--messages", "must be a list of messages", turns, _EXAMPLE)
    try:
        return CanaryContext(prompt=turns)
    except InputError as error:
        raise InputError("--messages", error.rule, error.value, _EXAMPLE) from None


def as_recorded(context: CanaryContext | None, source: str | None) -> dict[str, Any]:
    """What a record of the insertion keeps, as plain JSON values."""
    return {"context": None if context is None else json.loads(json.dumps(asdict(context))), "source": source}


def recorded_or_typed(
    context: CanaryContext | None, source: str | None, recorded: Mapping[str, Any]
) -> tuple[CanaryContext | None, str | None]:
    """What was typed, or where nothing was, what the insertion recorded.

    Raises:
        InputError: both, and they differ: canaries would not be scored where they were trained on.
    """
    from hf_exposure.checks import encodable_text
    from hf_exposure.context import CanaryContext

    was = {key: recorded.get(key) for key in ("context", "source")}
    typed = as_recorded(context, source)
    if typed == was or not any(was.values()):
        return context, source
    if any(typed.values()):
        given = {key: value for key, value in typed.items() if value}
        remedy = "Leave them out: they are read from --dataset."
        raise InputError(
            "--prompt, --messages, --source", "must be what the canaries were inserted with", given, remedy
        )
    try:
        if was["source"] is not None:
            encodable_text("source", was["source"])
        return None if was["context"] is None else CanaryContext(**was["context"]), was["source"]
    except (InputError, TypeError):
        rule = "must have a record of the insertion as insert wrote it"
        raise InputError("--dataset", rule, "other values", "Insert again.") from None
