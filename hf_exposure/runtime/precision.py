"""The precision in which a model computes, which determines how closely two computations of one figure agree.

The dtype of a weight does not show it. A layer of packed 4-bit weights multiplies in its own dtype, and its bytes may
be stored as any type. A layer that rounds its inputs to 8 bits before multiplying is far less precise than its weights
suggest: a difference of 1e-7 in a hidden state may move an entry across a boundary between two of 255 steps, which
changes the result. If the step depends on the largest entry of a whole batch, or outliers of a batch are computed
separately, one row also changes the result of another.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""The types in which models compute."""
_REARRANGES = "support_avx512bf16_for_cpu"

EIGHT_BITS = torch.int8
"""The value that `coarsest_dtype` returns if inputs of layers are rounded to 8 bits, integers or floats."""


def coarsest_dtype(model: nn.Module) -> torch.dtype:
    """The least precise type in which a layer of `model` computes; `EIGHT_BITS` if one rounds its inputs to 8 bits.

    Otherwise it is the coarsest float type of 16 to 64 bits among the weights that are not packed, and the dtypes in
    which layers of packed weights multiply; float32 if there is none.

    Example:
        >>> coarsest_dtype(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).bfloat16()))
        torch.bfloat16
    """
    found: set[Any] = set()
    parameter: Any
    for parameter in model.parameters():
        if not is_packed(parameter):
            found.add(parameter.dtype)
        elif getattr(parameter.quant_state, "packing_format_for_cpu", False):
            found.add(torch.bfloat16)  # whatever compute_dtype is
    for module in model.modules():
        if rounds_inputs(module):
            return EIGHT_BITS
        found.add(vars(module).get("compute_dtype"))
    return max(found & set(FLOATS), key=lambda dtype: torch.finfo(dtype).eps, default=torch.float32)


def rounds_inputs(module: nn.Module) -> bool:
    """Whether a layer rounds its inputs to 8 bits before multiplying, recognized by the attributes of quantization
    libraries.
    """
    own = vars(module)
    state: Any = own.get("state")
    if hasattr(state, "has_fp16_weights"):  # bitsandbytes' LLM.int8; its training form computes in 16 bits
        return not state.has_fp16_weights
    # optimum-quanto; transformers' layers of 8-bit floats.
    if own.get("activation_qtype") is not None or own.get("activation_scheme") is not None:
        return True
    if getattr(own.get("quantization_scheme"), "input_activations", None) is not None:  # compressed-tensors
        return True
    if type(module).__module__.startswith("torch.ao.nn.quantized"):
        return True
    weight: Any = own.get("_parameters", {}).get("weight")
    if type(weight) is nn.Parameter:
        return False
    # torchao's newer and older tensors.
    names = ("act_quant_kwargs", "activation_quantization", "input_quant_func")
    return any(getattr(weight, name, None) is not None for name in names)


@contextmanager
def weights_kept(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Prevents bitsandbytes from changing 4-bit weights when they are used without gradients.

    On CPUs with 16-bit instructions, its layers rearrange their weights at the first such call in evaluation mode, and
    then neither propagate gradients nor compute in any type but bfloat16, which would end training.
    """
    layers: list[Any] = [module for module in modules if vars(module).get(_REARRANGES)]
    for layer in layers:
        setattr(layer, _REARRANGES, False)
    try:
        yield
    finally:
        for layer in layers:
            setattr(layer, _REARRANGES, True)


def is_packed(parameter: Any) -> bool:
    """Whether a parameter contains packed bytes of bitsandbytes, whatever its dtype is."""
    return type(parameter) is not nn.Parameter and hasattr(parameter, "quant_state")


def parameter_count(model: nn.Module) -> int:
    """The number of weights of a model. A 4-bit weight counts as one, although two of them share a byte."""
    return sum(_entries(parameter) for parameter in model.parameters())


def _entries(parameter: Any) -> int:
    shape = getattr(parameter.quant_state, "shape", None) if is_packed(parameter) else None
    return int(parameter.numel()) if shape is None else math.prod(shape)
