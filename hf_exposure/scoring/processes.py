"""Sharing the work of one scoring among the processes of a job.

Each process feeds its part of the rows, in equally many calls of equal shapes: a sharded model gathers its weights in
every call, and waits for ever for a process that makes one call fewer. Figures are summed, so all processes hold the
same ones afterwards and go on alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import distributed

__all__ = ["ALONE", "Processes"]


@dataclass(frozen=True)
class Processes:
    """This process among those that score together.

    Attributes:
        rank, count: its number and how many there are.
        device: of the tensors that are exchanged: the model's, as NCCL needs.
    """

    rank: int = 0
    count: int = 1
    device: torch.device = torch.device("cpu")

    @classmethod
    def of_job(cls, device: torch.device) -> Processes:
        """All processes of the initialised default group; alone where there is none."""
        if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
            return ALONE
        return cls(distributed.get_rank(), distributed.get_world_size(), device)

    def sum(self, figures: np.ndarray) -> np.ndarray:
        """The element-wise float64 sum over all processes, the same on each. NaN anywhere is NaN everywhere."""
        if self.count == 1:
            return figures
        tensor = torch.as_tensor(figures, dtype=torch.float64, device=self.device)
        distributed.all_reduce(tensor)
        return tensor.cpu().numpy()

    def smallest(self, number: int) -> int:
        """The smallest of the processes' numbers."""
        if self.count == 1:
            return number
        tensor = torch.tensor([number], dtype=torch.int64, device=self.device)
        distributed.all_reduce(tensor, op=distributed.ReduceOp.MIN)
        return int(tensor.item())


ALONE = Processes()
