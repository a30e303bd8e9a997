from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from defenses.dc import DC
from defenses.networks.ncsnpp import NCSNpp
from harness.cards import Card
from harness.errors import UserError
from harness.randomness import fold, normal
from harness.weights import Checkpoint

ARGUMENTS = dict(image_size=8, channels=1, nf=8, ch_mult=[1, 2], num_res_blocks=1, attn_resolutions=[], num_classes=10)
SEEDS = torch.tensor([5, 1 << 61])


@pytest.fixture
def make(fill, tmp_path) -> Callable[..., DC]:
    """make(**options): a DC on a tiny network, 8 timesteps unless told otherwise."""
    save_file(fill(NCSNpp(**ARGUMENTS), exempt=["sigmas"]).state_dict(), tmp_path / "tiny.safetensors")
    weights = Checkpoint.find(str(tmp_path / "tiny.safetensors"))
    return lambda **options: DC(weights, **{"network": {"type": "ncsnpp", **ARGUMENTS}, "timesteps": 8, **options})


@pytest.fixture
def x(rule_image) -> Tensor:
    return rule_image((2, 1, 8, 8))


def ask(defense: DC, x: Tensor, seeds: Tensor) -> Tensor:
    with torch.no_grad(), defense.drawing(seeds):
        return defense(x)


def test_logits_are_those_of_a_triple_loop(make, x) -> None:
    defense = make()
    betas = [(0.1 + 19.9 * step / 999) / 1000 for step in range(1000)]
    expected = torch.zeros(2, 10)
    for n in range(2):
        for y in range(10):
            for t in range(125, 1001, 125):
                alpha = math.prod(1 - beta for beta in betas[:t])
                eps = normal(fold(SEEDS[n, None], y, t, 0), (1, 8, 8))
                x_t = math.sqrt(alpha) * (2 * x[n, None] - 1) + math.sqrt(1 - alpha) * eps
                found = defense.denoiser.network(x_t, torch.tensor([t - 1]), torch.tensor([y]))
                expected[n, y] -= float((found - eps).square().mean()) / 8
    torch.testing.assert_close(ask(defense, x, SEEDS), expected, rtol=1e-5, atol=0)


def test_votes_differ_and_each_can_be_repeated_to_the_bit(make, x) -> None:
    defense = make()
    assert defense.stochastic
    assert torch.equal(ask(defense, x, SEEDS), ask(defense, x, SEEDS))
    assert (ask(defense, x, SEEDS) != ask(defense, x, fold(SEEDS, 1))).all()


def test_fixed_noise_makes_a_deterministic_defense(make, x) -> None:
    defense = make(noise="fixed")
    assert not defense.stochastic
    assert torch.equal(defense(x), ask(defense, x, SEEDS))


def test_an_image_has_the_same_logits_in_any_batch(make, x) -> None:
    defense = make()
    together, alone = ask(defense, x, SEEDS), ask(defense, x[1:], SEEDS[1:])
    torch.testing.assert_close(together[1:], alone, rtol=1e-5, atol=0)


def test_noise_shared_over_classes_changes_the_logits_and_nothing_else(make, x) -> None:
    none, classes = (ask(make(share_noise=share), x, SEEDS) for share in ("none", "classes"))
    torch.testing.assert_close(none[:, 0], classes[:, 0])  # class 0 is the one whose noise all share
    assert (none[:, 1:] != classes[:, 1:]).all()


def test_a_prior_is_added_on_the_scale_of_likelihoods(make, x) -> None:
    prior = [0.91] + [0.01] * 9
    for reduction, scale in {"sum": 1, "mean": 64}.items():
        uniform, skewed = (ask(make(reduction=reduction, prior=p), x, SEEDS) for p in (None, prior))
        torch.testing.assert_close(
            skewed - uniform, torch.tensor(prior).log().expand(2, -1) / scale, rtol=1e-3, atol=1e-5
        )


def test_energy_is_the_unconditional_loss(make, x) -> None:
    defense = make(timesteps=[10])
    with defense.drawing(SEEDS):
        energy = defense.energy(x.requires_grad_())
    eps = torch.cat([normal(fold(seed[None], -1, 10, 0), (1, 8, 8)) for seed in SEEDS])
    t = torch.tensor([10, 10])
    x_t = defense.schedule.signal(t)[0].float() * (2 * x - 1) + defense.schedule.sigma(t)[0].float() * eps
    expected = (defense.denoiser.network(x_t, t - 1) - eps).square().mean((1, 2, 3))
    torch.testing.assert_close(energy, expected, rtol=1e-5, atol=0)
    found, wanted = (torch.autograd.grad(value.sum(), x)[0] for value in (energy, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-8)


def test_it_runs_in_float64(make, x) -> None:
    defense, double = make(noise="fixed"), make(noise="fixed").double()
    torch.testing.assert_close(double(x.double()).float(), defense(x), rtol=1e-4, atol=0)


def test_memory_knobs_change_no_number(make, x) -> None:
    plain, tuned = (ask(make(**knobs), x, SEEDS) for knobs in ({}, {"chunk": 9, "gradient_passes": "single"}))
    torch.testing.assert_close(plain, tuned, rtol=1e-5, atol=0)


def test_its_cost_is_an_evaluation_for_each_class_timestep_and_sample(make) -> None:
    assert make(timesteps=7, samples=3).cost() == 10 * 7 * 3
    assert make(timesteps="all").cost() == 10_000


def test_its_card_tells_the_network_the_classes_and_what_to_expect(make, tmp_path) -> None:
    card = Card.model_construct(
        network={"type": "ncsnpp", **ARGUMENTS}, num_classes=10, clean_accuracy=0.97, dataset="digits"
    )
    defense = DC(Checkpoint("tiny", tmp_path / "tiny.safetensors", card))
    assert (defense.num_classes, defense.expected_accuracy, defense.expected_dataset) == (10, 0.97, "digits")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"timesteps": 0}, "timesteps is 0"),
        ({"samples": 0}, "samples is 0"),
        ({"chunk": 0}, "chunk is 0"),
        ({"prior": [0.5, 0.5]}, "10 probabilities"),
        ({"prior": [0.2] * 10}, "sum to 1"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(make, options, complaint) -> None:
    with pytest.raises(UserError) as error:
        make(**options)
    assert complaint in str(error.value)
