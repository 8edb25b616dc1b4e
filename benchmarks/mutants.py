"""Mutation testing: one-line mutations of the estimators, of measuring and of the core of extraction.

`python -m benchmarks.mutants` (`make mutants`, needs the extra `mutants`) lets cosmic-ray make the mutations: a
comparison or an operator replaced by another one, a number moved by one, `and` for `or`, a condition negated, a loop
that never runs. The relevant tests are run on each mutant; a mutant survives if all of them pass.

There are thousands of possible mutations, so a sample is drawn: at most one per place in the source, alternating
between modules in a seeded order, until the time is up. Mutations of type annotations, which are never executed, are
left out. Each mutant runs in a forked child of one process that has imported the heavy libraries, and nothing of this
package; the files on the disk are not touched.

    --packages NAMES   of estimators, measures, extraction (all three, separated by commas)
    --minutes M     when to stop (55)
    --seed N        of the sample (0)
    --no-result     do not write benchmarks/results/mutants.json
"""

from __future__ import annotations

import argparse
import ast
import doctest
import importlib
import importlib.machinery
import importlib.util
import itertools
import json
import os
import random
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.record import write_result

ROOT = Path(__file__).parent.parent
PACKAGES: dict[str, dict[str, tuple[str, ...]]] = {
    "estimators": {
        "arrays": ("estimators/test_estimator_rank.py", "estimators/test_estimator_importance.py"),
        "control_test": ("estimators/test_control_test.py",),
        "difference": ("estimators/test_difference.py",),
        "epsilon": ("estimators/test_epsilon_bound.py",),
        "estimate": ("estimators/test_estimator_sampling.py", "test_records.py"),
        "importance": ("estimators/test_estimator_importance.py", "estimators/test_batches_of_draws.py"),
        "intervals": ("estimators/test_estimator_intervals.py", "estimators/test_mean_interval.py"),
        "rank": (
            "estimators/test_estimator_rank.py",
            "estimators/test_estimator_null.py",
            "estimators/test_estimator_sampling.py",
        ),
        "skew_normal": ("estimators/test_skew_normal_fit.py", "estimators/test_skew_normal_tail.py"),
        "weighted_cdf": ("estimators/test_estimator_importance.py", "estimators/test_batches_of_draws.py"),
    },
    "measures": {
        "base_model": ("measures/test_base_model.py",),
        "exposure": ("test_measure.py", "measures/test_coins_and_rivals.py"),
        "methods": ("test_measure.py", "measures/test_methods.py"),
        "search_methods": ("test_measure.py", "measures/test_coins_and_rivals.py", "measures/test_methods.py"),
        "settings": ("test_measure.py", "measures/test_methods.py"),
    },
    "extraction": {
        "bounded_rank": ("extraction/test_frontier.py", "extraction/test_extract.py"),
        "build": ("extraction/test_audit.py",),
        "canonicity": ("extraction/test_canonical_prefixes.py",),
        "character_automaton": ("extraction/test_token_automata.py", "extraction/test_automaton_laws.py"),
        "discoverable": ("extraction/test_discoverable.py",),
        "encoding_trie": ("extraction/test_search_brute_force.py", "extraction/test_token_automata.py"),
        "expansion": ("extraction/test_frontier.py", "extraction/test_search_brute_force.py"),
        "frontier": ("extraction/test_frontier.py", "extraction/test_search_brute_force.py"),
        "proposal": ("extraction/test_proposals.py", "extraction/test_spread_draws.py"),
        "sampled_encodings": ("extraction/test_audit.py",),
        "search": ("extraction/test_frontier.py", "extraction/test_extract.py"),
        "slot_automaton": ("extraction/test_token_automata.py", "extraction/test_automaton_laws.py"),
        "split_machine": ("extraction/test_canonical_prefixes.py",),
        "split_pattern": ("extraction/test_canonical_prefixes.py",),
        "token_automaton": ("extraction/test_search_brute_force.py", "extraction/test_proposals.py"),
        "tokenizer_reading": ("extraction/test_canonical_prefixes.py",),
        "vocabulary_automaton": ("extraction/test_symbol_transducer.py", "extraction/test_merging_tokenizers.py"),
    },
}
# `X | None` is nearly always an annotation; `is` for `==` and similar changes do not concern figures.
_LEFT_OUT = ("BitOr", "_Is", "RemoveDecorator", "ExceptionReplacer", "VariableReplacer", "VariableInserter")
_PASSED, _FAILED = 0, 1
# Multiple of the time that the tests take without a mutation; this also detects endless loops.
_PATIENCE, _MORE_SECONDS = 5.0, 60.0


