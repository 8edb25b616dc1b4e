"""Studies with many training runs: which claims in the survey about label memorization, influence, LiRA and exposure
can be reproduced.

The rules in `results/*.toml` were written before any of the runs. Runs are kept in a store and continue after an
interruption.
"""

from pathlib import Path

RESULTS = Path(__file__).parent / "results"
