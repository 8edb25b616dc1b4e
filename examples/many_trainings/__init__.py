"""Studies with many trainings: what comes back of the survey's rows on label memorization, influence, LiRA, exposure.

The rules in `results/*.toml` were written before any of the runs. Runs are kept in a store and go on after a kill.
"""

from pathlib import Path

RESULTS = Path(__file__).parent / "results"
