"""How surprised a model is: log-perplexities of texts, and next-token bits for search."""

from hf_exposure.scoring.causal import CausalScorer, log_perplexity
from hf_exposure.scoring.encoding import EncodedTexts, Encoder
from hf_exposure.scoring.path_query import PathBits, PathQuery
from hf_exposure.scoring.protocol import Scorer

__all__ = ["CausalScorer", "EncodedTexts", "Encoder", "PathBits", "PathQuery", "Scorer", "log_perplexity"]
