"""Options that several commands share: how they are typed, and their values.

The options for the context of a canary (`--prompt`, `--messages`, `--source`) are used both to insert and to score it,
so both commands read them here. Errors of the library are turned into errors of the command line: they name the
option, and their remedy is something to type.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hf_exposure.checks import real_number
from hf_exposure.errors import InputError
from hf_exposure.files import parse_json, read_json

if TYPE_CHECKING:
    from hf_exposure.canaries import CanarySet, CanaryTemplate
    from hf_exposure.context import CanaryContext

_LONGEST_COUNT = 18
"""Most digits in a number of repetitions or canaries."""
_EXAMPLE = """Type --messages '[{"role": "user", "content": "What is my number?"}]'."""


class Dtype(StrEnum):
    """The data type in which the weights are loaded."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Format(StrEnum):
    """Formats written in addition to the page, report.json and PNG plots."""

    pdf = "pdf"
    svg = "svg"


FormatOption = Annotated[
    list[Format],
    typer.Option("--format", help="pdf: report.pdf and each plot as PDF; svg: each plot as SVG. May be repeated."),
]
ModelOption = Annotated[str, typer.Option(help="A folder or Hub id.")]
EndpointOption = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="An OpenAI-compatible API that serves the model, such as http://127.0.0.1:8000/v1; --model is then its "
        "name on the server. Canaries are sent there.",
    ),
]
KeyVariableOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="Environment variable that holds the key of --endpoint.")
]
TokenizerOption = Annotated[str | None, typer.Option(help="A folder or Hub id. Default: the model's own tokenizer.")]
DtypeOption = Annotated[
    Dtype, typer.Option(help="Data type of the weights; auto: as saved. Low precision causes ties.")
]
DeviceOption = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or mps. Default: the fastest available.")]
RevisionOption = Annotated[str | None, typer.Option(help="Branch, tag or commit of the model on the Hub.")]
TrustOption = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that comes with the model. Off by default.")
]
PromptOption = Annotated[str | None, typer.Option(help="A text before each canary, which is not scored.")]
MessagesOption = Annotated[
    str | None,
    typer.Option(
        metavar="JSON",
        help="The turns of a chat before each canary, which is the assistant's reply; JSON, or a .json file.",
    ),
]
SourceOption = Annotated[str | None, typer.Option(help="Source text of an encoder-decoder model.")]


def parse_repetitions(value: str) -> dict[int, int]:
    """Parses `"1:4,8:4"` as {1: 4, 8: 4}: the number of canaries at each repetition count.

    Raises:
        InputError: it is not of that form.

    Example:
        >>> parse_repetitions("1:4,64:2")
        {1: 4, 64: 2}
    """
    counts: dict[int, int] = {}
    for part in value.split(","):
        repetitions, _, canaries = part.partition(":")
        if not (_is_count(repetitions) and _is_count(canaries)) or int(repetitions) in counts:
            raise InputError(
                "--repetitions", "must read REPETITIONS:CANARIES,...", value, "Type --repetitions 1:4,8:4,64:4."
            )
        counts[int(repetitions)] = int(canaries)
    return counts


def _is_count(text: str) -> bool:
    """Whether these are decimal digits, not superscripts and the like, and not too many of them."""
    text = text.strip()
    return text.isascii() and text.isdigit() and len(text) <= _LONGEST_COUNT


def parse_template(template: str, spaces: Sequence[str]) -> CanaryTemplate:
    """The template of `--template "pin {pin}" --space pin=digits:4`.

    Raises:
        InputError: a space is not NAME=KIND:SIZE or is given twice, or `CanaryTemplate` refuses the template.

    Example:
        >>> parse_template("pin {pin}", ["pin=digits:4"]).space_size
        10000
    """
    from hf_exposure.canaries import CanaryTemplate
    from hf_exposure.canaries.spaces import parse_space

    holes = {}
    for space in spaces:
        name, equals, spec = space.partition("=")
        if not equals or not name.isidentifier() or name in holes:
            raise InputError("--space", "must read NAME=KIND:SIZE, once for each hole", space, "Type pin=digits:4.")
        try:
            holes[name] = parse_space(spec)
        except InputError as error:
            raise InputError(f"--space {name}", error.rule, error.value, error.remedy) from None
    try:
        return CanaryTemplate(template, **holes)
    except InputError as error:
        remedy = re.sub(r"^Add (\w+)=Digits\(9\)", r"Add --space \1=digits:9", error.remedy)
        raise InputError(f"--template, {error.argument}", error.rule, error.value, remedy) from None
    except TypeError:
        raise InputError("--space", "must not take that name", list(holes), "Name the hole otherwise.") from None


