"""PPGD: its step against a dense solution, its budget against the distance by definition, and what it is worth."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from attacks.ppgd import PPGD, Sight, natural_step
from defenses.undefended import Undefended
from harness import datasets
from harness.attack import Adversarial
from harness.defense import Defense
from harness.errors import UserError
from harness.quantity import Quantity
from harness.randomness import normal, uniform
from harness.suite.checkpoints import items
from harness.target import Target
from harness.threat import TOLERANCE
from harness.weights import Checkpoint
from helpers.lpips import distance
from helpers.verified import finish, forge, pushed, reports

DIGITS = datasets.load("digits", rows=lambda count: list(range(min(count, 6))))
X, Y = DIGITS.images, DIGITS.labels


class Curved(nn.Module):
    """Sees 12 numbers of images of 5."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = normal(torch.arange(12), (5,)).double()

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(x.flatten(1) @ self.matrix.T)


def attacked(attack: PPGD, defense: Defense, x: Tensor = X, y: Tensor = Y) -> Tensor:
    target = Target(defense, x, torch.arange(len(x)), gradient=attack.gradient, eot=attack.eot)
    return Adversarial.of(attack.perturb(target, x.clone(), y)).images


def test_the_step_solves_the_normal_equations_and_changes_what_is_seen_by_1() -> None:
    phi, x = Curved(), uniform(torch.arange(3), (1, 1, 5)).double()
    grad = normal(torch.arange(3) + 9, (1, 1, 5)).double()
    found = natural_step(phi, x, grad, count=5)
    for n in range(3):
        jacobian = torch.autograd.functional.jacobian(phi, x[[n]]).reshape(12, 5)
        expected = torch.linalg.solve(jacobian.T @ jacobian, grad[n].flatten())
        expected /= (jacobian @ expected).norm()
        assert torch.allclose(found[n].flatten(), expected, rtol=1e-6, atol=1e-9)
        other = normal(torch.arange(100), (5,)).double()  # no step that is seen as much raises the loss more
        other /= (other @ jacobian.T).norm(dim=1, keepdim=True)
        assert (other @ grad[n].flatten()).max() <= expected @ grad[n].flatten() + 1e-9


def test_a_gradient_of_zero_gives_no_step_and_one_that_is_not_seen_a_finite_one() -> None:
    x = torch.full((2, 1, 1, 2), 0.5)
    grad = torch.tensor([[0.0, 0.0], [0.0, 3.0]]).view(2, 1, 1, 2)
    found = natural_step(lambda images: images[:, 0, 0, :1] * 2, x, grad, count=4)
    assert found[0].eq(0).all() and torch.allclose(found[1].flatten(), torch.tensor([0.0, 1e3]))


@pytest.mark.parametrize("eps", ["0.05", "0.5"])
def test_images_are_within_the_distance_by_its_definition_and_fool_the_plain_classifier(eps: str) -> None:
    attack = PPGD("digits-pat", Quantity(eps), steps=6)  # type: ignore[arg-type]
    found = attacked(attack, Undefended("digits-cnn"))  # type: ignore[arg-type]
    assert attack.threat.violation(X, found).max() <= TOLERANCE
    network = Checkpoint.find("digits-pat").network()
    for n in range(3):
        assert distance(network, X[[n]], found[[n]]) <= float(eps) + 1e-5
    assert attack.threat.size(X, found).max() > 0.5 * float(eps)
    before, after = ((Undefended("digits-cnn")(x).argmax(1) == Y).sum() for x in (X, found))  # type: ignore[arg-type]
    assert after < before if eps == "0.5" else after <= before


def test_what_a_network_itself_sees_bounds_it_and_is_the_stronger_the_larger_the_budget() -> None:
    pat = Undefended("digits-pat")  # type: ignore[arg-type]
    right = [
        int((pat(attacked(PPGD("digits-pat", Quantity(eps), steps=6), pat)).argmax(1) == Y).sum())  # type: ignore[arg-type]
        for eps in ("0.1", "1", "2.5")
    ]
    assert right == sorted(right, reverse=True) and right[0] > right[-1]


def test_a_budget_names_its_network_and_knows_another_one() -> None:
    one, same = (PPGD("digits-pat", Quantity("0.5")).threat for _ in range(2))  # type: ignore[arg-type]
    assert str(one) == "LPIPS(digits-pat) 0.5" and one == same
    assert one != PPGD("digits-pat", Quantity("0.6")).threat  # type: ignore[arg-type]


def test_what_leaves_the_distance_or_the_unit_cube_is_a_violation() -> None:
    threat = PPGD("digits-pat", Quantity("0.1")).threat  # type: ignore[arg-type]
    excess = threat.violation(X, 1 - X)
    assert (excess > 0.1).all() and torch.allclose(excess, threat.size(X, 1 - X) - 0.1)
    outside = X.clone()
    outside[0, 0, 0, 0] = 1.5
    assert threat.violation(X, outside)[0] >= 0.5 and threat.violation(X, X).eq(0).all()


def test_the_distance_does_not_depend_on_the_batch() -> None:
    threat, x_adv = PPGD("digits-pat", Quantity("1")).threat, (X + 0.1).clamp(0, 1)  # type: ignore[arg-type]
    alone = torch.cat([threat.size(X[[n]], x_adv[[n]]) for n in range(len(X))])
    assert torch.allclose(alone, threat.size(X, x_adv), rtol=1e-7, atol=0)


def test_a_network_that_hides_its_activations_and_images_that_it_cannot_see_are_told() -> None:
    with pytest.raises(UserError, match="'digits-cnn' does not show its activations"):
        Sight(Checkpoint.find("digits-cnn"))
    told = PPGD("digits-pat", Quantity("1")).unsuitable_images((3, 8, 8))  # type: ignore[arg-type]
    assert told and "cannot see images of (3, 8, 8)" in told


SUITE = """
suite: seen
dataset: {name: digits, first: 4}
protocol: {shard: 4}
defenses:
  plain: {type: undefended, weights: digits-cnn}
attacks:
  seen: {type: ppgd, weights: digits-pat, eps: 0.5, steps: 2}
"""


@pytest.mark.slow
def test_verification_measures_the_distance_again(tmp_path: Path) -> None:
    out = finish(tmp_path / "small.yaml", SUITE)
    assert reports(out)["plain/seen"].outcome == "holds"
    unmeasured = reports(out, replay=False)["plain/seen"]
    assert unmeasured.unchecked == "the threat model 'LPIPS(digits-pat) 0.5' is known only to its attack"
    forge(out, pushed, "plain/seen")
    problems = reports(out)["plain/seen"].problems
    assert any(re.match(r"image 1: out of budget: LPIPS \d\.\d+, where 0\.5 is allowed", each) for each in problems)


def test_the_checkpoint_of_an_attack_is_among_those_of_its_suite(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(SUITE)
    assert [item.ref for item in items(tmp_path / "small.yaml")] == ["digits-cnn", "digits-pat"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"eps": Quantity(0)}, "eps is 0"),
        ({"step_size": Quantity(0)}, "step_size is 0"),
        ({"conjugate": 0}, "conjugate is 0"),
        ({"loss": "dlr-targeted"}, "loss is 'dlr-targeted'"),
        ({"steps": 0}, "steps and restarts"),
    ],
)
def test_an_argument_that_means_nothing_is_told(changed: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PPGD(**{"weights": "digits-pat", "eps": Quantity("0.5"), **changed})  # type: ignore[arg-type]
