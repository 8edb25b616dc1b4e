"""What comes out: the likeliest texts of a template, and the exact rank of one, by search over the model's logits."""

from hf_exposure.extraction.best_first import extract, search_likeliest
from hf_exposure.extraction.bounded_rank import hole_bits, rank_bounds, search_ranks
from hf_exposure.extraction.build import build_automaton, check_template
from hf_exposure.extraction.character_automaton import CharacterAutomaton
from hf_exposure.extraction.proposal import EXPONENTS, Proposals, draw_proposals
from hf_exposure.extraction.token_automaton import Moves, TokenAutomaton
from hf_exposure.extraction.whole_space import enumerate_texts

__all__ = [
    "CharacterAutomaton",
    "EXPONENTS",
    "Moves",
    "Proposals",
    "TokenAutomaton",
    "build_automaton",
    "check_template",
    "draw_proposals",
    "enumerate_texts",
    "extract",
    "hole_bits",
    "rank_bounds",
    "search_likeliest",
    "search_ranks",
]
