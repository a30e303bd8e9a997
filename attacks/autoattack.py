"""AutoAttack (Croce & Hein, 2020): the official algorithm, through the package `pyautoattack`.

    standard   apgd-ce, apgd-t, fab-t, square       for deterministic defenses
    plus       apgd-ce, apgd-dlr, fab, square, apgd-t, fab-t, with 5 restarts of the untargeted APGD and of FAB
    rand       apgd-ce, apgd-dlr, each gradient averaged over 20 draws       for stochastic ones
    auto       whichever of the two suits the defense
    custom     the attacks listed, in that order, each with its hyper-parameters of `standard`

In L1, `standard` restarts APGD 5 times, aims at 5 targets, and spends the first 60% of APGD's steps in balls of 3 and
2 eps (Croce & Hein, 2021). Each attack of the list runs only on images that are not yet misclassified. The library
draws its noise by position in the shard, so that its images depend on which others are there.

On a deterministic defense evaluations are left out that could not change a verdict, few images share a batch with
others of theirs, and the defense is replaced by a faster copy: see `early_stop`, `square_ahead` and `folded` in
`attacks.common`.

On a defense without a gradient Square runs alone, and a flag says so. Its tiles, in L2 and L1, are cut off where they
leave the image, see `attacks.common.square`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple, get_args

import pyautoattack
import torch
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from torch import Tensor

from attacks.common.autoattack_library import library_fence
from attacks.common.folded import folded
from attacks.common.norms import Norm, ball
from attacks.common.one_draw import NoGradient, OneDraw
from attacks.common.square import Square, too_low
from attacks.common.square_ahead import WASTED, SquareAhead
from attacks.common.stopping_apgd import StoppingAPGD, StoppingTargetedAPGD
from attacks.common.stopping_fab import StoppingFAB
from harness.attack import Adversarial, Attack, Cost
from harness.defense import Defense
from harness.errors import UserError
from harness.gradients import VIEWS, Gradient
from harness.guard.doubt import in_doubt, least_cosine_judging
from harness.process import waits
from harness.quantity import Quantity
from harness.randomness import derive, fenced
from harness.target import Target
from harness.threat import TOLERANCE, Pixels

Version = Literal["standard", "plus", "rand", "auto", "custom"]
Stage = Literal["apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square"]

STANDARD: tuple[Stage, ...] = ("apgd-ce", "apgd-t", "fab-t", "square")
PLUS: tuple[Stage, ...] = ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t")
RAND: tuple[Stage, ...] = ("apgd-ce", "apgd-dlr")
RAND_DRAWS = 20
SMALL: tuple[Stage, ...] = (*RAND, "square")
"""The attacks that a trial run (`harness run --smoke`) tries."""
MOST_TARGETS, MOST_TARGETS_L1 = 9, 5
RESTARTS = 5
"""Restarts of the untargeted APGD in L1, and of the untargeted APGD and FAB in `plus`."""
LARGER_BALLS = 2
"""Runs of APGD in larger balls before the one that counts, in L1."""
FAB_STEPS = 100
FEWEST_CLASSES: dict[Stage, int] = {"apgd-dlr": 3, "apgd-t": 4}
"""The classes that the DLR losses need; the other attacks need two."""

WITHOUT_GRADIENT: tuple[Stage, ...] = ("square",)
"""Attacks that use logits only."""


class Passes(NamedTuple):
    """Passes of one image through a defense."""

    forwards: int
    backwards: int


class AutoAttack(Attack):
    """AutoAttack, an ensemble of attacks without parameters to tune (Croce & Hein, 2020).

    The library stops attacking an image when it is first misclassified, even by a lucky draw of a stochastic defense;
    the harness's votes then decide. The library's warnings about the defense are returned as flags.

    Args:
        norm, eps: the budget, on the [0, 1] scale.
        version: see the module's head.
        attacks: the list for `custom`, of one or more of apgd-ce, apgd-dlr, apgd-t, fab, fab-t, square.
        apgd_steps: iterations of each APGD attack; 100 unless given, with `custom` only.
        apgd_restarts: restarts of each APGD attack; those of `standard` unless given, with `custom` only.
        square_queries: queries of Square; 5000 unless given, with `custom` only.
        gradient: the view of the defense, see `harness.attack.Attack`.
        eot: draws that APGD averages each gradient over, stochastic defenses only; 20 for `rand` and `auto`, else 1.

    Raises:
        ValueError: an unknown attack, or an argument that the version does not take.
    """

    def __init__(
        self,
        norm: Norm,
        eps: Quantity,
        version: Version = "standard",
        attacks: list[str] | None = None,
        apgd_steps: int | None = None,
        apgd_restarts: int | None = None,
        square_queries: int | None = None,
        gradient: Gradient = "exact",
        eot: int | None = None,
    ) -> None:
        if eot is None:
            eot = RAND_DRAWS if version in ("rand", "auto") else 1
        super().__init__(gradient=gradient, eot=eot)
        overrides = {"apgd_steps": apgd_steps, "apgd_restarts": apgd_restarts, "square_queries": square_queries}
        if version not in get_args(Version):
            raise ValueError(f"version is '{version}'; valid versions: {', '.join(get_args(Version))}")
        _check_fixed(version, {"attacks": attacks, **overrides}, eot)
        for name, value in overrides.items():
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        self.threat: Pixels = ball(norm, eps)
        self.norm, self.cascade = norm, version
        self.custom = _stages(attacks) if version == "custom" else ()
        self.apgd_steps, self.apgd_restarts = apgd_steps or 100, apgd_restarts
        self.square_queries = square_queries or 5000

    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Adversarial:
        """The images that the view misclassifies, and the clean image where there is none.

        Where the view has no gradient, only attacks that need none run, and a flag says so: their result is an upper
        bound on robust accuracy as AutoAttack's is, but a weaker one.

        Raises:
            UserError: too few classes, or images too small, for one of the attacks.
            NoGradient: the view has no gradient, and every attack of the list needs one.
        """
        stages = self.stages(target.defense.stochastic)
        classes = target.defense.num_classes or target(x[:1]).shape[1]
        problem = _too_few(stages, classes) or self.unsuitable_images(tuple(x.shape[1:]))
        if problem:
            raise UserError(problem, remedy="Use version: custom with a list of attacks that leaves it out")
        try:
            images, flags = self._run(target, x, y, stages, classes)
        except NoGradient as reason:
            able = tuple(stage for stage in stages if stage in WITHOUT_GRADIENT)
            if not able:
                raise
            images, flags = self._run(target, x, y, able, classes)
            unable = ", ".join(stage for stage in stages if stage not in able)
            flags.append(in_doubt(f"autoattack: {unable} could not run: {reason}; only {', '.join(able)} ran"))
        exceeds = (self.threat.violation(x, images) > TOLERANCE).view(-1, 1, 1, 1)
        images = torch.where(exceeds, self.threat.project(x, images), images)
        return Adversarial(images, flags=tuple(dict.fromkeys(flags)))

    @classmethod
    def reduced(cls, arguments: Mapping[str, Any]) -> tuple[type[Attack], dict[str, Any]]:
        """A `custom` list of cheap attacks with few steps and queries; for `rand` and `auto`, the attacks of `rand`."""
        few: dict[str, Any] = {"version": "custom", "attacks": list(SMALL), "apgd_steps": 2, "square_queries": 4}
        if arguments["version"] in ("rand", "auto"):
            few |= {"attacks": list(RAND), "eot": cls.caps["eot"]}
        return super().reduced({**arguments, **few})

    def stages(self, stochastic: bool) -> tuple[Stage, ...]:
        """The attacks that run, in order, against a stochastic or a deterministic defense."""
        if self.cascade == "custom":
            return self.custom
        if self.cascade == "plus":
            return PLUS
        return RAND if self.cascade == "rand" or (self.cascade == "auto" and stochastic) else STANDARD

    def least_cosine(self) -> float:
        return least_cosine_judging(self.eot)

    def cost(self, num_classes: int) -> Cost:
        """The cost of an image that is never misclassified; for `auto`, the larger cost of its two versions.

        Attacks that look ahead (APGD-T at several targets, Square at several proposals) evaluate some images in vain:
        Square at most a tenth more, and APGD-T what it breaks off when one of the other images is misclassified.
        """
        return _largest(self._total(stochastic, num_classes) for stochastic in self._kinds())

    def cost_limit(self, num_classes: int) -> Cost:
        """With all that is evaluated in vain, and twice: on a faster copy of the defense, and then on itself.

        Where each target of APGD-T succeeds on some image, r runs at several targets become r + (r - 1) + ... + 1.
        """
        return _largest(self._limit(stochastic, num_classes) for stochastic in self._kinds())

    def describe(self) -> str:
        changed = [] if self.cascade != "custom" else [*self.custom, f"{self.apgd_steps} APGD steps"]
        return ", ".join([f"{super().describe()}, {self.cascade}", *changed])

    def unsuitable(self, defense: Defense) -> str | None:
        if defense.stochastic and (self.cascade == "standard" or self.eot == 1):
            return (
                f"AutoAttack's {self.cascade} version decides by a single draw of a stochastic defense; "
                "use version: rand, or pgd with eot"
            )
        problem = _too_few(self.stages(defense.stochastic), defense.num_classes) if defense.num_classes else None
        return problem or super().unsuitable(defense)

    def unsuitable_images(self, shape: tuple[int, ...]) -> str | None:
        stages = {stage for stochastic in (False, True) for stage in self.stages(stochastic)}
        problem = too_low(self.norm, shape[-2]) if "square" in stages else None
        return f"AutoAttack's {problem}" if problem else super().unsuitable_images(shape)

    def _run(
        self, target: Target, x: Tensor, y: Tensor, stages: tuple[Stage, ...], classes: int
    ) -> tuple[Tensor, list[str]]:
        """Runs these attacks of the library. Returns its images, (N, C, H, W), and its warnings as flags.

        They query a faster copy of the defense where there is one. Should the defense itself classify one of the images
        that misled the copy correctly, they run again on the defense.
        """
        fast = target.with_defense(folded(target.defense, x, VIEWS[self.gradient]))
        images, predicted, flags = self._attacked(fast, x, y, stages, classes)
        if fast.defense is not target.defense and not _misclassified(target, images, y, waits.rows(predicted != y)):
            images, _, flags = self._attacked(target, x, y, stages, classes)
        return images, flags

    def _attacked(
        self, target: Target, x: Tensor, y: Tensor, stages: tuple[Stage, ...], classes: int
    ) -> tuple[Tensor, Tensor, list[str]]:
        """The library's images, (N, C, H, W), how they were classified, (N,), and its warnings as flags."""
        seed = derive("autoattack", *target.seeds.tolist())
        with fenced(seed), library_fence() as flags:
            library = self._library(target, stages, classes, seed, x.device)
            images, predicted = library.run_standard_evaluation(x.contiguous(), y, batch_size=len(x))
        return images, predicted, flags

    def _library(
        self, target: Target, stages: tuple[Stage, ...], classes: int, seed: int, device: torch.device
    ) -> pyautoattack.AutoAttack:
        """The library's object. `custom` lists are set afterwards: its own "custom" has other hyper-parameters."""
        model, stochastic = OneDraw(target), target.defense.stochastic
        shared = {"eps": float(self.threat.eps), "norm": self.norm, "seed": seed, "device": device}
        library = pyautoattack.AutoAttack(model, version="standard", **shared)
        library.attacks_to_run = list(stages)
        library.version = "rand" if stochastic else "standard"  # "rand" omits the check for randomness
        apgd = {
            "n_iter": self.apgd_steps,
            "eot_iter": self.eot if stochastic else 1,
            "use_largereps": self._grows(stochastic),
            "logger": library.logger,
        }
        restarts, targets = self._restarts("apgd-ce", stochastic), self._targets("apgd-t", classes)
        untargeted, targeted = (APGDAttack, APGDAttack_targeted) if stochastic else (StoppingAPGD, StoppingTargetedAPGD)
        library.apgd = untargeted(model, n_restarts=restarts, **shared, **apgd)
        library.apgd_targeted = targeted(
            model, n_restarts=self._restarts("apgd-t", stochastic), n_target_classes=targets, **shared, **apgd
        )
        if not stochastic:
            library.fab = StoppingFAB(model, self.threat, n_iter=FAB_STEPS, **shared)
        library.fab.n_restarts = self._restarts("fab", stochastic)
        library.fab.n_target_classes = self._targets("fab-t", classes)
        looks_ahead = self.norm == "Linf" and not stochastic
        square = {"p_init": 0.8, "n_queries": self.square_queries, "n_restarts": 1, "resc_schedule": False}
        library.square = (SquareAhead if looks_ahead else Square)(model, **shared, **square)
        return library

    def _restarts(self, stage: Stage, stochastic: bool) -> int:
        if stage in ("apgd-ce", "apgd-dlr", "apgd-t") and self.apgd_restarts:
            return self.apgd_restarts
        if self.cascade == "plus":
            return 1 if stage in ("apgd-t", "fab-t") else RESTARTS
        return RESTARTS if stage in ("apgd-ce", "apgd-dlr") and self._grows(stochastic) else 1

    def _targets(self, stage: Stage, classes: int) -> int:
        few = self.norm == "L1" and stage == "apgd-t" and self.cascade != "plus"
        return min(MOST_TARGETS_L1 if few else MOST_TARGETS, classes - 1)

    def _grows(self, stochastic: bool) -> bool:
        """Whether APGD begins in larger balls, see the module's head."""
        rand = self.cascade == "rand" or (self.cascade == "auto" and stochastic)
        return self.norm == "L1" and self.cascade != "plus" and not rand

    def _kinds(self) -> tuple[bool, ...]:
        """Whether the defenses that this configuration is for are stochastic."""
        return (False, True) if self.cascade == "auto" else (self.eot > 1,)

    def _total(self, stochastic: bool, classes: int) -> Passes:
        """Passes of all attacks and of the library's checks: clean accuracy, range, dynamic, five for randomness."""
        parts = [self._passes(stage, classes, stochastic) for stage in self.stages(stochastic)]
        return Passes((3 if stochastic else 8) + sum(p.forwards for p in parts), sum(p.backwards for p in parts))

    def _limit(self, stochastic: bool, classes: int) -> Cost:
        """What no image exceeds."""
        forwards, backwards = map(float, self._total(stochastic, classes))
        for stage in self.stages(stochastic):
            passes = self._passes(stage, classes, stochastic)
            if stage == "apgd-t":
                again = (self._restarts(stage, stochastic) * self._targets(stage, classes) - 1) / 2
                forwards, backwards = forwards + again * passes.forwards, backwards + again * passes.backwards
            if stage == "square":
                forwards += passes.forwards / WASTED
        return Cost(2 * forwards, 2 * backwards)

    def _passes(self, stage: Stage, classes: int, stochastic: bool) -> Passes:
        """Passes of one attack: on the clean image, during its run, and on the image that it returns."""
        restarts, targets = self._restarts(stage, stochastic), self._targets(stage, classes)
        runs = 1 + LARGER_BALLS * self._grows(stochastic)
        apgd = restarts * (self.apgd_steps + runs) * (self.eot if stochastic else 1)
        if stage == "apgd-t":
            return Passes(2 + targets * (apgd + restarts), targets * apgd)
        if stage == "fab":
            return Passes(2 + restarts * (2 * FAB_STEPS + 2), restarts * FAB_STEPS * classes)
        if stage == "fab-t":
            return Passes(2 + restarts * targets * (2 * FAB_STEPS + 3), restarts * targets * FAB_STEPS)
        if stage == "square":
            return Passes(self.square_queries + 4, 0)
        return Passes(2 + apgd, apgd)


