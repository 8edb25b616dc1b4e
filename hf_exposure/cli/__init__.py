"""The command line: parses, calls, prints. Heavy parts are imported by the command that needs them."""

from hf_exposure.cli.entry import app, main
from hf_exposure.cli.options import parse_repetitions

__all__ = ["app", "main", "parse_repetitions"]
