"""Reproduction of the results of "The Secret Sharer" (Carlini et al. 2019) with `hf_exposure`: one script per result.

`docs/reproduction.md` shows the results. Each script takes `--text-file`, `--dataset`, `--size` and `--out`.
"""

from pathlib import Path

RESULTS = Path(__file__).parent / "results"
"""Where the scripts store what they measured, unless told otherwise."""
