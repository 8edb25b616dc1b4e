"""One-run bounds compared with those of jax-privacy and opake-auditing, on the same guesses.

`PYTHONPATH=<folder with both> python -m benchmarks.one_run_peers` writes `benchmarks/results/one_run_peers.json`. Both
are loaded as single modules, so only dp-accounting and opake-base are required, but neither JAX nor the packages'
engines.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.one_run_epsilon import DELTA, bound
from benchmarks.record import write_result

# (canaries, guessed, right)
GUESSES = ((200, 200, 130), (200, 200, 150), (1000, 1000, 560), (1000, 1000, 680), (1000, 100, 60), (1000, 100, 80))


def module_of(package: str, file: str) -> Any:
    """Loads one module of an installed package, without importing the package."""
    found = importlib.util.find_spec(package)
    assert found is not None and found.submodule_search_locations, f"install {package} into a folder of PYTHONPATH"
    path = Path(next(iter(found.submodule_search_locations))) / file
    spec = importlib.util.spec_from_file_location(f"of_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def opake_epsilon(module: Any, canaries: int, guesses: int, correct: int) -> float:
    """The bound on mu by bisection of the peer's p-value, as an epsilon."""
    low, high = 0.0, 10.0
    for _ in range(24):
        middle = (low + high) / 2
        refuted = module._p_value(canaries, guesses, guesses - correct, middle, 2000) < 0.05
        low, high = (middle, high) if refuted else (low, middle)
    return float(module._gdp_to_eps_delta(low, DELTA)) if low > 1e-4 else 0.0


def main() -> None:
    """Compares the bounds and writes the result."""
    jax, opake = module_of("jax_privacy", "auditing.py"), module_of("opake", "api/auditing/one_run/_gdp.py")
    rows = []
    for canaries, guesses, correct in GUESSES:
        counts = (0.0, canaries, guesses, correct, 0.05, DELTA)
        rows.append(
            {
                "canaries": canaries, "guesses": guesses, "correct": correct,
                "approximate_dp": bound(canaries, guesses, correct, "approximate_dp"),
                "jax_privacy_one_run": float(jax._epsilon_one_run(*counts)),
                "gdp": bound(canaries, guesses, correct, "gdp"),
                "jax_privacy_one_run_fdp": float(jax._epsilon_one_run_fdp(*counts)),
                "independent_gaussian": bound(canaries, guesses, correct, "independent_gaussian"),
                "opake_gdp": opake_epsilon(opake, canaries, guesses, correct),
            }
        )  # fmt: skip
        print(rows[-1], flush=True)
    peers = {name: metadata.version(name) for name in ("jax-privacy", "opake-auditing", "dp-accounting")}
    write_result("one_run_peers", {"delta": DELTA, "confidence_level": 0.95, "peers": peers, "rows": rows})


if __name__ == "__main__":
    main()
