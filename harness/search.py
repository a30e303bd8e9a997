"""What a defense may leave out while an attack searches. Verdicts are always computed in full.

An attack that takes hundreds of gradient steps does not need the defense's full precision in each of them: it needs
directions. It describes in a `Search` what may be left out, passes that to `Target.with_view`, and queries the returned
view like any other. A defense that supports this reads, in each call, a `Narrowing` from `Defense.narrowing_for`; one
that does not support it is evaluated in full. `Target.defense_logits`, and every query of the harness itself, is always
in full.

    full look    every class, every timestep. The first query of each image, and every `look_every`-th after it
    narrowed     the true class and the `rivals` that were strongest at the last full look, a share of the timesteps

The logit of a class that a narrowed query leaves out is a constant, without a gradient:

    z_k = min( z_y + (l_k - l_y),  the lowest logit among the evaluated rivals )        l: logits at the last full look

It keeps its distance from the true class and never exceeds the logit of an evaluated rival. Two queries on different
timesteps have different levels, so without the minimum a loss could mistake a left-out class for the strongest. So
`margin`, `dlr` and cross-entropy are all defined, and all of their gradient goes to the evaluated classes.

A narrowed query counts as a fraction of a pass, by its number of network evaluations (`Defense.narrowed_cost`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from harness.process import waits

if TYPE_CHECKING:
    from harness.defense import Defense

Precision = Literal["float32", "tf32", "bf16", "fp16"]


class Search(BaseModel):
    """What a search may leave out. By default, nothing is left out. A suite writes `{timesteps: 0.5, rivals: 2}`.

    Args:
        timesteps: the share of a diffusion classifier's timesteps that a narrowed query takes, in (0, 1]. Which ones is
            drawn anew at each query, one from each stratum of the grid, and weighted so that the mean stays the same.
        importance: draw timesteps in proportion to their observed contribution to the image's margin.
        purify_timesteps: the share of timesteps for each step of likelihood maximisation, at full looks too.
        rivals: number of classes evaluated beside the true one in a narrowed query, at least 1; None for all.
        look_every: one in so many queries of an image is a full look; 1 makes all of them full.
        common_noise: one draw of noise for all classes, whose differences are then less noisy.
        precision: the precision of the networks. "tf32" only affects GPUs; half precisions keep norms and sums in
            float32, and are slower than it on a CPU that emulates them, which `harness doctor` says.
        channels_last: store feature maps with the channels last. Faster on GPUs in half precision, slower on CPUs.

    Example:
        >>> Search(timesteps=0.5, rivals=2).narrows
        True
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    timesteps: float = Field(default=1.0, gt=0, le=1)
    importance: bool = False
    purify_timesteps: float = Field(default=1.0, gt=0, le=1)
    rivals: int | None = Field(default=None, ge=1)
    look_every: int = Field(default=20, ge=1)
    common_noise: bool = False
    precision: Precision = "float32"
    channels_last: bool = False

    @property
    def narrows(self) -> bool:
        """Whether some queries leave out classes or timesteps that a full look evaluates."""
        return self.look_every > 1 and (self.rivals is not None or self.timesteps < 1)

    @property
    def needs_labels(self) -> bool:
        """Whether the true classes must be known."""
        return self.rivals is not None or self.importance

    @contextmanager
    def matrix_products(self) -> Iterator[None]:
        """Enables TensorFloat-32 inside the block, if that is the precision; it is a setting of the whole process."""
        products, convolutions = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        if self.precision == "tf32":
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        try:
            yield
        finally:
            torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = products, convolutions


@dataclass
class Narrowing:
    """How one query of a search is narrowed, for the images of one batch, (N,).

    Args:
        search: the options; precision and noise apply to full looks too.
        full: whether this query is a full look.
        classes: the classes to evaluate for each image, (N, K') int64; None for all. The defense must set the logits of
            the others to -inf.
        labels: true classes, (N,) int64, if the attack provided them.
        importance: how much each timestep contributed to the margin so far, (N, T'), in any unit; None if unknown.
        measured: the importance measured at this full look, (N, T'), written by the defense.
        every_class: whether the gradient of all classes will be needed at once; it does not affect the logits.
    """

    search: Search
    full: bool
    classes: Tensor | None = None
    labels: Tensor | None = None
    importance: Tensor | None = None
    measured: Tensor | None = None
    every_class: bool = False


