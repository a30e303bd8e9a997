"""Adversarial images that exist for certain: how many of them an attack finds, and in how much time.

    python benchmarks/exact_answers.py PEERS MNIST [--attack NAME]         prints a Markdown table

PEERS is a folder of two networks of the alpha-beta-CROWN project (BSD-3), `mnist_cnn_a_adv.model` and
`MadryCNN_no_maxpool_tiny.pt`; MNIST is the folder of MNIST's raw files. On the 20 test images of each that `IMAGES`
names, a complete solver found an adversarial image at Linf 0.3 which the gradient attacks of its authors had missed:
an attack's robust accuracy on them is 0, and all above is the attack's fault. Seconds are CPU time of this process.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from attacks.autoattack import AutoAttack
from attacks.crossover import Crossover
from attacks.pgd import PGD
from harness import datasets
from harness.attack import Adversarial, Attack
from harness.defense import Defense
from harness.quantity import Quantity
from harness.target import Target

EPS = Quantity("0.3")

ATTACKS: dict[str, Attack] = {
    "autoattack": AutoAttack("Linf", EPS),
    "pgd": PGD("Linf", EPS, steps=50, loss="margin", momentum=0.9, schedule="cosine", restarts=50),
    "crossover": Crossover("Linf", EPS),
}

IMAGES = {
    "mnist_cnn_a_adv.model": (
        *(3343, 9711, 1729, 9697, 7071, 2113, 4311, 8374, 4868, 4547),
        *(8049, 8258, 3468, 2318, 8702, 2769, 273, 8578, 7799, 2745),
    ),
    "MadryCNN_no_maxpool_tiny.pt": (
        *(1406, 2244, 6605, 4974, 7027, 9754, 4633, 1105, 4479, 9751),
        *(7903, 3542, 9680, 3343, 333, 4963, 758, 4432, 1028, 8847),
    ),
}
"""Indices in MNIST's test set."""


class Classifier(Defense):
    """A network as it is. (N, 1, 28, 28) in [0, 1] -> logits (N, 10)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.requires_grad_(False).eval()

    def classify(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return logits


@dataclass(frozen=True)
class Found:
    """Of `images` images that have an adversarial image each, so many were found, in so many seconds and passes."""

    found: int
    images: int
    seconds: float
    passes: int


def network(path: Path) -> nn.Module:
    """Two convolutions and two linear layers, whose sizes the file says."""
    state = torch.load(path, weights_only=True, map_location="cpu")
    state = state.get("state_dict", state)
    weights, biases = list(state.values())[::2], list(state.values())[1::2]
    (first, second, third, fourth), padding = weights, (weights[0].shape[-1] - 1) // 2
    net = nn.Sequential(
        nn.Conv2d(*first.shape[1::-1], first.shape[-1], 2, padding),
        nn.ReLU(),
        nn.Conv2d(*second.shape[1::-1], second.shape[-1], 2, padding),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(*third.shape[::-1]),
        nn.ReLU(),
        nn.Linear(*fourth.shape[::-1]),
    )
    layers = [layer for layer in net if hasattr(layer, "weight")]
    for layer, weight, bias in zip(layers, weights, biases, strict=True):
        layer.weight.data, layer.bias.data = weight, bias
    return net


def find(attack: Attack, defense: Defense, x: Tensor, y: Tensor) -> Found:
    """Attacks all images at once, each under its own seed."""
    target = Target(defense, x, torch.arange(len(x)), gradient=attack.gradient, eot=attack.eot)
    began = time.process_time()
    images = Adversarial.of(attack.perturb(target, x.clone(), y.clone())).images
    seconds = time.process_time() - began
    assert not attack.threat.violation(x, images).gt(1e-6).any()
    wrong = defense(images).argmax(1) != y
    return Found(int(wrong.sum()), len(x), seconds, int(target.forwards.sum()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peers", type=Path, nargs="?")
    parser.add_argument("mnist", type=Path, nargs="?")
    parser.add_argument("--attack", choices=ATTACKS, action="append")
    options = parser.parse_args()
    if options.peers is None or options.mnist is None:
        print("This one needs two folders that do not come with the project: see --help.")
        return
    torch.set_num_threads(1)
    data = datasets.load("mnist", "test", options.mnist, offline=True)
    print("| attack | network | found | CPU s | forward passes |\n|---|---|---:|---:|---:|")
    for name in options.attack or ATTACKS:
        for file, indices in IMAGES.items():
            index = torch.tensor(indices)
            result = find(
                ATTACKS[name], Classifier(network(options.peers / file)), data.images[index], data.labels[index]
            )
            spent = f"{result.seconds:.0f} | {result.passes:,}"
            print(f"| {name} | {file} | {result.found} of {result.images} | {spent} |", flush=True)


if __name__ == "__main__":
    main()
