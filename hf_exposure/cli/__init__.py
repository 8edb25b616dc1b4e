"""The command line: it parses arguments, calls the library and prints. Each command imports the slow parts that it
needs.
"""

from hf_exposure.cli.entry import app, main
from hf_exposure.cli.options import parse_repetitions

__all__ = ["app", "main", "parse_repetitions"]
