from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from defenses.dc import DC
from defenses.likelihood_maximizer import LikelihoodMaximizer
from defenses.networks.edm import EDM
from defenses.networks.ncsnpp import NCSNpp
from defenses.rdc import RDC
from defenses.undefended import Undefended
from harness.errors import UserError
from harness.gradients import blind, bpda, exact
from harness.quantity import Quantity
from harness.randomness import fold
from harness.suite import load_suite
from harness.weights import Checkpoint
from helpers.originals import fill, rule_image

ARGUMENTS = dict(image_size=8, channels=1, nf=8, ch_mult=[1, 2], num_res_blocks=1, attn_resolutions=[], num_classes=10)
SEEDS = torch.tensor([5, 1 << 61])


@pytest.fixture
def saved(tmp_path) -> Callable[..., Checkpoint]:
    """saved(**changes): the weights of a tiny NCSN++."""

    def save(**changes) -> Checkpoint:
        network = fill(NCSNpp(**{**ARGUMENTS, **changes}), exempt=["sigmas"])
        save_file(network.state_dict(), tmp_path / "tiny.safetensors")
        return Checkpoint.find(str(tmp_path / "tiny.safetensors"))

    return save


@pytest.fixture
def make(saved) -> Callable[..., LikelihoodMaximizer]:
    """make(**options): in front of the digits' CNN, 4 timesteps and N = 3 unless told otherwise."""
    weights, network = saved(), {"type": "ncsnpp", **ARGUMENTS}

    def build(**options) -> LikelihoodMaximizer:
        given = {"network": network, "timesteps": 4, "steps": 3, **options}
        return LikelihoodMaximizer(weights, given.pop("classifier", Undefended("digits-cnn")), **given)

    return build


@pytest.fixture
def x() -> Tensor:
    """Two images with pixels at 0 and at 1."""
    return (1.3 * rule_image((2, 1, 8, 8)) - 0.15).clamp(0, 1)


def ask(defense, x: Tensor, seeds: Tensor = SEEDS) -> Tensor:
    with torch.no_grad(), defense.drawing(seeds):
        return defense(x)


def purified(defense, x: Tensor, seeds: Tensor = SEEDS) -> Tensor:
    with torch.no_grad(), defense.drawing(seeds):
        return defense.purify(x)


def gradient(view, defense, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    with defense.drawing(SEEDS):
        logits = view(defense, x)
        return torch.autograd.grad(logits[:, 3].sum() - logits[:, 5].sum(), x)[0]


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"norm": "L2"}, {"momentum": 0.0}, {"eta": Quantity(0.2), "steps": 1}])
def test_it_purifies_as_rdc_does(make, saved, x, options) -> None:
    rdc = RDC(saved(), **{"network": {"type": "ncsnpp", **ARGUMENTS}, "timesteps": 4, "steps": 3, **options})
    torch.testing.assert_close(purified(make(**options), x), purified(rdc, x), rtol=0, atol=1e-6)


def test_its_classifier_sees_the_purified_image(make, x) -> None:
    defense = make()
    assert torch.equal(ask(defense, x), Undefended("digits-cnn")(purified(defense, x)))
    assert defense.num_classes == 10
    assert defense.cost() > Undefended("digits-cnn").cost() + 3 * 4


def test_votes_differ_and_repeat_to_the_bit_unless_the_noise_is_fixed(make, x) -> None:
    fresh, fixed = make(timesteps=1), make(noise="fixed")
    assert fresh.stochastic
    assert torch.equal(ask(fresh, x), ask(fresh, x))
    assert (purified(fresh, x) != purified(fresh, x, fold(SEEDS, 1))).flatten(1).any(1).all()
    assert not fixed.stochastic
    assert torch.equal(ask(fixed, x), ask(fixed, x, fold(SEEDS, 1)))


def test_a_stochastic_classifier_makes_it_stochastic_and_has_noise_of_its_own(make, saved, x) -> None:
    dc = DC(saved(), network={"type": "ncsnpp", **ARGUMENTS}, timesteps=2)
    defense = make(noise="fixed", classifier=dc)
    assert defense.stochastic
    assert torch.equal(purified(defense, x), purified(defense, x, fold(SEEDS, 1)))
    assert (ask(defense, x) != ask(defense, x, fold(SEEDS, 1))).all()
    with defense.drawing(SEEDS):
        assert (dc.seeds_for(x) != defense.seeds_for(x)).all()


