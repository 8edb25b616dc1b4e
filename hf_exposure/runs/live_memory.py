"""How many bytes of tensors are alive, and the most that ever were: each operation's results, until they are freed.

Storages are counted and not tensors, so that views cost nothing. It makes no difference whether a storage holds
memory: tensors under `FakeTensorMode` have sizes, and live as long as real ones would.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Operations that make one copy of their first argument inside.
_COPIES_INSIDE = frozenset({torch.ops.aten.logsumexp.default})


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's base class has no annotations
    """Counts the bytes of tensors made inside, as a context manager.

    Args:
        known: tensors that are not counted, nor views of them: weights, for example.

    Attributes:
        live: bytes that are alive now.
        peak: the most that were since `restart`.

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
        """Leaves further tensors out, which were made outside."""
        self._known.update(tensor.untyped_storage()._cdata for tensor in known)

    def restart(self) -> None:
        """Forgets the peak so far."""
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
