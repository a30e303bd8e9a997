"""RDC as its authors released it: Adam, one random noise level a step; against one whole graph in float64."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from defenses.diffusion.denoiser import NO_CLASS
from defenses.diffusion.likelihood import PURIFY, LikelihoodMaximization
from defenses.diffusion.random_times import RandomTimes
from defenses.likelihood_maximizer import LikelihoodMaximizer
from defenses.networks.edm import EDM
from defenses.networks.ncsnpp import NCSNpp
from defenses.rdc import RDC
from defenses.undefended import Undefended
from harness.errors import UserError
from harness.gradients import bpda, exact
from harness.quantity import Quantity
from harness.randomness import fold, normal
from harness.suite import load_suite
from harness.weights import Checkpoint
from helpers.originals import fill, rule_image

NCSNPP = dict(image_size=8, channels=1, nf=8, ch_mult=[1, 2], num_res_blocks=1, attn_resolutions=[], num_classes=10)
EDM_ARGUMENTS = dict(
    img_resolution=8, img_channels=1, label_dim=3, sigma_data=0.75, model_channels=8, channel_mult=[1], num_blocks=1,
    attn_resolutions=[], augment_dim=0, dropout=0.0, knows_no_class=True,
)  # fmt: skip
SEEDS = torch.tensor([5, 1 << 61])
ONE = RandomTimes(random=1, low=135, high=200)
FREE = {"norm": "L2", "eta": Quantity(100)}


@pytest.fixture
def saved(tmp_path) -> Callable[[torch.nn.Module], Checkpoint]:
    def save(network: torch.nn.Module) -> Checkpoint:
        path = tmp_path / f"{type(network).__name__}.safetensors"
        exempt = [name for name in network.state_dict() if name == "sigmas" or name.endswith("resample_filter")]
        save_file(fill(network, exempt).state_dict(), path)
        return Checkpoint.find(str(path))

    return save


@pytest.fixture
def released(saved) -> Callable[..., RDC]:
    """released(**options): what the suites call as released, on a tiny EDM network, in 3 steps."""

    def make(**options) -> RDC:
        classifier = {"weighting": "edm_reference", "timesteps": 4}
        given = {**classifier, "steps": 3, "purify_timesteps": ONE, "optimizer": "adam", **FREE, **options}
        return RDC(saved(EDM(**EDM_ARGUMENTS)), network={"type": "edm", **EDM_ARGUMENTS}, **given)

    return make


@pytest.fixture
def x() -> Tensor:
    """Two images with pixels at 0 and at 1."""
    return (1.3 * rule_image((2, 1, 8, 8)) - 0.15).clamp(0, 1).double()


def naive_purify(defense: RDC, x: Tensor, seed: Tensor, steps: int, rate: float) -> Tensor:
    """One image (1, 1, 8, 8) in [-1, 1], where the released code steps by 0.1, as one graph of everything."""
    network, image = defense.denoiser.network, 2 * x - 1  # type: ignore[attr-defined]
    m = v = torch.zeros_like(image)
    for n in range(steps):
        key = fold(seed, PURIFY, n)
        draws = defense.maximization.draws
        assert draws is not None
        t = int(draws(key).timesteps)
        sigma = 1e-4 + (t - 1) * (3 - 1e-4) / 1000
        assert 0.4 <= sigma <= 0.6
        eps = normal(fold(key, NO_CLASS, t, 0), (1, 8, 8), torch.float64)
        denoised = network(image + sigma * eps, torch.tensor([sigma], dtype=torch.float64), torch.tensor([NO_CLASS]))
        (g,) = torch.autograd.grad((denoised - image).square().mean(), image, create_graph=True)
        g = 2 * g  # Adam's 1e-8 is for gradients in [0, 1] here
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        step = (m / (1 - 0.9 ** (n + 1))) / ((v / (1 - 0.999 ** (n + 1))).sqrt() + 1e-8)
        image = image - 2 * rate * step
    return ((image + 1) / 2).clamp(0, 1)


@pytest.mark.parametrize("steps", [1, 3])
def test_images_and_exact_gradient_are_those_of_one_whole_graph(released, x, steps) -> None:
    defense, weights = released(steps=steps, chunk=1).double(), normal(torch.arange(2), (1, 8, 8), torch.float64)
    own = x.clone().requires_grad_()
    with defense.drawing(SEEDS):
        moved = defense.purify(own)
    (found,) = torch.autograd.grad((weights * moved).sum(), own)
    for n in range(2):
        alone = x[n, None].clone().requires_grad_()
        expected = naive_purify(defense, alone, SEEDS[n, None], steps, 0.05)
        torch.testing.assert_close(moved[n, None].detach(), expected.detach(), rtol=0, atol=1e-9)
        (gradient,) = torch.autograd.grad((weights[n] * expected).sum(), alone)
        assert float((found[n] - gradient[0]).norm() / gradient.norm()) < 1e-7
    if steps > 1:
        free = (moved > 0) & (moved < 1)
        assert float(((found - weights) * free).norm() / weights.norm()) > 0.01  # no identity, as BPDA has it


def test_it_moves_further_than_eta_n_steps_long_unless_told_otherwise(released, x) -> None:
    near = {"norm": "Linf", "eta": Quantity("8/255")}

    def distance(defense: RDC) -> float:
        with torch.no_grad(), defense.double().drawing(SEEDS):
            return float((defense.purify(x) - x).abs().max())

    assert distance(released(steps=5)) > 0.1
    assert distance(released(steps=5, **near)) == pytest.approx(8 / 255, abs=1e-9)
    assert distance(released(steps=1, learning_rate=0.01)) == pytest.approx(0.01, rel=1e-3)


def test_votes_differ_in_timesteps_and_fixed_noise_fixes_those_too(released, x) -> None:
    def purified(defense: RDC, seeds: Tensor) -> Tensor:
        with torch.no_grad(), defense.double().drawing(seeds):
            return defense.purify(x)

    fresh, fixed = released(), released(noise="fixed")
    assert torch.equal(purified(fresh, SEEDS), purified(fresh, SEEDS))
    assert (purified(fresh, SEEDS) != purified(fresh, fold(SEEDS, 1))).flatten(1).any(1).all()
    assert not fixed.stochastic and torch.equal(purified(fixed, SEEDS), purified(fixed, fold(SEEDS, 1)))
    torch.testing.assert_close(purified(fresh, SEEDS)[1:], _alone(fresh, x[1:], SEEDS[1:]))


def _alone(defense: RDC, x: Tensor, seeds: Tensor) -> Tensor:
    with torch.no_grad(), defense.drawing(seeds):
        return defense.purify(x)


def test_its_cost_is_that_of_the_timesteps_drawn(released) -> None:
    one, two, all_ = (
        released(purify_timesteps=times).maximization.cost() for times in (ONE, RandomTimes(random=2), "all")
    )
    assert two == 2 * one and all_ == 1000 * one


def test_both_gradients_are_finite_through_the_classifier_too(released, x) -> None:
    defense = released().double()
    gradients = []
    for view in (bpda, exact):
        own = x.clone().requires_grad_()
        with defense.drawing(SEEDS):
            logits = view(defense, own)
        gradients.append(torch.autograd.grad((logits[:, 1] - logits[:, 2]).sum(), own)[0])
    assert all(g.isfinite().all() and g.any() for g in gradients)
    assert float((gradients[0] - gradients[1]).norm() / gradients[0].norm()) > 0.01


def test_the_likelihood_maximizer_takes_the_same(saved, x) -> None:
    weights, network = saved(NCSNpp(**NCSNPP)), {"type": "ncsnpp", **NCSNPP}
    options = {"network": network, "steps": 2, "optimizer": "adam"}
    rdc = RDC(weights, purify_timesteps=RandomTimes(random=2), **options)
    maximizer = LikelihoodMaximizer(weights, Undefended("digits-cnn"), timesteps=RandomTimes(random=2), **options)
    images = []
    for defense in (rdc, maximizer):
        with torch.no_grad(), defense.drawing(SEEDS):
            images.append(defense.purify(x.float()))
    torch.testing.assert_close(*images, rtol=0, atol=1e-6)
    with maximizer.drawing(SEEDS):
        assert maximizer.energy(x.float()).isfinite().all()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"optimizer": "adam", "momentum": 0.0}, "momentum is 0.0, but Adam has its own"),
        ({"optimizer": "adam", "learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"optimizer": "adam", "sign_gradient": "tanh"}, "steps of Adam take no sign"),
        ({"learning_rate": 0.1}, "learning_rate is 0.1, but steps of Algorithm 1"),
    ],
)
def test_arguments_of_one_optimizer_are_refused_for_the_other(released, options, complaint) -> None:
    loss = released().maximization.loss
    with pytest.raises(UserError, match=complaint):
        LikelihoodMaximization(loss, **options)


def test_a_suite_writes_it_in_one_line_and_misspellings_are_told(tmp_path: Path) -> None:
    def suite(times: str) -> Path:
        path = tmp_path / "suite.yaml"
        path.write_text(
            "suite: s\ndataset: {name: digits, first: 2}\n"
            f"defenses: {{rdc: {{weights: digits-edm, optimizer: adam, purify_timesteps: {times}}}}}\n"
            "attacks: {none: {type: clean}}\n"
        )
        return path

    (cell,) = load_suite(suite("{random: 1, low: 135, high: 200}")).cells
    assert cell.defense.arguments["purify_timesteps"] == ONE
    assert cell.defense.resolved()["purify_timesteps"] == {"random": 1, "low": 135, "high": 200}
    assert cell.defense.build().maximization.draws.count == 1
    for wrong, complaint in [("{randon: 1}", "random"), ("{random: one}", "whole number")]:
        with pytest.raises(UserError, match=complaint):
            load_suite(suite(wrong))
