"""The results of "The Secret Sharer" (Carlini et al. 2019), measured again with `hf_exposure`: one script a result.

`docs/reproduction.md` shows what came out. Each script takes `--text-file`, `--dataset`, `--size` and `--out`.
"""

from pathlib import Path

RESULTS = Path(__file__).parent / "results"
"""Where the scripts store what they measured, unless told otherwise."""
