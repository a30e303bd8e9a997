"""The cost of a suite: images x passes x network evaluations, and hours at a measured speed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from harness.attack import UNKNOWN_CLASSES
from harness.certification.certificate import Certificate
from harness.config.component import Component
from harness.datasets.by_name import absent_dataset, request_of
from harness.defense import Defense
from harness.dry_run.smoke import reduced
from harness.evaluation.pending import load_images
from harness.suite.build import build_defense, refuse_unsuitable
from harness.suite.plan import Plan

BATCH = {"cpu": 2, "cuda": 32}
"""The batch size for measuring speed, by type of device."""

SHORTEST = 1.0
"""The shortest duration of a measurement in seconds."""


@dataclass(frozen=True)
class CellCost:
    """Upper bounds for one pairing: passes for an image on which the attack never succeeds, including the verdict.

    Attributes:
        threat: empty for a certificate.
        per_image: network evaluations per image; a backward pass counts as the defense's `backward_cost`.
    """

    defense: str
    attack: str
    threat: str
    method: str
    images: int
    forwards: float
    backwards: float
    per_image: float

    @property
    def told(self) -> str:
        """Threat and method; a certificate has none but its method."""
        return f"{self.threat}: {self.method}" if self.threat else self.method

    @property
    def evaluations(self) -> float:
        """Network evaluations for all images."""
        return self.images * self.per_image


def estimate(plan: Plan) -> list[CellCost]:
    """The cost of every pairing. Builds the defenses, which needs checkpoints or placeholders on the meta device.

    Raises:
        UserError: for the same reasons as `harness.evaluation.run.run` before it attacks anything.
    """
    images, known, shape = _dataset(plan)
    votes = plan.suite.protocol.votes
    costs: list[CellCost] = []
    name, defense = "", None
    for cell in plan.cells:
        if cell.defense.name != name or defense is None:
            name, defense = cell.defense.name, build_defense(cell.defense)
        attack = cell.attack.build()
        refuse_unsuitable(cell, attack, defense, shape)
        search = attack.cost_on(defense, known or defense.num_classes or UNKNOWN_CLASSES)
        forwards = search.forwards + 2 * (votes if defense.stochastic else 1)
        per_image = defense.cost() * (forwards + defense.backward_cost * search.backwards)
        costs.append(
            CellCost(
                defense=name,
                attack=cell.attack.name,
                threat="" if isinstance(attack, Certificate) else str(attack.threat),
                method=attack.describe(),
                images=images,
                forwards=forwards,
                backwards=search.backwards,
                per_image=per_image,
            )
        )
    return costs


def speeds(plan: Plan, device: torch.device, *, shortest: float = SHORTEST) -> dict[str, float]:
    """Measures network evaluations per second of each defense on a device, with forward passes of its reduced version.

    Networks without weights get random ones, which take the same time.

    Args:
        plan: the suite's plan.
        device: where the defenses run.
        shortest: the seconds that each measurement takes at least.

    Raises:
        UserError: a defense cannot be built.
    """
    shape = image_shape(plan)
    components: dict[str, Component] = {cell.defense.name: reduced(cell.defense) for cell in plan.cells}
    return {name: _speed(build_defense(component), shape, device, shortest) for name, component in components.items()}


def image_shape(plan: Plan) -> tuple[int, ...]:
    """The shape of the images that the suite attacks, (C, H, W)."""
    return _dataset(plan)[2]


def hours(costs: list[CellCost], speed: Mapping[str, float]) -> list[float]:
    """The hours for each pairing. speed: evaluations per second, by defense."""
    return [cost.evaluations / speed[cost.defense] / 3600 for cost in costs]


def _dataset(plan: Plan) -> tuple[int, int | None, tuple[int, ...]]:
    """The number of images that the suite attacks, the number of classes, if known, and the shape, (C, H, W)."""
    spec = plan.suite.dataset
    if known := absent_dataset(spec.name, request_of(spec)):
        return len(spec.choose(known.test if spec.split == "test" else known.train)), known.classes, known.shape
    dataset, images = load_images(plan)
    return len(images), dataset.num_classes, tuple(images.x.shape[1:])


def _speed(defense: Defense, shape: tuple[int, ...], device: torch.device, shortest: float) -> float:
    materialise(defense)
    defense = defense.to(device)
    batch = BATCH.get(device.type, BATCH["cpu"])
    x = torch.rand(batch, *shape, generator=torch.Generator().manual_seed(0)).to(device)
    rounds, spent = 0, 0.0
    with torch.no_grad():
        _timed(defense, x)
        while not rounds or spent < shortest:
            rounds, spent = rounds + 1, spent + _timed(defense, x)
    return rounds * batch * defense.cost() / spent


def _timed(defense: Defense, x: torch.Tensor) -> float:
    began = time.perf_counter()
    defense(x).sum().item()
    return time.perf_counter() - began


def materialise(network: nn.Module) -> None:
    """Replaces tensors on the meta device by random ones with memory."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.is_meta:
                values = torch.randn(parameter.shape, generator=generator) * 0.02
                module._parameters[name] = nn.Parameter(values, requires_grad=False)
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.is_meta:
                module._buffers[name] = torch.ones_like(buffer, device="cpu")
