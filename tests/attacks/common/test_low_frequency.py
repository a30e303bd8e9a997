"""The low frequencies of an image against scipy's DCT; and PGD along them, which stays in its ball."""

from __future__ import annotations

import pytest
import torch
from scipy.fft import dctn, idctn

from attacks.common.low_frequency import unit_low
from attacks.pgd import PGD
from harness.attack import Adversarial
from harness.quantity import Quantity
from harness.randomness import normal, uniform
from harness.threat import L2, TOLERANCE, Linf
from harness.threats.frequencies import low_pass
from helpers.linear import Linear, target_of

N, SHAPE = 6, (2, 6, 8)
X = uniform(torch.arange(N), SHAPE)
W = normal(torch.tensor([1, 2]), (2 * 6 * 8,))


@pytest.mark.parametrize("lowest", [1, 3, 6, 7, 100])
def test_low_pass_keeps_the_first_coefficients_of_a_dct(lowest: int) -> None:
    spectrum = dctn(X.double().numpy(), axes=(2, 3), norm="ortho")
    spectrum[:, :, lowest:], spectrum[:, :, :, lowest:] = 0, 0
    assert torch.allclose(
        low_pass(X, lowest).double(), torch.from_numpy(idctn(spectrum, axes=(2, 3), norm="ortho")), atol=1e-6
    )
    assert lowest < 8 or torch.allclose(low_pass(X, lowest), X, atol=1e-6)


@pytest.mark.parametrize("threat", [Linf(Quantity("0.1")), L2(Quantity(1))])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e20])
def test_a_step_has_a_length_of_one_and_low_frequencies_alone(threat: Linf | L2, scale: float) -> None:
    step = unit_low(scale * normal(torch.arange(N), SHAPE), 3, threat)
    assert torch.allclose(threat.size(torch.zeros_like(step), step), torch.ones(N), atol=1e-5)
    assert torch.allclose(low_pass(step, 3), step, atol=1e-5)
    assert unit_low(torch.zeros(1, *SHAPE), 3, threat).abs().max() == 0


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("random_start", [False, True])
def test_what_is_not_clipped_has_low_frequencies_alone(norm: str, random_start: bool) -> None:
    """Away from the edges of ball and box, the perturbation is the field; beyond, it is within the ball."""
    x, y = 0.4 + 0.2 * X, Linear(W)(0.4 + 0.2 * X).argmax(1)
    options = dict(steps=4, loss="margin", low_frequency=3, random_start=random_start)
    inside = PGD(norm, Quantity(1), step_size=Quantity("0.01"), **{**options, "random_start": False})  # type: ignore[arg-type]
    moved = Adversarial.of(inside.perturb(target_of(inside, Linear(W), x), x, y)).images.detach() - x
    assert torch.allclose(low_pass(moved, 3), moved, atol=1e-5) and moved.abs().amax((1, 2, 3)).min() > 1e-3
    attack = PGD(norm, Quantity("0.05"), **options)  # type: ignore[arg-type]
    found = Adversarial.of(attack.perturb(target_of(attack, Linear(W), X), X, y)).images
    assert attack.threat.violation(X, found).max() <= TOLERANCE


def test_on_a_classifier_of_low_frequencies_it_reaches_the_worst_case_in_l2() -> None:
    """Of a linear classifier whose weights have low frequencies alone, the worst perturbation has, too."""
    low = low_pass(W.view(2, *SHAPE), 2).flatten(1)
    x, defense = 0.4 + 0.2 * X, Linear(low)
    y = defense(x).argmax(1)
    attack = PGD("L2", Quantity("0.05"), steps=5, loss="margin", low_frequency=2, early_stop=False, random_start=False)
    found = Adversarial.of(attack.perturb(target_of(attack, defense, x), x, y)).images.detach()
    rows = torch.arange(N)
    reached = (defense(found)[rows, 1 - y] - defense(found)[rows, y]).detach()
    clean = (defense(x)[rows, 1 - y] - defense(x)[rows, y]).detach()
    assert torch.allclose(reached, clean + 0.05 * (low[0] - low[1]).norm(), atol=1e-4)


def test_l1_is_refused() -> None:
    with pytest.raises(ValueError, match="low_frequency"):
        PGD("L1", Quantity(1), low_frequency=3)
