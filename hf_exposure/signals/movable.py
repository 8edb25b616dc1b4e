"""Rows of a model's inputs in a form that can be perturbed: float inputs, or embeddings of text.

Pixels, waveforms and features are floats, so they can be perturbed directly. Tokens cannot; instead, the output of the
model's embedding layer is perturbed. A forward hook does this, so any model with `get_input_embeddings` is supported:
it need not accept `inputs_embeds`, and its later processing of embeddings (positions, scaling) is unchanged.

Shapes: N rows, n of them in one call, T tokens, C classes or vocabulary entries.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hf_exposure.errors import InputError
from hf_exposure.runtime.model_state import compute_dtype, left_as_found, model_device, unwrap_model
from hf_exposure.runtime.precision import weights_kept
from hf_exposure.runtime.processes import is_out_of_memory

TOKENS, MASK = "input_ids", "attention_mask"
# Arguments that do not affect the decision: the model would only compute a loss from them.
_LABELS = ("labels", "label", "label_ids", "start_positions", "end_positions")

T = TypeVar("T")


class MovableRows:
    """The rows of `inputs`, ready to be perturbed and passed to a model.

    Args:
        model: returns logits, or an output with `.logits`, or a dictionary with "logits", or a tuple that begins with
            them.
        inputs: a float tensor or array (N, ...), the model's first argument; or a mapping of the model's arguments by
            name. In a mapping, tensors with N rows are split into batches, other values are passed on unchanged, and
            labels are left out.
        argument: name of the argument to perturb, if the mapping has several float tensors; "input_ids" perturbs the
            embeddings, and is the default if the mapping has it.

    Attributes:
        model: the model without wrappers.
        num_rows: N.
        are_tokens: whether embeddings are perturbed.

    Raises:
        InputError: there are no rows, the inputs are not finite floats, several arguments could be perturbed, or, for
            tokens, the model has no `get_input_embeddings`.

    Example:
        >>> rows = MovableRows(nn.Linear(2, 3), np.eye(2))
        >>> still = rows.unmoved(np.array([1]))
        >>> still.tolist(), tuple(rows.logits(np.array([1]), still).shape)
        ([[0.0, 0.0]], (1, 3))
    """

    def __init__(self, model: nn.Module, inputs: Any, argument: str | None = None) -> None:
        if not isinstance(model, nn.Module):
            raise InputError("model", "must be a torch module", type(model).__name__, "Pass the model first.")
        self.model = unwrap_model(model)
        self._positional = not isinstance(inputs, Mapping)
        given: dict[str, Any] = {"inputs": inputs} if self._positional else dict(inputs)
        arguments = {name: _as_tensor(value) for name, value in given.items() if name not in _LABELS}
        self._moved = _moved_argument(arguments, "inputs" if self._positional else argument)
        values = arguments[self._moved]
        self.num_rows, self.are_tokens = len(values), self._moved == TOKENS
        if not self.num_rows:
            raise InputError("inputs", "must have at least one row", 0, "Pass at least one row.")
        if not self.are_tokens:
            _check_floats(values)
        self._by_row = {k: v for k, v in arguments.items() if _has_rows(v, self.num_rows)}
        self._fixed = {k: v for k, v in arguments.items() if k not in self._by_row}

    @functools.cached_property
    def _embeddings(self) -> nn.Module | None:
        return _embedding_layer(self.model) if self.are_tokens else None

    def unmoved(self, rows_n: NDArray[np.integer]) -> torch.Tensor:
        """Returns a shift of 0 for each row: (n, ...) zeros with the shape of its float input or token embeddings."""
        values = self._batch(rows_n)[self._moved]
        with torch.no_grad():
            if self._embeddings is None:
                return torch.zeros_like(values, dtype=self._dtype(values))
            embedded: torch.Tensor = self._embeddings(values)
            return torch.zeros_like(embedded)

    def movable(self, rows_n: NDArray[np.integer]) -> torch.Tensor:
        """Returns bools that broadcast to a shift: False at padding, which the model does not read."""
        mask = self.read_mask(rows_n)
        return torch.ones((), dtype=torch.bool, device=model_device(self.model)) if mask is None else mask[..., None]

    def logits(
        self, rows_n: NDArray[np.integer], shift: torch.Tensor, parameters: Mapping[str, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Returns (n, C) float32 or float64 logits of the rows perturbed by `shift`.

        If the model returns logits at every token, those at the last unmasked token are used: for a causal language
        model, its next-token distribution after the whole text.

        Args:
            rows_n: indices of the rows.
            shift: (n, ...), with the shape that `unmoved` returns.
            parameters: weights by name to use in place of the model's own.
        """
        logits = self.all_logits(rows_n, shift, parameters)
        if logits.dim() == 3 and self.are_tokens:
            last_n = self._last_read(self._batch(rows_n), logits.shape[1])
            logits = logits[torch.arange(len(rows_n), device=logits.device), last_n]
        if logits.dim() != 2 or logits.shape[0] != len(rows_n) or logits.shape[1] < 2:
            rule = "must return logits of shape (rows, classes) with at least two classes"
            remedy = "Wrap the model so that forward returns them."
            raise InputError("model", rule, f"shape {tuple(logits.shape)} for {len(rows_n)} rows", remedy)
        return logits

    def all_logits(
        self, rows_n: NDArray[np.integer], shift: torch.Tensor, parameters: Mapping[str, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Returns the logits of the rows perturbed by `shift`, at every token if the model returns them there."""
        batch = self._batch(rows_n)
        if self._embeddings is None:
            dtype = self._dtype(batch[self._moved])
            batch[self._moved] = (batch[self._moved].to(dtype) + shift).to(dtype)
            output = self._call(batch, parameters)
        else:
            with _shifting(self._embeddings, shift):
                output = self._call(batch, parameters)
        logits = _logits_of(output)
        return logits if logits.dtype == torch.float64 else logits.float()

    def _call(self, batch: dict[str, torch.Tensor], parameters: Mapping[str, torch.Tensor] | None) -> Any:
        given = (batch[self._moved],) if self._positional else ()
        named = {} if self._positional else {**batch, **self._fixed}
        if parameters is None:
            return self.model(*given, **named)
        return torch.func.functional_call(self.model, dict(parameters), given, named)

    def run(self, rows_n: NDArray[np.integer]) -> Any:
        """Returns the model's output, of any kind, for the unperturbed rows."""
        batch = self._batch(rows_n)
        if not self.are_tokens:
            batch[self._moved] = batch[self._moved].to(self._dtype(batch[self._moved]))
        return self._call(batch, None)

    def read_mask(self, rows_n: NDArray[np.integer]) -> torch.Tensor | None:
        """Returns (n, T) whether each token is read; None without an attention mask."""
        return self._batch(rows_n)[MASK].bool() if self.are_tokens and MASK in self._by_row else None

    def embedding_scale(self) -> float | None:
        """Returns the root mean square of the coordinates of the embedding table; None if no embeddings are
        perturbed.
        """
        if self._embeddings is None:
            return None
        weight = getattr(self._embeddings, "weight", None)
        if not isinstance(weight, torch.Tensor) or not weight.is_floating_point():
            return None
        return float(weight.detach().float().square().mean().sqrt())

    def _dtype(self, values: torch.Tensor) -> torch.dtype:
        has_parameters = next(self.model.parameters(), None) is not None
        return compute_dtype(self.model) if has_parameters else values.dtype

    def _batch(self, rows_n: NDArray[np.integer]) -> dict[str, torch.Tensor]:
        device, rows = model_device(self.model), torch.as_tensor(rows_n, dtype=torch.long)
        return {name: values[rows.to(values.device)].to(device) for name, values in self._by_row.items()}

    def _last_read(self, batch: dict[str, torch.Tensor], length: int) -> torch.Tensor:
        decodes = bool(getattr(getattr(self.model, "config", None), "is_encoder_decoder", False))
        mask = batch.get(f"decoder_{MASK}" if decodes else MASK)
        rows = len(batch[self._moved])
        if mask is None or mask.shape[1] != length:
            return torch.full((rows,), length - 1, device=model_device(self.model))
        return (mask.bool() * torch.arange(1, length + 1, device=mask.device)).argmax(dim=1)


@contextmanager
def differentiating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode with gradients enabled; restores flags, gradients and random states on exit, also on an error.

    Recurrent layers run without cuDNN, which cannot compute gradients in evaluation mode.
    """
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    kernels = torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled and not recurrent)
    with left_as_found(model), weights_kept(model.modules()), torch.enable_grad(), kernels:
        model.eval()
        yield


def by_batches(
    rows_N: NDArray[np.integer], batch_size: int, work: Callable[[NDArray[np.integer]], list[T]]
) -> list[T]:
    """Returns the results of `work` for all rows, batch by batch; halves the batch if the device runs out of
    memory.
    """
    found: list[T] = []
    while len(found) < len(rows_N):
        batch = rows_N[len(found) : len(found) + batch_size]
        try:
            found.extend(work(batch))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or len(batch) == 1:
                raise
            batch_size = len(batch) // 2
    return found


@contextmanager
def _shifting(layer: nn.Module, shift: torch.Tensor) -> Iterator[None]:
    """Adds `shift` to the output of the first call of `layer` only: decoders may share it with encoders."""
    waiting = [shift]

    def hook(module: nn.Module, arguments: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        return output + waiting.pop().to(output.dtype) if waiting else output

    handle = layer.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
    if waiting:
        rule = "must call the layer that get_input_embeddings returns"
        raise InputError("model", rule, "a model that does not", "Return the layer that embeds input_ids.")


def _as_tensor(value: Any) -> Any:
    """Converts arrays to tensors; other arguments (numbers, flags, None) are unchanged."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return torch.as_tensor(value)
    return value.detach() if isinstance(value, torch.Tensor) else value


def _moved_argument(arguments: dict[str, Any], wanted: str | None) -> str:
    remedy = "Pass a float tensor (N, ...), or a mapping with one or with input_ids."
    if wanted is None:
        floats = [
            name for name, value in arguments.items()
            if isinstance(value, torch.Tensor) and value.is_floating_point() and value.dim() and name != MASK
        ]  # fmt: skip
        candidates = [TOKENS] if TOKENS in arguments else floats
        if len(candidates) != 1:
            shown = f"{len(candidates)} float tensors among {sorted(arguments)}"
            raise InputError("inputs", "must have exactly one float tensor, or input_ids", shown, "Pass argument=.")
        wanted = candidates[0]
    value = arguments.get(wanted)
    is_token_ids = wanted == TOKENS and isinstance(value, torch.Tensor) and not value.is_floating_point()
    if not isinstance(value, torch.Tensor) or not value.dim() or not (value.is_floating_point() or is_token_ids):
        shown = (
            f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
        )
        raise InputError("inputs", f"{wanted!r} must be a tensor of floats with a row for each example", shown, remedy)
    return wanted


def _check_floats(values: torch.Tensor) -> None:
    finite = torch.isfinite(values).all()
    if not finite:
        raise InputError("inputs", "must be finite", "NaN or infinity", "Check where these values come from.")


def _has_rows(value: Any, rows: int) -> bool:
    return isinstance(value, torch.Tensor) and value.dim() > 0 and len(value) == rows


def _embedding_layer(model: nn.Module) -> nn.Module:
    get: Any = getattr(model, "get_input_embeddings", None)
    try:
        layer = get() if callable(get) else None
    except NotImplementedError:
        layer = None
    if not isinstance(layer, nn.Module):
        rule = "must have get_input_embeddings, since tokens are perturbed at their embeddings"
        raise InputError("model", rule, type(model).__name__, "Add a method that returns the embedding layer.")
    return layer


def _logits_of(output: Any) -> torch.Tensor:
    if isinstance(output, Mapping):
        output = output.get("logits")
    elif isinstance(output, (tuple, list)) and output:
        output = output[0]
    logits = output if isinstance(output, torch.Tensor) else getattr(output, "logits", None)
    if not isinstance(logits, torch.Tensor):
        rule = "must return logits or an output with .logits"
        raise InputError("model", rule, type(output).__name__, "Wrap the model so that forward returns them.")
    return logits
