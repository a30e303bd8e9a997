"""Attacks that break their contract, each in one way."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch
from torch import Tensor

from harness.attack import Adversarial, Attack, Cost
from harness.quantity import Quantity
from harness.target import Target
from harness.threat import Linf


class Base(Attack):
    """One step along the sign of the gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.threat: Linf = Linf(Quantity("0.15"))

    def step(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
        rows = torch.arange(len(x))
        grad = target.step(x, rows, lambda z, r: -z.gather(1, y[r][:, None])[:, 0]).grad
        return self.threat.project(x, x + 0.15 * grad.sign())

    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor | Adversarial:
        return self.step(target, x, y)

    def cost(self, num_classes: int) -> Cost:
        return Cost(10, 10)


class BeyondTheBudget(Base):
    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
        return (x + 0.5).clamp(0, 1)


class BeyondTheRange(Base):
    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
        return x + 0.1


class NaNImages(Base):
    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
        return x * torch.nan


class InfiniteImages(Base):
    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
        return x + torch.inf


class OneImageLess(Base):
    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
        return self.step(target, x, y)[1:]


class AnotherShape(Base):
    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
        return self.step(target, x, y).flatten(1)


class InDouble(Base):
    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
        return self.step(target, x, y).double()


class Integers(Base):
    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
        return (self.step(target, x, y) * 255).to(torch.uint8)


class Nothing(Base):
    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
        return None  # type: ignore[return-value]


class AList(Base):
    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
        return list(self.step(target, x, y))  # type: ignore[return-value]


class ATuple(Base):
    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
        return self.step(target, x, y), y  # type: ignore[return-value]


class WithAGraph(Base):
    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
        return self.step(target, x, y).requires_grad_() * 1


class ChangesImages(Base):
    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
        x.fill_(0.5)
        return x


class ChangesLabels(Base):
    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
        found = self.step(target, x, y)
        y.add_(1).remainder_(10)
        return found


class ChangesTheDefense(Base):
    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            for parameter in target.defense.parameters():
                parameter.zero_()
        return x


class TrainsTheDefense(Base):
    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
        target.defense.train()
        return self.step(target, x, y)


class SaysStochastic(Base):
    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
        target.defense.stochastic = True
        return self.step(target, x, y)


class ReplacesClassify(Base):
    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
        target.defense.classify = lambda images: images.new_zeros(len(images), 10)  # type: ignore[method-assign]
        return x


class HooksTheDefense(Base):
    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
        target.defense.register_forward_hook(lambda module, given, logits: logits.roll(1, 1))
        return x


class RaisesTheBudget(Base):
    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
        self.threat = Linf(Quantity("0.9"))
        return (x + 0.8).clamp(0, 1)


class TurnsGradientsOff(Base):
    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
        found = self.step(target, x, y)
        torch.set_grad_enabled(False)
        return found


class SetsDefaultPrecision(Base):
    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
        found = self.step(target, x, y)
        torch.set_default_dtype(torch.float64)
        return found


class Raises(Base):
    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
        raise ValueError("no step left")


class Exits(Base):
    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
        sys.exit(0)


class RaisesWhenBuilt(Base):
    def __init__(self) -> None:
        raise RuntimeError("no budget")


class FlowOfAnotherShape(Base):
    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Adversarial:
        return Adversarial(self.step(target, x, y), parameters=torch.zeros(len(x), 3, 3, 2))


class FlagsWithEscapes(Base):
    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Adversarial:
        return Adversarial(x, flags=("\x1b[2J=1+1|`<script>alert(1)</script>",))


class FlagsThatAreNoText(Base):
    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Adversarial:
        return Adversarial(x, flags=(7, None))  # type: ignore[arg-type]


class NegativeCost(Base):
    def cost(self, num_classes: int) -> Cost:
        return Cost(-1, float("nan"))


class RemovesTheResults(Base):
    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
        shutil.rmtree(Path("out"), ignore_errors=True)
        return self.step(target, x, y)
