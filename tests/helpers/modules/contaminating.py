import os
import random

import numpy as np
import torch
from torch import nn

from harness.attack import Attack, Cost
from harness.defense import Defense
from harness.quantity import Quantity
from harness.randomness import normal
from harness.threat import Linf


class Plain(Defense):
    """Ten classes by a fixed linear map."""

    num_classes = 10

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(64, 10)
        self.net.weight.data, self.net.bias.data = normal(torch.arange(10), (64,)), torch.zeros(10)
        self.norm = nn.BatchNorm2d(1)

    def classify(self, x):
        return self.net(self.norm(x).flatten(1))


class Copy(Plain):
    """Something to tell apart from `Plain`."""


class WritesIntoItsInput(Plain):
    def purify(self, x):
        return x.sub_(0.5).div_(0.5)


class HiddenBatchNorm(Plain):
    """In a plain list, where .eval() does not reach it."""

    def __init__(self):
        super().__init__()
        self.hidden = [nn.BatchNorm2d(1)]

    def classify(self, x):
        return super().classify(self.hidden[0](x))


class Counts(Plain):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def classify(self, x):
        self.calls += 1
        return super().classify(x)


class SetsDtype(Plain):
    def classify(self, x):
        torch.set_default_dtype(torch.float64)
        return super().classify(x)


class SetsThreadsWhenBuilt(Plain):
    def __init__(self):
        super().__init__()
        torch.set_num_threads(torch.get_num_threads() + 3)


class Seeds(Plain):
    """Reseeds every global generator, as reference code of the paper does."""

    def classify(self, x):
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        return super().classify(x)


SHARED = normal(torch.arange(10), (64,))


class Shares(Plain):
    """Its weights are those of the module, so that a new one has what was made of them."""

    def __init__(self):
        super().__init__()
        self.net.weight = nn.Parameter(SHARED)


class First(Plain):
    """Its network belongs to the class, where the next one built overwrites it."""

    shared = None
    sign = 1

    def __init__(self):
        super().__init__()
        First.shared = nn.Linear(64, 10)
        First.shared.weight.data = self.sign * normal(torch.arange(10), (64,))

    def classify(self, x):
        return First.shared(x.flatten(1))


class Second(First):
    sign = -1


class Step(Attack):
    """Half a step up."""

    def __init__(self, eps: Quantity = Quantity("1/16")):
        super().__init__()
        self.threat = Linf(eps)

    def perturb(self, target, x, y):
        target(x)
        self.act(target, x, y)
        return (x + float(self.threat.eps) / 2).clamp(0, 1)

    def act(self, target, x, y):
        pass

    def cost(self, num_classes):
        return Cost(1, 0)


class ZeroesWeights(Step):
    def act(self, target, x, y):
        target.defense.net.weight.data.zero_()


class Trains(Step):
    def act(self, target, x, y):
        target.train()


class Hooks(Step):
    def act(self, target, x, y):
        target.defense.net.register_forward_hook(lambda *args: torch.zeros(len(x), 10))


class Replaces(Step):
    def act(self, target, x, y):
        target.defense.purify = lambda x: 1 - x


class Widens(Step):
    def perturb(self, target, x, y):
        self.threat = Linf(Quantity(1))
        return 1 - x


class Mutates(Step):
    """Its own budget, frozen as it is."""

    def perturb(self, target, x, y):
        object.__setattr__(self.threat, "eps", Quantity(1))
        return 1 - x


class OverwritesImages(Step):
    def perturb(self, target, x, y):
        y.zero_()
        return x.zero_()


class Dtype(Step):
    def act(self, target, x, y):
        torch.set_default_dtype(torch.float64)


class Grad(Step):
    def act(self, target, x, y):
        torch.set_grad_enabled(False)


class Device(Step):
    def act(self, target, x, y):
        torch.set_default_device("meta")


class Threads(Step):
    def act(self, target, x, y):
        torch.set_num_threads(torch.get_num_threads() + 3)


class Deterministic(Step):
    def act(self, target, x, y):
        torch.use_deterministic_algorithms(True)


class Moves(Step):
    def act(self, target, x, y):
        os.chdir("/")


class Reseeds(Step):
    def act(self, target, x, y):
        torch.manual_seed(1)
        np.random.seed(1)
        random.seed(1)


class Fails(Step):
    """Half done."""

    def act(self, target, x, y):
        target.defense.net.weight.data.zero_()
        torch.set_default_dtype(torch.float64)
        raise RuntimeError("planted failure")