def _largest(options: Iterable[Passes | Cost]) -> Cost:
    """Over the versions that may run, for forward and backward passes each."""
    forwards, backwards = zip(*((option.forwards, option.backwards) for option in options), strict=True)
    return Cost(max(forwards), max(backwards))


@torch.no_grad()
def _misclassified(target: Target, images: Tensor, y: Tensor, rows: Tensor) -> bool:
    """Whether the defense itself misclassifies all of these images. images: (N, C, H, W); rows: (M,)."""
    if not len(rows):
        return True
    logits = target.sample(images[rows], rows, draws=1)[0]
    return not waits.some(logits.argmax(1) == y[rows])


def _check_fixed(version: str, given: dict[str, object], eot: int) -> None:
    extra = [name for name, value in given.items() if value is not None]
    if version != "custom" and extra:
        raise ValueError(f"{', '.join(extra)} would change what version {version} means; set version: custom")
    if version == "standard" and eot != 1:
        raise ValueError(f"version standard has no eot (here {eot}); set version: rand or custom")


def _stages(names: list[str] | None) -> tuple[Stage, ...]:
    valid: tuple[Stage, ...] = get_args(Stage)
    for name in names or []:
        if name not in valid:
            raise ValueError(f"'{name}' is not an attack of AutoAttack; valid names: {', '.join(valid)}")
    if not names:
        raise ValueError(f"version custom needs attacks, a list of {', '.join(valid)}")
    return tuple(stage for name in names for stage in valid if stage == name)


def _too_few(stages: tuple[Stage, ...], classes: int) -> str | None:
    for stage in stages:
        if classes < FEWEST_CLASSES.get(stage, 2):
            return f"AutoAttack's {stage} needs at least {FEWEST_CLASSES.get(stage, 2)} classes, not {classes}"
    return None
