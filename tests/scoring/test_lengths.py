"""Maximum lengths of texts: the real limit of each kind of model, from its tables and its configuration."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    ByT5Tokenizer,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    LEDConfig,
    LEDForConditionalGeneration,
    MptConfig,
    MptForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    RobertaConfig,
    RobertaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    XLNetConfig,
    XLNetLMHeadModel,
)

from hf_exposure import CanaryTemplate, Digits, draw_canaries, log_perplexity
from hf_exposure.errors import InputError
from hf_exposure.measures import ExposureMeter
from hf_exposure.scoring.arguments import context_length, vocabulary_entries
from hf_exposure.testing import assert_close, brute_force_bits

SMALL: dict[str, Any] = {"vocab_size": 384, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
LAYERS: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
}  # fmt: skip
BOTH_SIDES: dict[str, Any] = {
    "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "decoder_start_token_id": 1,
}  # fmt: skip


def roberta() -> torch.nn.Module:
    return RobertaForCausalLM(RobertaConfig(**SMALL, **LAYERS, max_position_embeddings=20, is_decoder=True))


def padded_roberta() -> torch.nn.Module:
    config = RobertaConfig(**{**SMALL, "pad_token_id": 5}, **LAYERS, max_position_embeddings=20, is_decoder=True)
    return RobertaForCausalLM(config)


def opt() -> torch.nn.Module:
    return OPTForCausalLM(OPTConfig(**SMALL, **LAYERS, ffn_dim=16, word_embed_proj_dim=32, max_position_embeddings=20))


def gpt2() -> torch.nn.Module:
    return GPT2LMHeadModel(GPT2Config(**SMALL, n_layer=1, n_head=2, n_embd=16, n_positions=20))


def mpt() -> torch.nn.Module:
    return MptForCausalLM(MptConfig(**SMALL, d_model=16, n_heads=2, n_layers=1, max_seq_len=20))


@pytest.mark.parametrize(("make", "longest"), [(roberta, 19), (padded_roberta, 14), (opt, 20), (gpt2, 20), (mpt, 20)])
def test_the_real_limit_of_causal_models(make: Any, longest: int, byte_tokenizer: ByT5Tokenizer) -> None:
    """At the limit the scores equal brute force; beyond it, an error says so before a call fails."""
    torch.manual_seed(0)
    model = make().eval()
    assert context_length(model) == longest
    texts = ["x" * longest, "y" * (longest - 3)]
    expected = [brute_force_bits(model, [byte + 3 for byte in text.encode()], 1) for text in texts]
    assert_close(log_perplexity(model, byte_tokenizer, texts), expected, 1e-3)
    with pytest.raises(InputError, match=f"must fit the model's context of {longest} tokens"):
        log_perplexity(model, byte_tokenizer, ["z" * (longest + 1)])


def test_the_meter_knows_the_real_limit_before_training(byte_tokenizer: ByT5Tokenizer) -> None:
    template = CanaryTemplate("the number is {pin}", pin=Digits(6))  # 20 bytes
    meter = ExposureMeter(draw_canaries(template, {1: 1}, controls=1, seed=0), byte_tokenizer, references=10)
    meter.check_fits(gpt2())
    with pytest.raises(InputError, match="context of 19 tokens"):
        meter.check_fits(roberta())


def test_limits_of_each_side(byte_tokenizer: ByT5Tokenizer) -> None:
    torch.manual_seed(0)
    bart = BartForConditionalGeneration(BartConfig(**SMALL, **BOTH_SIDES, max_position_embeddings=12)).eval()
    led = LEDForConditionalGeneration(
        LEDConfig(
            **SMALL, **BOTH_SIDES, attention_window=4, max_encoder_position_embeddings=16,
            max_decoder_position_embeddings=9,
        )
    ).eval()  # fmt: skip
    assert (context_length(bart), context_length(bart, "encoder")) == (12, 12)
    assert (context_length(led), context_length(led, "encoder")) == (9, 16)
    # The start token takes a place; sources end with the end token.
    assert log_perplexity(bart, byte_tokenizer, ["a" * 11], sources="b" * 11).shape == (1,)
    assert log_perplexity(led, byte_tokenizer, ["a" * 8], sources="b" * 15).shape == (1,)
    for model, target, source in ((bart, 12, 3), (bart, 3, 12), (led, 9, 3), (led, 3, 16)):
        with pytest.raises(InputError, match="must fit the model's context of"):
            log_perplexity(model, byte_tokenizer, ["a" * target], sources="b" * source)


def test_models_without_a_limit() -> None:
    t5 = T5ForConditionalGeneration(T5Config(vocab_size=384, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2))
    assert context_length(t5) is None and context_length(t5, "encoder") is None
    xlnet = XLNetLMHeadModel(XLNetConfig(vocab_size=384, d_model=16, n_layer=1, n_head=2, d_inner=16))
    assert context_length(xlnet) is None


class Undeclared(torch.nn.Module):
    """A table of positions under a meaningless name, and no configuration."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.order = torch.nn.Embedding(384, 8), torch.nn.Embedding(20, 8)
        self.head = torch.nn.Linear(8, 384)

    def forward(self, input_ids: torch.Tensor) -> Any:
        places = self.order(torch.arange(input_ids.shape[1]))
        return SimpleNamespace(logits=self.head(self.embed(input_ids) + places))


