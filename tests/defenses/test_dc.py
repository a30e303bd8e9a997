from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from defenses.dc import DC
from defenses.networks.edm import EDM
from defenses.networks.ncsnpp import NCSNpp
from harness.errors import UserError
from harness.randomness import fold, normal
from harness.weights import Checkpoint
from harness.weights.card import Card
from helpers.originals import fill, rule_image

ARGUMENTS = dict(image_size=8, channels=1, nf=8, ch_mult=[1, 2], num_res_blocks=1, attn_resolutions=[], num_classes=10)
HEADS = {**ARGUMENTS, "num_classes": None, "heads": 11, "null_head": True}
TEN_HEADS = {**ARGUMENTS, "num_classes": None, "heads": 10}
EDM_ARGUMENTS = dict(
    img_resolution=8, img_channels=1, label_dim=3, sigma_data=0.75, model_channels=8, channel_mult=[1], num_blocks=1,
    attn_resolutions=[], augment_dim=0, dropout=0.0,
)  # fmt: skip
SEEDS = torch.tensor([5, 1 << 61])


@pytest.fixture
def saved(tmp_path) -> Callable[..., str]:
    """saved(network): the path of a file of rule-made weights for it."""

    def save(network: torch.nn.Module) -> str:
        path = tmp_path / f"{type(network).__name__}_{len(list(tmp_path.iterdir()))}.safetensors"
        exempt = [name for name in network.state_dict() if name == "sigmas" or name.endswith("resample_filter")]
        save_file(fill(network, exempt).state_dict(), path)
        return str(path)

    return save


@pytest.fixture
def multi_head(saved) -> Callable[..., DC]:
    """multi_head(arguments, **options): a DC on a tiny network with many heads, noise shared over classes."""

    def make(arguments: dict = HEADS, **options) -> DC:
        options = {"share_noise": "classes", "timesteps": 8, **options}
        return DC(saved(NCSNpp(**arguments)), network={"type": "ncsnpp", **arguments}, **options)

    return make


@pytest.fixture
def edm(saved) -> Callable[..., DC]:
    """edm(**options): a DC of three classes on a tiny EDM network, 4 cells of sigma unless told otherwise."""
    weights, network = saved(EDM(**EDM_ARGUMENTS)), {"type": "edm", **EDM_ARGUMENTS}
    return lambda **options: DC(weights, network=network, **{"weighting": "edm", "timesteps": 4, **options})


@pytest.fixture
def make(tmp_path) -> Callable[..., DC]:
    """make(**options): a DC on a tiny network, 8 timesteps unless told otherwise."""
    save_file(fill(NCSNpp(**ARGUMENTS), exempt=["sigmas"]).state_dict(), tmp_path / "tiny.safetensors")
    weights = Checkpoint.find(str(tmp_path / "tiny.safetensors"))
    return lambda **options: DC(weights, **{"network": {"type": "ncsnpp", **ARGUMENTS}, "timesteps": 8, **options})


@pytest.fixture
def x() -> Tensor:
    return rule_image((2, 1, 8, 8))


def ask(defense: DC, x: Tensor, seeds: Tensor) -> Tensor:
    with torch.no_grad(), defense.drawing(seeds):
        return defense(x)


