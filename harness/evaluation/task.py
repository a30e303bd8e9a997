"""What evaluating one shard takes, and what an attack makes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from harness.attack import Adversarial, Attack
from harness.datasets.batch import Images
from harness.defense import Defense
from harness.errors import one_line
from harness.evaluation.seeds import Seeds
from harness.guard.contamination import Contamination, Guard
from harness.journal.journal import Journal
from harness.predict import Predictions
from harness.target import Target
from harness.threat import TOLERANCE


@dataclass(frozen=True)
class ShardTask:
    """A few images of one pairing, and all that evaluating them takes.

    Args:
        defense, attack: ready for use, the defense on the images' device.
        images: of the shard, N of them.
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


@dataclass
class AttackResult:
    """What came of an attack, for every image of the shard, attacked or not.

    Attributes:
        x_adv: images, (N, C, H, W) in [0, 1]; the clean one where no attack was needed, or none succeeded.
        violation: excess over the budget, (N,), 0 within it.
        passes: forward and backward passes that each image took, (2, N) int64.
        needed: (N,) bool, the images that needed an attack: the others are misclassified to begin with.
        flow: (N, H, W, 2) where the attack moves pixels, else None.
        flags: remarks of the attack on the whole shard.
        failure: why the attack, or the defense under it, failed on all images, or None.
        nonfinite: for each row whose attack met a NaN or an infinity, where it did.
        remarks: for each row that the attack remarked on, what it said.
        certified: of a certificate, "counts" (N, 2, K) and "radii" (N,), float32; 0 where it did not run.
    """

    x_adv: Tensor
    violation: Tensor
    passes: Tensor
    needed: Tensor
    flow: Tensor | None = None
    flags: tuple[str, ...] = ()
    failure: str | None = None
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
        if adversarial.flow is not None:
            self.flow = adversarial.flow.new_zeros(len(self.x_adv), *adversarial.flow.shape[1:])
            self.flow[rows] = adversarial.flow.detach()
        for name, values in {"counts": adversarial.counts, "radii": adversarial.radii}.items():
            if values is not None:
                known = self.x_adv.new_zeros(len(self.x_adv), *values.shape[1:])
                known[rows] = values.to(known)
                self.certified[name] = known

    def discard_violations(self, x: Tensor) -> None:
        """Puts the clean image in the place of one outside its budget, which is no result. x: (N, C, H, W)."""
        outside = self.violation > TOLERANCE
        self.x_adv[outside] = x[outside]
        if self.flow is not None:
            self.flow[outside] = 0


def reason(error: Exception) -> str:
    """Why something failed, in one line, with the remedy where memory ran out."""
    if isinstance(error, Contamination):
        return error.message
    out_of_memory = isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
    return one_line(error) + (". Try a smaller `batch_size` in `protocol`" if out_of_memory else "")
