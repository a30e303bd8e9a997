from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from attacks.adaptive import CERTAIN, Adaptive, contenders, views_of
from attacks.pgd import PGD
from defenses.dc import DC
from defenses.rdc import RDC
from harness import datasets
from harness.defense import Defense, SignSurrogate
from harness.guard.doubt import IN_DOUBT
from harness.quantity import Quantity
from harness.randomness import normal, uniform
from harness.target import Target
from harness.threat import TOLERANCE
from harness.weights import Checkpoint

Make = Callable[..., Defense]
View = Callable[..., Target]

N, SHAPE = 12, (1, 4, 4)
Y = torch.zeros(N, dtype=torch.int64)
W = normal(torch.tensor([1, 2]), (16,))


def adaptive(norm: str = "Linf", eps: str = "0.1", **options: Any) -> Adaptive:
    return Adaptive(norm, Quantity(eps), **{"steps": 18, "rounds": 2, **options})  # type: ignore[arg-type]


def images(count: int = N) -> Tensor:
    return 0.3 + 0.4 * uniform(torch.arange(count), SHAPE)


def normal_share(margin: Tensor, noise: float) -> Tensor:
    """How often a margin is positive under normal noise of this standard deviation on each of two logits."""
    return torch.special.ndtr(margin / (noise * 2**0.5))


@pytest.mark.parametrize(("norm", "eps", "dual"), [("Linf", "0.1", 1), ("L2", "0.3", 2)])
def test_the_misclassification_rate_reaches_the_closed_form_on_a_noisy_linear_classifier(
    noisy: Make, view: View, norm: str, eps: str, dual: int
) -> None:
    x, direction = images(), W[1] - W[0]
    clean = x.flatten(1) @ direction
    reach = float(eps) * torch.linalg.vector_norm(direction, dual)
    bias = torch.tensor([float(clean.mean() + reach), 0.0])
    defense, attack = noisy(W, bias, noise=0.5), adaptive(norm, eps)
    found = attack.perturb(view(attack, defense, x), x, Y)
    best = normal_share(clean - bias[0] + reach, 0.5)
    reached = normal_share(found.images.flatten(1) @ direction - bias[0], 0.5)
    assert attack.threat.violation(x, found.images).max() <= TOLERANCE
    assert best.min() < 0.5 < best.max()
    assert (best - reached).max() < 0.02


class Trap(Defense):
    """Margins to the rival: 0.6 sure at the right end of the first pixel, and towards the left ever louder noise.

    The misclassification rate is 1 to the right, and a half at most to the left, where the largest losses are drawn.
    """

    stochastic = True
    num_classes = 2

    def classify(self, x: Tensor) -> Tensor:
        place = (x.flatten(1)[:, 0] - 0.5) / 0.1
        noise = normal(self.seeds_for(x), (1,))[:, 0]
        rival = 0.6 * place.clamp(min=0) - 0.1 + 20 * (-place).clamp(min=0) * noise
        return torch.stack([torch.zeros_like(rival), rival], dim=1)


def test_the_largest_loss_is_a_lucky_draw_and_the_highest_rate_is_kept(view: View) -> None:
    x, defense = torch.full((N, *SHAPE), 0.5), Trap()
    lucky, ours = PGD("Linf", Quantity("0.1"), steps=15, loss="margin", restarts=4), adaptive()
    by_loss = lucky.perturb(view(lucky, defense, x), x, Y)
    by_rate = ours.perturb(view(ours, defense, x), x, Y).images
    assert isinstance(by_loss, Tensor)
    assert (by_loss.flatten(1)[:, 0] < 0.5).float().mean() > 0.7
    assert (by_rate.flatten(1)[:, 0] > 0.55).float().mean() > 0.7  # the others never came upon the right side


class Purifier(Defense):
    """A linear classifier behind a step that keeps the image and passes each view a gradient of its own, or zero.

    ways: by view, what its gradient is multiplied by.
    """

    num_classes = 2

    def __init__(self, **ways: float) -> None:
        super().__init__()
        self.ways = ways

    def purify(self, x: Tensor) -> Tensor:
        return self._scaled(x, "exact")

    def purify_surrogate(self, x: Tensor) -> Tensor:
        return self._scaled(x, "bpda")

    def sign_surrogates(self) -> tuple[SignSurrogate, ...]:
        return ("straight_through", "tanh")

    def purify_with_surrogate(self, x: Tensor, surrogate: SignSurrogate) -> Tensor:
        return self._scaled(x, surrogate)

    def classify(self, x: Tensor) -> Tensor:
        margin = (x - 0.5).flatten(1).sum(1) - 0.8
        return torch.stack([torch.zeros_like(margin), margin], dim=1)

    def _scaled(self, x: Tensor, view: str) -> Tensor:
        return x.detach() + self.ways.get(view, 0.0) * (x - x.detach())


