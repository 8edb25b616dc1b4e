"""The base model, which did not see the canaries: another model, or the same one with its adapters switched off."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import nn

from hf_exposure.errors import InputError
from hf_exposure.measures.base_fingerprint import check_same_base, fingerprint, refuse_trained_parts
from hf_exposure.runtime.model_state import unwrap_model
from hf_exposure.runtime.processes import Processes

T = TypeVar("T")
BaseModel = nn.Module | Literal["without_adapter"]
"""A module, or "without_adapter": the measured model itself with its PEFT adapters off."""


# Prefixes of LoRA initializations that move a part of the base's weights into the adapters.
_MOVES_WEIGHTS = ("pissa", "olora", "corda", "loftq", "lora_ga")


class BaseFigures(Generic[T]):
    """The figures of a base model, such as exposures, kept until its weights change.

    A model without its adapters is compared each time with its state at the first measurement (`fingerprint`).

    Args:
        estimate: the function that measures a model.
        processes_of: returns the processes that score a model together; if one of them must measure it again, all
            must.

    Attributes:
        logits: the fingerprint of the model without its adapters; None before the first measurement.
    """

    def __init__(self, estimate: Callable[[nn.Module], T], processes_of: Callable[[nn.Module], Processes]) -> None:
        self._estimate, self._processes_of = estimate, processes_of
        self._known: tuple[weakref.ref[nn.Module], Any, T] | None = None
        self.logits: torch.Tensor | None = None
        self._logits_of: weakref.ref[nn.Module] | None = None

    def begin(self, model: nn.Module) -> None:
        """Stores the fingerprint that all later measurements of `model` must have, whatever wrapper it then has."""
        with without_adapter(model):
            own = unwrap_model(model)
            self.logits, self._logits_of = fingerprint(own, self._processes_of(own)), None

    def resume(self, logits: torch.Tensor, model: nn.Module) -> None:
        """Continues with the fingerprint of an earlier run.

        Raises:
            InputError: the fingerprint of this run differs.
        """
        if self.logits is not None:
            check_same_base(logits, self.logits, model)
        self.logits = logits

    def of(self, model: nn.Module, base_model: BaseModel) -> T:
        """The figures of `base_model`, or of `model` without its adapters."""
        if isinstance(base_model, nn.Module):
            return self._measured(base_model, _versions(base_model.parameters()))
        check_base_model(model, base_model)
        # Before they are switched off, the adapters are the weights that require gradients; they continue to be
        # trained.
        frozen = _versions(parameter for parameter in model.parameters() if not parameter.requires_grad)
        with without_adapter(model):
            self._check_same_base(unwrap_model(model))
            return self._measured(model, frozen)

    def _check_same_base(self, own: nn.Module) -> None:
        logits = fingerprint(own, self._processes_of(own))
        if self.logits is None or (self._logits_of is not None and self._logits_of() is not own):
            self.logits, self._logits_of = logits, weakref.ref(own)
        check_same_base(self.logits, logits, own)

    def _measured(self, base: nn.Module, versions: Any) -> T:
        known = self._known
        is_known = known is not None and known[0]() is base and known[1] == versions
        if not self._processes_of(base).all_reduce_min(int(is_known)) or known is None:
            known = self._known = weakref.ref(base), versions, self._estimate(base)
        return known[2]


def check_base_model(model: nn.Module, base_model: BaseModel | None) -> None:
    """Refuses a base model that is no model, or "without_adapter" if `without_adapter` refuses `model`.

    Raises:
        InputError: the base model is refused; the message says why.
    """
    if base_model is None or isinstance(base_model, nn.Module):
        return
    if not isinstance(base_model, str) or base_model != "without_adapter":
        rule = "must be a model, or 'without_adapter' for the measured one with its PEFT adapters off"
        shown = base_model if isinstance(base_model, str) else type(base_model).__name__
        raise InputError("base_model", rule, shown, "Pass base_model='without_adapter', or a model.")
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with without_adapter(model):
        refuse_trained_parts(unwrap_model(model), trained)


@contextmanager
def without_adapter(model: nn.Module) -> Iterator[None]:
    """Switches the PEFT adapters of `model` off within the block; which weights require gradients is left unchanged.

    It works on a `PeftModel` and on a Transformers model with `add_adapter`, also inside torch.compile's wrapper.

    Raises:
        InputError: there is no adapter, an adapter is merged or was initialized with a part of the base's weights
            (PiSSA), or other weights are trained too (LoRA's `bias`).
    """
    own: Any = unwrap_model(model)
    for config in _adapter_configs(own):
        begun = str(getattr(config, "init_lora_weights", "")).lower()
        if begun.startswith(_MOVES_WEIGHTS):
            rule = (
                "'without_adapter' needs adapters next to a complete base, but these were initialized with a part of "
                "it"
            )
            remedy = "Pass the base model itself."
            raise InputError("base_model", rule, f"init_lora_weights={begun!r}", remedy)
    if any(getattr(module, "merged", False) is True for module in own.modules()):
        rule = "needs adapters that can be switched off, but they are merged into the weights"
        raise InputError("base_model", rule, "without_adapter", "Call model.unmerge_adapter() first.")
    wanted = [(parameter, parameter.requires_grad) for parameter in own.parameters()]
    if hasattr(own, "disable_adapter"):
        switched_off = own.disable_adapter()
    elif getattr(own, "_hf_peft_config_loaded", False):
        switched_off = _transformers_adapters_off(own)
    else:
        rule = "'without_adapter' needs a model with PEFT adapters"
        raise InputError("base_model", rule, type(own).__name__, "Pass the base model itself.")
    try:
        with switched_off:
            if any(wants and parameter.requires_grad for parameter, wants in wanted):
                rule = "'without_adapter' needs a model of which only adapters are trained: the rest has changed too"
                raise InputError("base_model", rule, type(own).__name__, "Pass the base model itself.")
            yield
    finally:
        # When adapters are switched on again, PEFT requires gradients for every active one, including frozen ones.
        for parameter, wants in wanted:
            parameter.requires_grad_(wants)


def _adapter_configs(model: Any) -> list[Any]:
    configs = getattr(model, "peft_config", None)
    return list(configs.values()) if isinstance(configs, dict) else []


@contextmanager
def _transformers_adapters_off(model: Any) -> Iterator[None]:
    model.disable_adapters()
    try:
        yield
    finally:
        model.enable_adapters()


def _versions(parameters: Iterable[nn.Parameter]) -> list[tuple[int, int]]:
    """Changes when a weight does: torch counts the in-place writes to each tensor."""
    return [(id(parameter), -1 if parameter.is_inference() else parameter._version) for parameter in parameters]
