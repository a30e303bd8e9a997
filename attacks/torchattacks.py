"""Any attack of the library torchattacks (Kim, 2020), by its name there; the harness enforces the budget.

The library's attack sees logits averaged over the `eot` draws, through the view that `gradient` names. Images that it
returns outside their budget (minimum-norm attacks such as CW, DeepFool or FAB have none) are projected back, and the
verdict rests on the projected image. A flag says how many images were projected.

    fixed ball        PGD, MIFGSM, ...: `eps` bounds Linf, in PGDL2 and PGDRSL2 the L2 norm
    ball by `norm`    APGD, APGDT, FAB, Square, AutoAttack
    no ball           CW, DeepFool, EADEN, JSMA, OnePixel, ...: whatever they find, projected

The library draws its noise by position in the shard, and some of its attacks (CW, EAD) stop for the whole batch at
once, so that images depend on which others are there. Its AutoAttack takes 10 steps where the official one takes 100:
for that, use the attack `autoattack`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from attacks.common.norms import Norm, ball
from attacks.common.square import overruns
from harness.attack import Adversarial, Attack, Cost
from harness.defense import Defense
from harness.errors import UserError, nearest
from harness.gradients import Gradient
from harness.quantity import Quantity
from harness.randomness import derive, fenced, uniform
from harness.target import Target
from harness.threat import TOLERANCE, Pixels

BUDGETS = ("eps", "max_epsilon")
"""The names that the library's constructors give to the radius."""

L2_ONLY = ("PGDL2", "PGDRSL2")
"""Attacks with a radius and no `norm` whose ball is not Linf."""

SWAYED = (
    *("APGD", "APGDT", "AutoAttack", "CW", "DeepFool", "EADEN", "EADL1", "FAB"),
    *("JSMA", "OnePixel", "Pixle", "SparseFool", "Square"),
)
"""Attacks that stop, or choose what to return, by a single draw of the defense."""

TILED = ("AutoAttack", "Square")
"""Attacks that start from tiles in L2."""

FEWEST_CLASSES = {"APGDT": 4, "AutoAttack": 4, "JSMA": 10}
"""The classes that the targeted DLR loss needs, and JSMA, which counts its target class modulo 10."""

ONE_BY_ONE = ("DeepFool", "JSMA", "OnePixel", "Pixle", "SparseFool")
"""Attacks that loop over the images themselves. They get one image at a time, so that each query belongs to it."""

REHEARSAL = (3, 16, 16)
"""Shape of the image on which `TorchAttacks.cost` counts passes."""

PATIENT: dict[str, dict[str, Any]] = {
    "CW": {"c": 1e6},
    "EADEN": {"abort_early": False},
    "EADL1": {"abort_early": False},
}
"""Arguments with which attacks that give up when their loss stops falling go on to the end."""