@pytest.mark.slow
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


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_energy_is_the_unconditional_loss_summed_over_pixels(make, x, reduction) -> None:
    defense = make(timesteps=[10], reduction=reduction)
    with defense.drawing(SEEDS):
        energy = defense.energy(x.requires_grad_())
    eps = torch.cat([normal(fold(seed[None], -1, 10, 0), (1, 8, 8)) for seed in SEEDS])
    t = torch.tensor([10, 10])
    x_t = defense.schedule.signal(t)[0].float() * (2 * x - 1) + defense.schedule.sigma(t)[0].float() * eps
    expected = (defense.denoiser.network(x_t, t - 1) - eps).square().sum((1, 2, 3))
    torch.testing.assert_close(energy, expected, rtol=1e-5, atol=0)
    found, wanted = (torch.autograd.grad(value.sum(), x)[0] for value in (energy, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_logits_times_their_scale_are_those_of_eq_6(make, x) -> None:
    mean, total = (make(timesteps=4, reduction=reduction) for reduction in ("mean", "sum"))
    assert (mean.logit_scale(x), total.logit_scale(x)) == (64, 1)
    torch.testing.assert_close(mean.logit_scale(x) * ask(mean, x, SEEDS), ask(total, x, SEEDS))


def test_it_runs_in_float64(make, x) -> None:
    defense, double = make(noise="fixed"), make(noise="fixed").double()
    torch.testing.assert_close(double(x.double()).float(), defense(x), rtol=1e-4, atol=0)


def test_memory_knobs_change_no_number(make, x) -> None:
    plain, tuned = (ask(make(**knobs), x, SEEDS) for knobs in ({}, {"chunk": 9, "gradient_passes": "single"}))
    torch.testing.assert_close(plain, tuned, rtol=1e-5, atol=0)


def test_its_cost_is_an_evaluation_for_each_class_timestep_and_sample(make) -> None:
    assert make(timesteps=7, samples=3).cost() == 10 * 7 * 3
    assert make(timesteps="all").cost() == 10_000


# --- all classes in one pass -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_many_heads_give_the_logits_and_gradients_of_a_pass_per_class(multi_head, x) -> None:
    x = x.double().requires_grad_()
    weights = torch.linspace(-1, 1, 10, dtype=torch.float64)
    for chunk in (1, 5, 64):
        defense = multi_head(chunk=chunk).double()
        with defense.drawing(SEEDS):
            logits = defense(x)
            each = -torch.cat([defense.loss(x, torch.tensor([k]), SEEDS) for k in range(10)], 1)
        torch.testing.assert_close(logits, each, rtol=1e-10, atol=0)
        found, expected = (torch.autograd.grad((value @ weights).sum(), x)[0] for value in (logits, each))
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-12)


def test_many_heads_cost_a_pass_per_timestep_and_sample(multi_head, x) -> None:
    defense, passes = multi_head(timesteps=7, samples=3, chunk=1), []
    defense.denoiser.network.register_forward_hook(lambda *_: passes.append(1))
    assert ask(defense, x, SEEDS).shape == (2, 10)
    assert len(passes) == 2 * 7 * 3
    assert defense.cost() == 7 * 3


def test_the_null_head_gives_the_energy_and_without_one_there_is_none(multi_head, x) -> None:
    defense = multi_head(timesteps=[10])
    with defense.drawing(SEEDS):
        energy = defense.energy(x)
    t = torch.tensor([10, 10])
    eps = torch.cat([normal(fold(seed[None], 0, 10, 0), (1, 8, 8)) for seed in SEEDS])
    x_t = defense.schedule.signal(t)[0].float() * (2 * x - 1) + defense.schedule.sigma(t)[0].float() * eps
    expected = (defense.denoiser.network(x_t, t - 1)[:, 10] - eps).square().sum((1, 2, 3))
    torch.testing.assert_close(energy, expected, rtol=1e-5, atol=0)
    ten = multi_head(TEN_HEADS)
    assert ten.num_classes == 10
    assert ten.cost() == 8
    with pytest.raises(UserError, match="without a class"):
        ten.energy(x)


def test_a_network_beside_it_gives_the_energy_of_one_without_a_null_head(multi_head, saved, x) -> None:
    arguments = {**ARGUMENTS, "num_classes": None}
    path = saved(NCSNpp(**arguments))
    card = Card.model_construct(network={"type": "ncsnpp", **arguments})
    defense = multi_head(TEN_HEADS, unconditional=Checkpoint("other", Path(path), card))
    assert defense.cost() == 8
    assert defense.energy(x).shape == (2,)


@pytest.mark.parametrize("share", ["none", "timesteps"])
def test_classes_of_one_pass_cannot_have_noises_of_their_own(multi_head, share) -> None:
    with pytest.raises(UserError, match=f"share_noise is '{share}'") as error:
        multi_head(share_noise=share)
    assert "`share_noise: classes`" in str(error.value)
    assert multi_head(share_noise="both").cost() == 8


# --- other weights, and EDM's levels ---------------------------------------------------------------------------------


def test_a_sum_under_elbo_weights_is_the_bound_in_nats(make, x) -> None:
    defense = make(weighting="elbo", reduction="sum", timesteps=[3, 400])
    alphas = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)
    uniform = [make(reduction="sum", timesteps=[t]) for t in (3, 400)]
    snr = alphas / (1 - alphas)
    expected = sum(
        1000 / 2 * float(snr[t - 2] / snr[t - 1] - 1) * ask(one, x, SEEDS) / 2
        for t, one in zip((3, 400), uniform, strict=True)
    )
    torch.testing.assert_close(ask(defense, x, SEEDS), expected, rtol=1e-4, atol=0)


def test_logits_over_edms_levels_are_those_of_a_triple_loop(edm, x) -> None:
    defense, s = edm(), EDM_ARGUMENTS["sigma_data"]
    expected = torch.zeros(2, 3)
    for n in range(2):
        for y in range(3):
            for j in range(4):
                width = (3 - 1e-4) / 4
                sigma = 1e-4 + j * width
                density = math.exp(-((math.log(sigma) + 1.2) ** 2) / (2 * 1.2**2)) / (
                    sigma * 1.2 * math.sqrt(2 * math.pi)
                )
                weight = width * density * (sigma**2 + s**2) / (sigma * s) ** 2
                image = 2 * x[n, None] - 1
                noisy = image + sigma * normal(fold(SEEDS[n, None], y, 1 + 250 * j, 0), (1, 8, 8))
                found = defense.denoiser.denoiser.network(noisy, torch.tensor([sigma]), torch.tensor([y]))
                expected[n, y] -= weight * float((found - image).square().mean())
    torch.testing.assert_close(ask(defense, x, SEEDS), expected, rtol=1e-4, atol=0)


def test_the_reference_density_is_another_one(edm, x) -> None:
    right, wrong = (ask(edm(weighting=weighting), x, SEEDS) for weighting in ("edm", "edm_reference"))
    assert (right != wrong).all()


def test_an_edm_network_serves_the_vp_diffusion_too(edm, x) -> None:
    for weighting in ("uniform", "elbo"):
        defense = edm(weighting=weighting)
        assert len(defense.schedule) == 1000
        assert defense.loss.grid.timesteps.tolist() == [250, 500, 750, 1000]
        assert ask(defense, x, SEEDS).isfinite().all()


@pytest.mark.parametrize("weighting", ["edm", "edm_reference"])
def test_edms_weights_are_for_edms_networks(make, edm, saved, weighting) -> None:
    with pytest.raises(UserError, match=f"weighting is '{weighting}', but NCSNpp is not an EDM network"):
        make(weighting=weighting)
    arguments = {**ARGUMENTS, "num_classes": None}
    card = Card.model_construct(network={"type": "ncsnpp", **arguments})
    with pytest.raises(UserError, match="NCSNpp is not an EDM network"):
        edm(weighting=weighting, unconditional=Checkpoint("other", Path(saved(NCSNpp(**arguments))), card))


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
