from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from defenses.diffusion.denoiser import NO_CLASS
from defenses.diffusion.likelihood import PURIFY
from defenses.networks.ncsnpp import NCSNpp
from defenses.rdc import RDC
from harness.errors import UserError
from harness.gradients import VIEWS, Gradient, bpda, exact, missing
from harness.quantity import Quantity
from harness.randomness import fold, normal
from harness.weights import Checkpoint
from helpers.originals import fill, rule_image

ARGUMENTS = dict(image_size=8, channels=1, nf=8, ch_mult=[1, 2], num_res_blocks=1, attn_resolutions=[], num_classes=10)
SEEDS = torch.tensor([5, 1 << 61])


@pytest.fixture
def make(tmp_path) -> Callable[..., RDC]:
    """make(**options): an RDC on a tiny network, 4 timesteps and N = 3 unless told otherwise."""
    save_file(fill(NCSNpp(**ARGUMENTS), exempt=["sigmas"]).state_dict(), tmp_path / "tiny.safetensors")
    weights, network = Checkpoint.find(str(tmp_path / "tiny.safetensors")), {"type": "ncsnpp", **ARGUMENTS}
    return lambda **options: RDC(weights, **{"network": network, "timesteps": 4, "steps": 3, **options})


@pytest.fixture
def x() -> Tensor:
    """Two images with pixels at 0 and at 1."""
    return (1.3 * rule_image((2, 1, 8, 8)) - 0.15).clamp(0, 1)


def purified(defense: RDC, x: Tensor, seeds: Tensor = SEEDS) -> Tensor:
    with torch.no_grad(), defense.drawing(seeds):
        return defense.purify(x)


def test_purification_stays_within_eta_and_within_0_and_1(make, x) -> None:
    moved = purified(make(steps=10, eta=Quantity("30/255")), x)
    assert float((moved - x).abs().max()) <= 30 / 255 + 1e-6
    assert 0 <= float(moved.min()) <= float(moved.max()) <= 1
    assert float((moved - x).abs().mean()) > 10 / 255


def test_purification_lowers_the_unconditional_loss_under_noise_it_has_not_seen(make, x) -> None:
    defense = make(timesteps=20, steps=5)
    before, after = (
        defense.maximization.loss(images, torch.tensor([NO_CLASS]), fold(SEEDS, 7))
        for images in (x, purified(defense, x))
    )
    assert (after < before).all()


def test_purification_differs_between_votes_and_repeats_to_the_bit(make, x) -> None:
    defense = make(timesteps=1)
    assert torch.equal(purified(defense, x), purified(defense, x))
    assert (purified(defense, x) != purified(defense, x, fold(SEEDS, 1))).flatten(1).any(1).all()


def test_each_step_and_the_classification_have_noise_of_their_own(make, x) -> None:
    seen = []

    def spy(seeds: Tensor, *rest) -> Tensor:
        seen.append(seeds)
        return defense.loss.noise(seeds, *rest)

    defense = make()
    loss = dataclasses.replace(defense.maximization.loss, noise=spy)
    defense.maximization = dataclasses.replace(defense.maximization, loss=loss)
    purified(defense, x)
    used = torch.cat([seeds.flatten() for seeds in [*seen, SEEDS]])
    assert len(seen) == 3
    assert len(used.unique()) == len(used)


def test_fixed_noise_makes_purification_deterministic(make, x) -> None:
    defense = make(noise="fixed")
    assert not defense.stochastic
    assert torch.equal(purified(defense, x, SEEDS), purified(defense, x, fold(SEEDS, 1)))


def test_an_image_is_purified_the_same_in_any_batch(make, x) -> None:
    defense = make()
    torch.testing.assert_close(purified(defense, x)[1:], purified(defense, x[1:], SEEDS[1:]))


