"""Results of "A Closer Look at Memorization in Deep Networks" (Arpit et al. 2017), and of measures that a survey of
memorization lists, measured again with `hf_exposure`: one script a result.

`docs/closer_look.md` shows what came out. Each script takes `--mnist`, `--size` and `--out`.
"""

from pathlib import Path

RESULTS = Path(__file__).parent / "results"
"""Where the scripts store what they measured, unless told otherwise."""
