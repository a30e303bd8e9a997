"""The base of purifiers: a generative model moves the image, and any classifier follows.

    purify(x) = clamp((moved(2 x - 1) + 1) / 2, 0, 1)

Purifiers move images on the scale of [-1, 1], step by step. Each step is a pure function of the image and of noise
drawn from the image's own seed, so that its graph can be built again in the backward pass: the gradient of `purify` is
exact, including the clamp's, and takes the memory of one step's graph and of one image per step (see
`defenses.diffusion.step_gradient`). BPDA differentiates the identity.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from defenses.diffusion.graph_memory import allowance, check_graph_memory
from defenses.diffusion.reverse import Sampler, denoised
from harness.defense import Defense
from harness.errors import UserError
from harness.randomness import derive, fold, normal
from harness.suite.nested import InnerDefense, built

PURIFY = derive("diffusion purification")
"""Makes the noise of `purify` differ from all other noise drawn from the same seeds."""

FORWARD = -1
"""The step whose noise is that of x(t*)."""

Move = Callable[[Tensor, Tensor, float], Tensor]
"""(images (N, C, H, W) of one chunk, their seeds (N,), bytes of graphs that may be kept) -> images, all in [-1, 1]."""


class Purifier(Defense):
    """Base of purifiers. A subclass writes `moved` and `evaluations`. It is random at every call.

    Args:
        classifier: the defense that classifies the purified image, an entry of its own; in Python also an instance.
        chunk: images purified at once. It affects memory only.
        graph_memory: MiB of graphs that a call may keep, which save evaluations in its backward pass; 0 for none; left
            out, a quarter of the free memory, on a CPU at most 1024. It affects speed only.

    Raises:
        UserError: `chunk` is not positive, or `graph_memory` is negative.

    Example:
        >>> from defenses.undefended import Undefended
        >>> class Smaller(Purifier):
        ...     def moved(self, x, seeds, allowed):
        ...         return x / 2
        ...
        ...     def evaluations(self):
        ...         return 0
        >>> purifier = Smaller(Undefended("digits-cnn"))
        >>> purifier.purify(torch.ones(1, 1, 8, 8))[0, 0, 0, 0].item()
        0.75
    """

    stochastic = True
    backward_cost = 2.2
    memory_knobs: ClassVar[tuple[str, ...]] = ("chunk", "graph_memory")

    def __init__(
        self, classifier: InnerDefense, *, chunk: int | None = None, graph_memory: float | None = None
    ) -> None:
        super().__init__()
        at_least_one(chunk=chunk)
        check_graph_memory(graph_memory)
        self.classifier: Defense = built(classifier)
        self.num_classes = self.classifier.num_classes
        self.chunk, self.graph_memory = chunk, graph_memory

    @abstractmethod
    def moved(self, x: Tensor, seeds: Tensor, allowed: float) -> Tensor:
        """Moves the images of one chunk.

        Args:
            x: images, (N, C, H, W) in [-1, 1].
            seeds: the seeds of their noise, (N,) int64, which an image has in every batch.
            allowed: bytes of graphs that the call may keep for its backward pass.

        Returns:
            Images, (N, C, H, W), about in [-1, 1], with their exact gradient in x.
        """

    @abstractmethod
    def evaluations(self) -> float:
        """Evaluations of the generative model for one image."""

    def purify(self, x: Tensor) -> Tensor:
        return self.in_chunks(x, self.moved)

    def classify(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(x)
        return logits

    def logit_scale(self, x: Tensor) -> float:
        """The scale of the classifier's logits."""
        return self.classifier.logit_scale(x)

    def cost(self) -> float:
        """Evaluations of the generative model, plus the classifier's; both count alike."""
        return self.evaluations() + self.classifier.cost()

    def in_chunks(self, x: Tensor, move: Move) -> Tensor:
        """`purify` by any move. x: images, (N, C, H, W) in [0, 1]; returns the same."""
        seeds, chunk = fold(self.seeds_for(x).to(x.device), PURIFY), self.chunk or len(x)
        parts = list(zip((2 * x - 1).split(chunk), seeds.split(chunk), strict=True))
        allowed = allowance(x, self.graph_memory) / len(parts)
        images = torch.cat([move(part, own, allowed) for part, own in parts])
        return ((images + 1) / 2).clamp(0, 1)


class SamplerPurifier(Purifier):
    """Base of purifiers that add noise up to the time t*, and take it away by a sampler; in several rounds.

    Args:
        classifier, chunk, graph_memory: as in `Purifier`.
        sampler: the reverse diffusion.
        rounds: how often noise is added and removed.
    """

    def __init__(
        self,
        classifier: InnerDefense,
        sampler: Sampler,
        *,
        rounds: int = 1,
        chunk: int | None = None,
        graph_memory: float | None = None,
    ) -> None:
        super().__init__(classifier, chunk=chunk, graph_memory=graph_memory)
        at_least_one(rounds=rounds)
        self.sampler, self.denoiser, self.rounds = sampler, sampler.denoiser, rounds

    def moved(self, x: Tensor, seeds: Tensor, allowed: float) -> Tensor:
        for draw in self.draws(x, seeds):
            x = denoised(self.sampler, self.sampler.noised(x, draw(FORWARD)), draw, allowed=allowed / self.rounds)
        return x

    def evaluations(self) -> float:
        return self.rounds * len(self.sampler)

    def coarser(self, steps: int) -> Defense:
        """The same noise, taken away in fewer, longer steps: some of the sampler's own times."""
        return self.sharing(sampler=self.sampler.coarser(steps))

    def draws(self, x: Tensor, seeds: Tensor) -> list[Noise]:
        """The noise of each round."""
        return [Noise(fold(seeds, number), x) for number in range(self.rounds)]


class Noise:
    """Standard normal noise, (N, C, H, W) like x, a pure function of seeds (N,) and the step.

    Example:
        >>> draw = Noise(torch.tensor([5]), torch.zeros(1, 1, 2, 2))
        >>> draw(3).shape, bool((draw(3) == draw(3)).all())
        (torch.Size([1, 1, 2, 2]), True)
    """

    def __init__(self, seeds: Tensor, x: Tensor) -> None:
        self.seeds, self.shape, self.dtype = seeds, x.shape[1:], x.dtype

    def __call__(self, step: int) -> Tensor:
        return normal(fold(self.seeds, step), self.shape, self.dtype)


def positive(**numbers: float) -> None:
    """Raises UserError if a number is not above 0.

    Example:
        >>> positive(sigma=0.25)
    """
    for name, number in numbers.items():
        if not number > 0:
            raise UserError(f"{name} is {number}", remedy="It must be positive")


def at_least_one(**counts: int | None) -> None:
    """Raises UserError if a count that is given is not positive.

    Example:
        >>> at_least_one(rounds=2, chunk=None)
    """
    for name, number in counts.items():
        if number is not None and number < 1:
            raise UserError(f"{name} is {number}", remedy="It must be at least 1")
