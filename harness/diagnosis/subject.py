"""A defense under diagnosis: its gradients, and how many images attacks of any strength find misclassified.

Every number is about the suite's images and one loss, the margin max_{j != y} z_j - z_y. Its gradient is that of
cross-entropy where two classes share all probability, and does not vanish where softmax saturates. An image counts as
misclassified unless its true class has more of the defense's votes than any other, under draws that no attack has seen.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.attack import Adversarial, Attack
from harness.checks.finding import Skip
from harness.config import yaml_file
from harness.config.component import bind
from harness.datasets.batch import Images
from harness.defense import Defense
from harness.gradients import Gradient
from harness.predict import margin, predict_votes
from harness.quantity import Quantity
from harness.randomness import derive, fenced, row_seeds
from harness.results.record import verdict_of
from harness.target import Target
from harness.threat import NORMS, Pixels

ATTACKS = Path(__file__).with_name("attacks.yaml")
WHITE_BOX, NOISE, BLACK_BOX = "white box", "random noise", "black box"
"""Its keys."""

Loss = Callable[[Tensor, Tensor], Tensor]
"""Logits (N, K) and labels (N,) to a value per image (N,), to be maximised."""


@dataclass(frozen=True)
class Settings:
    """How thoroughly a defense is examined.

    Args:
        norm, eps: the budget, on the [0, 1] scale.
        gradient, eot: the view of the defense that attacks differentiate, see `harness.attack.Attack`.
        steps: of PGD, the white-box attack.
        largest_eot: gradient randomness is measured at EOT 1, 2, 4, ... up to this.
        queries: of Square, the black-box attack.
        votes: draws that a stochastic defense answers with.
        seed: every other seed derives from it.
    """

    norm: str
    eps: Quantity
    gradient: Gradient = "exact"
    eot: int = 1
    steps: int = 10
    largest_eot: int = 4
    queries: int = 100
    votes: int = 5
    seed: int = 0


class Subject:
    """A defense with the images and settings of its diagnosis. Checks that need the same attack share one result of it.

    Args:
        defense: on the images' device, in evaluation mode.
        images: N of them; the attacks get those that the defense classifies correctly.
        surrogate: another classifier of these images with its name, or None.
        batch_size: images sent through a defense at once; no number depends on it.
    """

    def __init__(
        self,
        defense: Defense,
        images: Images,
        settings: Settings,
        *,
        surrogate: tuple[str, Defense] | None = None,
        batch_size: int = 256,
    ) -> None:
        self.defense, self.images, self.settings, self.surrogate = defense, images, settings, surrogate
        self.batch_size = batch_size
        self._misclassified: dict[str, Tensor] = {}
        self._targets: list[Target] = []

    @property
    def eot(self) -> int:
        """Draws per query; one of a deterministic defense."""
        return self.settings.eot if self.defense.stochastic else 1

    @property
    def passes(self) -> int:
        """Images sent through the defense so far, votes not counted."""
        return sum(int(target.forwards.sum()) for target in self._targets)

    @cached_property
    def right(self) -> Images:
        """The images that the defense classifies correctly.

        Raises:
            Skip: there are none.
        """
        right = (~self._wrong(self.images, self.images.x, "clean")).nonzero().squeeze(1)
        if not len(right):
            raise Skip(f"the defense classifies none of {len(self.images)} images correctly")
        return self.images.take(right.to(self.images.x.device))

    def threat(self, factor: float = 1.0) -> Pixels:
        """The budget, scaled."""
        eps = self.settings.eps if factor == 1 else Quantity(factor * self.settings.eps)
        return NORMS[self.settings.norm](eps)

    def target(self, tag: str, images: Images, *, eot: int | None = None, defense: Defense | None = None) -> Target:
        """The view that settings name, of the defense (or another), for these images; tag: sets its seeds apart."""
        found = Target(
            defense or self.defense,
            images.x,
            self._seeds(images, tag),
            gradient=self.settings.gradient if defense is None else "exact",
            eot=eot or self.eot,
            batch_size=self.batch_size,
        )
        self._targets.append(found)
        return found

    def gradient(self, target: Target, images: Images, loss: Loss) -> Tensor:
        """Of the loss of each clean image, averaged over the target's draws: (N, C, H, W); NaN where it met a NaN."""
        rows = torch.arange(len(images), device=images.x.device)
        grad = target.step(images.x, rows, lambda logits, some: loss(logits, images.y[some])).grad
        broken = torch.tensor([reason is not None for reason in target.met.reasons()], device=grad.device)
        return grad.masked_fill(broken.view(-1, 1, 1, 1), torch.nan)

    def pgd(self, *, eps: float | Quantity | None = None, eot: int | None = None, **changes: Any) -> Tensor:
        """Which of `right` the defense misclassifies under PGD, (n,) bool. changes: to the attack's arguments."""
        eot = eot or self.eot
        plain = {"steps": self.settings.steps, "gradient": self.settings.gradient, "eot": eot}
        return self.attacked(WHITE_BOX, self.settings.eps if eps is None else eps, **{**plain, **changes})

    def attacked(self, part: str, eps: float | Quantity, **arguments: Any) -> Tensor:
        """Which of `right` the defense misclassifies under an attack, (n,) bool. part: a key of `attacks.yaml`.

        Raises:
            Skip: the attack does not fit the defense.
        """
        entry = entry_of(part, self.settings.norm, Quantity(eps), **arguments)
        name = json.dumps(entry)
        if name not in self._misclassified:
            attack = built(entry)
            shape = tuple(self.right.x.shape[1:])
            if reason := attack.unsuitable(self.defense) or attack.unsuitable_images(shape):
                raise Skip(reason)
            self._misclassified[name] = self.misclassified_as(self.perturbed(attack, name), name)
        return self._misclassified[name]

    def perturbed(self, attack: Attack, tag: str, defense: Defense | None = None) -> Tensor:
        """The adversarial images that an attack on the defense, or on another one, makes of `right`: (n, C, H, W)."""
        target = self.target(tag, self.right, eot=attack.eot, defense=defense)
        with fenced(derive(self.settings.seed, "diagnose", tag)):
            found = attack.perturb(target, self.right.x.clone(), self.right.y.clone())
        if reason := next((reason for reason in target.met.reasons() if reason), None):
            raise ValueError(reason)
        return Adversarial.of(found).images.detach()

    def misclassified_as(self, x_adv: Tensor, tag: str) -> Tensor:
        """Which of `right` the defense misclassifies when they look like x_adv, (n,) bool on the CPU."""
        return self._wrong(self.right, x_adv, tag)

    def _wrong(self, images: Images, x: Tensor, tag: str) -> Tensor:
        seeds = self._seeds(images, f"{tag}, verdict")
        answers = predict_votes(self.defense, x, images.y, seeds, votes=self.settings.votes, batch_size=self.batch_size)
        if not bool(answers.valid.all()):
            raise ValueError("the defense gave NaN or infinite logits")
        pairs = zip(answers.votes.T.tolist(), images.y.tolist(), strict=True)
        return torch.tensor([verdict_of(votes, label) == "fooled" for votes, label in pairs])

    def _seeds(self, images: Images, tag: str) -> Tensor:
        return row_seeds(derive(self.settings.seed, "diagnose", tag), images.index)


def margin_loss(logits: Tensor, y: Tensor) -> Tensor:
    """The largest other logit minus the true class's, for attacks to maximise: (N, K), (N,) -> (N,)."""
    return -margin(logits, y)


def entry_of(part: str, norm: str, eps: Quantity, **arguments: Any) -> dict[str, Any]:
    """The attack that plays a part in a diagnosis, as an entry of a suite.

    Args:
        part: a key of `attacks.yaml`.
        norm, eps: the budget.
        arguments: of the attack's constructor, which go before those in the file.
    """
    entry = dict(yaml_file.read(ATTACKS).data[part])
    return {"type": entry.pop("type"), "norm": norm, "eps": eps.text, **entry, **arguments}


def built(entry: dict[str, Any]) -> Attack:
    """The attack that an entry describes."""
    node = yaml_file.parse(json.dumps(entry), ATTACKS).root
    attack: Attack = bind("attacks", str(entry["type"]), node).build()
    return attack