def mean_share(defense: Defense, search: Search, queries: int) -> float:
    """The share of a whole pass that a query of a search takes, on average over the first `queries` of an image."""
    classes = None if search.rivals is None else torch.zeros(1, 1 + search.rivals, dtype=torch.int64)
    full = defense.narrowed_cost(Narrowing(search, full=True))
    narrowed = defense.narrowed_cost(Narrowing(search, full=False, classes=classes))
    looks = math.ceil(queries / search.look_every) if search.narrows else queries
    whole = queries * defense.cost()
    return (looks * full + (queries - looks) * narrowed) / whole if whole else 1.0


def split_of(narrowing: Narrowing | None, images: int, size: int) -> list[Narrowing | None]:
    """Splits the narrowing of a number of images into one for each batch of `size` images."""
    if narrowing is None:
        return [None] * math.ceil(images / size)

    def batch(some: slice) -> Narrowing:
        parts = (narrowing.classes, narrowing.labels, narrowing.importance)
        classes, labels, importance = (None if part is None else part[some] for part in parts)
        return replace(narrowing, classes=classes, labels=labels, importance=importance)

    return [batch(slice(start, start + size)) for start in range(0, images, size)]


def gather(narrowing: Narrowing | None, parts: list[Narrowing | None]) -> None:
    """Collects in `narrowing` what was measured in its batches."""
    measured = [part.measured for part in parts if part is not None and part.measured is not None]
    if narrowing is not None and measured:
        narrowing.measured = torch.cat(measured)


class Looks:
    """What a search remembers about each of its images from the full looks.

    Args:
        labels: true classes, (M,), if they are known.
        images: the number of images, M.
    """

    def __init__(self, search: Search, labels: Tensor | None, images: int) -> None:
        if search.needs_labels and labels is None:
            raise ValueError("a search that leaves classes out, or weighs timesteps by the margin, needs the labels")
        self.search, self.labels = search, labels
        self._logits: Tensor | None = None
        self._importance: Tensor | None = None
        self._queries = torch.zeros(images, dtype=torch.int64)

    def due(self, rows: Tensor) -> Tensor:
        """Which of the images `rows` (R,) are due for a full look: (R,) bool, on the CPU. Also counts the query."""
        rows = waits.on_host(rows)
        due = self._queries[rows] % self.search.look_every == 0
        self._queries[rows] += 1
        return due if self.search.narrows else torch.ones_like(due)

    def narrowing(self, rows: Tensor, *, full: bool) -> Narrowing:
        """The narrowing for a query about the images `rows` (R,)."""
        labels = None if self.labels is None else self.labels[rows]
        if full:
            return Narrowing(self.search, True, labels=labels)
        importance = None if self._importance is None else self._importance[rows]
        return Narrowing(self.search, False, self._evaluated_classes(rows), labels, importance)

    def completed(self, rows: Tensor, narrowing: Narrowing, logits: Tensor) -> Tensor:
        """Fills in the left-out logits of a narrowed query, (R, K), by the formula at the head of this module."""
        if narrowing.classes is None or self._logits is None or self.labels is None:
            return logits
        evaluated = torch.zeros_like(logits, dtype=torch.bool).scatter(1, narrowing.classes, True)
        missing = ~evaluated & (logits == -torch.inf)
        label, last = self.labels[rows, None], self._logits[rows]
        rivals = logits.masked_fill(missing, torch.inf).scatter(1, label, torch.inf)
        distant = logits.gather(1, label) + last - last.gather(1, label)
        return torch.where(missing, torch.minimum(distant, rivals.amin(1, keepdim=True)).detach(), logits)

    def remember(self, rows: Tensor, logits: Tensor, measured: Tensor | None) -> None:
        """Stores a full look at the images `rows` (R,). logits: (R, K), mean over draws; measured: (R, T') or None."""
        if self._logits is None:
            self._logits = logits.new_zeros(len(self._queries), logits.shape[1])
        self._logits[rows] = logits.detach()
        if measured is not None:
            if self._importance is None:
                self._importance = measured.new_zeros(len(self._queries), measured.shape[1])
            self._importance[rows] += measured

    def _evaluated_classes(self, rows: Tensor) -> Tensor | None:
        """The true class, then the strongest rivals at the last full look, (R, 1 + rivals); None for all classes."""
        rivals = self.search.rivals
        if rivals is None or self._logits is None or self.labels is None or rivals + 1 >= self._logits.shape[1]:
            return None
        label = self.labels[rows, None]
        return torch.cat([label, self._logits[rows].scatter(1, label, -torch.inf).topk(rivals, dim=1).indices], 1)
