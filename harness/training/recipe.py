"""A recipe: everything that determines the weights at the end of a training run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from harness.config.component import Component, bind
from harness.config.validation import parse
from harness.config.yaml_file import Document, Key
from harness.config.yaml_file import read as read_yaml
from harness.datasets.spec import Dataset, Split
from harness.errors import Place, UserError
from harness.suite.dataset_section import check_dataset, from_here
from harness.suite.schema import Name


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(Dataset):
    """The training images, by the keys of a suite's `dataset`. The card's accuracy is that of all images of `test`."""

    split: Split = Field(default="train", description="of the training images")


class Optimizer(_Part):
    """AdamW (Loshchilov and Hutter, 2019); if `clip` is set, the norm of the gradient is clipped to it."""

    name: Literal["adamw"] = "adamw"
    lr: float = Field(default=1e-3, gt=0, description="learning rate, which `schedule` scales")
    weight_decay: float = Field(default=0.0, ge=0)
    clip: float | None = Field(default=None, gt=0, description="largest norm of the gradient of all parameters")

    def build(self, network: nn.Module) -> torch.optim.Optimizer:
        learned = [parameter for parameter in network.parameters() if parameter.requires_grad]
        return torch.optim.AdamW(learned, lr=self.lr, weight_decay=self.weight_decay)


class Schedule(_Part):
    """The learning rate rises linearly over `warmup` steps, then stays, or falls to 0 along half a cosine."""

    name: Literal["cosine", "constant"] = "cosine"
    warmup: int = Field(default=0, ge=0, description="steps")

    def factor(self, step: int, steps: int) -> float:
        """The fraction of the full learning rate at a step, 0 <= step < steps."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        if self.name == "constant":
            return 1.0
        return 0.5 + 0.5 * math.cos(math.pi * (step - self.warmup) / max(1, steps - self.warmup))


class Description(_Part):
    """The parts of the card that the run cannot determine."""

    summary: str = Field(description="what the network is")
    licence: str = Field(description="of the weights")
    source: str = Field(description="who trained it, or where it comes from")


class Recipe(_Part):
    """A training run. Equal recipes make bit-identical weights on the same machine."""

    recipe: Name = Field(description="name of the run, its checkpoint and its card")
    trainer: dict[str, Any] = Field(description="type and arguments of the trainer")
    network: dict[str, Any] = Field(description="type and arguments of the network")
    dataset: Data
    steps: int = Field(gt=0, description="of the optimizer")
    batch_size: int = Field(gt=0, description="images of a step, in all processes together")
    accumulate: int = Field(
        default=1, gt=0, description="parts in which a batch's gradient is computed, one after another, to save memory"
    )
    flip: bool = Field(default=False, description="whether images are mirrored left to right with equal chances")
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    ema: float | None = Field(default=None, gt=0, lt=1, description="decay of the weights' moving average, if any")
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32", description="of the products inside the network; weights and optimizer are float32"
    )
    stored: Literal["float32", "float16"] = Field(
        default="float32", description="of the parameters in the file, from which a network takes them as float32"
    )
    seed: int = Field(default=0, ge=0, description="of the first weights, the order of the images and all noise")
    card: Description


@dataclass(frozen=True)
class Plan:
    """A validated recipe, with its file, which knows the line of each value, and its trainer."""

    recipe: Recipe
    document: Document
    trainer: Component

    def place(self, *path: Key) -> Place:
        return self.document.place(*path)

    def data(self) -> Dataset:
        """The dataset's section, with paths from the current folder."""
        return from_here(self.document, self.recipe.dataset)


def read(path: Path) -> Plan:
    """Reads a recipe.

    Raises:
        UserError: the recipe is not valid; the error names the line. The network's arguments are not checked here.
    """
    document = read_yaml(path)
    if document.root.child("suite") and not document.root.child("recipe"):
        raise UserError(f"{path} is a suite, and no recipe", remedy=f"Run it: harness run {path}")
    recipe = parse(Recipe, document.root, "the recipe")
    check_dataset(document, recipe.dataset)
    node = document.root.value["trainer"]
    return Plan(recipe, document, bind("trainers", recipe.trainer.get("type", "trainer"), node))
