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
from harness.guard.doubt import least_cosine_averaging
from harness.target import Target
from harness.threat import ThreatModel

UNKNOWN_CLASSES = 10
"""The class count for `Attack.cost` where neither dataset nor defense states one; AutoAttack's targeted attacks never
try more classes than this."""


@dataclass(frozen=True)
class Adversarial:
    """What an attack returns when the images alone are not enough.

    Args:
        images: (N, C, H, W) in [0, 1].
        parameters: (N, ...), float32, what produced the images, where the threat model is about that: the flow
            (N, H, W, 2) of the Flow threat model, the parameters of those in `harness.threats`. They are stored beside
            the images.
        flags: remarks on the whole batch, such as warnings of an attack library; stored in the record of every image.
        remarks: for each of the N images, the remarks that are stored in its record; by default none.
        counts: (N, 2, K) int64 and radii: (N,), of a `harness.certification.certificate.Certificate` only.

    Example:
        >>> import torch
        >>> Adversarial(torch.zeros(2, 3, 4, 4), flags=("the attack stopped early",)).images.shape
        torch.Size([2, 3, 4, 4])
    """

    images: Tensor
    parameters: Tensor | None = None
    flags: tuple[str, ...] = ()
    remarks: tuple[tuple[str, ...], ...] | None = None
    counts: Tensor | None = None
    radii: Tensor | None = None

    @classmethod
    def of(cls, result: Tensor | Adversarial) -> Adversarial:
        """Wraps the result of an attack, which may be images alone."""
        return cls(result) if isinstance(result, Tensor) else result


@dataclass(frozen=True)
class Cost:
    """Passes for one image on which the attack never succeeds: an upper bound for `harness show`.

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
    by the harness, unless the class says that it is `independent`. Changing the defense, its own `threat` or settings
    of the process is an error of an attack.

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
    """The name that `describe` uses; empty for the name of the class."""
    source: tuple[str, str] | None = None
    """A defense and an attack of the suite, whose adversarial images this attack gets in `Target.source_images`."""
    nearest: ClassVar[bool] = False
    """Whether it looks for the nearest misclassified image: its records then give accuracy at every smaller budget."""
    independent: ClassVar[bool] = False
    """Whether what becomes of an image depends on nothing but that image, its label and its own seed: see
    `is_independent`. It counts only where the class itself says it, and not for classes that extend it."""
    caps: ClassVar[Mapping[str, int]] = CAPS
    """Upper limits, in `harness run --smoke`, of the arguments that decide how long the attack takes."""
    added: ClassVar[Mapping[str, Any]] = {}
    """Arguments that came after results had been stored, with the values at which all is as it was before. At these
    they are left out of the identity of a result, so that earlier results keep their keys."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Methods that the attack needs from a defense beyond those of `Defense`, such as "energy"."""

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
            (N, C, H, W) in [0, 1], within the threat model of x; the clean image where the attack did not succeed.
        """

    @abstractmethod
    def cost(self, num_classes: int) -> Cost:
        """The largest number of passes through the defense per image; every draw of `eot` counts as a pass."""

    def cost_on(self, defense: Defense, num_classes: int) -> Cost:
        """As `cost`, on one defense: what `harness show` and the time left are reckoned from.

        By default `cost`. An attack overrides this if what it does depends on the defense.
        """
        return self.cost(num_classes)

    def cost_limit(self, num_classes: int) -> Cost:
        """Passes that no image exceeds, whatever happens: `harness verify` rejects a record with more.

        By default `cost`. An attack overrides this if `cost` is that of an image on which nothing succeeds, and others
        can take more.
        """
        return self.cost(num_classes)

    @classmethod
    def reduced(cls, arguments: Mapping[str, Any]) -> tuple[type[Attack], dict[str, Any]]:
        """A cheap version of the attack for `harness run --smoke`: the same code, budget and view, in little time.

        Args:
            arguments: the arguments of this class's constructor, defaults included, under the names used in suites.

        Returns:
            The class to build, and the arguments of its constructor. Unless overridden, these are this class and the
            given arguments, limited by `caps`.

        Example:
            A class overrides this method if `caps` cannot express what its cost depends on:

            >>> class Annealed(Attack):
            ...     @classmethod
            ...     def reduced(cls, arguments):
            ...         cls, arguments = super().reduced(arguments)
            ...         return cls, {**arguments, "temperatures": [1.0]}
        """
        return cls, capped(arguments, cls.caps)

    def describe(self) -> str:
        """A description of the method in a few words, for the footnote of a table."""
        name = self.method or type(self).__name__.lower()
        view = "" if self.gradient == "exact" else f", {self.gradient}"
        return f"{name}{view}" + (f", EOT {self.eot}" if self.eot > 1 else "")

    def is_independent(self) -> bool:
        """Whether each image is attacked as if it were alone, so that any images may share a call of `perturb`.

        The harness then attacks the images of several shards in one call, which is faster on a cheap defense. It must
        not do so with an attack that draws from a global generator, counts images, or stops for all of them at once:
        with other images beside it, an image would become another. Remarks must be those of single images too.
        """
        return bool(vars(type(self)).get("independent", False))

    def least_cosine(self) -> float:
        """The cosine of two gradients, of one draw each, below which this attack's number is in doubt.

        See `harness.guard.doubt`. By default each direction averages over the `eot` draws and over nothing else. An
        attack that measures the noise itself and acts upon it returns 0. It means nothing of an attack that spends no
        backward pass.
        """
        return least_cosine_averaging(self.eot)

    def parts(self) -> tuple[Attack, ...]:
        """The attacks that this one runs one after another, of which the best image counts; by default itself alone."""
        return (self,)

    def views(self) -> frozenset[Gradient]:
        """All views of a defense that the attack differentiates."""
        return frozenset({self.gradient})

    def unsuitable(self, defense: Defense) -> str | None:
        """The reason why this attack is meaningless against `defense`, or None. Checked before the run starts."""
        for method in self.needs:
            if not callable(getattr(defense, method, None)):
                return f"it needs {method}(x), which {type(defense).__name__} does not have"
        if lacking := missing(defense, self.gradient):
            return f"it needs {lacking}, which {type(defense).__name__} does not have; use another gradient"
        return None

    def unsuitable_images(self, shape: tuple[int, ...]) -> str | None:
        """Why this attack cannot work on images of `shape`, (C, H, W), or None. Checked before the run starts."""
        return None
