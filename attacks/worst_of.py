"""Several attacks, one after another, each on the images that none before it made the defense misclassify.

worst: {type: worst_of, norm: Linf, eps: 8/255, attacks: [{type: pgd, steps: 10}, {type: autoattack}]}
"""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.common.losses import margin
from attacks.common.norms import Norm
from harness.attack import UNKNOWN_CLASSES, Adversarial, Attack, Cost
from harness.defense import Defense
from harness.gradients import Gradient
from harness.quantity import Quantity
from harness.suite.nested import InnerAttack, built
from harness.target import Target


class WorstOf(Attack):
    """The strongest of several attacks, image by image.

    On a deterministic defense an image is finished as soon as it is misclassified. On a stochastic defense every attack
    runs on every image, and the result of largest margin is kept, by mean logits over `draws` draws of the defense.

    Args:
        attacks: in the order in which they are run, each with a `gradient` and an `eot` of its own.
        norm, eps, bound: the budget of those attacks that give none themselves.
        draws: of a stochastic defense, whose mean logits decide which result has the largest margin.

    Raises:
        ValueError: there are no attacks, their budgets differ, or `draws` is below 1.
    """

    independent = True

    def __init__(
        self,
        attacks: list[InnerAttack],
        norm: Norm | None = None,
        eps: Quantity | None = None,
        bound: Quantity | None = None,
        draws: int = 10,
    ) -> None:
        super().__init__()
        self.attacks: list[Attack] = [built(attack) for attack in attacks]
        if not self.attacks or draws < 1:
            raise ValueError("attacks is empty" if not self.attacks else f"draws is {draws}; it must be at least 1")
        self.threat, *others = (attack.threat for attack in self.attacks)
        if different := next((other for other in others if other != self.threat), None):
            raise ValueError(f"attacks have the budgets {self.threat} and {different}; a worst case needs one")
        self.draws = draws

    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Adversarial:
        """The strongest images, with the parameters of each where the budget is one of parameters, such as a flow."""
        best, flags = x.clone(), list[str]()
        parameters: Tensor | None = None
        remarks: list[tuple[str, ...]] = [()] * len(x)
        margins = torch.full_like(y, -torch.inf, dtype=x.dtype)
        judge = target.with_view(gradient="exact", eot=self.draws)
        for place, attack in enumerate(self.attacks):
            rows = torch.arange(len(x), device=x.device)
            if not target.defense.stochastic:
                rows = rows[margins <= 0]
            if not len(rows):
                break
            view = target.with_view(gradient=attack.gradient, eot=attack.eot, rows=rows, tag=place)
            found = Adversarial.of(attack.perturb(view, x[rows], y[rows]))
            flags += found.flags
            reached = margin(judge(found.images, rows), y[rows]).to(x.dtype)
            better = reached > margins[rows]
            if found.remarks is not None:
                for row, own in zip(rows.tolist(), found.remarks, strict=True):
                    remarks[row] += own
            rows = rows[better]
            best[rows], margins[rows] = found.images[better], reached[better]
            if (drawn := found.parameters) is not None:
                parameters = x.new_zeros(len(x), *drawn.shape[1:]) if parameters is None else parameters
                parameters[rows] = drawn[better].to(parameters)
        return Adversarial(best, parameters, tuple(dict.fromkeys(flags)), tuple(remarks))

    def parts(self) -> tuple[Attack, ...]:
        return tuple(part for attack in self.attacks for part in attack.parts())

    def views(self) -> frozenset[Gradient]:
        return frozenset().union(*(attack.views() for attack in self.attacks))

    def is_independent(self) -> bool:
        return super().is_independent() and all(attack.is_independent() for attack in self.attacks)

    def least_cosine(self) -> float:
        """That of the least demanding attack that climbs by gradients: the number is no higher than its own."""
        climbing = [attack for attack in self.attacks if attack.cost(UNKNOWN_CLASSES).backwards]
        return min((attack.least_cosine() for attack in climbing), default=0.0)

    def cost(self, num_classes: int) -> Cost:
        return self._sum([attack.cost(num_classes) for attack in self.attacks])

    def cost_on(self, defense: Defense, num_classes: int) -> Cost:
        return self._sum([attack.cost_on(defense, num_classes) for attack in self.attacks])

    def cost_limit(self, num_classes: int) -> Cost:
        return self._sum([attack.cost_limit(num_classes) for attack in self.attacks])

    def _sum(self, costs: list[Cost]) -> Cost:
        """Of the attacks, and of the queries that decide which images the next one gets."""
        looks = self.draws * len(costs)
        return Cost(sum(cost.forwards for cost in costs) + looks, sum(cost.backwards for cost in costs))

    def unsuitable(self, defense: Defense) -> str | None:
        reasons = (attack.unsuitable(defense) for attack in self.attacks)
        return next((reason for reason in reasons if reason), super().unsuitable(defense))

    def unsuitable_images(self, shape: tuple[int, ...]) -> str | None:
        reasons = (attack.unsuitable_images(shape) for attack in self.attacks)
        return next((reason for reason in reasons if reason), None)

    def describe(self) -> str:
        return "worst of " + "; ".join(attack.describe() for attack in self.attacks)
