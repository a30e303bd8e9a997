"""Optimal diffusion classifier: DC with a perfect diffusion model (paper Sec. 3.3, Corollary 3.3).

    logit_y(x) = -E_{t, eps} (alpha_t / sigma_t^2) || x~ - sum_{i in D_y} s_i x~_i ||^2,      x~ = 2 x - 1

with s as in `defenses.diffusion.optimal`, which predicts the noise; the rest is DC, Eq. 6, with w_t = 1. An image of D
has, at small t, the loss 0 under its own class. The paper's 100% robust accuracy is for this case, in which the images
under attack are images of D. On other images this is a soft nearest-neighbour classifier.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema
from torch import Tensor

from defenses.diffusion.chunked_gradient import Passes
from defenses.diffusion.classifier import DiffusionClassifier
from defenses.diffusion.loss import DiffusionLoss, Reduction
from defenses.diffusion.noise import GaussianNoise, Share
from defenses.diffusion.optimal import OptimalDenoiser
from defenses.diffusion.schedule import discrete_vp
from defenses.diffusion.timesteps import Spacing, time_grid
from harness import datasets
from harness.datasets.by_name import find as find_dataset
from harness.datasets.image_folder import content_hash
from harness.errors import UserError

CHUNK = 1024
"""Noisy images, and images of D, held at once where no chunk is given."""


class Files:
    """A folder, zip or npz file of images. In a cell's key its content counts, and not its path.

    Args:
        path: the absolute path.
        ref: the path as the user wrote it.
    """

    def __init__(self, path: Path, ref: str) -> None:
        self.path, self.ref = path, ref

    @cached_property
    def sha256(self) -> str:
        """Hash of the bytes, in hexadecimal; for a folder or zip of images, see `image_folder.content_hash`."""
        if self.path.is_dir() or self.path.suffix == ".zip":
            return content_hash(self.path)
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(
            cls._existing,
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda files: {"name": files.ref, "sha256": files.sha256}
            ),
        )

    @classmethod
    def _existing(cls, ref: Any, info: core_schema.ValidationInfo) -> Files:
        if not isinstance(ref, str):
            raise ValueError("it must be a path")
        path = (info.context or {}).get("base", Path()) / Path(ref).expanduser()
        if not path.exists():
            raise UserError(f"{path} does not exist", remedy="Check the path")
        return cls(path, ref)


class OptimalDC(DiffusionClassifier):
    """The diffusion classifier of the best possible diffusion model on a dataset. Its gradient is exact.

    Args:
        dataset: D, by its name in `harness list datasets`.
        split: the split of the dataset; "test" holds the images that suites attack by default.
        path: the path of a dataset without a fixed place ("folder", "npz").
        per_class: how many images of each class are kept, the first ones; left out, all.
        timesteps, spacing, samples, noise, share_noise, reduction, gradient_passes: as in `DC`.
        chunk: noisy images, and images of D, held in memory at once. It affects memory only.

    Raises:
        UserError: a missing dataset, a class without images, timesteps outside 1..1000, or a number that
            must be positive and is not.
    """

    memory_knobs: ClassVar[tuple[str, ...]] = ("chunk", "gradient_passes")

    def __init__(
        self,
        dataset: str,
        *,
        split: datasets.Split = "train",
        path: Files | None = None,
        per_class: int | None = None,
        timesteps: Literal["all"] | int | list[int] = "all",
        spacing: Spacing = "uniform",
        samples: int = 1,
        noise: Literal["fresh", "fixed"] = "fresh",
        share_noise: Share = "none",
        reduction: Reduction = "mean",
        gradient_passes: Passes = "auto",
        chunk: int = CHUNK,
    ) -> None:
        super().__init__()
        for name, number in {"per_class": per_class, "samples": samples, "chunk": chunk}.items():
            if number is not None and number < 1:
                raise UserError(f"{name} is {number}", remedy="It must be at least 1")
        if path is not None and not find_dataset(dataset).needs_path:
            raise UserError(
                f"path is given for the dataset '{dataset}', which has a place of its own",
                remedy="Remove it; $HARNESS_DATA or `harness --cache` moves that place",
            )
        known = datasets.load(dataset, split, path.path if path else None)
        # A dataset without a number of classes has those that its labels name.
        classes = known.num_classes or int(known.labels.max()) + 1
        if per_class is not None:
            known = known.select(_first(known.labels, classes, per_class))
        schedule = discrete_vp()
        self.num_classes, self.stochastic = classes, noise == "fresh"
        self.denoiser = OptimalDenoiser(known.images, known.labels, classes, schedule, block=chunk)
        self.loss = DiffusionLoss(
            self.denoiser,
            time_grid(schedule, timesteps, spacing),
            GaussianNoise(share_noise),
            samples=samples,
            reduction=reduction,
            chunk=chunk,
            passes=gradient_passes,
        )


def _first(labels: Tensor, num_classes: int, count: int) -> list[int]:
    """Positions of the first `count` images of each class."""
    return [at for label in range(num_classes) for at in (labels == label).nonzero().flatten()[:count].tolist()]
