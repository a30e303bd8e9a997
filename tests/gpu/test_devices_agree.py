"""What a GPU computes is what the CPU computes, up to float rounding."""

from __future__ import annotations

import pytest
import torch

from attacks.pgd import PGD
from defenses.dc import DC
from defenses.undefended import Undefended
from harness import datasets
from harness.quantity import Quantity
from harness.randomness import normal, row_seeds, uniform
from harness.target import Target
from harness.weights import Checkpoint

pytestmark = pytest.mark.gpu


def test_noise_does_not_depend_on_the_device() -> None:
    seeds = row_seeds(1, torch.arange(16))
    assert torch.equal(uniform(seeds, (3, 8, 8)), uniform(seeds.cuda(), (3, 8, 8)).cpu())
    torch.testing.assert_close(normal(seeds, (3, 8, 8)), normal(seeds.cuda(), (3, 8, 8)).cpu(), rtol=1e-6, atol=1e-6)


def test_a_diffusion_classifier_has_the_same_logits_and_gradient() -> None:
    x = datasets.load("digits", "test").images[:4]
    defense = DC(Checkpoint.find("digits-ncsnpp"), timesteps=5, noise="fixed").eval()
    found = []
    for device in ("cpu", "cuda"):
        images = x.to(device, copy=True).requires_grad_()
        logits = defense.to(device)(images)
        (gradient,) = torch.autograd.grad(logits[:, 0].sum() - logits[:, 1].sum(), images)
        found.append((logits.detach().cpu(), gradient.cpu()))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-2, atol=1e-3)


def test_pgd_keeps_its_budget() -> None:
    data = datasets.load("digits", "test")
    x, y = data.images[:32].cuda(), data.labels[:32].cuda()
    defense = Undefended(Checkpoint.find("digits-cnn")).eval().cuda()
    attack = PGD("Linf", Quantity(0.2), steps=20)
    x_adv = attack.perturb(Target(defense, x, row_seeds(0, torch.arange(32).cuda())), x, y)
    assert attack.threat.violation(x, x_adv).max() <= 1e-6
    assert (defense(x_adv).argmax(1) == y).float().mean() < 0.1
