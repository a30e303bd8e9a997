from __future__ import annotations

from dataclasses import dataclass

import torch

from harness.defense import Defense
from harness.quantity import Quantity


@dataclass
class Settings:
    strength: "Quantity"


class Mine(Defense):
    """My own."""

    def __init__(self, strength: Quantity = Quantity("1/2"), *, depth: int) -> None:
        super().__init__()
        self.strength = strength

    def classify(self, x):
        return torch.zeros(len(x), 10)


def function():
    return None
