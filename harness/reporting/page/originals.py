"""The images of a run before any attack. Results do not keep them, so they are loaded again, as the manifest says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from harness import datasets
from harness.errors import UserError
from harness.results.clean_images import load_clean
from harness.results.manifest import Manifest


@dataclass(frozen=True)
class Originals:
    """The clean images of a run.

    Attributes:
        images: (C, H, W) float32 in [0, 1], by index in the split; empty where they are not available.
        classes: names of the classes, likewise.
        missing: why they are not available, or "".
    """

    images: dict[int, Tensor]
    classes: list[str]
    missing: str = ""

    def class_name(self, label: int) -> str:
        return self.classes[label] if 0 <= label < len(self.classes) else str(label)


def originals(manifest: Manifest, root: Path) -> Originals:
    """The run's images, if they are on this machine and are still what they were. Nothing is downloaded.

    A path of the suite is relative to the current folder. root: the results directory, which keeps images that were
    given in Python.
    """
    facts = manifest.dataset
    where = f"dataset {facts.name}"
    try:
        chosen = load_clean(manifest, root, Path(), offline=True)
    except UserError:
        return Originals({}, [], f"the {where} was not on the machine that made this page")
    if datasets.fingerprint(chosen.images, chosen.labels) != facts.fingerprint:
        return Originals({}, [], f"the {where} on the machine that made this page is not the one that was attacked")
    return Originals(dict(zip(facts.indices, chosen.images, strict=True)), chosen.classes)
