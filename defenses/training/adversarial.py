"""Adversarial training (Madry et al., 2018): cross-entropy on the images that an attack makes against the network.

min_theta E[ max_{x' within the budget of x} CE(f_theta(x'), y) ],    the maximum as far as the attack finds it
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from defenses.training.classifier import jittered
from harness.attack import Attack
from harness.config.component import bind, check_budget
from harness.config.yaml_file import parse
from harness.defense import Defense
from harness.errors import UserError
from harness.target import Target
from harness.training import Trainer, as_used, logits_of


class Adversarial(Trainer):
    """Minimises cross-entropy on adversarial images, made anew for every batch.

    Args:
        attack: as in a suite, `{type: pgd, norm: Linf, eps: 0.15, steps: 10}`; it should not stop an image early.
        shift: images are moved by up to so many pixels along each axis before they are attacked.
        clean: share of the loss that is cross-entropy on the images as they were.
    """

    def __init__(self, attack: dict[str, Any], shift: int = 0, clean: float = 0.0) -> None:
        self.attack = _build(attack)
        self.shift, self.clean = shift, clean

    def loss(self, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        x = jittered(x, self.shift)
        loss = F.cross_entropy(logits_of(network, self._attacked(network, x, y)), y)
        if self.clean:
            loss = (1 - self.clean) * loss + self.clean * F.cross_entropy(logits_of(network, x), y)
        return loss

    def _attacked(self, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """The network is attacked as it will be used: in evaluation mode."""
        seeds = torch.randint(2**62, (len(x),)).to(x.device)
        target = Target(_InTraining(network), x, seeds, gradient=self.attack.gradient, eot=self.attack.eot)
        with as_used(network):
            result = self.attack.perturb(target, x, y)
        return (result if isinstance(result, Tensor) else result.images).detach()


def _build(attack: dict[str, Any]) -> Attack:
    """The entry's own lines mean nothing here: whoever builds the trainer knows where `attack` was written."""
    try:
        component = bind("attacks", str(attack.get("type", "attack")), parse(json.dumps(attack), Path("attack")).root)
        check_budget(component)
        built: Attack = component.build()
    except UserError as error:
        raise UserError(error.message, remedy=error.remedy) from error
    return built


class _InTraining(Defense):
    """The network as an attack sees it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def classify(self, x: Tensor) -> Tensor:
        return logits_of(self.network, x)
