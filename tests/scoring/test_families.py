"""The most used families of models, tiny, against brute force; `make families` does the same for all of them."""

from __future__ import annotations

import pytest

from proofs.families import prove_family
from proofs.tiny_models import families

MODES = {
    ("causal", "gpt2"): "packed",
    ("causal", "llama"): "packed",
    ("causal", "mistral"): "cached",
    ("causal", "mixtral"): "cached",
    ("causal", "qwen2"): "packed",
    ("causal", "qwen3"): "packed",
    ("causal", "qwen3_moe"): "packed",
    ("causal", "qwen3_next"): "plain",
    ("causal", "gemma2"): "cached",
    ("causal", "gemma3_text"): "cached",
    ("causal", "gemma3n_text"): "cached",
    ("causal", "phi3"): "cached",
    ("causal", "gpt_neox"): "packed",
    ("causal", "gpt_oss"): "cached",
    ("causal", "deepseek_v3"): "packed",
    ("causal", "opt"): "packed",
    ("causal", "bloom"): "cached",
    ("causal", "falcon"): "packed",
    ("causal", "olmo2"): "packed",
    ("causal", "smollm3"): "packed",
    ("causal", "starcoder2"): "cached",
    ("causal", "mamba"): "plain",
    ("causal", "minimax"): "plain",
    ("encoder-decoder", "t5"): "cached",
    ("encoder-decoder", "bart"): "cached",
    ("encoder-decoder", "marian"): "cached",
    ("encoder-decoder", "switch_transformers"): "cached",
    ("encoder-decoder", "fsmt"): "plain",
    ("masked", "bert"): "plain",
    ("masked", "roberta"): "plain",
    ("masked", "distilbert"): "plain",
    ("masked", "deberta-v2"): "plain",
    ("masked", "modernbert"): "plain",
}


@pytest.mark.parametrize(("kind", "family"), MODES, ids=lambda name: name)
def test_a_family_agrees_with_brute_force(kind: str, family: str) -> None:
    config_class = next(each for named, each in families() if named == kind and each.model_type == family)
    result = prove_family(kind, config_class)
    assert result.outcome == "agrees", result.reason
    assert result.difference_bits < 1e-3 and result.mode == MODES[kind, family]
