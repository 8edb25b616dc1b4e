"""Tiny models for every config class that transformers maps to a language model, built from the config alone.

A configuration is shrunk by field names: `TINY` has a small value for each name that sets a size, wherever it occurs
in a configuration or its parts. Families with special constraints between sizes have an entry in `OWN`. The vocabulary
is that of `ByT5Tokenizer`, 384 entries, so that any text can be scored.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.models.auto import modeling_auto

__all__ = ["KINDS", "build_model", "families", "tiny_config"]

VOCABULARY = 384
SEED = 0
SPREAD = 3.0
MOST_PARAMETERS = 20_000_000

KINDS = {
    "causal": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING,
    "encoder-decoder": modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    "masked": modeling_auto.MODEL_FOR_MASKED_LM_MAPPING,
}

_WIDTH = dict.fromkeys(
    ("hidden_size", "d_model", "n_embd", "embedding_size", "dim", "emb_dim", "embedding_dim", "attention_hidden_size"),
    32,
)
_DEPTH = dict.fromkeys(
    (
        "num_hidden_layers",
        "n_layer",
        "n_layers",
        "num_layers",
        "num_blocks",
        "encoder_layers",
        "decoder_layers",
        "num_encoder_layers",
        "num_decoder_layers",
        "depth",
        "num_mem_blocks",
    ),
    2,
)
_HEADS = dict.fromkeys(
    (
        "num_attention_heads",
        "n_head",
        "n_heads",
        "num_heads",
        "encoder_attention_heads",
        "decoder_attention_heads",
        "num_encoder_attention_heads",
        "num_decoder_attention_heads",
        "num_key_value_heads",
        "swa_num_attention_heads",
        "swa_num_key_value_heads",
        "global_num_key_value_heads",
    ),
    4,
)
_FEED_FORWARD = dict.fromkeys(
    (
        "intermediate_size",
        "ffn_dim",
        "d_ff",
        "dff",
        "dim_ff",
        "n_inner",
        "encoder_ffn_dim",
        "decoder_ffn_dim",
        "ffn_hidden_size",
        "moe_intermediate_size",
        "shared_expert_intermediate_size",
        "shared_intermediate_size",
        "expert_ffn_hidden_size",
        "intermediate_size_mlp",
    ),
    64,
)
_EXPERTS = dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), 4)
_CHOSEN = dict.fromkeys(
    ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "top_k_experts", "num_experts_per_topk"), 2
)
_HEAD_WIDTH = dict.fromkeys(("head_dim", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "dim_head", "d_kv"), 8)

TINY: dict[str, Any] = {
    **_WIDTH,
    **_DEPTH,
    **_HEADS,
    **_FEED_FORWARD,
    **_EXPERTS,
    **_CHOSEN,
    **_HEAD_WIDTH,
    "vocab_size": VOCABULARY,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "n_group": 1,
    "num_expert_group": 1,
    "topk_group": 1,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "index_head_dim": 16,
    "index_n_heads": 2,
    "index_topk": 64,
    "sliding_window": 8,
    "attention_window_size": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "mamba_d_state": 8,
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_n_groups": 2,
    "mamba_chunk_size": 8,
    "state_size": 8,
    "chunk_size": 8,
    "bos_token_id": 1,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "decoder_start_token_id": 0,
    "sep_token_id": 1,
    "type_vocab_size": 2,
    "lru_width": 32,
    "vocab_size_per_layer_input": VOCABULARY,
    "hidden_size_per_layer_input": 8,
    "patch_size": 8,
    "image_size": 16,
    "num_mel_bins": 8,
    "max_source_positions": 64,
    "encoder_attn_heads": 4,
    "out_hidden_size": 32,
    "output_dim": 32,
    "projection_dim": 32,
    "audio_vocab_size": 32,
}

_HYBRID = {"layer_types": ["linear_attention", "full_attention"]}

_BERT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
_T5GEMMA = {
    "model_type": "t5_gemma_module",
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 64,
    "sliding_window": 8,
}

# Special requirements of families: sizes that must agree with each other, and one layer of each kind.
OWN: dict[str, dict[str, Any]] = {
    "bailing_hybrid": _HYBRID,
    "bamba": {"attn_layer_indices": [1]},
    "blt": {"encoder_hash_byte_group_vocab": 64, "encoder_hash_byte_group_size": [3, 4]},
    "codegen": {"rotary_dim": 4},
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "full_attention": {"rope_type": "default", "rope_theta": 10000.0},
        },
    },
    "dbrx": {"attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0}},
    "encoder-decoder": {
        "encoder": {"model_type": "bert", **_BERT},
        "decoder": {"model_type": "bert", "is_decoder": True, "add_cross_attention": True, **_BERT},
        "decoder_start_token_id": 1,
    },
    "falcon_h1": {"mamba_d_ssm": 64},
    "fsmt": {"decoder_start_token_id": 1},
    "gemma3n_text": {
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "intermediate_size": [64] * 4,
        "activation_sparsity_pattern": [0.0] * 4,
        "num_key_value_heads": 2,
    },
    "gemma4_text": {
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 8},
    "gptj": {"rotary_dim": 4},
    "granitemoehybrid": _HYBRID,
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_dt_rank": 4},
    "kimi_linear": _HYBRID,
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "lfm3": {"layer_types": ["conv", "full_attention"], "conv_L_cache": 3},
    "luke": {"entity_vocab_size": 16, "entity_emb_size": 16},
    "mimo_v2_flash": {"num_key_value_heads": 2, "swa_num_key_value_heads": 2},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 2},
    "neomme": {"head_dim": 16, "num_attention_heads": 2, "num_key_value_heads": 2},
    "perceiver": {"d_latents": 32, "num_latents": 8, "num_self_attends_per_block": 2, "max_position_embeddings": 64},
    "qwen3_5_moe_text": _HYBRID,
    "qwen3_5_text": _HYBRID,
    "qwen3_next": _HYBRID,
    "qwen4_exp_text": {
        "layer_types": ["linear_attention", "indexed_attention"],
        "hc_lowrank": 8,
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 64,
        "indexer_compress_ratio": 2,
    },
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": {
        "axial_pos_embds_dim": [16, 16],
        "axial_pos_shape": [8, 16],
        "attn_layers": ["local", "local"],
        "attention_head_size": 8,
        "feed_forward_size": 64,
    },
    "roc_bert": {"pronunciation_vocab_size": 16, "shape_vocab_size": 16},
    "t5gemma": {
        "encoder": _T5GEMMA,
        "decoder": {**_T5GEMMA, "is_decoder": True, "add_cross_attention": True},
        "decoder_start_token_id": 1,
    },
    "xlstm": {"hidden_size": 64, "embedding_dim": 64, "num_heads": 2, "qk_dim_factor": 1.0},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "zamba": {
        "num_hidden_layers": 5,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        "mamba_dt_rank": 4,
    },
    "zamba2": {
        "layers_block_type": ["linear_attention", "hybrid"],
        "hybrid_layer_ids": [1],
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        "kv_channels": 8,
        "n_mamba_heads": 8,
        "mamba_headdim": 8,
        "mamba_ngroups": 2,
    },
    "zaya": {"num_experts_per_tok": 1, "layer_types": ["hybrid", "hybrid"]},
}


def families() -> list[tuple[str, type[PreTrainedConfig]]]:
    """Returns (kind, config class) of each entry of the three mappings, in their order."""
    return [(kind, config_class) for kind, mapping in KINDS.items() for config_class in mapping]


def tiny_config(config_class: type[PreTrainedConfig]) -> PreTrainedConfig:
    """Returns the configuration with every known size made small, also in its parts."""
    return config_class(**_tiny_settings(config_class))


def build_model(kind: str, config_class: type[PreTrainedConfig]) -> nn.Module:
    """The family's model with random weights, in evaluation mode.

    The weights are spread wider than the library initializes them: figures of a model that says everything with the
    same probability agree whatever a scorer does.
    """
    config = tiny_config(config_class)
    if kind == "causal" and getattr(config, "is_decoder", None) is False:
        config.is_decoder = True
    if kind == "encoder-decoder" and getattr(config, "decoder_start_token_id", None) is None:
        config.decoder_start_token_id = 0
    automatic = {
        "causal": modeling_auto.AutoModelForCausalLM,
        "encoder-decoder": modeling_auto.AutoModelForSeq2SeqLM,
        "masked": modeling_auto.AutoModelForMaskedLM,
    }[kind]
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in automatic.from_config(config).parameters())
    if size > MOST_PARAMETERS:
        raise ValueError(f"{size} parameters: not tiny")
    torch.manual_seed(SEED)
    model = automatic.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(SPREAD)
    return model


def _tiny_settings(config_class: type[PreTrainedConfig]) -> dict[str, Any]:
    known = set(inspect.signature(config_class.__init__).parameters)
    parts: dict[str, type] = {}
    try:
        default = config_class()
        known |= set(vars(default))
        parts = {name: type(value) for name, value in vars(default).items() if isinstance(value, PreTrainedConfig)}
    except Exception:  # some have no defaults
        parts = {
            name: part
            for name, part in getattr(config_class, "sub_configs", {}).items()
            if inspect.isclass(part) and issubclass(part, PreTrainedConfig)
        }
    renamed = getattr(config_class, "attribute_map", {})
    settings = {name: value for name, value in TINY.items() if name in known or name in renamed}
    settings = {name: value for name, value in settings.items() if renamed.get(name) not in settings}
    for name, part in parts.items():
        settings[name] = {**_tiny_settings(part), "model_type": part.model_type}
    settings.update(OWN.get(config_class.model_type, {}))
    return settings
