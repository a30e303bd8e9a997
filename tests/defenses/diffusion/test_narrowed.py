"""The diffusion loss of a search: unbiased subsets of timesteps, drawn as often as they matter, in cheaper numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from attacks.common.losses import EVERY_CLASS, LOSSES, TARGETED, ce_plain, loss_of
from attacks.pgd import PGD
from defenses.dc import DC
from defenses.diffusion.loss import DiffusionLoss
from defenses.diffusion.narrowed import subset
from defenses.diffusion.noise import GaussianNoise
from defenses.diffusion.precision import evaluated
from defenses.diffusion.schedule import discrete_vp
from defenses.diffusion.timesteps import time_grid
from defenses.likelihood_maximizer import LikelihoodMaximizer
from defenses.networks.ncsnpp import NCSNpp
from defenses.rdc import RDC
from defenses.undefended import Undefended
from harness.defense import Defense
from harness.quantity import Quantity
from harness.randomness import fold
from harness.search import Narrowing, Search
from harness.target import Target
from harness.weights import Checkpoint
from helpers.denoisers import ToyDenoiser
from helpers.originals import fill, rule_image

ARGUMENTS = dict(image_size=8, channels=1, nf=8, ch_mult=[1, 2], num_res_blocks=1, attn_resolutions=[], num_classes=10)
SEEDS, LABELS = torch.tensor([5, 1 << 61]), torch.tensor([3, 8])
GRID = time_grid(discrete_vp(), 10)
SIZES = torch.tensor([5.0, 0, 0.2, 1, 1, 0, 0, 0.3, 0.1, 0])


@pytest.fixture
def tiny(tmp_path) -> Callable[..., Defense]:
    """tiny(kind, **options): on a tiny network, ten timesteps unless told otherwise."""

    def make(kind: type[Defense] = DC, changes: dict | None = None, **options) -> Defense:
        arguments = {**ARGUMENTS, **(changes or {})}
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.safetensors"
        save_file(fill(NCSNpp(**arguments), exempt=["sigmas"]).state_dict(), path)
        inner = (Undefended("digits-cnn"),) if kind is LikelihoodMaximizer else ()
        given = {"network": {"type": "ncsnpp", **arguments}, "timesteps": 10, **options}
        return kind(Checkpoint.find(str(path)), *inner, **given)

    return make


@pytest.fixture
def x() -> Tensor:
    return rule_image((2, 1, 8, 8))


def ask(defense: Defense, x: Tensor, narrowing: Narrowing | None) -> Tensor:
    with torch.no_grad(), defense.drawing(SEEDS, narrowing):
        return defense(x)


def rows_asked(defense: Defense, ask: Callable[[], object]) -> int:
    """Evaluations of the diffusion network."""
    seen: list[int] = []
    network = next(part for part in defense.modules() if isinstance(part, NCSNpp))
    with network.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0]))):
        ask()
    return sum(seen)


@pytest.mark.parametrize("sizes", [None, SIZES, torch.ones(10), torch.zeros(10)])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.9])
def test_a_subset_holds_different_timesteps_in_order_and_its_sum_keeps_the_mean(sizes, share) -> None:
    seeds, f = torch.arange(20_000), torch.linspace(1, 3, 1000).square()
    importance = None if sizes is None else sizes.expand(len(seeds), -1)
    drawn = subset(GRID, seeds, share, importance)
    assert drawn.timesteps.shape == (len(seeds), round(10 * share))
    assert (drawn.timesteps.diff(dim=1) > 0).all()
    sums = (drawn.weights * f[drawn.timesteps - 1]).sum(1)
    expected = float(GRID.weights @ f[GRID.timesteps - 1].double())
    assert abs(float(sums.mean()) - expected) < 4 * float(sums.std()) / len(seeds) ** 0.5 + 1e-6


def test_a_timestep_is_drawn_as_often_as_it_matters_and_always_if_it_matters_enough() -> None:
    seeds = torch.arange(20_000)
    drawn = subset(GRID, seeds, 0.3, SIZES.expand(len(seeds), -1))
    often = (drawn.timesteps // 100 - 1).flatten().bincount(minlength=10) / len(seeds)
    relative = 0.1 + 0.9 * SIZES / SIZES.mean()
    assert often[0] == 1  # 2 of the three are left to the other nine, in proportion
    torch.testing.assert_close(often[1:], 2 * relative[1:] / relative[1:].sum(), rtol=0, atol=0.015)


def test_equal_seeds_draw_equal_timesteps_in_any_batch_and_the_whole_grid_is_left_as_it_is() -> None:
    seeds = torch.arange(50)
    drawn = subset(GRID, seeds, 0.3)
    assert torch.equal(subset(GRID, seeds[7:9], 0.3).timesteps, drawn.timesteps[7:9])
    assert len(drawn.timesteps.unique(dim=0)) > 2
    assert subset(GRID, seeds, 1.0) is GRID


def test_the_losses_by_timestep_sum_to_the_loss_and_classes_may_differ_by_image() -> None:
    loss = DiffusionLoss(ToyDenoiser(1), GRID, GaussianNoise(), samples=2, chunk=7)
    x, classes = torch.rand(2, 1, 4, 4), torch.tensor([[1, 4, 7], [0, 4, 9]])
    apart = loss.by_timestep(x, classes, SEEDS)
    torch.testing.assert_close(apart.sum(2), loss(x, classes, SEEDS))
    every = loss(x, torch.arange(10), SEEDS)
    torch.testing.assert_close(loss(x, classes, SEEDS), every.gather(1, classes))
    one = replace(loss, grid=GRID.terms(torch.tensor([4])))
    torch.testing.assert_close(apart[:, :, 4], one(x, classes, SEEDS))


def test_a_narrowed_answer_is_the_loss_of_its_classes_on_its_timesteps(tiny, x) -> None:
    defense, classes = tiny(), torch.tensor([[3, 1], [8, 0]])
    narrowing = Narrowing(Search(timesteps=0.3, rivals=1), full=False, classes=classes)
    found, grid = ask(defense, x, narrowing), subset(defense.loss.grid, SEEDS, 0.3)
    for i in range(2):
        own = replace(defense.loss, grid=grid.of(torch.tensor([i])))
        expected = -own(x[[i]], classes[i], SEEDS[[i]])
        torch.testing.assert_close(found[i, classes[i]], expected[0])
    assert (found == -torch.inf).sum() == 2 * 8


def test_a_full_look_is_the_defense_itself_but_for_the_noise_that_classes_may_share(tiny, x) -> None:
    plain, shared = tiny(), tiny(share_noise="classes")
    full = Narrowing(Search(timesteps=0.3, rivals=1), full=True)
    assert torch.equal(ask(plain, x, full), ask(plain, x, None))
    common = Narrowing(Search(common_noise=True), full=True)
    assert torch.equal(ask(plain, x, common), ask(shared, x, None))


@pytest.mark.parametrize("changes", [{}, {"num_classes": None, "heads": 10}])
def test_what_each_timestep_contributes_to_the_margin_is_measured_at_a_full_look(tiny, x, changes) -> None:
    defense = tiny(changes=changes, share_noise="classes")
    narrowing = Narrowing(Search(timesteps=0.5, importance=True), full=True, labels=LABELS)
    logits = ask(defense, x, narrowing)
    apart = defense.loss.by_timestep(x, torch.arange(10), SEEDS)
    for i, y in enumerate(LABELS.tolist()):
        first, second = [k for k in logits[i].argsort(descending=True).tolist() if k != y][:2]
        expected = ((apart[i, first] - apart[i, y]) ** 2 + (apart[i, second] - apart[i, y]) ** 2).div(2).sqrt()
        torch.testing.assert_close(narrowing.measured[i], expected)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [DC, RDC, LikelihoodMaximizer])
@pytest.mark.parametrize("full", [True, False])
def test_the_cost_of_a_narrowed_query_is_the_number_of_its_network_evaluations(tiny, x, kind, full) -> None:
    options = {} if kind is DC else {"steps": 2}
    defense = tiny(kind, **options)
    search = Search(timesteps=0.5, importance=True, purify_timesteps=0.2, rivals=2)
    classes = None if full else torch.tensor([[3, 1, 2], [8, 0, 2]])
    narrowing = Narrowing(search, full=full, classes=classes, labels=LABELS)
    rows = rows_asked(defense, lambda: ask(defense, x, narrowing)) / 2
    gradients = 0 if kind is DC else 2 * 2  # a gradient of each step's two timesteps counts 2.2, not one
    classifier = 1 if kind is LikelihoodMaximizer else 0
    assert rows + classifier + 1.2 * gradients == pytest.approx(defense.narrowed_cost(narrowing))


@pytest.mark.parametrize("kind", [RDC, LikelihoodMaximizer])
def test_a_surrogate_of_the_sign_leaves_out_what_the_purification_itself_does(tiny, x, kind) -> None:
    defense = tiny(kind, steps=2)
    narrowing = Narrowing(Search(purify_timesteps=0.2), full=True, labels=LABELS)
    purified: list[Tensor] = []

    def purify(how: Callable[[Tensor], Tensor]) -> int:
        with torch.no_grad(), defense.drawing(SEEDS, narrowing):
            return rows_asked(defense, lambda: purified.append(how(x)))

    assert purify(defense.purify) == purify(lambda x: defense.purify_with_surrogate(x, "tanh")) == 2 * 2 * 2
    assert purified[0].equal(purified[1])


def test_a_network_of_all_classes_at_once_leaves_timesteps_out_and_no_class(tiny, x) -> None:
    heads = {"num_classes": None, "heads": 10}
    defense = tiny(changes=heads, share_noise="classes")
    narrowing = Narrowing(Search(timesteps=0.3, rivals=1), full=False, classes=torch.tensor([[3, 1], [8, 0]]))
    answers: list[Tensor] = []
    assert rows_asked(defense, lambda: answers.append(ask(defense, x, narrowing))) == 2 * 3
    assert answers[0].isfinite().all() and defense.narrowed_cost(narrowing) == 3
    look = Narrowing(Search(timesteps=0.3, importance=True), full=True, labels=LABELS)
    assert rows_asked(defense, lambda: ask(defense, x, look)) == 2 * defense.narrowed_cost(look) == 2 * (10 + 10)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_half_precision_keeps_the_direction_of_the_gradient_and_its_size(tiny, x, precision, reduction) -> None:
    defense = tiny(reduction=reduction, timesteps=4)
    whole = Target(defense, x, SEEDS)
    views = [
        whole.with_view(gradient="exact", eot=1, search=Search(precision=p)) for p in ("float32", precision)
    ]  # of equal seeds
    grads = []
    for target in views:
        whole._queries.zero_()
        step = target.step(x, torch.arange(2), lambda logits, rows: logits.gather(1, LABELS[rows, None]).squeeze(1))
        grads.append(step.grad.flatten(1))
        assert step.logits.dtype == step.grad.dtype == torch.float32
    assert (torch.cosine_similarity(*grads, dim=1) > 0.998).all() and not torch.equal(*grads)
    assert (grads[1].norm(dim=1) / grads[0].norm(dim=1) - 1).abs().max() < 0.02


def test_a_gradient_far_below_what_float16_holds_comes_through_it() -> None:
    torch.manual_seed(0)
    network, x = nn.Sequential(nn.Conv2d(1, 4, 3), nn.SiLU(), nn.Conv2d(4, 1, 3)), torch.rand(2, 1, 8, 8)

    def gradient(precision: str, weight: float = 1e9) -> Tensor:
        own = x.clone().requires_grad_()
        (found,) = torch.autograd.grad(evaluated(network, own, precision, weight).sum() / 1e9, own)
        return found

    assert not gradient("fp16", 1.0).any()
    torch.testing.assert_close(gradient("fp16"), gradient("float32"), rtol=0.02, atol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("steps", ["straight_through", "zero"])
def test_a_search_of_a_purifying_defense_is_differentiable_in_every_saving(tiny, x, steps) -> None:
    defense = tiny(RDC, steps=2, sign_gradient=steps)
    search = Search(timesteps=0.3, purify_timesteps=0.3, rivals=2, importance=True, common_noise=True, precision="bf16")
    target = Target(defense, x, SEEDS).with_view(gradient="exact", eot=1, search=search, labels=LABELS)
    for _ in range(2):
        step = target.step(x, torch.arange(2), lambda logits, rows: -logits.gather(1, LABELS[rows, None]).squeeze(1))
        assert step.logits.isfinite().all() and step.grad.isfinite().all() and step.grad.flatten(1).any(1).all()
    assert not target.met.reasons()[0]


def test_channels_last_changes_no_number_beyond_rounding(tiny, x) -> None:
    defense = tiny()
    laid_out = Narrowing(Search(channels_last=True), full=True)
    torch.testing.assert_close(ask(defense, x, laid_out), ask(defense, x, None))


def test_steps_of_likelihood_maximisation_draw_timesteps_of_their_own(tiny, x) -> None:
    defense, seen = tiny(RDC, steps=3), []
    narrowing = Narrowing(Search(purify_timesteps=0.3), full=True)
    eps = defense.denoiser.eps

    def watched(x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        seen.append(t)
        return eps(x_t, t, y)

    defense.denoiser.eps = watched
    with torch.no_grad(), defense.drawing(fold(SEEDS, 1), narrowing):
        defense.purify(x)
    assert len({tuple(t.tolist()) for t in seen}) == 3


def test_the_gradient_of_every_class_is_found_in_one_pass_and_that_of_a_margin_in_two(tiny, x) -> None:
    defense = tiny()

    def ask(every_class: bool) -> tuple[int, Tensor, Tensor]:
        target, steps = Target(defense, x, SEEDS), []
        rows = rows_asked(
            defense,
            lambda: steps.append(
                target.step(x, torch.arange(2), lambda z, rows: ce_plain(z, LABELS[rows]), every_class=every_class)
            ),
        )
        return rows, steps[0].logits, steps[0].grad

    one, logits, grad = ask(True)
    two, expected_logits, expected = ask(False)
    assert (one, two) == (2 * 10 * 10, 2 * 2 * 10 * 10)
    assert torch.equal(logits, expected_logits)
    torch.testing.assert_close(grad, expected)


@pytest.mark.parametrize("loss", [*LOSSES, *TARGETED])
def test_attacks_say_of_each_loss_whether_it_has_a_derivative_in_every_logit(loss) -> None:
    logits = torch.randn(4, 10, generator=torch.Generator().manual_seed(0)).requires_grad_()
    values = loss_of(loss, torch.arange(4), torch.arange(4) + 5)(logits, torch.arange(4))
    (found,) = torch.autograd.grad(values.sum(), logits)
    assert ((found != 0).sum(1) > 4).all() == (loss in EVERY_CLASS)


def test_gradient_attacks_tell_the_defense_which_kind_of_loss_they_climb(tiny, x) -> None:
    defense = tiny(timesteps=2)
    for loss, evaluations in (("ce", 1 + 1), ("margin", 1 + 1 + 2 / 10)):  # of all classes: a step, and the last look
        attack = PGD("Linf", Quantity("0.1"), steps=1, loss=loss, random_start=False)
        rows = rows_asked(defense, lambda attack=attack: attack.perturb(Target(defense, x, SEEDS), x, LABELS))
        assert rows == pytest.approx(2 * 20 * evaluations)
