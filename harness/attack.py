"""An attack, and the view of a defense that it may touch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from harness.config.caps import CAPS, capped
from harness.defense import Defense
from harness.gradients import Gradient, missing
from harness.target import Target
from harness.threat import ThreatModel

UNKNOWN_CLASSES = 10
"""For `Attack.cost` where neither dataset nor defense says how many: AutoAttack's targeted attacks try no more."""


@dataclass(frozen=True)
class Adversarial:
    """What an attack returns when images alone do not say how they were made.

    Args:
        images: (N, C, H, W) in [0, 1].
        flow: (N, H, W, 2), the spatial flow that made them, for the Flow threat model.
        flags: remarks on the whole batch (an attack library's own warnings, say), kept in every record of it.
        remarks: on each image, N of them, kept in its own record; none if left out.

    Example:
        >>> import torch
        >>> Adversarial(torch.zeros(2, 3, 4, 4), flags=("the attack stopped early",)).images.shape
        torch.Size([2, 3, 4, 4])
    """

    images: Tensor
    flow: Tensor | None = None
    flags: tuple[str, ...] = ()
    remarks: tuple[tuple[str, ...], ...] | None = None

    @classmethod
    def of(cls, found: Tensor | Adversarial) -> Adversarial:
        """What an attack returned, images alone or not."""
        return cls(found) if isinstance(found, Tensor) else found


@dataclass(frozen=True)
class Cost:
    """Passes of one image that the attack never fools: an upper bound for `harness show`.

    Example:
        >>> steps, draws = 40, 2
        >>> Cost(forwards=(steps + 1) * draws, backwards=steps * draws)
        Cost(forwards=82, backwards=80)
    """

    forwards: float
    backwards: float


class Attack(ABC):
    """Finds x_adv within `threat` of x such that the target misclassifies it.

    A subclass sets `threat` and writes `perturb` and `cost`. Constructor arguments are the keys of the suite's entry,
    checked against their annotations; `gradient` and `eot` must be among them and be passed on to this constructor.
    Random numbers come from `target.seeds` (one per image); code that draws from global generators is seeded per shard
    by the harness. An attack that changes the defense, its own `threat` or settings of the process is an error.

    Args:
        gradient: the view of the defense that the attack differentiates, see `harness.gradients`.
        eot: draws averaged per query of a stochastic defense (expectation over transformation).

    Source:
        EOT: Athalye et al., 2018 (arXiv:1707.07397).

    Example:
        >>> import torch
        >>> from harness.defense import Defense
        >>> from harness.quantity import Quantity
        >>> from harness.threat import Linf
        >>> class OneStep(Attack):
        ...     def __init__(self, eps, gradient="exact", eot=1):
        ...         super().__init__(gradient=gradient, eot=eot)
        ...         self.threat = Linf(Quantity(eps))
        ...
        ...     def perturb(self, target, x, y):
        ...         rows = torch.arange(len(x))
        ...         loss = lambda logits, rows: torch.nn.functional.cross_entropy(logits, y[rows], reduction="none")
        ...         return self.threat.project(x, x + float(self.threat.eps) * target.step(x, rows, loss).grad.sign())
        ...
        ...     def cost(self, num_classes):
        ...         return Cost(forwards=self.eot, backwards=self.eot)
        >>> class Brightness(Defense):
        ...     def classify(self, x):
        ...         return torch.cat([-x.flatten(1), x.flatten(1)], dim=1)
        >>> x, y = torch.full((1, 1, 1, 1), 0.5), torch.tensor([1])
        >>> OneStep("1/4").perturb(Target(Brightness(), x, torch.tensor([0])), x, y).item()
        0.25
    """

    threat: ThreatModel
    version: ClassVar[int] = 2
    method: ClassVar[str] = ""
    """What `describe` calls it, if not by its class."""
    source: tuple[str, str] | None = None
    """A defense and an attack of the same suite: their adversarial images are its `Target.source_images`."""
    caps: ClassVar[Mapping[str, int]] = CAPS
    """The largest values in `harness run --smoke` of arguments that decide how long the attack takes."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Methods beyond `Defense`'s own that the attack asks of a defense, such as "energy"."""

    def __init__(self, *, gradient: Gradient = "exact", eot: int = 1) -> None:
        if eot < 1:
            raise ValueError(f"eot must be at least 1, not {eot}")
        self.gradient: Gradient = gradient
        self.eot = eot

    @abstractmethod
    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor | Adversarial:
        """Adversarial images for x.

        Args:
            target: the view to attack; `target(x)` gives logits and is differentiable.
            x: images, (N, C, H, W), float32 in [0, 1]; copies.
            y: true labels, (N,) int64.

        Returns:
            (N, C, H, W) in [0, 1], within the threat model of x; the image itself where nothing was found.
        """

    @abstractmethod
    def cost(self, num_classes: int) -> Cost:
        """Passes through the defense per image, at most, every draw of `eot` counted."""

    @classmethod
    def reduced(cls, arguments: Mapping[str, Any]) -> tuple[type[Attack], dict[str, Any]]:
        """The attack in small, for `harness run --smoke`: the same code, budget and view, in little time.

        Args:
            arguments: of this class's constructor, defaults included, by the names that a suite gives them.

        Returns:
            The class to build, and the arguments of its constructor; unless overridden, this class, with the arguments
            that `caps` names cut.

        Example:
            A class whose cost depends on more than `caps` can say overrides it:

            >>> class Annealed(Attack):
            ...     @classmethod
            ...     def reduced(cls, arguments):
            ...         cls, arguments = super().reduced(arguments)
            ...         return cls, {**arguments, "temperatures": [1.0]}
        """
        return cls, capped(arguments, cls.caps)

    def describe(self) -> str:
        """The method in a few words, for a table's footnote."""
        name = self.method or type(self).__name__.lower()
        view = "" if self.gradient == "exact" else f", {self.gradient}"
        return f"{name}{view}" + (f", EOT {self.eot}" if self.eot > 1 else "")

    def views(self) -> frozenset[Gradient]:
        """The ways in which it looks at a defense."""
        return frozenset({self.gradient})

    def unsuitable(self, defense: Defense) -> str | None:
        """Why this attack's number would mean nothing against `defense`, or None. Asked before the run starts."""
        for method in self.needs:
            if not callable(getattr(defense, method, None)):
                return f"it needs {method}(x), which {type(defense).__name__} does not have"
        if lacking := missing(defense, self.gradient):
            return f"it needs {lacking}, which {type(defense).__name__} does not have; use another gradient"
        return None

    def unsuitable_images(self, shape: tuple[int, ...]) -> str | None:
        """Why this attack cannot work on images of `shape`, (C, H, W), or None. Asked before the run starts."""
        return None
