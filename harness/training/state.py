"""The state of a training run at a step, and its checkpoint on disk."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import torch
from torch import Tensor, nn

from harness.errors import UserError
from harness.files import write_atomically
from harness.training.recipe import Recipe
from harness.training.trainer import Trainer


class State:
    """Network, optimizer, moving average and state of the trainer, after `step` steps.

    Args:
        network: the initialised network.
        optimizer: the optimizer of its parameters.
        decay: the decay of the moving average of the weights; None for no average.
        trainer: the trainer, whose state is part of the run's state.
    """

    def __init__(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, decay: float | None, trainer: Trainer
    ) -> None:
        self.network, self.optimizer, self.decay, self.trainer = network, optimizer, decay, trainer
        self.step = 0
        self.average = {name: value.detach().clone() for name, value in network.state_dict().items()} if decay else None

    def advance(self) -> None:
        """Counts a step, and moves the average towards the weights: by 1 - decay, and faster in the first steps."""
        self.step += 1
        if self.average is None or self.decay is None:
            return
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, value in self.network.state_dict().items():
                if value.is_floating_point():
                    self.average[name].lerp_(value, 1 - decay)
                else:
                    self.average[name].copy_(value)

    def weights(self, half: bool = False) -> dict[str, Tensor]:
        """The resulting tensors by name, contiguous and on the CPU: the average if there is one, or the weights.

        Args:
            half: parameters as float16; buffers, such as the statistics of a normalisation, keep their type.
        """
        tensors = dict(self.network.state_dict() if self.average is None else self.average)
        if half:
            tensors |= {name: tensors[name].half() for name, _ in self.network.named_parameters()}
        return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}

    def save(self, path: Path, recipe: Recipe) -> None:
        """Writes the checkpoint atomically."""
        content = {
            "recipe": recipe.model_dump_json(),
            "step": self.step,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "trainer": self.trainer.state(),
        }
        buffer = io.BytesIO()
        torch.save(content, buffer)
        write_atomically(path, buffer.getbuffer())  # no second copy of what may be gigabytes

    def restore(self, path: Path, recipe: Recipe) -> None:
        """Restores a checkpoint. A key that its recipe lacks had its default then.

        Raises:
            UserError: the checkpoint is damaged, or belongs to another recipe.
        """
        remove = f"Remove {path} to train from the start"
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            saved, remembered = Recipe.model_validate_json(content["recipe"]).model_dump(), content["trainer"]
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
            raise UserError(f"the checkpoint {path} is damaged", remedy=remove) from error
        saved["stored"] = recipe.stored  # of the file at the end, and of no step
        changed = [key for key, value in recipe.model_dump().items() if saved[key] != value]
        if changed:
            raise UserError(
                f"the checkpoint {path} was made with another {' and '.join(changed)}",
                remedy=f"Give the recipe another name, or restore its earlier values. {remove}",
            )
        self.step = content["step"]
        self.network.load_state_dict(content["network"])
        self.optimizer.load_state_dict(content["optimizer"])
        if remembered:
            self.trainer.restore(remembered)
        if self.average is not None:
            for name, value in content["average"].items():
                self.average[name].copy_(value)
