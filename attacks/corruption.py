"""Common corruptions (Hendrycks & Dietterich, 2019): noise, blur and the like, which no attacker chooses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from attacks.common.gradient_attack import BestIterates
from harness.attack import Adversarial, Attack, Cost
from harness.process import waits
from harness.quantity import Quantity
from harness.randomness import derive, fold
from harness.target import Target
from harness.threats import CORRUPTIONS
from harness.threats.corruption import SEVERITIES
from harness.threats.corruption import Corruption as Threat
from harness.threats.parametric import image_seeds

CorruptionName = Literal[
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "speckle_noise",
    "gaussian_blur",
    "defocus_blur",
    "motion_blur",
    "zoom_blur",
    "fog",
    "brightness",
    "contrast",
    "saturate",
    "pixelate",
    "jpeg_compression",
    "glass_blur",
    "elastic_transform",
    "spatter",
]

_DRAW = derive("corruption")


class Corruption(Attack):
    """Corrupts images at a severity. What is random follows from the image, so that every defense gets the same images.

    Args:
        kind: the corruption, see `docs/threats.md`.
        severity: 1 to 5, the five of CIFAR-10-C.
        tries: random corruptions of each image, of which the one of largest margin is kept; on a deterministic defense
            a misclassified image gets no more. With 1, the defense is not asked.
        eot: draws that a stochastic defense's margin is averaged over, where there are several tries.

    Raises:
        ValueError: an unknown corruption, a severity that is none, or a count below 1.
    """

    independent = True
    version = 1
    caps: ClassVar[Mapping[str, int]] = {"tries": 2, "eot": 1}

    def __init__(self, kind: CorruptionName, severity: int, tries: int = 1, eot: int = 1) -> None:
        super().__init__(eot=eot)
        if kind not in get_args(CorruptionName):
            raise ValueError(f"kind is '{kind}'; valid values: {', '.join(get_args(CorruptionName))}")
        if not 1 <= severity <= SEVERITIES:
            raise ValueError(f"severity is {severity}; it must be 1 to {SEVERITIES}")
        if tries < 1:
            raise ValueError(f"tries is {tries}; it must be at least 1")
        self.threat: Threat = CORRUPTIONS[kind](Quantity(severity))
        self.tries = tries

    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Adversarial:
        seeds = fold(image_seeds(x), _DRAW)
        if self.tries == 1:
            z = self.threat.parameters(seeds)
            return Adversarial(self.threat.render(x, z), z)
        best = BestIterates.of(x.new_zeros(len(x), 2), y)
        rows = torch.arange(len(x), device=x.device)
        for number in range(self.tries):
            if not target.defense.stochastic:
                rows = waits.rows(~best.misclassified)
            if not len(rows):
                break
            z = self.threat.parameters(fold(seeds[rows], number)).to(x)
            best.update(z, rows, target(self.threat.render(x[rows], z), rows))
        return Adversarial(self.threat.render(x, best.images), best.images)

    def cost(self, num_classes: int) -> Cost:
        return Cost(self.eot * self.tries if self.tries > 1 else 0, 0)

    def describe(self) -> str:
        return f"{super().describe()}, {self.tries} tries" if self.tries > 1 else "corruption"

    def unsuitable_images(self, shape: tuple[int, ...]) -> str | None:
        return self.threat.unsuitable(shape)
