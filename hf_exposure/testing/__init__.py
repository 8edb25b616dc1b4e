"""Laws for people who write their own scorers, spaces, token automata or measures.

Each law is a function that raises an `AssertionError` if it is broken, so that any test framework can call it.
Expected figures come from independent sources: a list of texts, the model on one text at a time, or every text of a
space.

    from hf_exposure.testing import check_scorer, check_search

    def test_my_scorer():
        scorer = MyScorer(...)
        check_scorer(scorer, ["pin 123", "pin 129", "pin 5", "another text"])
        check_search(scorer, build_automaton(template, scorer.encoder), texts, costs_found_in_another_way)

`check_scorer` calls all laws of a scorer, `check_search` those of search over it, `check_space` and `check_automaton`
those of a space and of a token automaton, and `check_measure` those of a measure.
"""

from hf_exposure.testing.measures import check_measure
from hf_exposure.testing.scorers import (
    TIE_BITS,
    TOLERANCE_BITS,
    assert_close,
    brute_force_bits,
    brute_force_rank,
    check_alone,
    check_automaton,
    check_batch_independence,
    check_chain_rule,
    check_likeliest,
    check_paths,
    check_rank,
    check_samples,
    check_scorer,
    check_search,
    check_space,
    check_token_sums,
)

__all__ = [
    "TIE_BITS",
    "TOLERANCE_BITS",
    "assert_close",
    "brute_force_bits",
    "brute_force_rank",
    "check_alone",
    "check_automaton",
    "check_batch_independence",
    "check_chain_rule",
    "check_likeliest",
    "check_measure",
    "check_paths",
    "check_rank",
    "check_samples",
    "check_scorer",
    "check_search",
    "check_space",
    "check_token_sums",
]
