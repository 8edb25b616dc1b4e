"""`hf-exposure demo`: the whole workflow on a small model that it trains itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_exposure.cli.config import ConfigOption
from hf_exposure.cli.options import parse_repetitions
from hf_exposure.errors import InputError
from hf_exposure.loading import check_data_set, check_model, check_tokenizer_name


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the report, plots and canaries.")] = Path("exposure-demo"),
    text_file: Annotated[Path | None, typer.Option(help="Train on this UTF-8 text file.")] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Train on the 'text' column of a local dataset or one on the Hub.")
    ] = None,
    text_bytes: Annotated[int, typer.Option(help="Bytes of the text to use.")] = 30_000,
    model: Annotated[
        str, typer.Option(help="small-gpt2, small-llama (built from a config), or a folder or Hub id.")
    ] = "small-gpt2",
    tokenizer: Annotated[
        str | None, typer.Option(help="bytes, bpe (trained on the text), or a folder or Hub id.")
    ] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the text.")] = 4,
    repetitions: Annotated[
        str, typer.Option(help="Number of canaries per repetition count: REPETITIONS:CANARIES,...")
    ] = "1:4,8:4,64:4",
    controls: Annotated[int, typer.Option(help="Held-out canaries.")] = 16,
    digits: Annotated[int, typer.Option(help="Length of the random number.")] = 9,
    top_k: Annotated[int, typer.Option(help="Number of likeliest secrets to extract.")] = 20,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 2e-3,
    batch_size: Annotated[int, typer.Option(help="Rows per optimizer step.")] = 8,
    seed: Annotated[int, typer.Option(help="Seed of canaries, insertion positions, weights and data order.")] = 0,
    config: ConfigOption = None,
) -> None:
    """Train a small model with canaries in its text, watch exposure rise, and extract the secrets."""
    counts = parse_repetitions(repetitions)
    # The reader of the text refuses the two options together.
    if text_file is not None and dataset is None and (text_file.is_dir() or not text_file.exists()):
        raise InputError("--text-file", "must be a file that exists", str(text_file), "Give another path.")
    if dataset is not None:
        check_data_set("--dataset", dataset)
    if not model.startswith("small-"):
        check_model("--model", model)
    if tokenizer not in (None, "bytes", "bpe"):
        check_tokenizer_name("--tokenizer", tokenizer)
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
            repetitions=counts,
            controls=controls,
            digits=digits,
            top_k=top_k,
            learning_rate=learning_rate,
            batch_size=batch_size,
            seed=seed,
        )
    )