@dataclass(frozen=True)
class Mutant:
    """One change of one module.

    Attributes:
        package, module: which module.
        line: number of the line.
        before, after: the original line, and the mutated line.
        operator: cosmic-ray's name for the change.
        code: the module's whole source with the change.
    """

    package: str
    module: str
    line: int
    before: str
    after: str
    operator: str
    code: str

    @property
    def name(self) -> str:
        return f"hf_exposure.{self.package}.{self.module}"

    @property
    def shown(self) -> str:
        return f"{self.package}/{self.module}.py:{self.line} [{self.operator}] {self.before} -> {self.after}"


def places_of(package: str, module: str) -> list[tuple[int, list[tuple[str, int]]]]:
    """The places of a module: the line, and the possible mutations there as names and occurrences of operators."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    source = path_of(package, module).read_text(encoding="utf-8")
    nodes, prose = list(ast_nodes(get_ast(source))), _lines_without_code(source)
    at: dict[tuple[Any, Any], list[tuple[str, int]]] = {}
    for name in operator_names():
        if any(part in name for part in _LEFT_OUT) or get_operator(name).arguments():
            continue
        operator = get_operator(name)()
        places = (place for node in nodes for place in operator.mutation_positions(node))
        for occurrence, (start, end) in enumerate(places):
            if start[0] not in prose:
                at.setdefault((start, end), []).append((name, occurrence))
    return [(start[0], choices) for (start, _), choices in sorted(at.items())]


def mutants_of(
    package: str, module: str, places: list[tuple[int, list[tuple[str, int]]]], draw: random.Random
) -> Iterator[Mutant]:
    """Returns one mutation per place, in random order."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    source = path_of(package, module).read_text(encoding="utf-8")
    for line, choices in draw.sample(places, len(places)):
        name, occurrence = draw.choice(choices)
        code = mutate_code(source, get_operator(name)(), occurrence)
        if code is None or code == source:
            continue
        pairs = itertools.zip_longest(source.splitlines(), code.splitlines(), fillvalue="")
        before, after = next((old.strip(), new.strip()) for old, new in pairs if old != new)
        yield Mutant(package, module, line, before, after, name.removeprefix("core/"), code)


def _lines_without_code(source: str) -> set[int]:
    """The lines of annotations of names and arguments, and of `__all__`."""
    lines: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.AnnAssign) and node.value is None:
            lines.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            lines.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines


def path_of(package: str, module: str) -> Path:
    return ROOT / "hf_exposure" / package / f"{module}.py"


class _Mutated(importlib.machinery.SourceFileLoader):
    """Loads a module from source code other than its file."""

    source = ""

    def get_code(self, fullname: str) -> Any:
        return compile(self.source, self.path, "exec", dont_inherit=True)


class _Finder:
    def __init__(self, name: str, path: Path, source: str) -> None:
        self._name, self._path, self._source = name, path, source

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if fullname != self._name:
            return None
        loader = _Mutated(fullname, str(self._path))
        loader.source = self._source
        return importlib.util.spec_from_file_location(fullname, self._path, loader=loader)