@pytest.mark.parametrize("working", ["bpda", "tanh", "straight_through"])
def test_images_fall_to_the_first_view_that_has_a_gradient(view: View, working: str) -> None:
    x, attack = torch.full((3, *SHAPE), 0.5), adaptive(rounds=1, proposals=0)
    defense = Purifier(**{working: 1.0})
    if working == "straight_through":
        defense.ways["bpda"] = -1.0  # and a view that leads astray does no harm
    found = attack.perturb(view(attack, defense, x), x, Y[:3])
    assert (defense(found.images).argmax(1) == 1).all()
    assert found.remarks == ((f"found along {working}",),) * 3


class Detached(Purifier):
    """The same behind NumPy, through which no gradient leads, or behind a purifier that detaches."""

    def __init__(self, numpy: bool) -> None:
        super().__init__(bpda=1.0)
        self.numpy = numpy

    def purify(self, x: Tensor) -> Tensor:
        return torch.from_numpy(x.numpy().copy()) if self.numpy else x.detach()

    def sign_surrogates(self) -> tuple[SignSurrogate, ...]:
        return ()


@pytest.mark.parametrize("numpy", [True, False])
def test_a_view_that_cannot_be_differentiated_is_passed_over(view: View, numpy: bool) -> None:
    x, attack, defense = torch.full((3, *SHAPE), 0.5), adaptive("Linf", "0.01", rounds=1), Detached(numpy)
    found = attack.perturb(view(attack, defense, x), x, Y[:3])
    assert found.remarks == (("found along bpda",),) * 3
    assert (found.images > 0.505).all()


class Stepped(Defense):
    """The number of bright pixels, of which no view has a gradient."""

    num_classes = 2

    def classify(self, x: Tensor) -> Tensor:
        bright = (x > 0.55).to(x).flatten(1).sum(1) + 0 * x.flatten(1).sum(1)
        return torch.stack([torch.full_like(bright, 9.5), bright], dim=1)


def test_without_any_gradient_proposals_are_judged_by_votes(view: View) -> None:
    x, attack = torch.full((3, *SHAPE), 0.5), adaptive()
    found = attack.perturb(view(attack, Stepped(), x), x, Y[:3])
    assert (Stepped()(found.images).argmax(1) == 1).all()
    assert found.remarks == (("found by proposals without a gradient",),) * 3


def test_a_remark_says_that_nothing_was_found(linear: Make, view: View) -> None:
    x, attack = images(2), adaptive(proposals=2)
    found = attack.perturb(view(attack, linear(0 * W, torch.tensor([50.0, 0.0])), x), x, Y[:2])
    assert found.images.equal(x)
    assert found.remarks == (("nothing found along exact or by proposals without a gradient",),) * 2


def test_a_number_of_a_deterministic_defense_is_in_doubt(linear: Make, noisy: Make, view: View) -> None:
    x, attack = images(2), adaptive(proposals=2)
    sure, random = (attack.perturb(view(attack, made, x), x, Y[:2]) for made in (linear(W), noisy(W)))
    (flag,) = sure.flags
    assert flag.startswith(IN_DOUBT) and "AutoAttack" in flag and not random.flags


def test_no_number_depends_on_the_batch(noisy: Make, view: View) -> None:
    x, seeds = images(8), torch.arange(8) + 100
    defense, attack = noisy(W, torch.tensor([float((x.flatten(1) @ (W[1] - W[0])).mean()) + 0.5, 0.0])), adaptive()
    target = view(attack, defense, x, seeds)
    together = attack.perturb(target, x, Y[:8])
    for row in (0, 5):
        own = view(attack, defense, x[[row]], seeds[[row]])
        alone = attack.perturb(own, x[[row]], Y[:1])
        assert torch.allclose(alone.images[0], together.images[row], atol=1e-6)
        assert alone.remarks == (together.remarks or ())[row : row + 1]
        assert (own.forwards[0], own.backwards[0]) == (target.forwards[row], target.backwards[row])


