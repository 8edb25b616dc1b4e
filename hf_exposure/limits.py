"""The largest sizes that this package accepts, in one place. Each is checked before anything of that size is built.

They are far beyond what an experiment needs, and small enough that everything within them is built in seconds. Sizes
that are not listed here (rows of a dataset, tokens of a context) are limited only by the machine.
"""

from __future__ import annotations

# Fillings of holes.
LONGEST_FILLING = 1_000
"""Characters of a filling of `Digits`, `Letters`, `LuhnDigits` or `Pattern`, and of the separator of `Words`."""
LONGEST_WORD = 10_000
"""Characters of a word of a list, or of an option of `Choice`."""
MOST_WORDS = 500
"""Words in one filling of `Words` or `VocabularyTokens`."""
LONGEST_LIST = 1_000_000
"""Entries of the list behind `Words`, and options of `Choice`."""
LARGEST_SPACE_DIGITS = 4_000
"""Decimal digits of the number of candidate secrets: Python refuses to print integers beyond 4,300."""

# Regular expressions.
LONGEST_PATTERN = 10_000
"""Characters of the expression of a `Pattern`."""
DEEPEST_PATTERN = 50
"""Parentheses inside parentheses of a `Pattern`."""
MOST_PATTERN_STATES = 100_000
"""States of the automaton of a `Pattern`."""
MOST_PATTERN_MOVES = 1_000_000
"""Characters in the classes of a `Pattern`, summed over the states of its automaton."""

# Templates and canary sets.
LONGEST_TEMPLATE = 100_000
"""Characters of a template's text."""
MOST_HOLES = 100
"""Holes of a template."""
MOST_CANARIES = 100_000
"""Canaries of a set: inserted ones, controls and coin flips together."""
MOST_INSERTIONS = 10_000_000
"""Rows that one set inserts: the sum of its repetitions."""
LARGEST_SEED = 2**512 - 1
"""A seed."""

# Measurements.
MOST_TEXTS = 10_000_000
"""Texts of one call, such as those of `log_perplexity`."""
MOST_REFERENCES = 10_000_000
"""References of a measurement."""
MOST_ENUMERATED = 1_000_000
"""Candidate secrets of a space of which every text is scored."""
MOST_SAMPLES = 1_000_000
"""Continuations that `discoverable_extraction` draws."""
MOST_BATCH_TOKENS = 2**31 - 1
"""Tokens of one model call."""
LARGEST_ANSWER_BYTES = 1_000_000_000
"""Bytes of one answer of an `Endpoint`."""
LARGEST_COUNT = 2**63 - 1
"""Every other count, such as a budget of expansions. Nothing of that size is built."""

LARGEST_FIGURE = 1e100
"""A figure of a report or of a trainer's log, such as a loss: plots cannot hold larger ones."""

# Files that people write or exchange.
LARGEST_CONFIG_BYTES = 1_000_000
"""Bytes of a `--config` file."""
MOST_CONFIG_NODES = 10_000
"""Values in a `--config` file, in which aliases are refused."""
DEEPEST_CONFIG = 4
"""Lists and mappings inside each other in a `--config` file."""
LARGEST_JSON_BYTES = 256_000_000
"""Bytes of a canary file, a report, or a line of `_exposure.jsonl`."""
DEEPEST_JSON = 50
"""Lists and objects inside each other in a canary file, a report, or a trainer's log."""
