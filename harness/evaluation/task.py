"""What evaluating images takes, and what an attack makes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from torch import Tensor

from harness.attack import Adversarial, Attack
from harness.datasets.batch import Images
from harness.defense import Defense
from harness.errors import one_line
from harness.evaluation.seeds import Seeds
from harness.guard.contamination import Contamination, Guard
from harness.journal.journal import Journal
from harness.predict import Predictions
from harness.process.memory import out_of_memory
from harness.target import Target
from harness.threat import TOLERANCE

TOO_LITTLE_MEMORY = "One image at a time was too much too: it takes a device with more memory"
"""The remedy where memory ran out, since smaller and smaller batches are tried."""

T = TypeVar("T")


@dataclass(frozen=True)
class ShardTask:
    """The images of a shard, or of several in a row, and all that evaluating them takes.

    Args:
        defense, attack: ready for use, the defense on the images' device.
        images: N of them.
        seeds: of the pairing.
        clean: the defense's predictions on the clean images.
        votes: draws that a stochastic defense is asked for.
        batch_size: images sent through the defense at once.
        watch: is given the attack's view of the defense before the attack starts, for progress displays.
        source_images: the adversarial images of the attack's `source`, (N, C, H, W), where it has one.
        missing_sources: for each row without such an image, why: the source ended in an error.
        guard: detects changes of the defenses and the images, which would affect other results.
        journal: records what the defense answers to the attack, and holds what an earlier process has recorded.
    """

    defense: Defense
    attack: Attack
    images: Images
    seeds: Seeds
    clean: Predictions
    votes: int
    batch_size: int
    watch: Callable[[Target], None]
    source_images: Tensor | None = None
    missing_sources: dict[int, str] = field(default_factory=dict)
    guard: Guard = field(default_factory=Guard)
    journal: Journal | None = None

    def part(self, which: slice) -> ShardTask:
        """The task for some of the images."""
        sources = None if self.source_images is None else self.source_images[which]
        return replace(
            self,
            images=self.images.take(which),
            clean=self.clean.part(which),
            source_images=sources,
            missing_sources=shifted(self.missing_sources, which),
        )


@dataclass
class AttackResult:
    """What came of an attack, for every image of the task, attacked or not.

    Attributes:
        x_adv: images, (N, C, H, W) in [0, 1]; the clean one where no attack was needed, or none succeeded.
        violation: excess over the budget, (N,), 0 within it.
        passes: forward and backward passes that each image took, (2, N) int64.
        needed: (N,) bool, the images that needed an attack: the others are misclassified to begin with.
        attacked: (N,) bool, those of them that were attacked: the others have no image to start from.
        parameters: (N, ...) where the attack draws its images from such, else None; 0 of images that it left alone.
        flags: remarks of the attack on all images.
        failure: why the attack, or the defense under it, failed on all images, or None.
        out_of_memory: whether it failed for want of memory.
        nonfinite: for each row whose attack met a NaN or an infinity, where it did.
        remarks: for each row that the attack remarked on, what it said.
        certified: of a certificate, "counts" (N, 2, K) and "radii" (N,), float32; 0 where it did not run.
    """

    x_adv: Tensor
    violation: Tensor
    passes: Tensor
    needed: Tensor
    attacked: Tensor
    parameters: Tensor | None = None
    flags: tuple[str, ...] = ()
    failure: str | None = None
    out_of_memory: bool = False
    nonfinite: dict[int, str] = field(default_factory=dict)
    remarks: dict[int, tuple[str, ...]] = field(default_factory=dict)
    certified: dict[str, Tensor] = field(default_factory=dict)

    def put(self, rows: Tensor, adversarial: Adversarial, violation: Tensor) -> None:
        """Takes over what an attack returned for some rows, (M,) int64. violation: of its images, (M,)."""
        self.x_adv[rows] = adversarial.images.detach().to(self.x_adv)
        self.violation[rows] = violation
        self.flags = adversarial.flags
        if adversarial.remarks is not None:
            self.remarks = dict(zip(rows.tolist(), adversarial.remarks, strict=True))
        if (own := adversarial.parameters) is not None:
            self.parameters = own.new_zeros(len(self.x_adv), *own.shape[1:])
            self.parameters[rows] = own.detach()
        for name, values in {"counts": adversarial.counts, "radii": adversarial.radii}.items():
            if values is not None:
                known = self.x_adv.new_zeros(len(self.x_adv), *values.shape[1:])
                known[rows] = values.to(known)
                self.certified[name] = known

    def fail(self, error: Exception, why: str) -> None:
        """Takes down that all of it failed. why: the error, as the records say it."""
        self.failure, self.out_of_memory = why, out_of_memory(error)

    def part(self, which: slice) -> AttackResult:
        """What came of some of the images, as if no others had been attacked."""
        any_attacked = bool(self.attacked[which].any())
        return AttackResult(
            self.x_adv[which].clone(),  # a view would be sent with all that it is a part of
            self.violation[which],
            self.passes[:, which],
            self.needed[which],
            self.attacked[which],
            self.parameters[which].clone() if self.parameters is not None and any_attacked else None,
            self.flags if any_attacked else (),
            self.failure,
            self.out_of_memory,
            shifted(self.nonfinite, which),
            shifted(self.remarks, which),
            {name: values[which].clone() for name, values in self.certified.items()} if any_attacked else {},
        )

    def discard_violations(self, x: Tensor) -> None:
        """Puts the clean image in the place of one outside its budget, which is no result. x: (N, C, H, W)."""
        outside = self.violation > TOLERANCE
        self.x_adv[outside] = x[outside]
        if self.parameters is not None:
            self.parameters[outside] = 0


def reason(error: Exception) -> str:
    """Why something failed, in one line, with the remedy where memory ran out."""
    if isinstance(error, Contamination):
        return error.message
    return one_line(error) + (f". {TOO_LITTLE_MEMORY}" if out_of_memory(error) else "")


def shifted(by_row: dict[int, T], which: slice) -> dict[int, T]:
    """The entries of some rows, which count from 0 then."""
    return {row - which.start: value for row, value in by_row.items() if which.start <= row < which.stop}