def test_passes_are_counted_and_their_bound_holds(noisy: Make, view: View) -> None:
    x, attack = images(3), adaptive(steps=5, rounds=3, votes=4)
    target = view(attack, noisy(W, torch.tensor([50.0, 0.0]), noise=0.1), x)
    attack.perturb(target, x, Y[:3])
    assert (target.backwards >= 5 * (1 + 2)).all()
    assert (target.backwards <= attack.cost(2).backwards).all()
    assert (target.forwards <= attack.cost(2).forwards).all()


@pytest.mark.parametrize("narrow", [True, False])
@pytest.mark.parametrize("steps", [0, 2])
def test_the_cost_on_a_diffusion_classifier_is_what_an_image_that_withstands_takes(
    view: View, narrow: bool, steps: int
) -> None:
    weights, eta = Checkpoint.find("digits-ncsnpp"), Quantity("0.05")
    plain = DC(weights, timesteps=6, share_noise="classes")
    defense = RDC(weights, timesteps=6, share_noise="classes", steps=steps, eta=eta) if steps else plain
    attack = Adaptive("Linf", Quantity("0.0001"), steps=6, rounds=2, votes=2, narrow=narrow)
    digits = datasets.load("digits", rows=lambda count: [0])
    target = view(attack, defense.eval(), digits.images)
    attack.perturb(target, digits.images, digits.labels)
    cost = attack.cost_on(defense, 10)
    assert cost.backwards < attack.cost(10).backwards
    assert 0.8 * cost.backwards < float(target.backwards.max()) < 1.5 * cost.backwards
    assert 0.6 * cost.forwards < float(target.forwards.max()) < 1.5 * cost.forwards


def test_images_that_are_misclassified_already_are_left_alone(noisy: Make, view: View) -> None:
    x, attack = images(3), adaptive()
    target = view(attack, noisy(W, torch.tensor([-50.0, 0.0])), x)
    found = attack.perturb(target, x, Y[:3])
    assert found.images.equal(x)
    assert target.backwards.tolist() == [0] * 3
    assert target.forwards.tolist() == [CERTAIN * attack.votes] * 3
    assert found.remarks == (("misclassified without an attack",),) * 3


def test_views_are_those_that_differ() -> None:
    assert views_of(Stepped()) == ("exact",)
    assert views_of(Purifier()) == ("bpda", "tanh", "straight_through", "blind")
    assert views_of(Detached(numpy=False)) == ("bpda", "exact", "blind")


@pytest.mark.parametrize("options", [{"steps": 1}, {"rounds": 0}, {"votes": 0}, {"proposals": -1}])
def test_counts_that_mean_nothing_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be at least"):
        adaptive(**options)


@pytest.mark.parametrize(("views", "counts"), [(1, [1, 1, 1]), (3, [3, 2, 1, 1]), (5, [5, 3, 2, 1])])
def test_rounds_halve_the_views(views: int, counts: list[int]) -> None:
    assert [contenders(views, number) for number in range(len(counts))] == counts


def test_the_longest_climb_is_along_the_view_that_leads_furthest(view: View) -> None:
    """`blind` leads as far, and comes later; the others lead astray."""
    x, attack, asked = torch.full((2, *SHAPE), 0.5), adaptive("Linf", "0.01", steps=4, rounds=3), []

    class Asked(Purifier):
        def _scaled(self, x: Tensor, view: str) -> Tensor:
            if x.requires_grad:
                asked.append(view)
            return super()._scaled(x, view)

    attack.perturb(view(attack, Asked(bpda=-1.0, tanh=1.0, straight_through=-1.0), x), x, Y[:2])
    assert asked[-16:] == ["tanh"] * 16
    assert asked[:12] == ["bpda"] * 4 + ["tanh"] * 4 + ["straight_through"] * 4


@pytest.mark.parametrize(
    ("rounds", "told"),
    [(1, "adaptive, 1 round of 16 steps"), (2, "adaptive, 2 rounds of 16 to 32 steps")],
)
def test_rounds_are_told_in_plain_english(rounds: int, told: str) -> None:
    assert Adaptive("Linf", Quantity("0.1"), rounds=rounds).describe() == told
