"""The view of a defense that an attack may query: differentiable, seeded, and with its passes counted."""

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
from harness.journal.answered import answered
from harness.journal.journal import Journal
from harness.journal.question import Question
from harness.predict import query
from harness.randomness import Seeds, derive, fold, worked_out
from harness.search import Looks, Narrowing, Search, gather, split_of

_VIEW = derive("another view")


@dataclass(frozen=True)
class Step:
    """One query with a gradient, averaged over draws: loss (M,), its gradient (M, C, H, W), and logits (M, K)."""

    loss: Tensor
    grad: Tensor
    logits: Tensor


class Target(nn.Module):
    """A differentiable view of a defense that counts the queries to it.

    Attacks maximise: `step` differentiates a loss per image. Each call draws fresh noise for every image, from the
    image's own seed and the number of its earlier queries, so that an image's noise does not depend on which others are
    in the batch.

    A pass is one evaluation of the defense on one image. A narrowed query counts as a fraction of a pass, by its number
    of network evaluations, see `harness.search`. `forwards` and `backwards` count the passes of each image, rounded up.

    Whatever precision a defense computes in, this view returns float32 logits and energies, and they and all gradients
    are finite: where they were not, the attack gets zeros, so that it can go on with the other images, and `met`
    records the image for the harness. The defense gets copies, and may write into its input.

    Args:
        defense: the real defense, also reachable as `target.defense`.
        x: the clean images that are attacked through this target, (N, C, H, W).
        seeds: one seed per image, (N,) int64.
        gradient, eot: see `Attack`.
        batch_size: images sent through the defense at once.
        source_images: the adversarial images of the attack's `source`, of the shape of x, or None.
        journal: records the defense's answers, and gives those that are recorded.

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
        journal: Journal | None = None,
    ) -> None:
        super().__init__()
        self.source_images = source_images
        self.defense, self.seeds, self.eot, self.batch_size = defense, seeds.to(x.device), eot, batch_size
        self._clean = x.detach()
        self._view = VIEWS[gradient]
        self.met = NonFinite(len(x), x.device)
        self._looks: Looks | None = None
        self._journal, self._copies = journal, 0
        self._portion = 1.0  # of a pass that a query counts as
        if journal:
            journal.learn(defense)
        self._counted = torch.arange(len(x), device=x.device)  # counts stay on the device: reading them would wait
        self._queries = torch.zeros(len(x), dtype=torch.int64, device=x.device)
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
        """Another view for all or some of these images, with seeds of its own. Its passes count for this target too.

        Args:
            rows: which images, (M,) int64; by default all. Row j of the view is row rows[j] of this target.
            tag: gives views with different tags different seeds.
            search: what the defense may leave out in queries of this view, see `harness.search`; by default nothing.
                `defense_logits` and energies are still computed in full.
            labels: true classes of the view's images, (M,) int64, needed by a search that leaves classes out.

        Raises:
            ValueError: the search leaves classes out, and there are no labels.

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

    def with_defense(self, defense: Defense) -> Target:
        """Returns the same target, counted together with this one, that asks another defense.

        Args:
            defense: a defense that computes the same function, such as a faster copy of this target's own; or a
                surrogate, see `Defense.coarser`. A pass through it counts as the fraction that its `cost` is.
        """
        other = copy.copy(self)
        other._portion = self._portion * defense.cost() / self.defense.cost()
        other._modules = {**self._modules, "defense": defense}
        other._copies += 1
        if self._journal:
            self._journal.learn(defense)
        return other

    def forward(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """Logits averaged over the `eot` draws, (M, K).

        Args:
            x: images, (M, C, H, W) in [0, 1].
            rows: the index of the clean image of each, (M,); by default that of the nearest clean image.
        """
        return self.sample(x, rows).mean(0)

    def defense_logits(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """Logits of the defense itself, independent of the view: mean (M, K), counted like any other forward."""
        return self._evaluate(exact, x, rows, self.eot).mean(0)

    def sample(self, x: Tensor, rows: Tensor | None = None, draws: int | None = None) -> Tensor:
        """Logits of each draw, (draws, M, K): by default `eot` draws; always one draw of a deterministic defense."""
        return self._sample(x, self.nearest(x) if rows is None else rows, draws or self.eot, every_class=False)

    def _sample(self, x: Tensor, rows: Tensor, draws: int, *, every_class: bool) -> Tensor:
        if self._looks is None:
            narrowing = Narrowing(Search(), full=True, every_class=True) if every_class else None
            return self._evaluate(self._view, x, rows, draws, narrowing=narrowing)
        search = partial(self._search, self._looks, draws=draws, every_class=every_class)
        due = self._looks.due(rows)
        if due.all() or not due.any():
            return search(x, rows, full=bool(due.all()))
        parts = [(some.nonzero().squeeze(1).to(rows.device), full) for some, full in ((due, True), (~due, False))]
        logits = [search(x[some], rows[some], full=full) for some, full in parts]
        return torch.cat(logits, 1)[:, torch.cat([some for some, _ in parts]).argsort()]

    def _search(self, looks: Looks, x: Tensor, rows: Tensor, *, draws: int, full: bool, every_class: bool) -> Tensor:
        """`_sample` for images that are all due for a full look, or all not."""
        narrowing = looks.narrowing(rows.repeat(draws if self.defense.stochastic else 1), full=full)
        narrowing.every_class = every_class
        logits = self._evaluate(self._view, x, rows, draws, narrowing=narrowing)
        if full:
            measured = narrowing.measured
            measured = None if measured is None else measured.unflatten(0, (len(logits), len(x))).sum(0)
            looks.remember(rows, logits.mean(0), measured)
        return logits

    def step(
        self,
        x: Tensor,
        rows: Tensor,
        loss: Callable[[Tensor, Tensor], Tensor],
        *,
        energy: float = 0.0,
        every_class: bool = False,
    ) -> Step:
        """Loss and gradient, averaged over draws, computed batch by batch: the memory needed is that of one batch.

        Args:
            x: images, (M, C, H, W).
            rows: the index of the clean image of each, (M,).
            loss: (logits (B, K), rows (B,)) -> loss per image (B,), to be maximised.
            energy: weight of the defense's `energy(x)`, which is subtracted from the loss; its passes are counted too.
            every_class: whether the loss has a derivative in every logit, as cross-entropy has, and not only in two or
                three, as a margin has. It only affects speed: a defense may then compute all of them in one pass.
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
                losses = losses - energy * self._evaluate(_energy, x, rows, self.eot, "energy").mean((0, 2))
            (grad,) = torch.autograd.grad(losses.sum(), x)
        losses = losses.detach()[:, None]
        perturbed = partial(self._perturbed, x, rows)
        losses = self.met.checked("loss", losses, rows, perturbed, partial(torch.zeros_like, losses))
        return Step(losses[:, 0], grad, logits.detach().mean(0))

    def _evaluate(
        self,
        view: View,
        x: Tensor,
        rows: Tensor | None,
        draws: int,
        place: Place = "logits",
        narrowing: Narrowing | None = None,
    ) -> Tensor:
        """The output of a view in each draw, (draws, M, K). place: what the output is, for messages."""
        rows = self.nearest(x) if rows is None else rows
        perturbed = partial(self._perturbed, x, rows)
        x = self.met.checked("image", x, rows, perturbed, partial(self._clean.__getitem__, rows))
        draws = draws if self.defense.stochastic else 1
        counted = self._counted[rows]
        own, earlier = self.seeds[rows], self._queries[counted]
        seeds = partial(_drawn, own, earlier, draws)
        self._queries.index_add_(0, counted, torch.full_like(counted, draws))
        passes = draws * self._share(narrowing)
        self._count(self._forwards, counted, passes)
        differentiable = x.requires_grad and torch.is_grad_enabled()
        with torch.set_grad_enabled(differentiable):  # otherwise torch would keep a graph of the defense's parameters
            batch = _Counted.apply(x, self, rows, counted, perturbed, passes) if differentiable else x
            everyone = rows.repeat(draws) if draws > 1 else rows
            ask = partial(self._ask, view, draws, seeds() if self.defense.stochastic else seeds)
            title = f"{_name(view)} {self._copies}"
            question = Question(title, draws, x, own, earlier, differentiable, narrowing)
            output = answered(self._journal, question, self.defense, batch, ask)
            if narrowing is not None and self._looks is not None:
                output = self._looks.completed(everyone, narrowing, output)
            moved = partial(_repeated, perturbed, draws)
            output = self.met.checked(place, output, everyone, moved, partial(torch.zeros_like, output))
        return output.unflatten(0, (draws, len(x)))

    def _ask(self, view: View, draws: int, seeds: Seeds, x: Tensor, narrowing: Narrowing | None) -> Tensor:
        """The defense's own answer, (draws * M, K). seeds: (draws * M,)."""
        images = x.repeat(draws, *[1] * (x.dim() - 1)) if draws > 1 else x
        with nullcontext() if narrowing is None else narrowing.search.matrix_products():
            return self._query(view, images, seeds, narrowing)

    def _query(self, view: View, x: Tensor, seeds: Seeds, narrowing: Narrowing | None) -> Tensor:
        viewed = partial(view, self.defense)
        if len(x) <= self.batch_size:
            return query(self.defense, x, seeds, viewed, narrowing=narrowing).float()
        parts = split_of(narrowing, len(x), self.batch_size)
        batches = zip(x.split(self.batch_size), worked_out(seeds).split(self.batch_size), parts, strict=True)
        outputs = [query(self.defense, images, own, viewed, narrowing=part).float() for images, own, part in batches]
        gather(narrowing, parts)
        return torch.cat(outputs)

    def _share(self, narrowing: Narrowing | None) -> float:
        """The fraction of a whole pass that a query counts as, by its number of network evaluations."""
        if narrowing is None:
            return self._portion
        return self._portion * self.defense.narrowed_cost(narrowing) / self.defense.cost()

    def _perturbed(self, x: Tensor, rows: Tensor) -> Tensor:
        """Which of x (M, C, H, W) differ from the clean images `rows`: (M,) bool."""
        return (x.detach() != self._clean[rows]).flatten(1).any(1)

    def count(self, rows: Tensor) -> None:
        """Counts a forward pass for each row (M,), for code that queries the defense itself."""
        self._count(self._forwards, self._counted[rows], 1.0)

    def nearest(self, x: Tensor) -> Tensor:
        """The index of the clean image nearest to each of x (M, C, H, W): (M,)."""
        pixels = x.detach().flatten(1).float().nan_to_num(0, 0, 0)
        return torch.cdist(pixels, self._clean.flatten(1).float()).argmin(1)

    def _count(self, counter: Tensor, counted: Tensor, passes: float) -> None:
        counter.index_add_(0, counted, counter.new_full((len(counted),), passes))


def _name(view: View) -> str:
    return next((name for name, known in VIEWS.items() if known is view), "energy")


def _drawn(seeds: Tensor, asked: Tensor, draws: int) -> Tensor:
    """Seeds of some draws of images that were asked about before, (draws * M,). seeds, asked: (M,)."""
    return fold(seeds, asked, torch.arange(draws, device=seeds.device)[:, None]).flatten()


def _repeated(values: Callable[[], Tensor], times: int) -> Tensor:
    return values().repeat(times)


def _whole(passes: Tensor) -> Tensor:
    """Rounds summed fractions of passes, (N,) float64, up to whole passes, (N,) int64."""
    return (passes - 1e-6).ceil().long()


def _energy(defense: Defense, x: Tensor) -> Tensor:
    """The energy as a view: (N, 1)."""
    energy: Tensor = defense.energy(x)  # type: ignore[operator]  # attacks that use it name it in `needs`
    return energy[:, None]


class _Counted(torch.autograd.Function):
    """The identity. Its backward pass is counted, and makes the gradient finite."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        target: Target,
        rows: Tensor,
        counted: Tensor,
        perturbed: Callable[[], Tensor],
        passes: float,
    ) -> Tensor:
        ctx.count = target, rows, counted, perturbed, passes
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        target, rows, counted, perturbed, passes = ctx.count
        target._count(target._backwards, counted, passes)
        grad = grad.contiguous()  # gradients of channels-last networks cannot be reshaped with .view()
        grad = target.met.checked("gradient", grad, rows, perturbed, partial(torch.zeros_like, grad))
        return grad, None, None, None, None, None
