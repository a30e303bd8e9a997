"""What `.to(device)` leaves behind is found without a second device, and what only looks like it is let through."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from harness.checks.device_move import movable
from harness.checks.finding import Finding
from harness.checks.probe import Probe
from harness.defense import Defense
from harness.randomness import normal

X = torch.rand(3, 2, 4, 4, generator=torch.Generator().manual_seed(3))


class Linear(Defense):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(32, 3)
        self.register_buffer("scale", torch.ones(3))

    def classify(self, x: Tensor) -> Tensor:
        return self.scale * self.head(x.flatten(1))


class MadeOnTheWay(Linear):
    def classify(self, x: Tensor) -> Tensor:
        return super().classify(x) * torch.tensor([1.0, 2.0, 3.0])


class InAPlainList(Linear):
    def __init__(self) -> None:
        super().__init__()
        self.members = [nn.Linear(32, 3), nn.Linear(32, 3)]

    def classify(self, x: Tensor) -> Tensor:
        return sum(member(x.flatten(1)) for member in self.members)


class ConstantAnswer(Linear):
    def classify(self, x: Tensor) -> Tensor:
        return torch.zeros(len(x), 3)


class MovedWhereUsed(Linear):
    def __init__(self) -> None:
        super().__init__()
        self.offset = torch.ones(3)

    def classify(self, x: Tensor) -> Tensor:
        return super().classify(x) + self.offset.to(x.device)


class Noisy(Linear):
    stochastic = True

    def purify(self, x: Tensor) -> Tensor:
        return (x + 0.1 * normal(self.seeds_for(x), x.shape[1:]) + 0.1 * torch.randn_like(x)).clamp(0, 1)


class Indexing(Linear):
    """Indices, and tensors without dimensions, may stay on the CPU."""

    def classify(self, x: Tensor) -> Tensor:
        return super().classify(x)[:, torch.tensor([2, 1, 0])] * torch.tensor(2.0)


class AskingForValues(Linear):
    def classify(self, x: Tensor) -> Tensor:
        return super().classify(x) / (1 if x.max().item() > 2 else 2)


class AskingWithAnAttribute(AskingForValues):
    def __init__(self) -> None:
        super().__init__()
        self.settings = {"offset": [torch.ones(3)]}


def judged(cls: type[Defense]) -> Finding:
    return movable(Probe(cls(), X))


@pytest.mark.parametrize("cls", [Linear, MovedWhereUsed, Noisy, Indexing, AskingForValues])
def test_what_moves_passes(cls: type[Defense]) -> None:
    assert judged(cls).status == "passed", judged(cls).message


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (MadeOnTheWay, "a tensor made on the way, of shape (3,), stays on cpu"),
        (InAPlainList, "`members`, of shape (3,), stays on cpu"),
        (ConstantAnswer, "images on another device give logits on cpu"),
    ],
)
def test_what_stays_behind_fails(cls: type[Defense], message: str) -> None:
    finding = judged(cls)
    assert finding.status == "failed" and message in finding.message, finding.message


def test_where_code_cannot_be_followed_unknown_attributes_are_a_warning() -> None:
    finding = judged(AskingWithAnAttribute)
    assert finding.status == "warned" and "leaves `settings` behind" in finding.message


def test_the_defense_and_the_generators_are_left_as_they_were() -> None:
    defense, before = Noisy(), torch.get_rng_state()
    kept = {name: tensor.clone() for name, tensor in defense.state_dict().items()}
    movable(Probe(defense, X))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in defense.state_dict().items())
