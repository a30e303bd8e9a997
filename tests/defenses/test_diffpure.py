"""DiffPure against its formulas written out in one autograd graph, and against the contract of a stochastic defense."""

from __future__ import annotations

import lzma
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from defenses.diffpure import DiffPure
from defenses.networks.ncsnpp import NCSNpp
from defenses.purification import purifier
from defenses.purification.purifier import FORWARD, PURIFY
from defenses.undefended import Undefended
from harness.defense import Defense
from harness.errors import UserError
from harness.gradients import View, adjoint, blind, bpda, exact
from harness.quantity import Quantity
from harness.randomness import fold, normal
from harness.suite import load_suite
from harness.weights import Checkpoint
from helpers.originals import fill, rule_image

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).parents[1] / "golden"
ARGUMENTS = dict(image_size=8, channels=1, nf=8, ch_mult=[1, 2], num_res_blocks=1, attn_resolutions=[])
SEEDS = torch.tensor([5, 1 << 61])
SOLVERS = ["sde", "ode", "ddpm"]


@pytest.fixture
def make(tmp_path) -> Callable[..., DiffPure]:
    """make(**options): a DiffPure of ten steps on a tiny network, before the digits' classifier."""
    save_file(fill(NCSNpp(**ARGUMENTS), exempt=["sigmas"]).state_dict(), tmp_path / "tiny.safetensors")
    weights, network = Checkpoint.find(str(tmp_path / "tiny.safetensors")), {"type": "ncsnpp", **ARGUMENTS}
    classifier = Undefended("digits-cnn")
    return lambda **options: DiffPure(weights, **{"classifier": classifier, "network": network, "dt": 0.01, **options})


@pytest.fixture
def x() -> Tensor:
    return rule_image((2, 1, 8, 8))


def purified(defense: DiffPure, x: Tensor, seeds: Tensor = SEEDS) -> Tensor:
    with torch.no_grad(), defense.drawing(seeds):
        return defense.purify(x)


