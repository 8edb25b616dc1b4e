"""Results of "A Closer Look at Memorization in Deep Networks" (Arpit et al. 2017), and of measures that a survey of
memorization lists, measured again with `hf_exposure`: one script per result.

`docs/closer_look.md` shows the results. Each script takes `--mnist`, `--size` and `--out`.
"""

from pathlib import Path

RESULTS = Path(__file__).parent / "results"
"""The default folder for the results of the scripts."""
