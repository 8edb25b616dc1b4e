"""How surprised a model is: log-perplexities of texts, and next-token bits for search."""

from hf_exposure.scoring.causal import CausalScorer, log_perplexity
from hf_exposure.scoring.encoding import EncodedText, Encoder
from hf_exposure.scoring.protocol import PathBits, PathQuery, Scorer

__all__ = ["CausalScorer", "EncodedText", "Encoder", "PathBits", "PathQuery", "Scorer", "log_perplexity"]
