"""The command-line options of all scripts."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from examples.secret_sharer import RESULTS
from examples.secret_sharer.training import Corpus, load_corpus

__all__ = ["Options", "Size", "parse_options"]

Size = Literal["smallest", "small", "full"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options given on the command line.

    Attributes:
        size: "smallest" takes seconds and shows that the script runs, "small" takes minutes on two cores; "full" is
            the largest size of a script, closer to the paper's but still smaller.
        out: the folder for the result's JSON.
    """

    size: Size
    text_file: Path | None
    dataset: str | None
    out: Path

    def corpus(self, characters: int, row_characters: int = 100) -> Corpus:
        """The first `characters` characters of the requested text."""
        return load_corpus(self.text_file, self.dataset, characters=characters, row_characters=row_characters)


def parse_options(description: str, arguments: list[str] | None = None) -> Options:
    """Parses `arguments`, or those of the process."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--size", choices=("smallest", "small", "full"), default="small")
    parser.add_argument(
        "--full",
        action="store_const",
        const="full",
        dest="size",
        help="largest size, still smaller than the paper's",
    )
    parser.add_argument("--text-file", type=Path, help="a text file (default: the reference that comes with Python)")
    parser.add_argument("--dataset", help="a folder or Hub id with a column named text")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result's JSON")
    return Options(**vars(parser.parse_args(arguments)))
