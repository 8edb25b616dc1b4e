"""Hidden states against those that models return themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel

from hf_exposure.errors import InputError
from hf_exposure.signals import hidden_states

IDS = torch.as_tensor(np.random.default_rng(0).integers(2, 50, size=(9, 6)))
MASK = torch.ones_like(IDS)
MASK[::2, 4:] = 0
INPUTS = {"input_ids": IDS, "attention_mask": MASK, "labels": IDS}


def models() -> list[nn.Module]:
    torch.manual_seed(0)
    gpt = GPT2Config(vocab_size=50, n_layer=2, n_head=2, n_embd=16, n_positions=16, bos_token_id=1, eos_token_id=1)
    bert = BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    return [GPT2LMHeadModel(gpt).train(), BertModel(bert).train()]


@pytest.mark.parametrize("number", range(2))
@pytest.mark.parametrize("reduce", ["last", "mean", "flat"])
def test_blocks_of_transformers(number: int, reduce: Any) -> None:
    model = models()[number]
    found = hidden_states(model, INPUTS, reduce=reduce, batch_size=4)
    assert model.training and not any(module._forward_hooks for module in model.modules())
    name = list(found)[0]
    assert len(found) == 2 and name.endswith(".0")
    with torch.no_grad():
        whole = model.eval()(input_ids=IDS, attention_mask=MASK, output_hidden_states=True).hidden_states[1]
    expected = []
    for row in range(9):
        read = whole[row, : MASK[row].sum()]
        expected.append({"last": read[-1], "mean": read.mean(0), "flat": whole[row].flatten()}[reduce])
    np.testing.assert_allclose(found[name], torch.stack(expected).numpy(), atol=1e-5)


def test_pictures() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2))
    pictures = torch.randn(6, 1, 5, 5)
    assert {name: states.shape for name, states in hidden_states(model, pictures).items()} == {
        "0": (6, 48),
        "3": (6, 2),
    }
    states = hidden_states(model, pictures, ["1"], reduce="mean", batch_size=4)["1"]
    expected = model[1](model[0](pictures)).mean(dim=(2, 3)).detach().numpy()
    np.testing.assert_allclose(states, expected, atol=1e-6)
    own = hidden_states(model, pictures, ["1"], reduce=lambda states: states.flatten(1)[:, :4])["1"]
    assert own.shape == (6, 4)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"layers": ["head"]}, "layers"), ({"layers": []}, "layers"), ({"reduce": "first"}, "reduce"),
        ({"batch_size": 0}, "batch_size"), ({"reduce": lambda states: states}, "reduce"),
        ({"layers": ["1"], "reduce": "last"}, "reduce"), ({"inputs": "pictures"}, "inputs"),
    ],
)  # fmt: skip
def test_refused(arguments: dict[str, Any], named: str) -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 2), nn.ReLU())
    with pytest.raises(InputError, match=rf"^{named}: "):
        hidden_states(model, **{"inputs": torch.randn(6, 1, 5, 5), **arguments})
    assert not any(module._forward_hooks for module in model.modules())


def test_a_layer_that_is_not_called_is_refused() -> None:
    class Skips(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x)

    with pytest.raises(InputError, match="'unused' must be called"):
        hidden_states(Skips(), torch.ones(3, 2))
