"""Counts the bytes of live tensors and their peak: each operation's results, until they are freed.

Storages are counted instead of tensors, so views cost nothing. Storages need not have memory: tensors under
`FakeTensorMode` have sizes, and live as long as real ones would.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Operations that internally copy their first argument once.
_COPIES_INSIDE = frozenset({torch.ops.aten.logsumexp.default})


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's base class has no annotations
    """Context manager that counts the bytes of tensors made inside it.

    Args:
        known: tensors, such as weights, that are not counted, nor are views of them.

    Attributes:
        live: bytes currently alive.
        peak: maximum of `live` since `restart`.

    Example:
        >>> with LiveBytes() as memory:
        ...     kept = torch.zeros(10, dtype=torch.float64)
        ...     dropped = torch.ones(100, dtype=torch.float64)
        ...     del dropped
        >>> memory.live, memory.peak
        (80, 880)
    """

    def __init__(self, known: Iterable[torch.Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._known: set[int] = set()
        self.ignore(known)

    def ignore(self, known: Iterable[torch.Tensor]) -> None:
        """Excludes further tensors, which were made outside the context."""
        self._known.update(tensor.untyped_storage()._cdata for tensor in known)

    def restart(self) -> None:
        """Resets the peak."""
        self.peak = self.live

    def __torch_dispatch__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        results = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(results):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        if function in _COPIES_INSIDE:
            self.peak = max(self.peak, self.live + args[0].nbytes)
        return results

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata in self._known:
            return
        self._known.add(storage._cdata)
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, storage._cdata, storage.nbytes())

    def _forget(self, address: int, freed: int) -> None:
        self._known.discard(address)
        self.live -= freed
