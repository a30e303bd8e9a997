"""Batch normalisations become part of the convolutions before them, where that changes nothing but rounding."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from attacks.common.folded import folded
from harness.defense import Defense
from harness.randomness import uniform

X = uniform(torch.arange(4), (3, 8, 8))


class Net(Defense):
    """Two convolutions with normalisations; with `shared`, the first answer is used beside its normalisation too."""

    num_classes = 5

    def __init__(self, shared: bool = False, stochastic: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.shared, self.stochastic = shared, stochastic
        self.first, self.second = nn.Conv2d(3, 4, 3, bias=False), nn.Conv2d(4, 6, 3)
        self.norms = nn.ModuleList([nn.BatchNorm2d(4), nn.BatchNorm2d(6, affine=False)])
        self.last = nn.Linear(6, 5)
        for tensor in self.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.1)
        self.eval().requires_grad_(False)

    def classify(self, x: Tensor) -> Tensor:
        h = self.first(x)
        h = self.norms[0](h) + (h if self.shared else 0)
        return self.last(self.norms[1](self.second(h.relu())).mean((2, 3)))


def norms(defense: Defense) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in defense.modules())


def test_the_copy_is_the_same_function_without_normalisations_and_the_defense_stays_as_it_is() -> None:
    defense = Net()
    expected, before = defense(X), {name: value.clone() for name, value in defense.state_dict().items()}
    quick = folded(defense, X)
    assert norms(quick) == 0 and norms(defense) == 2
    torch.testing.assert_close(quick(X), expected, rtol=1e-5, atol=1e-5)
    assert all(value.equal(before[name]) for name, value in defense.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in quick.modules())


def test_its_gradient_is_the_defenses() -> None:
    gradients = []
    for defense in (Net(), folded(Net(), X)):
        x = X.clone().requires_grad_()
        gradients.append(torch.autograd.grad(defense(x)[:, 0].sum(), x)[0])
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("options", [{"shared": True}, {"stochastic": True}])
def test_where_it_would_be_another_function_the_defense_itself_is_used(options: dict[str, bool]) -> None:
    defense = Net(**options)
    assert folded(defense, X) is defense


def test_a_defense_without_normalisations_or_that_cannot_be_copied_is_used_itself() -> None:
    class Plain(Defense):
        def classify(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :2]

    class Alone(Net):
        def __deepcopy__(self, memo: object) -> Alone:
            raise TypeError("there is one of it")

    for defense in (Plain(), Alone()):
        assert folded(defense, X) is defense
