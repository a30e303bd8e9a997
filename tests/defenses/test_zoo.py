"""What the README says of the packaged defenses holds on images that its table does not show."""

from __future__ import annotations

import pytest
import torch

from attacks.pgd import PGD
from defenses.dc import DC
from defenses.jem import JEM
from defenses.pat import PAT
from defenses.rdc import RDC
from defenses.undefended import Undefended
from harness import datasets
from harness.config.registry import find
from harness.defense import Defense
from harness.quantity import Quantity
from harness.randomness import row_seeds
from harness.target import Target
from harness.weights import Checkpoint, packaged

pytestmark = pytest.mark.slow

COUNT = 100
AT, HybViT = find("defenses", "at"), find("defenses", "hybvit")


@pytest.fixture(scope="module")
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    data = datasets.load("digits", "test")
    return data.images[-COUNT:], data.labels[-COUNT:]


def accuracy(defense: Defense, x: torch.Tensor, y: torch.Tensor) -> float:
    with torch.no_grad(), defense.drawing(row_seeds(0, torch.arange(len(x)))):
        return (defense(x).argmax(1) == y).float().mean().item()


@pytest.mark.long
@pytest.mark.parametrize("cls", [DC, RDC])
def test_diffusion_classifiers_know_95_percent_of_clean_digits(cls: type[DC], digits) -> None:
    options = {"steps": 5, "eta": Quantity(0.2)} if cls is RDC else {}
    defense = cls(Checkpoint.find("digits-ncsnpp"), timesteps=10, share_noise="classes", **options).eval()
    assert accuracy(defense, *digits) >= 0.95


@pytest.mark.parametrize(
    ("norm", "eps", "held"),
    [("Linf", 0.2, "digits-at-linf"), ("L2", 1.0, "digits-at-l2"), ("Linf", 0.2, "digits-trades-linf")],
)
def test_adversarial_training_holds_where_the_undefended_model_falls(norm: str, eps: float, held: str, digits) -> None:
    x, y = digits
    attack, robust = PGD(norm, Quantity(eps), steps=30, loss="margin"), {}
    for name, cls in (("digits-cnn", Undefended), (held, AT)):
        defense = cls(Checkpoint.find(name)).eval()
        x_adv = attack.perturb(Target(defense, x, row_seeds(0, torch.arange(len(x)))), x, y)
        robust[name] = accuracy(defense, x_adv, y)
    assert robust["digits-cnn"] <= 0.02
    assert robust[held] >= 0.35


def test_all_packaged_weights_together_are_small() -> None:
    assert sum(path.stat().st_size for path in packaged().values()) <= 16e6


@pytest.mark.parametrize(
    ("defense", "weights", "least"),
    [
        (AT, "digits-at-linf", 0.9),
        (AT, "digits-at-l2", 0.9),
        (AT, "digits-trades-linf", 0.9),
        (PAT, "digits-pat", 0.9),
        (HybViT, "digits-hybvit", 0.9),
        (JEM, "digits-jem", 0.85),
    ],
)
def test_defended_classifiers_know_clean_digits(defense: type[Undefended], weights: str, least: float, digits) -> None:
    options = {"noise": 0.03} if defense is JEM else {}
    assert accuracy(defense(Checkpoint.find(weights), **options).eval(), *digits) >= least


def test_perceptual_training_holds_within_a_pixel_budget_that_it_never_saw(digits) -> None:
    """The same network trained without an attack keeps hardly any image."""
    x, y = digits
    defense, attack = PAT(Checkpoint.find("digits-pat")).eval(), PGD("L2", Quantity(0.5), steps=30, loss="margin")
    x_adv = attack.perturb(Target(defense, x, row_seeds(0, torch.arange(len(x)))), x, y)
    assert accuracy(defense, x_adv, y) >= 0.6


def test_the_energy_of_jem_is_lower_for_digits_than_for_noise_and_for_shuffled_pixels(digits) -> None:
    x, _ = digits
    jem = JEM(Checkpoint.find("digits-jem")).eval()
    pixels = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    shuffled = x.flatten(2)[:, :, pixels].view_as(x)
    with torch.no_grad():
        own, others = jem.energy(x), [jem.energy(images) for images in (torch.rand_like(x), shuffled)]
    assert all((own < other).float().mean() >= 0.95 for other in others)


def test_hybvit_estimates_noise_better_than_the_best_guess_pixel_by_pixel(digits) -> None:
    """Over all timesteps alike, as it was trained; the guess is the linear one, from each pixel's mean and variance."""
    x = 2 * digits[0].repeat(10, 1, 1, 1) - 1
    network, seen = Checkpoint.find("digits-hybvit").network(), 2 * datasets.load("digits", "train").images - 1
    generator = torch.Generator().manual_seed(0)
    t, eps = torch.randint(1000, (len(x),), generator=generator), torch.randn(x.shape, generator=generator)
    x_t, signal = network.add_noise(x, t, eps), network.alphas_cumprod[t].view(-1, 1, 1, 1)
    spread = signal * seen.var(0) + 1 - signal
    guess = (1 - signal).sqrt() * (x_t - signal.sqrt() * seen.mean(0)) / spread
    with torch.no_grad():
        found = network.noise_estimate(x_t, t)
    assert (found - eps).square().mean() < 0.95 * (guess - eps).square().mean() < eps.square().mean()
