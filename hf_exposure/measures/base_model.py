"""The model that did not see the canaries: another one, or the same one with its adapters switched off."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from torch import nn

from hf_exposure.errors import InputError
from hf_exposure.runtime.model_state import unwrap_model
from hf_exposure.runtime.processes import Processes

BaseModel = nn.Module | Literal["without_adapter"]
"""A module, or "without_adapter": the measured model itself with its PEFT adapters off."""


class BaseExposures:
    """The exposures under a base model, kept until its weights change.

    Args:
        estimate: the canaries' exposures in bits under a model.
        processes_of: those that score a model together, and must all measure it again if one of them must.
    """

    def __init__(
        self, estimate: Callable[[nn.Module], list[float]], processes_of: Callable[[nn.Module], Processes]
    ) -> None:
        self._estimate, self._processes_of = estimate, processes_of
        self._known: tuple[weakref.ref[nn.Module], Any, list[float]] | None = None

    def bits(self, model: nn.Module, base_model: BaseModel) -> list[float]:
        """The exposures under `base_model`, or under `model` without its adapters."""
        if isinstance(base_model, nn.Module):
            return self._bits(base_model, _versions(base_model.parameters()))
        check_base_model(model, base_model)
        # Before they are switched off, adapters are what wants gradients; they go on being trained.
        frozen = _versions(parameter for parameter in model.parameters() if not parameter.requires_grad)
        with without_adapter(model):
            return self._bits(model, frozen)

    def _bits(self, base: nn.Module, versions: Any) -> list[float]:
        known = self._known
        is_known = known is not None and known[0]() is base and known[1] == versions
        if not self._processes_of(base).all_reduce_min(int(is_known)) or known is None:
            known = self._known = weakref.ref(base), versions, self._estimate(base)
        return known[2]


def check_base_model(model: nn.Module, base_model: BaseModel | None) -> None:
    """Refuses a base model that `model` cannot have, as `without_adapter`, or that is none.

    Raises:
        InputError: says why.
    """
    if base_model is None or isinstance(base_model, nn.Module):
        return
    if not isinstance(base_model, str) or base_model != "without_adapter":
        rule = "must be a model, or 'without_adapter' for the measured one with its PEFT adapters off"
        shown = base_model if isinstance(base_model, str) else type(base_model).__name__
        raise InputError("base_model", rule, shown, "Pass base_model='without_adapter', or a model.")
    with without_adapter(model):
        pass


@contextmanager
def without_adapter(model: nn.Module) -> Iterator[None]:
    """Switches the PEFT adapters of `model` off inside; which weights want gradients is left as found.

    Works on a `PeftModel` and on a Transformers model with `add_adapter`; under torch.compile's wrapper too.

    Raises:
        InputError: no adapter; one that is merged; other weights that are trained too (LoRA's `bias`).
    """
    own: Any = unwrap_model(model)
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
        # PEFT asks gradients of every active adapter when it comes back, also of those that were frozen.
        for parameter, wants in wanted:
            parameter.requires_grad_(wants)


@contextmanager
def _transformers_adapters_off(model: Any) -> Iterator[None]:
    model.disable_adapters()
    try:
        yield
    finally:
        model.enable_adapters()


def _versions(parameters: Iterable[nn.Parameter]) -> list[tuple[int, int]]:
    """Changes when a weight does: torch counts what is written into each tensor in place."""
    return [(id(parameter), -1 if parameter.is_inference() else parameter._version) for parameter in parameters]
