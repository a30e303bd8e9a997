"""The 200 test images of CIFAR-10 on which verifiers are compared (Dathathri et al. 2020, arXiv:2010.11645).

They lie as NumPy arrays in the repository of alpha-beta-CROWN: X_sdp.npy, float32 (200, 32, 32, 3) in [0, 1], and
y_sdp.npy, int64 (200,). Both files are identified by their SHA-256.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from harness import settings
from harness.datasets.arrays import read_arrays
from harness.datasets.dataset import Dataset
from harness.datasets.look_around import not_there
from harness.datasets.source import Known, Request, Source
from harness.errors import Place, UserError
from harness.files import digest
from harness.settings import data_root

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]

ADDRESS = (
    "https://raw.githubusercontent.com/Verified-Intelligence/alpha-beta-CROWN/"
    "8250d5fbd530c76e5e3243db28b3cad5fbaef740/complete_verifier/datasets/sdp/cifar"
)


class CIFAR10SDP(Source):
    """CIFAR-10 test images that were not drawn by us."""

    summary = "200 test images of CIFAR-10 that verifiers are compared on, 32x32 colour, 10 classes; test split only"
    known = Known((3, 32, 32), 10, 0, 200)
    fixed = True
    takes = ("path",)
    splits = ("test",)
    files: ClassVar[dict[str, str]] = {
        "X_sdp.npy": "bc487064171fc74ce09b8c29db029da3a9be1f0275a23aa2f3aca6ccacb6958e",
        "y_sdp.npy": "b02c682406c3ae3aeba6b0fa0f6598ddb1d0331ce87c9b869136263946296dbd",
    }

    def load(self, request: Request) -> Dataset:
        root = self._given(request.path) if request.path else data_root() / "cifar10_sdp"
        images, labels = (np.load(self._file(root, name, request.offline)) for name in self.files)
        if images.ndim != 4:
            raise UserError(f"the images have the shape {images.shape}", where=Place(root))
        arrays = {"images": images.transpose(0, 3, 1, 2), "labels": labels}
        found = read_arrays(arrays, len(CLASSES), lambda *given, **more: UserError(*given, where=Place(root), **more))
        return Dataset(
            "cifar10_sdp", "test", torch.from_numpy(found.images), torch.from_numpy(found.labels), CLASSES, len(CLASSES)
        )

    def presence(self) -> tuple[bool, str]:
        root = data_root() / "cifar10_sdp"
        return _has(root, self.files), str(root)

    def _given(self, path: Path) -> Path:
        """The folder of both files at a path that a suite gives, into which nothing is downloaded."""
        root = path.parent if path.is_file() else path
        if _has(root, self.files):
            return root
        absent = [name for name in self.files if not (root / name).is_file()]
        missing = f"the file{'s' * (len(absent) > 1)} {' and '.join(absent)}"
        found = [root / name for name in self.files if name not in absent]
        completed = f"Put it beside {found[0]}" if found else None
        raise not_there("cifar10_sdp", path, missing, lambda folder: _has(folder, self.files), completed)

    def _file(self, root: Path, name: str, offline: bool) -> Path:
        """A file in the folder, downloaded if it is missing, and compared with its hash before it is read."""
        path, address = root / name, f"{ADDRESS}/{name}"
        by_hand = f"Download {address} into {root} and run the same command again"
        if not path.is_file():
            _fetch(path, address, by_hand, offline)
        if (found := digest(path)) != self.files[name]:
            raise UserError(
                f"it is not the published file: its SHA-256 is {found}, not {self.files[name]}",
                remedy=f"Remove it. {by_hand}",
                where=Place(path),
            )
        return path


def _has(folder: Path, names: Iterable[str]) -> bool:
    return all((folder / name).is_file() for name in names)


def _fetch(path: Path, address: str, by_hand: str, offline: bool) -> None:
    if offline or settings.offline():
        raise UserError(f"dataset 'cifar10_sdp' is not in {path.parent}, and downloads are off", remedy=by_hand)
    from torchvision.datasets.utils import download_url

    try:
        download_url(address, str(path.parent), path.name)
    except (OSError, RuntimeError) as error:
        path.unlink(missing_ok=True)
        cause = str(error).strip().splitlines()[-1]
        raise UserError(
            f"dataset 'cifar10_sdp' is not in {path.parent} and cannot be fetched: {cause}", remedy=by_hand
        ) from error
