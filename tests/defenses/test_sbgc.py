from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from defenses.diffusion.denoiser import NO_CLASS
from defenses.networks.ncsnpp import NCSNpp
from defenses.sbgc import SBGC
from harness.checks import check_defense
from harness.errors import UserError
from harness.randomness import fold
from harness.weights import Checkpoint
from helpers.originals import fill, golden, rule_image, rule_noise

pytestmark = pytest.mark.slow

ARGUMENTS = dict(image_size=8, channels=1, nf=8, ch_mult=[1, 2], num_res_blocks=1, attn_resolutions=[], num_classes=10)
SEEDS = torch.tensor([5, 1 << 61])


@pytest.fixture
def make(tmp_path) -> Callable[..., SBGC]:
    """make(**options): an SBGC on a tiny network, 3 steps unless told otherwise."""
    save_file(fill(NCSNpp(**ARGUMENTS), exempt=["sigmas"]).state_dict(), tmp_path / "tiny.safetensors")
    weights, network = Checkpoint.find(str(tmp_path / "tiny.safetensors")), {"type": "ncsnpp", **ARGUMENTS}
    return lambda **options: SBGC(weights, **{"network": network, "steps": 3, **options})


@pytest.fixture
def x() -> Tensor:
    return rule_image((2, 1, 8, 8))


def ask(defense: SBGC, x: Tensor, seeds: Tensor = SEEDS) -> Tensor:
    with torch.no_grad(), defense.drawing(seeds):
        return defense(x)


def test_its_logits_are_the_original_ones(
    tmp_path,
) -> None:
    arguments = dict(image_size=16, nf=32, ch_mult=[1, 2, 2], num_res_blocks=2, attn_resolutions=[8], num_classes=10)
    save_file(fill(NCSNpp(**arguments), exempt=["sigmas"]).state_dict(), tmp_path / "original.safetensors")
    defense = SBGC(
        Checkpoint.find(str(tmp_path / "original.safetensors")),
        network={"type": "ncsnpp", **arguments},
        solver="euler",
        steps=5,
        spacing="uniform",
        time="rounded",
    )

    def signs(seeds: Tensor, classes: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        return rule_noise((768,), dtype=dtype).sign().view(1, 1, *shape).expand(1, len(seeds), *shape)

    defense.flow = dataclasses.replace(defense.flow, signs=signs)
    expected = torch.tensor(golden("sbgc")["float32"]["euler5/image0/minus_bpd(=forward output)"])
    logits = ask(defense, rule_image((2, 3, 16, 16))[:1], SEEDS[:1])[0]
    torch.testing.assert_close(logits / math.log(2) - 8, expected, rtol=2e-4, atol=0)


def test_logits_are_the_log_likelihoods_of_the_classes(make, x) -> None:
    mean, total = (ask(make(reduction=reduction), x) for reduction in ("mean", "sum"))
    torch.testing.assert_close(mean * 64, total)
    defense = make()
    for y in (0, 7):
        nats = defense.log_likelihood(x, torch.full((2,), y))
        torch.testing.assert_close(nats, total[:, y], rtol=1e-5, atol=0)  # alone and among ten classes: other batches
        torch.testing.assert_close(defense.bits_per_dim(x, torch.full((2,), y)), 8 - nats / (64 * math.log(2)))


def test_energy_is_minus_the_log_likelihood_without_a_class(make, x) -> None:
    for reduction, scale in {"mean": 64, "sum": 1}.items():
        defense = make(reduction=reduction)
        energy = defense.energy(x)
        torch.testing.assert_close(energy, -defense.log_likelihood(x, torch.full((2,), NO_CLASS)))
        assert defense.logit_scale(x) == scale
        assert (energy[:, None] != -scale * ask(defense, x)).all()


def test_fixed_noise_is_the_default_and_makes_it_deterministic(make, x) -> None:
    defense = make()
    assert not defense.stochastic
    assert torch.equal(ask(defense, x), ask(defense, x, fold(SEEDS, 1)))


def test_fresh_noise_differs_between_votes_and_repeats_to_the_bit(make, x) -> None:
    defense = make(noise="fresh")
    assert defense.stochastic
    assert torch.equal(ask(defense, x), ask(defense, x))
    assert (ask(defense, x) != ask(defense, x, fold(SEEDS, 1))).all()


def test_an_image_has_the_same_logits_in_any_batch(make, x) -> None:
    defense = make(noise="fresh", start=0.01)
    together, alone = ask(defense, x), ask(defense, x[1:], SEEDS[1:])
    torch.testing.assert_close(together[1:], alone, rtol=1e-5, atol=1e-5)


def test_adaptive_steps_give_an_image_the_same_likelihood_in_any_batch(make, x) -> None:
    defense, y = make(solver="dopri5", tolerance=1.0, start=0.1), torch.tensor([2, 4])
    together, alone = defense.log_likelihood(x, y), defense.log_likelihood(x[1:], y[1:])
    torch.testing.assert_close(together[1:], alone, rtol=1e-5, atol=0)


def test_options_that_mean_something_change_the_logits(make, x) -> None:
    plain = ask(make(noise="fresh"), x)
    for options in (
        {"solver": "euler"},
        {"steps": 4},
        {"spacing": "uniform"},
        {"time": "rounded"},
        {"start": 1e-3},
        {"samples": 2},
        {"share_noise": "none"},
    ):
        assert not torch.allclose(plain, ask(make(noise="fresh", **options), x)), options


def test_memory_knobs_change_no_number(make, x) -> None:
    plain, tuned = (ask(make(**knobs), x) for knobs in ({}, {"chunk": 3, "gradient_passes": "single"}))
    torch.testing.assert_close(plain, tuned, rtol=1e-5, atol=1e-5)


def test_it_keeps_the_contract(make, x) -> None:
    findings = check_defense(make(solver="euler", steps=2), x)
    assert [f"{v.name}: {v.message}" for v in findings if v.status == "failed"] == []


def test_its_gradient_agrees_in_both_passes(make, x) -> None:
    gradients = []
    for passes in ("two", "single"):
        defense, images = make(gradient_passes=passes).double(), x.double().requires_grad_()
        logits = defense(images)
        gradients.append(torch.autograd.grad(logits[:, 3].sum() - logits[:, 5].sum(), images)[0])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-9, atol=1e-14)
    assert gradients[0].flatten(1).norm(dim=1).min() > 0


def test_its_cost_counts_evaluations_with_their_products(make) -> None:
    assert make(solver="rk4", steps=7).cost() == pytest.approx(2.2 * 10 * 4 * 7)
    assert make(solver="euler", steps=7).cost() == pytest.approx(2.2 * 10 * 7)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"samples": 0}, "samples is 0"),
        ({"chunk": 0}, "chunk is 0"),
        ({"tolerance": 0.0}, "tolerance is 0.0"),
        ({"start": 0.0}, "start is 0.0"),
        ({"start": 1.0}, "start is 1.0"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(make, options, complaint) -> None:
    with pytest.raises(UserError) as error:
        make(**options)
    assert complaint in str(error.value)
