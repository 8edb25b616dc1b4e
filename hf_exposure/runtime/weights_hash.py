"""A hash of a live model's weights, which identifies the model of a report, whatever its file name."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

from hf_exposure.runtime.model_state import is_sharded, unwrap_model


def weights_sha256(model: nn.Module) -> str | None:
    """SHA-256 over names, types, shapes and bytes of a model's weights and saved buffers, in the order of their names.

    It does not depend on the device or on the file format of the weights, but it does on their dtype.

    Args:
        model: the model; wrappers of data parallelism and of `torch.compile` are ignored.

    Returns:
        64 hexadecimal digits; None if the weights are not all available: served elsewhere, sharded over processes,
        offloaded, or packed in a tensor class of a quantization library.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> first = weights_sha256(layer)
        >>> with torch.no_grad():
        ...     _ = layer.weight[0, 0].add_(1.0)
        >>> len(first), first == weights_sha256(layer)
        (64, False)
    """
    model = unwrap_model(model)
    if is_sharded(model):
        return None
    weights = model.state_dict()
    if not weights:
        return None
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        if not isinstance(tensor, torch.Tensor):
            continue
        if type(tensor) not in (torch.Tensor, nn.Parameter) or tensor.is_meta or tensor.layout is not torch.strided:
            return None
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
