"""The command line: parses, calls, prints. Heavy parts are imported by the command that needs them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from hf_exposure import __version__
from hf_exposure.errors import ExposureError, InputError

__all__ = ["app", "main"]

BAD_USAGE = 2

app = typer.Typer(
    name="hf-exposure",
    help="Is a language model memorising secrets, how sure is that, and could a stranger get them out?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hf-exposure {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Is a language model memorising secrets, how sure is that, and could a stranger get them out?"""


def parse_repetitions(value: str) -> dict[int, int]:
    """`"1:4,8:4"` as {1: 4, 8: 4}: how many canaries at each repetition count.

    Raises:
        InputError: it is not of that form.

    Example:
        >>> parse_repetitions("1:4,64:2")
        {1: 4, 64: 2}
    """
    counts: dict[int, int] = {}
    for part in value.split(","):
        repetitions, _, canaries = part.partition(":")
        if not (repetitions.strip().isdigit() and canaries.strip().isdigit()) or int(repetitions) in counts:
            raise InputError(
                "--repetitions", "must read REPETITIONS:CANARIES,...", value, "Type --repetitions 1:4,8:4,64:4."
            )
        counts[int(repetitions)] = int(canaries)
    return counts


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the report, plots and canaries.")] = Path("exposure-demo"),
    text_file: Annotated[Path | None, typer.Option(help="Train on this UTF-8 text file.")] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Train on the 'text' column of a local dataset or one on the Hub.")
    ] = None,
    text_bytes: Annotated[int, typer.Option(help="How much of the text to use.")] = 100_000,
    model: Annotated[
        str, typer.Option(help="small-gpt2, small-llama (built from a config), or a folder or Hub id.")
    ] = "small-gpt2",
    tokenizer: Annotated[
        str | None, typer.Option(help="bytes, bpe (trained on the spot), or a folder or Hub id.")
    ] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the text.")] = 4,
    repetitions: Annotated[str, typer.Option(help="REPETITIONS:CANARIES,...")] = "1:4,8:4,64:4",
    controls: Annotated[int, typer.Option(help="Canaries that are held out.")] = 16,
    digits: Annotated[int, typer.Option(help="Length of the random number.")] = 9,
    top_k: Annotated[int, typer.Option(help="How many of the likeliest secrets to extract.")] = 20,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 2e-3,
    batch_size: Annotated[int, typer.Option(help="Rows per optimiser step.")] = 16,
    seed: Annotated[int, typer.Option(help="Seed of canaries, places, weights and order.")] = 0,
) -> None:
    """Train a small model with canaries in its text, watch exposure rise, and pull the secrets back out."""
    from hf_exposure.demo import DemoSettings, run_demo

    run_demo(
        DemoSettings(
            out=out,
            text_file=text_file,
            dataset=dataset,
            text_bytes=text_bytes,
            model=model,
            tokenizer=tokenizer,
            epochs=epochs,
            repetitions=parse_repetitions(repetitions),
            controls=controls,
            digits=digits,
            top_k=top_k,
            learning_rate=learning_rate,
            batch_size=batch_size,
            seed=seed,
        )
    )


def main() -> None:
    """Runs the command line. Exit status: 0 done, 2 bad usage or input."""
    try:
        app()
    except ExposureError as error:
        typer.echo(f"hf-exposure: {error}", err=True)
        sys.exit(BAD_USAGE)