def gradient(view, defense: RDC, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    with defense.drawing(SEEDS):
        logits = view(defense, x)
        return torch.autograd.grad(logits[:, 3].sum() - logits[:, 5].sum(), x)[0]


def test_bpda_takes_the_classifiers_gradient_at_the_purified_image(make, x) -> None:
    defense = make()
    expected = gradient(lambda defense, x: defense.classify(x), defense, purified(defense, x))
    torch.testing.assert_close(gradient(bpda, defense, x), expected)


def test_the_exact_gradient_is_that_of_bpda_but_for_pixels_stopped_at_0_or_1(make, x) -> None:
    defense = make(steps=1)
    moved, by_bpda, by_exact = purified(defense, x), gradient(bpda, defense, x), gradient(exact, defense, x)
    stopped = ((moved == 0) | (moved == 1)) & ((moved - x).abs() < 8 / 255 - 1e-6)
    assert stopped.any()
    assert not stopped.all()
    torch.testing.assert_close(by_exact, torch.where(stopped, 0.0, by_bpda))


class Sign(torch.autograd.Function):
    """The sign, with a slope for its derivative."""

    @staticmethod
    def forward(ctx, m: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return m.sign()

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.saved_tensors[0], None


def naive_step(m: Tensor, variant: dict[str, Any]) -> Tensor:
    if variant.get("norm") == "L2":
        return m / m.norm()
    scale = m.detach().square().sum() / m.detach().abs().sum()
    slopes = {
        "zero": torch.zeros_like(m),
        "straight_through": torch.ones_like(m) / scale,
        "tanh": 1 / (0.7 * scale * (m.detach() / (0.7 * scale)).cosh() ** 2),
    }
    return Sign.apply(m, slopes[variant["sign_gradient"]])


def naive_margin(defense: RDC, x: Tensor, seed: Tensor, steps: int, variant: dict[str, Any]) -> Tensor:
    """Algorithm 1 on one image, (1, 1, 8, 8), as one graph of everything: the logit of class 3 less that of 5."""
    betas = [(0.1 + 19.9 * step / 999) / 1000 for step in range(1000)]

    def loss(image: Tensor, y: int, key: Tensor) -> Tensor:
        terms = []
        for t in (250, 500, 750, 1000):
            alpha = math.prod(1 - beta for beta in betas[:t])
            eps = normal(fold(key, y, t, 0), (1, 8, 8), torch.float64)
            x_t = math.sqrt(alpha) * (2 * image - 1) + math.sqrt(1 - alpha) * eps
            found = defense.denoiser.network(x_t, torch.tensor([t - 1]), torch.tensor([y]))
            terms.append((found - eps).square().mean() / 4)
        return torch.stack(terms).sum()

    eta = 0.5 if variant.get("norm") == "L2" else 8 / 255
    moved, m = x, torch.zeros_like(x)
    for n in range(steps):
        (g,) = torch.autograd.grad(loss(moved, NO_CLASS, fold(seed, PURIFY, n)), moved, create_graph=True)
        m = m - g / g.abs().sum()
        moved = (moved + eta / steps * naive_step(m, variant)).clamp(0, 1)
    return loss(moved, 5, seed) - loss(moved, 3, seed)


VARIANTS: dict[str, dict[str, Any]] = {
    "zero": {"sign_gradient": "zero"},
    "straight_through": {"sign_gradient": "straight_through"},
    "tanh": {"sign_gradient": "tanh", "sign_temperature": 0.7},
    "L2": {"norm": "L2"},
}


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("steps", [1, 3])
def test_the_exact_gradient_is_that_of_autograd_on_one_whole_graph(make, x, steps, variant) -> None:
    defense, images = make(steps=steps, chunk=3, **VARIANTS[variant]).double(), x.double()
    expected = torch.zeros_like(images)
    for n in range(2):
        alone = images[n, None].clone().requires_grad_()
        margin = naive_margin(defense, alone, SEEDS[n, None], steps, VARIANTS[variant])
        expected[n] = torch.autograd.grad(margin, alone)[0][0]
    found = gradient(exact, defense, images)
    assert float((found - expected).norm() / expected.norm()) < 1e-9
    if variant != "zero":
        by_bpda = gradient(bpda, defense, images)
        assert float((by_bpda - expected).norm() / expected.norm()) > 0.01


def test_its_own_timesteps_can_be_fewer_than_the_classifiers(make, x) -> None:
    few, many = make(purify_timesteps=2), make()
    assert [len(loss.grid) for loss in (few.maximization.loss, many.maximization.loss, few.loss)] == [2, 4, 4]
    assert few.cost() < many.cost()
    assert few.cost() > 10 * 4 + 3 * 2


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"eta": Quantity(8)}, "eta is 8"),
        ({"norm": "L2", "sign_gradient": "tanh"}, "sign_gradient is 'tanh'"),
        ({"purify_timesteps": 1001}, "purify_timesteps is 1001"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(make, options, complaint) -> None:
    with pytest.raises(UserError) as error:
        make(**options)
    assert complaint in str(error.value)


@pytest.mark.parametrize("surrogate", ["straight_through", "tanh"])
def test_a_surrogate_view_has_the_defenses_own_values_and_the_gradient_of_one_built_with_it(
    make, x, surrogate: Gradient
) -> None:
    def asked(defense: RDC, view: Gradient) -> tuple[Tensor, Tensor]:
        images = x.clone().requires_grad_()
        with defense.drawing(SEEDS):
            logits = VIEWS[view](defense, images)
            (grad,) = torch.autograd.grad(logits[:, 0].sum(), images)
        return logits.detach(), grad

    defense = make()
    logits, grad = asked(defense, surrogate)
    expected, built = asked(make(sign_gradient=surrogate), "exact")
    assert logits.equal(expected) and grad.equal(built)
    assert not torch.allclose(grad, asked(defense, "exact")[1])
    assert defense.maximization.sign_gradient == "zero"


@pytest.mark.parametrize("options", [{"norm": "L2"}, {"optimizer": "adam"}])
def test_a_defense_whose_purification_takes_no_sign_has_no_surrogate_of_one(make, options) -> None:
    assert missing(make(**options), "tanh") == "purify_with_surrogate(x, 'tanh')"
    assert missing(make(), "tanh") is None