def check_threshold(value: float | None) -> None:
    """Refuses a `--fail-above` that no figure can exceed: every comparison with NaN is false.

    Raises:
        InputError: NaN or infinity.

    Example:
        >>> check_threshold(4.0)
    """
    if value is not None:
        real_number("--fail-above", value, "must be a finite number", "Type one, or leave it out.")


def load_canaries(path: Path) -> CanarySet:
    """The canaries of a file.

    Raises:
        InputError: there is no such file, or `CanarySet.load` refuses it.
    """
    from hf_exposure.canaries import CanarySet

    try:
        return CanarySet.load(path)
    except InputError as error:
        # The error names the command's option, where the library says "path".
        argument = "--canaries" if error.argument == "path" else f"--canaries, {error.argument}"
        raise type(error)(argument, error.rule, error.value, error.remedy) from None


def check_runs(runs: Iterable[Path]) -> None:
    """Refuses a run that does not exist, before the modules that read runs are imported.

    Raises:
        InputError: there is no such file or folder.
    """
    for run in runs:
        if not run.exists():
            raise InputError("run", "must be a folder or report that exists", str(run), "Name what --out was given.")


def check_formats(formats: Sequence[Format], out: Path | None) -> None:
    """Refuses, before any work is done, a format without a folder, or one whose library is missing.

    Raises:
        InputError: there is no folder.
        MissingDependencyError: fpdf2 is not installed.
    """
    if formats and out is None:
        raise InputError("--format", "goes with --out", formats[0].value, "Name a folder with --out.")
    if Format.pdf in formats:
        from hf_exposure.report.document import check_installed

        check_installed()


def command_typed() -> str:
    """The command line as it was typed, quoted for a shell."""
    return shlex.join(["hf-exposure", *sys.argv[1:]])


def print_run(text: str, values: Mapping[str, Any], written: Sequence[Path], url: str, *, as_json: bool) -> None:
    """Prints the findings of a command about a measure's run, as text or JSON, and where they were written and
    published.

    Args:
        text: the findings as text.
        values: the findings as JSON values.
        written: files in one folder; empty if nothing was written.
        url: the model's page; "" if nothing was published.
    """
    if as_json:
        typer.echo(json.dumps({**values, "url": url} if url else values, indent=1, allow_nan=False))
        return
    typer.echo(text)
    if written:
        names = ", ".join(sorted(path.name for path in written))
        typer.echo(f"\nWritten to {written[0].parent}{os.sep}: {names}")
    if url:
        typer.echo(f"\nPublished: {url}")


def check_new(out: Path, overwrite: bool, *, is_file: bool = False) -> Path:
    """Checks, before any work is done, that `out` can be written, and that it does not exist unless it may be
    overwritten.

    An empty folder counts as not existing.

    Raises:
        InputError: the path exists, or cannot be created.
    """
    is_empty = out.is_dir() and not any(out.iterdir())
    if out.exists() and not is_empty and not overwrite:
        raise InputError("--out", "must not exist yet", str(out), "Name another, or add --overwrite.")
    place = out.absolute().parent if is_file else out.absolute()
    try:
        while not place.exists():
            place = place.parent
        # Reading the permissions is not enough: some file systems refuse even the owner.
        with tempfile.TemporaryFile(dir=place):
            return out
    except OSError as error:
        rule = f"must be a {'file' if is_file else 'folder'} that can be made ({error.strerror})"
        raise InputError("--out", rule, str(out), "Name another place.") from None


def context_of(prompt: str | None, messages: str | None) -> CanaryContext | None:
    """The context that was typed, or None.

    Raises:
        InputError: both are given, the JSON is damaged, or a message has no role or content.

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
    """The context and source as plain JSON values, as the record of an insertion stores them."""
    return {"context": None if context is None else json.loads(json.dumps(asdict(context))), "source": source}


def recorded_or_typed(
    context: CanaryContext | None, source: str | None, recorded: Mapping[str, Any]
) -> tuple[CanaryContext | None, str | None]:
    """The context and source that were typed, or else those that the insertion recorded.

    Raises:
        InputError: the typed values differ from the recorded ones: the canaries would be scored in another context
            than they were trained in.
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