def gradient(view: View, defense: DiffPure, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    with defense.drawing(SEEDS):
        logits = view(defense, x)
        return torch.autograd.grad(logits[:, 3].sum() - logits[:, 5].sum(), x)[0]


# --- the formulas --------------------------------------------------------------------------------------------------


def continuous(network, x: Tensor, eps: Callable[[int], Tensor], noise: bool) -> Tensor:
    """t* = 0.1 in ten steps: noise and the way back, as the paper has it."""
    s = [0.1 - 0.01 * i for i in range(10)] + [1e-5]
    sigma = [math.sqrt(1 - math.exp(-0.1 * t - 9.95 * t**2)) for t in s]
    x = math.sqrt(1 - sigma[0] ** 2) * x + sigma[0] * eps(FORWARD)
    for i in range(10):
        h, beta = s[i] - s[i + 1], 0.1 + 19.9 * s[i]
        score = -network(x, torch.full((len(x),), 999 * s[i], dtype=x.dtype)) / sigma[i]
        if noise:
            x = x + h * (beta * x / 2 + beta * score) + math.sqrt(h * beta) * eps(i)
        else:
            x = x + h * (beta * x / 2 + beta * score / 2)
    return x


def discrete(network, x: Tensor, eps: Callable[[int], Tensor]) -> Tensor:
    """The same by DDPM, whose steps are ten of the thousand each."""
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    alpha = [1.0, *(1 - betas).cumprod(0).tolist()]
    x = math.sqrt(alpha[100]) * x + math.sqrt(1 - alpha[100]) * eps(FORWARD)
    for i, t in enumerate(range(100, 0, -10)):
        b = 1 - alpha[t] / alpha[t - 10]
        predicted = network(x, torch.full((len(x),), t - 1))
        x = (x - b / math.sqrt(1 - alpha[t]) * predicted) / math.sqrt(1 - b)
        x = x + math.sqrt(b) * eps(i) if t > 10 else x
    return x


def naive(defense: DiffPure, solver: str, x: Tensor) -> Tensor:
    """The logits, in one graph."""
    network = defense.denoiser.network
    x = 2 * x - 1
    for number in range(defense.rounds):
        seeds = fold(SEEDS, PURIFY, number)

        def eps(i: int, seeds: Tensor = seeds) -> Tensor:
            return normal(fold(seeds, i), (1, 8, 8), torch.float64)

        x = discrete(network, x, eps) if solver == "ddpm" else continuous(network, x, eps, solver == "sde")
    return defense.classifier(((x + 1) / 2).clamp(0, 1))


@pytest.mark.parametrize("rounds", [1, 2])
@pytest.mark.parametrize("solver", SOLVERS)
def test_logits_and_exact_gradients_are_those_of_the_formulas_in_one_graph(make, x, solver, rounds) -> None:
    defense, x = make(solver=solver, rounds=rounds).double(), x.double()
    with torch.no_grad(), defense.drawing(SEEDS):
        torch.testing.assert_close(defense(x), naive(defense, solver, x), rtol=1e-8, atol=1e-8)
    expected = gradient(lambda defense, x: naive(defense, solver, x), defense, x)
    assert expected.abs().amax((1, 2, 3)).min() > 0
    assert float((gradient(exact, defense, x) - expected).norm() / expected.norm()) < 1e-8


def test_the_exact_gradient_knows_of_pixels_stopped_at_0_or_1(make, x) -> None:
    defense = make().double()
    x = x.double().requires_grad_()
    with defense.drawing(SEEDS):
        images = defense.purify(x)
    inside, stopped = ((images > 0) & (images < 1)).nonzero(), ((images == 0) | (images == 1)).nonzero()
    for (at, *_), alive in ((inside, True), (stopped, False)):
        (found,) = torch.autograd.grad(images[tuple(at)], x, retain_graph=True)
        assert bool(found.any()) == alive


# --- views ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_view_but_the_blind_one_has_the_defense_s_own_logits(make, x, solver) -> None:
    defense = make(solver=solver)
    with defense.drawing(SEEDS):
        seen = {view: view(defense, x.clone().requires_grad_()) for view in (exact, adjoint, bpda, blind)}
    assert torch.equal(seen[adjoint], seen[exact])
    assert torch.equal(seen[bpda], seen[exact])
    assert not torch.allclose(seen[blind], seen[exact])


def test_bpda_takes_the_classifiers_gradient_at_the_purified_image(make, x) -> None:
    defense = make()
    expected = gradient(blind, defense, purified(defense, x))
    torch.testing.assert_close(gradient(bpda, defense, x), expected)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dt", [0.001, 0.01])
def test_the_adjoint_s_gradient_resembles_the_exact_one_and_is_not_it(make, x, solver, dt) -> None:
    defense = make(solver=solver, t_star=0.05, dt=dt).double()
    found, expected = (gradient(view, defense, x.double()).flatten() for view in (adjoint, exact))
    assert 0.9 < float(torch.cosine_similarity(found, expected, dim=0)) < 1 - 1e-6


# --- noise ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
def test_purification_differs_between_draws_and_repeats_to_the_bit(make, x, solver) -> None:
    defense = make(solver=solver)
    assert defense.stochastic
    assert torch.equal(purified(defense, x), purified(defense, x))
    assert (purified(defense, x) != purified(defense, x, fold(SEEDS, 1))).flatten(1).any(1).all()


def test_images_rounds_and_steps_have_noise_of_their_own(make, x, monkeypatch) -> None:
    seen = []

    def spy(seeds: Tensor, shape, dtype) -> Tensor:
        seen.append(seeds)
        return normal(seeds, shape, dtype)

    monkeypatch.setattr(purifier, "normal", spy)
    purified(make(rounds=2), x)
    used = torch.cat([*seen, SEEDS])
    assert len(seen) == 2 * (1 + 10)
    assert len(used.unique()) == len(used)


def test_an_image_is_purified_the_same_in_any_batch_and_any_chunk(make, x) -> None:
    whole = purified(make(), x)
    torch.testing.assert_close(purified(make(), x[1:], SEEDS[1:]), whole[1:])
    torch.testing.assert_close(purified(make(chunk=1), x), whole)
    torch.testing.assert_close(gradient(exact, make(chunk=1), x), gradient(exact, make(), x))


@pytest.mark.parametrize(("graph_memory", "evaluations"), [(0, 2 * 10), (None, 10)])
def test_a_chunk_bounds_what_the_network_is_given_and_kept_graphs_spare_the_way_back(
    make, x, graph_memory, evaluations
) -> None:
    rows, defense = [], make(chunk=1, graph_memory=graph_memory)
    defense.denoiser.network.register_forward_pre_hook(lambda module, given: rows.append(len(given[0])))
    gradient(exact, defense, x)
    assert rows == [1] * (2 * evaluations)


# --- arguments -----------------------------------------------------------------------------------------------------


def test_the_cost_is_one_evaluation_a_step_and_the_classifier_s(make) -> None:
    assert make(t_star=0.1, dt=0.001).cost() == 100 + 1
    assert make(t_star=0.1, dt=0.01, rounds=3, solver="ddpm").cost() == 3 * 10 + 1


def test_the_network_is_asked_at_the_noisier_end_of_every_step(make, x) -> None:
    labels, defense = [], make(t_star=0.05)
    defense.denoiser.network.register_forward_pre_hook(lambda module, given: labels.append(float(given[1][0])))
    purified(defense, x)
    assert labels == pytest.approx([999 * s for s in (0.05, 0.04, 0.03, 0.02, 0.01)], rel=1e-6)


SUITE = """
suite: s
dataset: {name: digits, first: 2}
defenses:
  mine:
    weights: digits-ncsnpp
    type: diffpure
    t_star: 0.2
    dt: 2e-2
    solver: SOLVER
    classifier: {type: undefended, weights: digits-cnn}
attacks: {linf: {type: pgd, norm: Linf, eps: 8/255, gradient: adjoint}}
"""


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_suite_names_it_and_a_class_conditional_network_serves(tmp_path, solver, x) -> None:
    (tmp_path / "suite.yaml").write_text(SUITE.replace("SOLVER", solver))
    cell = load_suite(tmp_path / "suite.yaml").cells[0]
    defense = cell.defense.build()
    assert (defense.num_classes, defense.cost()) == (10, 11)
    assert cell.attack.build().unsuitable(defense) is None
    images = purified(defense, x)
    assert 0 <= float(images.min()) <= float(images.max()) <= 1


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"t_star": Quantity(100)}, "t_star is 100"),
        ({"dt": Quantity("0.2")}, "dt is 0.2"),
        ({"dt": Quantity("0.0005"), "solver": "ddpm"}, "dt is 0.0005"),
        ({"rounds": 0}, "rounds is 0"),
        ({"chunk": 0}, "chunk is 0"),
        ({"variance": "posterior"}, "variance is posterior"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(make, options, complaint) -> None:
    with pytest.raises(UserError) as error:
        make(**options)
    assert complaint in str(error.value)


# --- published files -----------------------------------------------------------------------------------------------


@pytest.fixture
def published(tmp_path) -> Callable[[str], Checkpoint]:
    """published(name): a genuine file of a published layout, of a tiny network for 16x16 images."""

    def unpack(name: str) -> Checkpoint:
        (tmp_path / name).write_bytes(lzma.decompress((GOLDEN / f"{name}.xz").read_bytes()))
        return Checkpoint.find(name, base=tmp_path)

    return unpack


class Flat(Defense):
    """A classifier of the mean of each channel, in three classes."""

    num_classes = 3

    def classify(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


NANO = {"type": "ncsnpp", "image_size": 16, "channels": 3, "nf": 8, "ch_mult": [1, 2], "num_res_blocks": 1}


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(
    ("name", "network"),
    [("scoresde_nano_checkpoint.pth", NANO | {"attn_resolutions": [8]}), ("edm_tiny_uncond.pkl", None)],
)
def test_a_published_file_purifies(published, name, network, solver) -> None:
    defense = DiffPure(published(name), Flat(), network=network, solver=solver, dt=Quantity("0.02"))
    x = rule_image((2, 3, 16, 16))
    assert defense.num_classes == 3
    assert torch.isfinite(purified(defense, x)).all()
    assert gradient_of_sum(defense, x).flatten(1).any(1).all()


def gradient_of_sum(defense: DiffPure, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    with defense.drawing(SEEDS):
        return torch.autograd.grad(defense(x).sum(), x)[0]


def test_a_network_that_must_be_told_a_class_is_refused(published) -> None:
    with pytest.raises(UserError, match="never trained without a class"):
        DiffPure(published("edm_tiny_cond.pkl"), Flat())