class TorchAttacks(Attack):
    """An attack of torchattacks, with the harness's budget.

    The library attacks all images to the end, except where its attack itself drops misclassified images.

    Args:
        name: the attack's name in the library, such as PGD, VMIFGSM or CW.
        norm, eps: the budget, on the [0, 1] scale; `eps` and `norm` are passed on where the attack takes them.
        arguments: the attack's other arguments; numbers may be written as fractions, such as alpha: 2/255.
        gradient, eot: the view of the defense, see `harness.attack.Attack`.

    Raises:
        UserError: the library is not installed, or has no such attack or argument.
        ValueError: the budget is invalid, or the attack has another norm.
    """

    def __init__(
        self,
        name: str,
        norm: Norm,
        eps: Quantity,
        arguments: dict[str, Any] | None = None,
        gradient: Gradient = "exact",
        eot: int = 1,
    ) -> None:
        super().__init__(gradient=gradient, eot=eot)
        self.threat: Pixels = ball(norm, eps)
        self.name, self.norm = name, norm
        self._class = _attack_named(name)
        self._accepted = inspect.signature(self._class.__init__).parameters
        self.written = dict(arguments or {})
        self.arguments = {key: _number(value) for key, value in self.written.items()}
        self._check_arguments()
        self._check_norm()
        self._library(nn.Linear(1, 1), classes=10, seed=0)  # what its constructor refuses is refused now

    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Adversarial:
        """The images that the library returned; those outside their budget are projected into it."""
        classes = target.defense.num_classes or target(x[:1]).shape[1]
        everyone = torch.arange(len(x), device=x.device)
        groups = everyone.split(1 if self.name in ONE_BY_ONE else len(x))
        returned = torch.cat([self._attacked(target, x, y, rows, classes) for rows in groups])
        exceeds = self.threat.violation(x, returned) > TOLERANCE
        images = torch.where(exceeds.view(-1, 1, 1, 1), self.threat.project(x, returned), returned)
        count = int(exceeds.sum())
        return Adversarial(images, flags=(f"torchattacks: {count} of {len(x)} images projected",) if count else ())

    def cost_limit(self, num_classes: int) -> Cost:
        """None that is known: some of the library's attacks take as many passes as an image has pixels."""
        return Cost(math.inf, math.inf)

    def cost(self, num_classes: int) -> Cost:
        """Counts the passes of one small image through a linear classifier that never misclassifies it.

        The count is exact for an image that is never misclassified, where the number of passes does not depend on the
        image: CW and EAD may stop earlier, and JSMA's passes grow with the size. It is NaN where the library's attack
        fails on so small an image.
        """
        x, y = uniform(torch.zeros(1, dtype=torch.int64), REHEARSAL), torch.zeros(1, dtype=torch.int64)
        model = _Unbeatable(num_classes)
        try:
            with fenced(0):
                self._library(model, num_classes, seed=0, **PATIENT.get(self.name, {}))(x, y)
        except Exception:  # only the library's own rules know what it can attack
            return Cost(math.nan, math.nan)
        return Cost(self.eot * model.forwards, self.eot * model.backwards)

    def describe(self) -> str:
        arguments = ", ".join(f"{key}={value}" for key, value in self.written.items())
        return f"{super().describe()}, {self.name}" + (f"({arguments})" if arguments else "")

    def unsuitable(self, defense: Defense) -> str | None:
        if defense.stochastic and self.eot == 1 and self.name in SWAYED:
            return f"{self.name} decides by a single draw of a stochastic defense; use eot, or pgd with eot"
        fewest = FEWEST_CLASSES.get(self.name, 2)
        if defense.num_classes is not None and defense.num_classes < fewest:
            return f"{self.name} needs at least {fewest} classes, not {defense.num_classes}"
        return super().unsuitable(defense)

    def unsuitable_images(self, shape: tuple[int, ...]) -> str | None:
        if self.name in TILED and self.norm == "L2" and overruns(*shape[-2:]):
            size = "x".join(str(length) for length in shape[-2:])
            return f"{self.name} in L2 fails on images of {size} pixels, which its tiles exceed; use autoattack"
        return super().unsuitable_images(shape)

    def _attacked(self, target: Target, x: Tensor, y: Tensor, rows: Tensor, classes: int) -> Tensor:
        """The images that the library makes from the images `rows` (M,): (M, C, H, W)."""
        seed = derive("torchattacks", *target.seeds[rows].tolist())
        with fenced(seed):
            images: Tensor = self._library(Model(target, rows), classes, seed)(x[rows], y[rows])
        return images.detach().to(x)

    def _library(self, model: nn.Module, classes: int, seed: int, **more: Any) -> Any:
        """The library's attack. Its own defaults would be 10 classes, and for some attacks the time as a seed."""
        ours = {"norm": self.norm, "n_classes": classes, "seed": seed, **dict.fromkeys(BUDGETS, float(self.threat.eps))}
        passed = {key: value for key, value in ours.items() if key in self._accepted}
        return self._class(model, **{**passed, **self.arguments, **more})

    def _check_arguments(self) -> None:
        reserved = {"self", "model", "norm", *BUDGETS}
        valid = [key for key in self._accepted if key not in reserved]
        for key, value in self.arguments.items():
            if key in reserved:
                raise UserError(
                    f"'{key}' does not belong among the arguments", remedy="Set `norm` and `eps` beside `name`"
                )
            if key not in valid:
                raise UserError(f"{self.name} has no '{key}' among its arguments", remedy=nearest(key, valid))
            usual = self._accepted[key].default
            kinds: tuple[type, ...] = (int, float) if type(usual) in (int, float) else (type(usual),)
            if type(usual) in (bool, int, float, str) and type(value) not in kinds:
                raise ValueError(f"{key} among the arguments is {value!r}; {self.name}'s own is {usual!r}")

    def _check_norm(self) -> None:
        if "norm" in self._accepted or not set(BUDGETS) & set(self._accepted):
            return
        norm = "L2" if self.name in L2_ONLY else "Linf"
        if self.norm != norm:
            raise ValueError(f"norm is '{self.norm}', but {self.name} bounds the {norm} norm; set norm: {norm}")


class Model(nn.Module):
    """The target as a network for the library, with its logits averaged over draws.

    Some attacks query points outside [0, 1], which no defense has to accept: they get the logits of the nearest image,
    and the gradient there. The library does not say which images a batch belongs to. A batch with as many images as are
    attacked is taken to be all of them in order; in any other, each image belongs to the nearest clean image.

    Args:
        rows: the images that are attacked, (M,).
    """

    def __init__(self, target: Target, rows: Tensor) -> None:
        super().__init__()
        self.place = nn.Parameter(
            torch.empty(0, device=rows.device), requires_grad=False
        )  # shows the library the device
        self.target, self.rows = target, rows

    def train(self, mode: bool = True) -> Model:
        """Changes nothing, since the library would otherwise leave a defense in training mode."""
        return self

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.target(x + (x.clamp(0, 1) - x).detach(), self._rows(x))
        return logits

    def _rows(self, x: Tensor) -> Tensor:
        if len(self.rows) in (1, len(x)):
            return self.rows.expand(len(x))
        return self.target.nearest(x)


class _Unbeatable(nn.Module):
    """A linear classifier whose class 0 leads by more than any image can change; it counts its queries."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        features = math.prod(REHEARSAL)
        weights = (2 * uniform(torch.arange(classes), (features,)) - 1) * 4 / features
        self.weights = nn.Parameter(weights, requires_grad=False)
        self.lead = 10.0 * (torch.arange(classes) == 0)
        self.forwards = self.backwards = 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += len(x)
        x = x.flatten(1)
        if x.requires_grad:
            x.register_hook(self._differentiated)
        return x @ self.weights.T + self.lead

    def _differentiated(self, grad: Tensor) -> None:
        self.backwards += len(grad)


def _attack_named(name: str) -> Any:
    """The class of that name in the library."""
    try:
        import torchattacks
    except ImportError as error:
        raise UserError(
            "attacks of type torchattacks need the library torchattacks, which is not installed",
            remedy="`harness doctor` gives the command",
        ) from error
    names = [known for known in torchattacks.__all__ if known not in torchattacks.__wrapper__]
    if name not in names:
        cased: Mapping[str, str] = {known.casefold(): known for known in names}
        remedy = nearest(cased.get(name.casefold(), name), names)
        raise UserError(f"torchattacks has no attack named '{name}'", remedy=remedy)
    return getattr(torchattacks, name)


def _number(value: Any) -> Any:
    """Text such as "2/255" as a number; every other value unchanged."""
    if not isinstance(value, str):
        return value
    try:
        return float(Quantity(value))
    except ValueError:
        return value
