"""Extraction: the likeliest texts of a template, and the exact rank of one, by search over the model's logits."""

from hf_exposure.extraction.bounded_rank import rank_bounds, search_ranks
from hf_exposure.extraction.build import build_automaton, check_template
from hf_exposure.extraction.by_sampling import extract_by_sampling
from hf_exposure.extraction.character_automaton import CharacterAutomaton
from hf_exposure.extraction.discoverable import discoverable_extraction
from hf_exposure.extraction.near_verbatim import near_extraction
from hf_exposure.extraction.proposal import (
    EXPONENTS,
    OF_EIGHT,
    Proposals,
    UniformPaths,
    draw_proposals,
    largest_weights,
)
from hf_exposure.extraction.search import extract, prefix_cost, search_likeliest
from hf_exposure.extraction.token_automaton import TokenAutomaton, Transitions, enumerate_texts

__all__ = [
    "EXPONENTS",
    "OF_EIGHT",
    "CharacterAutomaton",
    "Proposals",
    "TokenAutomaton",
    "Transitions",
    "UniformPaths",
    "build_automaton",
    "check_template",
    "discoverable_extraction",
    "draw_proposals",
    "enumerate_texts",
    "extract",
    "extract_by_sampling",
    "largest_weights",
    "near_extraction",
    "prefix_cost",
    "rank_bounds",
    "search_likeliest",
    "search_ranks",
]
