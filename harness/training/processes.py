"""The processes that train one network together, each on its own GPU, by the package `accelerate`.

Each process takes an equal share of every batch and computes the gradient of its mean loss; the mean of these gradients
is the gradient of the whole batch, and every process makes the same step with it. So the processes hold equal weights,
averages and optimizer states, of which the first process alone writes checkpoints, weights and messages.

Without a launch of several processes there is one, and nothing of this happens.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harness.errors import UserError

EXTRA = "Install it: pip install 'adversarial-harness[train]'"


@dataclass(frozen=True)
class Processes:
    """The processes of this launch.

    Attributes:
        index: which of them this one is, from 0.
        count: how many there are.
        device: the device of this process.
        accelerate: the module accelerate.utils, if there are several.
    """

    index: int
    count: int
    device: torch.device
    accelerate: Any = None

    @classmethod
    def of_this_launch(cls, device: torch.device | str) -> Processes:
        """Joins the processes that `harness train --processes`, `accelerate launch` or `torchrun` started.

        Args:
            device: the device of a process that is alone; of several, each takes the CPU, or its own of these GPUs.

        Raises:
            UserError: there are several processes, and accelerate is not installed.
        """
        device = torch.device(device)
        if int(os.environ.get("WORLD_SIZE") or 1) == 1:
            return cls(0, 1, device)
        try:
            import accelerate
            import accelerate.utils
        except ImportError as error:
            raise UserError("training by several processes needs the package 'accelerate'", remedy=EXTRA) from error
        # Its functions take as a default the group that exists when it is imported, which an optimizer does. Imported
        # after the group was made, it keeps the group beyond `leave`, whose threads then abort an exit now and then.
        from torch.distributed.nn import functional as _functional  # noqa: F401

        state = accelerate.PartialState(cpu=device.type == "cpu")
        return cls(state.process_index, state.num_processes, state.device, accelerate.utils)

    @property
    def first(self) -> bool:
        """Whether this process writes what all have in common."""
        return self.index == 0

    def share(self, rows: Tensor) -> Tensor:
        """This process's part of a batch: every n-th of its rows, (N,)."""
        return rows[self.index :: self.count]

    def largest(self, number: float) -> float:
        """The largest of the numbers that the processes give."""
        return number if self.count == 1 else float(self._gathered(number).max())

    def mean(self, number: float) -> float:
        """The mean of the numbers that the processes give."""
        return number if self.count == 1 else float(self._gathered(number).mean())

    def wait(self) -> None:
        """Waits until all processes have come so far."""
        self.largest(0)

    def average_gradients(self, network: nn.Module) -> None:
        """Replaces the gradients of a network by their means over the processes."""
        if self.count == 1:
            return
        gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
        mean = self.accelerate.reduce(torch.cat([gradient.flatten() for gradient in gradients]), "mean")
        for gradient, part in zip(gradients, mean.split([gradient.numel() for gradient in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def share_weights(self, network: nn.Module) -> None:
        """Gives all processes the weights and buffers of the first: on other hardware they may have begun otherwise."""
        if self.count > 1:
            with torch.no_grad():
                for tensor in network.state_dict().values():
                    tensor.copy_(self.accelerate.broadcast(tensor.clone()))

    def _gathered(self, number: float) -> Tensor:
        """The numbers of all processes, (count,)."""
        gathered: Tensor = self.accelerate.gather(torch.tensor([number], dtype=torch.float64, device=self.device))
        return gathered


def leave() -> None:
    """Ends the connection of the processes at the end of a program: nothing can connect them again."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