def run_tests(package: str, module: str, code: str | None, seconds: float | None) -> str:
    """Runs a module's tests in a forked child, possibly with other code: "killed", "survived" or "timed out"."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(_in_child(package, module, code))
        finally:
            os._exit(_FAILED)
    deadline = None if seconds is None else time.monotonic() + seconds
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return "survived" if os.waitstatus_to_exitcode(status) == _PASSED else "killed"
        if deadline is not None and time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "timed out"
        time.sleep(0.02)


def _in_child(package: str, module: str, code: str | None) -> int:
    import pytest

    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    if code is not None:
        sys.meta_path.insert(0, _Finder(f"hf_exposure.{package}.{module}", path_of(package, module), code))
    os.chdir(ROOT)
    mutated = importlib.import_module(f"hf_exposure.{package}.{module}")
    # Not loaded by pytest, which would rewrite the assertions of the file on the disk and run that.
    if doctest.testmod(mutated, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS).failed:
        return _FAILED
    # Pytest warns that it cannot rewrite libraries that were imported before the fork.
    options = ["-x", "-q", "--no-header", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    return int(pytest.main([*options, *(f"tests/{test}" for test in PACKAGES[package][module])]))


def in_turn(modules: Sequence[Iterator[Mutant]]) -> Iterator[Mutant]:
    for group in itertools.zip_longest(*modules):
        yield from (mutant for mutant in group if mutant is not None)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--packages", default=",".join(PACKAGES))
    arguments.add_argument("--minutes", type=float, default=55.0)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--no-result", action="store_true")
    chosen = arguments.parse_args()
    started, packages = time.monotonic(), chosen.packages.split(",")
    _import_what_is_heavy(packages)
    places = {(package, module): places_of(package, module) for package in packages for module in PACKAGES[package]}
    # One random stream per module, so that its mutants do not depend on which other modules run.
    mutants = [
        mutants_of(package, module, found, random.Random(f"{chosen.seed} {package} {module}"))
        for (package, module), found in places.items()
    ]
    patience: dict[tuple[str, str], float] = {}
    outcomes: list[tuple[str, Mutant]] = []
    for mutant in in_turn(mutants):
        if time.monotonic() - started > 60.0 * chosen.minutes:
            break
        key = (mutant.package, mutant.module)
        if key not in patience:
            before = time.monotonic()
            if run_tests(*key, None, None) != "survived":
                raise SystemExit(f"the tests of {mutant.name} fail without a mutation")
            patience[key] = _PATIENCE * (time.monotonic() - before) + _MORE_SECONDS
        outcome = run_tests(*key, mutant.code, patience[key])
        outcomes.append((outcome, mutant))
        print(f"{outcome:9} {mutant.shown}", flush=True)
    figures = {
        "seed": chosen.seed,
        "minutes": round((time.monotonic() - started) / 60.0, 1),
        "places": {f"{package}/{module}": len(found) for (package, module), found in places.items()},
        "run": _counted(outcomes),
        "survivors": [mutant.shown for outcome, mutant in outcomes if outcome == "survived"],
    }
    print(json.dumps({name: figures[name] for name in ("minutes", "run")}, indent=1))
    if not chosen.no_result:
        write_result("mutants", figures)


def _counted(outcomes: Sequence[tuple[str, Mutant]]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for outcome, mutant in outcomes:
        own = counts.setdefault(f"{mutant.package}/{mutant.module}", {"killed": 0, "survived": 0, "timed out": 0})
        own[outcome] += 1
    return counts


def _import_what_is_heavy(packages: Sequence[str]) -> None:
    import numpy  # noqa: F401
    import pytest  # noqa: F401
    import scipy.stats  # noqa: F401

    if set(packages) - {"estimators"}:
        import datasets  # noqa: F401
        import torch
        import transformers  # noqa: F401

        torch.set_num_threads(1)
    assert not any(name == "hf_exposure" or name.startswith("hf_exposure.") for name in sys.modules)


if __name__ == "__main__":
    main()
