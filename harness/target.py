"""The view of a defense that an attack may query: differentiable, seeded, counted."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from harness.defense import Defense
from harness.gradients import VIEWS, Gradient, View, exact
from harness.guard.nonfinite import NonFinite, Place
from harness.predict import query
from harness.randomness import derive, fold
from harness.search import Looks, Narrowing, Search, gather, split_of

_VIEW = derive("another view")


@dataclass(frozen=True)
class Step:
    """One query with a gradient: loss (M,), its gradient by image (M, C, H, W), logits (M, K), averaged over draws."""

    loss: Tensor
    grad: Tensor
    logits: Tensor


class Target(nn.Module):
    """A differentiable view of a defense that counts what is asked of it.

    The attacks are for maximising: `step` differentiates a loss per image. Each call draws fresh noise: for every image
    from its own seed and the number of times that image was asked before, so that an image's noise does not depend on
    which others are in the batch.

    A pass is one answer about one image, whatever it took; of a narrowed query, the share of a pass that its network
    evaluations are, see `harness.search`. `forwards` and `backwards` count them for each image, rounded up.

    Whatever a defense computes in, its logits and energies are float32 here, and they and every gradient are finite:
    where they were not, the attack is given zeros, so that it can go on with the other images, and `met` remembers the
    image for the harness. The defense gets copies, and may write into its input.

    Args:
        defense: the real defense, also reachable as `target.defense`.
        x: the clean images this target will be asked about, (N, C, H, W).
        seeds: one seed per image, (N,) int64.
        gradient, eot: see `Attack`.
        batch_size: images sent through the defense at once.
        source_images: the adversarial images of the attack's `source`, like x, or None.

    Example:
        >>> class Brightness(Defense):
        ...     def classify(self, x):
        ...         return torch.cat([-x.flatten(1), x.flatten(1)], dim=1)
        >>> x = torch.tensor([0.25, 0.75]).view(2, 1, 1, 1)
        >>> target = Target(Brightness(), x, seeds=torch.tensor([0, 1]))
        >>> step = target.step(x, torch.tensor([0, 1]), lambda logits, rows: logits[:, 0])
        >>> step.grad.flatten().tolist(), target.forwards.tolist(), target.backwards.tolist()
        ([-1.0, -1.0], [1, 1], [1, 1])
    """

    def __init__(
        self,
        defense: Defense,
        x: Tensor,
        seeds: Tensor,
        *,
        gradient: Gradient = "exact",
        eot: int = 1,
        batch_size: int = 256,
        source_images: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.source_images = source_images
        self.defense, self.seeds, self.eot, self.batch_size = defense, seeds.to(x.device), eot, batch_size
        self._clean = x.detach()
        self._view = VIEWS[gradient]
        self.met = NonFinite(len(x), x.device)
        self._looks: Looks | None = None
        self._counted = torch.arange(len(x), device=x.device)  # counts stay on the device: reading them would wait
        self._asked = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        self._forwards, self._backwards = (torch.zeros(len(x), dtype=torch.float64, device=x.device) for _ in range(2))

    @property
    def forwards(self) -> Tensor:
        """Forward passes of each image so far, (N,) int64."""
        return _whole(self._forwards)

    @property
    def backwards(self) -> Tensor:
        """Backward passes of each image so far, (N,) int64."""
        return _whole(self._backwards)

    def with_view(
        self,
        *,
        gradient: Gradient,
        eot: int,
        rows: Tensor | None = None,
        tag: int = 0,
        search: Search | None = None,
        labels: Tensor | None = None,
    ) -> Target:
        """Another view of these images or of some of them, with seeds of its own; what it is asked is counted here.

        Args:
            rows: which images, (M,) int64; all of them if left out. Its row j is row rows[j] here.
            tag: tells the seeds of several such views apart.
            search: what the defense may leave out when this view is asked, see `harness.search`; nothing if left out.
                `defense_logits` and energies are in full even so.
            labels: true classes of the view's images, (M,) int64, for a search that leaves classes out.

        Raises:
            ValueError: such a search without labels.

        Example:
            `target.with_view(gradient="bpda", eot=1, search=Search(timesteps=0.5, rivals=2), labels=y)`
        """
        rows = torch.arange(len(self.seeds), device=self.seeds.device) if rows is None else rows
        other = copy.copy(self)
        other.eot, other._view = eot, VIEWS[gradient]
        other._looks = None if search is None else Looks(search, labels, len(rows))
        other.seeds, other._clean = fold(self.seeds[rows], _VIEW, tag), self._clean[rows]
        other._counted, other.met = self._counted[rows], self.met.take(rows)
        other.source_images = None if self.source_images is None else self.source_images[rows]
        return other

    def forward(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """Logits averaged over the `eot` draws, (M, K).

        Args:
            x: images, (M, C, H, W) in [0, 1].
            rows: which clean image each belongs to, (M,); left out, each belongs to the nearest one.
        """
        return self.sample(x, rows).mean(0)

    def defense_logits(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """What the defense itself answers, whatever the view: mean logits (M, K), counted like any other forward."""
        return self._ask(exact, x, rows, self.eot).mean(0)

    def sample(self, x: Tensor, rows: Tensor | None = None, draws: int | None = None) -> Tensor:
        """Logits of each draw, (draws, M, K): `eot` draws unless told otherwise, one of a deterministic defense."""
        return self._sample(x, self.nearest(x) if rows is None else rows, draws or self.eot, every_class=False)

    def _sample(self, x: Tensor, rows: Tensor, draws: int, *, every_class: bool) -> Tensor:
        if self._looks is None:
            narrowing = Narrowing(Search(), full=True, every_class=True) if every_class else None
            return self._ask(self._view, x, rows, draws, narrowing=narrowing)
        ask = partial(self._search, self._looks, draws=draws, every_class=every_class)
        due = self._looks.due(rows)
        if due.all() or not due.any():
            return ask(x, rows, full=bool(due.all()))
        parts = [(some.nonzero().squeeze(1).to(rows.device), full) for some, full in ((due, True), (~due, False))]
        found = [ask(x[some], rows[some], full=full) for some, full in parts]
        return torch.cat(found, 1)[:, torch.cat([some for some, _ in parts]).argsort()]

    def _search(self, looks: Looks, x: Tensor, rows: Tensor, *, draws: int, full: bool, every_class: bool) -> Tensor:
        """`_sample` where all images are looked at in full, or none is."""
        narrowing = looks.narrowing(rows.repeat(draws if self.defense.stochastic else 1), full=full)
        narrowing.every_class = every_class
        with looks.search.matrix_products():
            found = self._ask(self._view, x, rows, draws, narrowing=narrowing)
        if full:
            measured = narrowing.measured
            measured = None if measured is None else measured.unflatten(0, (len(found), len(x))).sum(0)
            looks.remember(rows, found.mean(0), measured)
        return found

    def step(
        self,
        x: Tensor,
        rows: Tensor,
        loss: Callable[[Tensor, Tensor], Tensor],
        *,
        energy: float = 0.0,
        every_class: bool = False,
    ) -> Step:
        """Loss and gradient, averaged over draws, batch by batch: memory is that of one batch.

        Args:
            x: images, (M, C, H, W).
            rows: which clean image each belongs to, (M,).
            loss: (logits (B, K), rows (B,)) -> loss per image (B,), to be maximised.
            energy: weight of the defense's `energy` of x itself, which is subtracted; its passes count like others.
            every_class: the loss has a derivative in every logit, as cross-entropy has, and not in two or three, as a
                margin has. A matter of speed: a defense may then find all of them in one pass.
        """
        per_batch = max(1, self.batch_size // (self.eot if self.defense.stochastic else 1))
        batches = zip(x.split(per_batch), rows.split(per_batch), strict=True)
        steps = [self._step(images, some, loss, energy, every_class) for images, some in batches]
        return Step(*(torch.cat(parts) for parts in zip(*((s.loss, s.grad, s.logits) for s in steps), strict=True)))

    def _step(
        self, x: Tensor, rows: Tensor, loss: Callable[[Tensor, Tensor], Tensor], energy: float, every_class: bool
    ) -> Step:
        x = x.detach().requires_grad_()
        settings = nullcontext() if self._looks is None else self._looks.search.matrix_products()
        with torch.enable_grad(), settings:
            logits = self._sample(x, rows, self.eot, every_class=every_class)
            losses = torch.stack([loss(draw, rows) for draw in logits]).mean(0)
            if energy:
                losses = losses - energy * self._ask(_energy, x, rows, self.eot, "energy").mean((0, 2))
            (grad,) = torch.autograd.grad(losses.sum(), x)
        losses = losses.detach()[:, None]
        losses = self.met.checked("loss", losses, rows, self._perturbed(x, rows), torch.zeros_like(losses))
        return Step(losses[:, 0], grad, logits.detach().mean(0))

    def _ask(
        self,
        view: View,
        x: Tensor,
        rows: Tensor | None,
        draws: int,
        place: Place = "logits",
        narrowing: Narrowing | None = None,
    ) -> Tensor:
        """What the view says in each draw, (draws, M, K); place: what that is."""
        rows = self.nearest(x) if rows is None else rows
        perturbed = self._perturbed(x, rows)
        x = self.met.checked("image", x, rows, perturbed, self._clean[rows])
        draws = draws if self.defense.stochastic else 1
        counted = self._counted[rows]
        seeds = fold(self.seeds[rows], self._asked[counted], torch.arange(draws, device=x.device)[:, None])
        self._asked.index_add_(0, counted, torch.full_like(counted, draws))
        passes = draws * self._share(narrowing)
        self._count(self._forwards, rows, passes)
        differentiable = x.requires_grad and torch.is_grad_enabled()
        with torch.set_grad_enabled(differentiable):  # else a graph over the defense's own parameters would be kept
            batch = _Counted.apply(x, self, rows, perturbed, passes) if differentiable else x
            everyone, moved = rows.repeat(draws), perturbed.repeat(draws)
            images = batch.repeat(draws, *[1] * (x.dim() - 1))
            found = self._query(view, images, seeds.flatten(), narrowing)
            if narrowing is not None and self._looks is not None:
                found = self._looks.completed(everyone, narrowing, found)
            found = self.met.checked(place, found, everyone, moved, torch.zeros_like(found))
        return found.unflatten(0, (draws, len(x)))

    def _query(self, view: View, x: Tensor, seeds: Tensor, narrowing: Narrowing | None) -> Tensor:
        parts = split_of(narrowing, len(x), self.batch_size)
        batches = zip(x.split(self.batch_size), seeds.split(self.batch_size), parts, strict=True)
        asked = partial(view, self.defense)
        found = [query(self.defense, images, own, asked, narrowing=part).float() for images, own, part in batches]
        gather(narrowing, parts)
        return torch.cat(found)

    def _share(self, narrowing: Narrowing | None) -> float:
        """Of a whole pass, by the network evaluations that it takes."""
        return 1.0 if narrowing is None else self.defense.narrowed_cost(narrowing) / self.defense.cost()

    def _perturbed(self, x: Tensor, rows: Tensor) -> Tensor:
        """Which of x (M, C, H, W) are not the clean images `rows`: (M,) bool."""
        return (x.detach() != self._clean[rows]).flatten(1).any(1)

    def nearest(self, x: Tensor) -> Tensor:
        """The clean image nearest to each of x (M, C, H, W): (M,)."""
        pixels = x.detach().flatten(1).float().nan_to_num(0, 0, 0)
        return torch.cdist(pixels, self._clean.flatten(1).float()).argmin(1)

    def _count(self, counter: Tensor, rows: Tensor, passes: float) -> None:
        counter.index_add_(0, self._counted[rows], counter.new_full((len(rows),), passes))


def _whole(passes: Tensor) -> Tensor:
    """Shares of passes that were added up, (N,) float64, as whole passes, (N,) int64."""
    return (passes - 1e-6).ceil().long()


def _energy(defense: Defense, x: Tensor) -> Tensor:
    """As a view: (N, 1)."""
    found: Tensor = defense.energy(x)  # type: ignore[operator]  # whoever asks for it names it in `needs`
    return found[:, None]


class _Counted(torch.autograd.Function):
    """The identity; its backward pass is counted, and gives a finite gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, target: Target, rows: Tensor, perturbed: Tensor, passes: float) -> Tensor:
        ctx.count = target, rows, perturbed, passes
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        target, rows, perturbed, passes = ctx.count
        target._count(target._backwards, rows, passes)
        grad = grad.contiguous()  # channels-last networks give gradients that .view() refuses
        return target.met.checked("gradient", grad, rows, perturbed, torch.zeros_like(grad)), None, None, None, None
