"""Scoring texts under a model: log-perplexities of texts, and next-token bits for search."""

from hf_exposure.scoring.causal import CausalScorer
from hf_exposure.scoring.encoding import EncodedTexts, Encoder
from hf_exposure.scoring.endpoint import Endpoint, PromptBits
from hf_exposure.scoring.endpoint_scorer import EndpointScorer
from hf_exposure.scoring.labels import LabelScorer, label_alphabet, label_template, labels_of
from hf_exposure.scoring.lockstep_sampler import LockstepSampler
from hf_exposure.scoring.masked import MaskedScorer
from hf_exposure.scoring.protocol import SampleReader, Scorer
from hf_exposure.scoring.recurrent import RecurrentScorer
from hf_exposure.scoring.select import log_perplexity, make_scorer
from hf_exposure.scoring.seq2seq import Seq2SeqScorer
from hf_exposure.scoring.token_tree import PathBits, PathQuery

__all__ = [
    "CausalScorer",
    "EncodedTexts",
    "Encoder",
    "Endpoint",
    "EndpointScorer",
    "LabelScorer",
    "LockstepSampler",
    "MaskedScorer",
    "PathBits",
    "PathQuery",
    "PromptBits",
    "RecurrentScorer",
    "SampleReader",
    "Scorer",
    "Seq2SeqScorer",
    "label_alphabet",
    "label_template",
    "labels_of",
    "log_perplexity",
    "make_scorer",
]
