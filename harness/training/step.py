"""One step of a training: the gradient of a batch, in parts where memory is small, and the move of the weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from harness.errors import UserError
from harness.process.memory import out_of_memory
from harness.randomness import derive, fenced
from harness.training.processes import Processes
from harness.training.recipe import Recipe
from harness.training.state import State
from harness.training.trainer import Trainer, loss_of


def step(recipe: Recipe, trainer: Trainer, state: State, x: Tensor, y: Tensor, processes: Processes) -> float:
    """Makes a step with a process's share of the batch.

    Args:
        x: images of the share, (N, C, H, W) in [0, 1].
        y: their labels, (N,) int64.

    Returns:
        The loss of the whole batch.

    Raises:
        UserError: the loss is not finite, or the device has too little memory.
    """
    try:
        return _step(recipe, trainer, state, x, y, processes)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise _too_little_memory(recipe, len(x), x.device) from error


def batch(step: int, size: int, images: int, seed: int) -> Tensor:
    """Rows of a step's batch, (size,) int64: every image once per epoch, in a different order for each epoch."""
    rows: list[Tensor] = []
    start, stop = step * size, (step + 1) * size
    while start < stop:
        epoch, offset = divmod(start, images)
        generator = torch.Generator().manual_seed(derive(seed, "epoch", epoch))
        rows.append(torch.randperm(images, generator=generator)[offset : offset + stop - start])
        start += len(rows[-1])
    return torch.cat(rows)


def mirrored(x: Tensor) -> Tensor:
    """Each image (N, C, H, W) or its mirror image, left to right, with equal chances."""
    heads = (torch.rand(len(x)) < 0.5).to(x.device)
    return torch.where(heads[:, None, None, None], x.flip(3), x)


def _step(recipe: Recipe, trainer: Trainer, state: State, x: Tensor, y: Tensor, processes: Processes) -> float:
    for group in state.optimizer.param_groups:
        group["lr"] = recipe.optimizer.lr * recipe.schedule.factor(state.step, recipe.steps)
    state.optimizer.zero_grad()
    mean = processes.mean(_accumulate(recipe, trainer, state, x, y, processes.index))
    if not math.isfinite(mean):
        raise UserError(
            f"the loss is {mean} at step {state.step} of '{recipe.recipe}'",
            remedy="Lower optimizer.lr, or set optimizer.clip",
        )
    processes.average_gradients(state.network)
    if recipe.optimizer.clip:
        nn.utils.clip_grad_norm_(state.network.parameters(), recipe.optimizer.clip)
    state.optimizer.step()
    state.advance()
    return mean


def _accumulate(recipe: Recipe, trainer: Trainer, state: State, x: Tensor, y: Tensor, process: int) -> float:
    """Adds up the gradient of the mean loss, one part of the images after another. Returns the mean loss."""
    lower = torch.autocast(x.device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16")
    total = 0.0
    parts = zip(x.chunk(recipe.accumulate), y.chunk(recipe.accumulate), strict=True)
    for number, (images, labels) in enumerate(parts):
        with fenced(_seed(recipe, state.step, process, number)), lower:
            loss = loss_of(trainer, state.network, mirrored(images) if recipe.flip else images, labels)
        loss = loss / recipe.accumulate
        loss.backward()
        total += loss.item()
    return total


def _seed(recipe: Recipe, step: int, process: int, part: int) -> int:
    """The seed of what is random in a part of a step: another one for each process and part, whose images differ."""
    own: tuple[str | int, ...] = ("process", process) if process else ()
    own += ("part", part) if part else ()
    return derive(recipe.seed, "step", step, *own)


def _too_little_memory(recipe: Recipe, images: int, device: torch.device) -> UserError:
    """The remedy is the next number of parts that divides the images; there is none for a single image."""
    parts = next((n for n in range(recipe.accumulate + 1, images + 1) if images % n == 0), None)
    remedy = (
        "One image at a time is too much too: it takes a device with more memory, or a smaller network"
        if parts is None
        else f"Set `accumulate: {parts}` in the recipe (now {recipe.accumulate}), which computes the gradient of the"
        " same batch in more parts, or divide it among more processes"
    )
    return UserError(
        f"the memory of {device} is too small for the gradient of {images // recipe.accumulate} images of"
        f" '{recipe.recipe}' at once",
        remedy=remedy,
    )