def test_a_limit_that_nothing_declares(byte_tokenizer: ByT5Tokenizer) -> None:
    torch.manual_seed(0)
    model = Undeclared()
    assert context_length(model) is None
    assert log_perplexity(model, byte_tokenizer, ["x" * 20, "yz"]).shape == (2,)
    with pytest.raises(InputError, match="texts: must fit the limits of the model"):
        log_perplexity(model, byte_tokenizer, ["x" * 21])


def test_a_limit_in_the_part_for_text() -> None:
    """The table of positions in the part for images is no limit for texts."""
    text = {**LAYERS, "vocab_size": 384, "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 40}
    vision = {**LAYERS, "image_size": 16, "patch_size": 8}
    model = Gemma3ForConditionalGeneration(
        Gemma3Config(
            text_config=text, vision_config=vision, image_token_index=300, boi_token_index=301, eoi_token_index=302
        )
    )
    assert context_length(model) == 40 and vocabulary_entries(model) == 384


def test_a_tokenizer_larger_than_either_embedding(byte_tokenizer: ByT5Tokenizer) -> None:
    """It is refused before a device-side assertion on a GPU would end the process."""
    torch.manual_seed(0)
    small = {**SMALL, "vocab_size": 110}
    bart = BartForConditionalGeneration(BartConfig(**small, **BOTH_SIDES, max_position_embeddings=40)).eval()
    for target, source in (("zzz", "aaa"), ("aaa", "zzz")):
        with pytest.raises(InputError, match="tokenizer: must be the model's own: the model knows 110 tokens"):
            log_perplexity(bart, byte_tokenizer, [target], sources=source)
        with pytest.raises(InputError, match="the model knows 110 tokens"):
            log_perplexity(bart, byte_tokenizer, [target], sources=[source])


class LearnedPrompt(torch.nn.Module):
    """Puts learned embeddings before the text and returns logits for them too, as prompt tuning does."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = gpt2()
        self.prompt = torch.nn.Parameter(torch.randn(3, 16))
        self.config = None

    def forward(self, input_ids: torch.Tensor) -> Any:
        embedded = self.inner.get_input_embeddings()(input_ids)
        prompt = self.prompt.expand(len(input_ids), -1, -1)
        return SimpleNamespace(logits=self.inner(inputs_embeds=torch.cat([prompt, embedded], dim=1)).logits)


def test_logits_of_a_learned_prompt_are_not_those_of_the_text(byte_tokenizer: ByT5Tokenizer) -> None:
    model = LearnedPrompt().eval()
    texts = ["a pin", "the pin is 12"]
    expected = []
    for text in texts:
        ids = [byte + 3 for byte in text.encode()]
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, 3:].double()
        bits = -torch.log_softmax(logits, dim=-1) / torch.log(torch.tensor(2.0, dtype=torch.float64))
        expected.append(sum(bits[place, token].item() for place, token in enumerate(ids[1:])))
    assert_close(log_perplexity(model, byte_tokenizer, texts), expected, 1e-3)


class WholeContext(torch.nn.Module):
    """Returns logits for all places of its context, however few tokens it is fed."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.config = gpt2(), None

    def forward(self, input_ids: torch.Tensor) -> Any:
        logits = self.inner(input_ids=input_ids).logits
        return SimpleNamespace(logits=torch.nn.functional.pad(logits, (0, 0, 0, 20 - logits.shape[1]), value=0.5))


def test_logits_of_places_behind_the_text_are_not_read(byte_tokenizer: ByT5Tokenizer) -> None:
    torch.manual_seed(0)
    model = WholeContext().eval()
    texts = ["a pin", "the pin is 12"]
    expected = [brute_force_bits(model.inner, [byte + 3 for byte in text.encode()], 1) for text in texts]
    assert_close(log_perplexity(model, byte_tokenizer, texts), expected, 1e-3)
