"""Character models as Hugging Face models: LSTM, GRU, causal CNN, WaveNet, and a small transformer.

The first four have neither attention nor a key-value cache. They take `input_ids` and return `logits`, and can be
saved and loaded like any other model; `hf_exposure` needs no special code for them.

Shapes: B rows, T characters, H width, V vocabulary entries.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

__all__ = ["ARCHITECTURES", "CharacterConfig", "CharacterModel", "make_model"]

_WAVENET_DILATIONS = (1, 2, 4, 8, 16)
_HEADS = 4


class CharacterConfig(PreTrainedConfig):
    """A character model that is not a transformer.

    Args:
        architecture: "lstm", "gru", "cnn" or "wavenet".
        vocab_size: V.
        hidden_size: H, the width of the embedding and of every layer.
        num_hidden_layers: number of recurrent layers, of convolutions, or of WaveNet's stacks of dilations 1 to 16.
        kernel_size: characters that one convolution of the CNN sees.
        dropout: rate on the embedding and on the output of every layer, in training.
    """

    model_type = "secret_sharer_character"

    def __init__(
        self,
        architecture: str = "lstm",
        vocab_size: int = 100,
        hidden_size: int = 128,
        num_hidden_layers: int = 1,
        kernel_size: int = 8,
        dropout: float = 0.0,
        **more: Any,
    ) -> None:
        self.architecture = architecture
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.kernel_size = kernel_size
        self.dropout = dropout
        super().__init__(**more)


class CharacterModel(PreTrainedModel):
    """Embedding, body and output layer; `config.architecture` determines the body."""

    config_class = CharacterConfig
    base_model_prefix = "character"

    def __init__(self, config: CharacterConfig) -> None:
        super().__init__(config)
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.body = _BODIES[config.architecture](config)
        self.drop = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Keeps torch's own initial values, which suit these layers; post_init would replace them."""

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor | None = None, **_: Any) -> CausalLMOutput:
        """Logits (B, T, V), and the mean loss in nats if `labels` (B, T) are given; labels of -100 are ignored.

        An attention mask is ignored, since rows are padded on the right and the model is causal.
        """
        logits_BTV = self.head(self.drop(self.body(self.drop(self.embedding(input_ids)))))
        loss = None
        if labels is not None:
            loss = functional.cross_entropy(logits_BTV[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return CausalLMOutput(loss=loss, logits=logits_BTV)

    def step(self, token_B: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        """Logits (B, V) after one more character, and the state then: for `RecurrentScorer`, LSTM and GRU only."""
        hidden_B1H, state = self.body.recurrent(self.drop(self.embedding(token_B)[:, None]), state)
        return self.head(self.drop(hidden_B1H[:, 0])), state


class Recurrent(nn.Module):
    """(B, T, H) to (B, T, H) by LSTM or GRU layers from a state of zeros."""

    def __init__(self, config: CharacterConfig) -> None:
        super().__init__()
        kind = {"lstm": nn.LSTM, "gru": nn.GRU}[config.architecture]
        layers, width = config.num_hidden_layers, config.hidden_size
        between = config.dropout if layers > 1 else 0.0
        self.recurrent = kind(width, width, layers, batch_first=True, dropout=between)

    def forward(self, hidden_BTH: torch.Tensor) -> torch.Tensor:
        output_BTH: torch.Tensor
        try:
            output_BTH = self.recurrent(hidden_BTH)[0]
        except RuntimeError:
            # On some processors oneDNN has no LSTM of some widths (12, for example); PyTorch's own code has all.
            with torch.backends.mkldnn.flags(enabled=False, deterministic=None, allow_tf32=None):
                output_BTH = self.recurrent(hidden_BTH)[0]
        return output_BTH


class CausalConvolution(nn.Conv1d):
    """A convolution over (B, H, T) that sees each position and the ones before it."""

    def forward(self, hidden_BHT: torch.Tensor) -> torch.Tensor:
        before = (self.kernel_size[0] - 1) * self.dilation[0]
        return super().forward(functional.pad(hidden_BHT, (before, 0)))


class Convolutional(nn.Module):
    """Causal convolutions with ReLU and residual connections."""

    def __init__(self, config: CharacterConfig) -> None:
        super().__init__()
        width, layers = config.hidden_size, config.num_hidden_layers
        self.layers = nn.ModuleList(CausalConvolution(width, width, config.kernel_size) for _ in range(layers))
        self.drop = nn.Dropout(config.dropout)

    def forward(self, hidden_BTH: torch.Tensor) -> torch.Tensor:
        hidden_BHT = hidden_BTH.transpose(1, 2)
        for layer in self.layers:
            hidden_BHT = hidden_BHT + self.drop(functional.relu(layer(hidden_BHT)))
        return hidden_BHT.transpose(1, 2)


class WaveNet(nn.Module):
    """Stacks of dilated, gated causal convolutions over two characters, whose skip outputs are summed.

    Source: van den Oord et al. 2016, "WaveNet", Sections 2.1, 2.3 and 2.4.
    """

    def __init__(self, config: CharacterConfig) -> None:
        super().__init__()
        width = config.hidden_size
        dilations = _WAVENET_DILATIONS * config.num_hidden_layers
        self.gates = nn.ModuleList(CausalConvolution(width, 2 * width, 2, dilation=far) for far in dilations)
        self.outputs = nn.ModuleList(nn.Conv1d(width, width, 1) for _ in dilations)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, hidden_BTH: torch.Tensor) -> torch.Tensor:
        hidden_BHT = hidden_BTH.transpose(1, 2)
        passed_on_BHT = torch.zeros_like(hidden_BHT)
        for gate, output in zip(self.gates, self.outputs, strict=True):
            value, openness = gate(hidden_BHT).chunk(2, dim=1)
            step = self.drop(output(torch.tanh(value) * torch.sigmoid(openness)))
            passed_on_BHT = passed_on_BHT + step
            hidden_BHT = hidden_BHT + step
        return functional.relu(passed_on_BHT).transpose(1, 2)


_BODIES = {"lstm": Recurrent, "gru": Recurrent, "cnn": Convolutional, "wavenet": WaveNet}
ARCHITECTURES = (*_BODIES, "transformer")


def make_model(
    architecture: str,
    vocab_size: int,
    *,
    width: int | None = None,
    parameters: int = 620_000,
    layers: int = 1,
    dropout: float = 0.0,
    positions: int = 512,
) -> PreTrainedModel:
    """A model with random weights: of the given width, or the widest with at most about `parameters` weights.

    Args:
        architecture: one of `ARCHITECTURES`; "transformer" is GPT-2.
        positions: maximum length of the transformer's texts; the others have no limit.

    Seed torch before the call: the weights are drawn here.
    """
    if width is None:
        width = _widest(architecture, vocab_size, parameters, layers, positions)
    return _build(architecture, vocab_size, width, layers, dropout, positions)


def _build(
    architecture: str, vocab_size: int, width: int, layers: int, dropout: float, positions: int
) -> PreTrainedModel:
    if architecture != "transformer":
        return CharacterModel(
            CharacterConfig(architecture, vocab_size, width, num_hidden_layers=layers, dropout=dropout)
        )
    # The default special tokens of GPT-2's config are not in this vocabulary.
    no_specials = {"bos_token_id": None, "eos_token_id": None}
    drops = {"resid_pdrop": dropout, "embd_pdrop": dropout, "attn_pdrop": dropout}
    size = {"n_layer": layers, "n_embd": width, "n_head": _HEADS, "n_positions": positions}
    return GPT2LMHeadModel(GPT2Config(vocab_size=vocab_size, **size, **drops, **no_specials))


def _widest(architecture: str, vocab_size: int, parameters: int, layers: int, positions: int) -> int:
    """The largest width, a multiple of `_HEADS`, with at most `parameters` weights; the count grows with the width."""
    low, high = 1, 1024
    while low < high:
        middle = (low + high + 1) // 2
        with torch.device("meta"):
            count = _build(architecture, vocab_size, _HEADS * middle, layers, 0.0, positions).num_parameters()
        low, high = (middle, high) if count <= parameters else (low, middle - 1)
    return _HEADS * low