def test_bpda_takes_the_classifiers_gradient_at_the_purified_image_and_blind_at_the_image(make, x) -> None:
    defense, classifier = make(), Undefended("digits-cnn")
    torch.testing.assert_close(gradient(bpda, defense, x), gradient(exact, classifier, purified(defense, x)))
    torch.testing.assert_close(gradient(blind, defense, x), gradient(exact, classifier, x))


@pytest.mark.slow
def test_the_exact_gradient_depends_on_how_the_sign_is_differentiated_and_no_answer_does(make, x) -> None:
    inside = 0.2 + 0.6 * x
    true, surrogate = make(), make(sign_gradient="straight_through")
    assert torch.equal(ask(true, inside), ask(surrogate, inside))
    by_bpda, by_zero, by_surrogate = (
        gradient(*given, inside) for given in ((bpda, true), (exact, true), (exact, surrogate))
    )
    torch.testing.assert_close(by_zero, by_bpda)
    assert float((by_surrogate - by_bpda).norm() / by_bpda.norm()) > 0.01
    assert torch.isfinite(by_surrogate).all()


def test_purification_lowers_the_energy_under_noise_it_has_not_seen(make, x) -> None:
    defense = make(timesteps=20, steps=5)
    with torch.no_grad(), defense.drawing(fold(SEEDS, 7)):
        before = defense.energy(x)
    moved = purified(defense, x)
    with torch.no_grad(), defense.drawing(fold(SEEDS, 7)):
        after = defense.energy(moved)
    assert before.shape == (2,)
    assert (after < before).all()


def test_a_network_without_classes_serves(saved, x) -> None:
    spec = {"type": "ncsnpp", **{**ARGUMENTS, "num_classes": None}}
    defense = LikelihoodMaximizer(
        saved(num_classes=None), Undefended("digits-cnn"), network=spec, timesteps=4, steps=2, sign_gradient="tanh"
    )
    assert (purified(defense, x) != x).flatten(1).any(1).all()
    assert torch.isfinite(gradient(exact, defense, x)).all()


def test_a_network_that_was_never_trained_without_a_class_is_refused(tmp_path) -> None:
    spec = dict(img_resolution=8, img_channels=1, label_dim=10, model_channels=8, channel_mult=[1], num_blocks=1)
    save_file(EDM(**spec).state_dict(), tmp_path / "edm.safetensors")
    with pytest.raises(UserError, match="never trained without a class"):
        LikelihoodMaximizer(
            Checkpoint.find(str(tmp_path / "edm.safetensors")),
            Undefended("digits-cnn"),
            network={"type": "edm", **spec},
        )


def test_the_packaged_edm_network_serves_under_edms_own_weights_as_in_rdc(x) -> None:
    options = dict(timesteps=3, steps=2, weighting="edm")
    defense, rdc = LikelihoodMaximizer("digits-edm", Undefended("digits-cnn"), **options), RDC("digits-edm", **options)
    torch.testing.assert_close(purified(defense, x), purified(rdc, x), rtol=0, atol=1e-6)
    assert (purified(defense, x) != x).flatten(1).any(1).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "complaint"),
    [({"steps": 0}, "steps is 0"), ({"samples": 0}, "samples is 0"), ({"timesteps": 1001}, "timesteps is 1001")],
)
def test_arguments_that_mean_nothing_are_refused(make, options, complaint) -> None:
    with pytest.raises(UserError, match=complaint):
        make(**options)


def test_a_suite_writes_the_classifier_as_an_entry_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "suite.yaml").write_text(
        dedent("""
        suite: maximizer
        dataset: {name: digits, first: 2}
        defenses:
          cnn:
            type: likelihood_maximizer
            weights: digits-ncsnpp
            classifier: {type: undefended, weights: digits-cnn}
            timesteps: 2
            steps: 1
            norm: L2
        attacks: {clean: {}}
        """)
    )
    plan = load_suite(tmp_path / "suite.yaml")
    defense = plan.cells[0].defense.build()
    assert float(defense.maximization.ball.eps) == 0.5
    assert isinstance(defense.classifier, Undefended)
