from __future__ import annotations

from pathlib import Path
from typing import Literal

from harness.attack import Attack, Cost
from harness.defense import Defense
from harness.errors import UserError
from harness.quantity import Quantity
from harness.threat import NORMS, Flow
from harness.weights import Checkpoint


class Callback:
    """Nothing that YAML can write."""


class Plain(Defense):
    """Does nothing."""


class Typed(Defense):
    """Takes one argument of each type."""

    def __init__(
        self,
        count: int,
        *,
        rate: float = 0.5,
        flag: bool = False,
        word: str = "w",
        mode: Literal["slow", "fast"] = "slow",
        which: Literal["all"] | int | list[int] = "all",
        pair: tuple[int, float] = (1, 2.0),
        table: dict[str, float] | None = None,
        file: Path | None = None,
        files: list[Path] = (),
        weights: Checkpoint | None = None,
        eta: Quantity | None = None,
        free=None,
        callback: Callback | None = None,
    ) -> None:
        super().__init__()
        if count < 0:
            raise ValueError(f"count is {count}; it must not be negative")
        if count == 13:
            raise UserError(f"the count {count} is unlucky", remedy="Take another")
        self.rate = 1 / rate


class Badge(Defense):
    """Has a default that no record can hold."""

    def __init__(self, badge=object()) -> None:
        super().__init__()


class Hinted(Defense):
    """Its annotation cannot be read."""

    def __init__(self, x: Nowhere = None) -> None:
        super().__init__()


class Ball(Attack):
    """A budget."""

    def __init__(self, norm: Literal["Linf", "L2"], eps: Quantity = Quantity("8/255"), steps: int = 1) -> None:
        super().__init__()
        self.threat = NORMS[norm](eps)

    def perturb(self, target, x, y):
        return x

    def cost(self, num_classes: int) -> Cost:
        return Cost(0, 0)


class Warp(Ball):
    """Another budget."""

    def __init__(self, bound: Quantity = Quantity("0.05")) -> None:
        super().__init__("Linf")
        self.threat = Flow(bound)


class Loose(Ball):
    """No budget."""

    def __init__(self) -> None:
        pass


class Worded(Ball):
    """A budget that is no number."""

    def __init__(self) -> None:
        super().__init__("Linf", "much")
