"""Datasets that torchvision reads and downloads into the user's cache."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from harness import settings
from harness.datasets.dataset import Dataset
from harness.datasets.source import Request, Source
from harness.errors import UserError
from harness.settings import data_root


class TorchVision(Source):
    """A dataset of torchvision, in one archive that it unpacks into a folder.

    Attributes:
        name: its name in suites, and of its folder in the cache.
        torchvision: the name of torchvision's class.
    """

    name: ClassVar[str]
    torchvision: ClassVar[str]
    fixed = True
    takes = ("path",)

    def load(self, request: Request) -> Dataset:
        root = request.path or data_root() / self.name
        open_split = partial(self.reader, str(root), train=request.split == "train")
        try:
            if not self.is_there(root):
                self._download(root, request.offline)
            data = open_split(download=False)
        except RuntimeError as error:
            raise UserError(
                f"dataset '{self.name}' in {root} is damaged: {error}",
                remedy=f"Delete {root} and run the same command again",
            ) from error
        pixels = torch.as_tensor(np.asarray(data.data))
        pixels = pixels[:, None] if pixels.dim() == 3 else pixels.permute(0, 3, 1, 2)
        labels = torch.as_tensor(np.asarray(data.targets), dtype=torch.int64)
        return Dataset(self.name, request.split, _scaled(pixels), labels, list(data.classes), len(data.classes))

    def presence(self) -> tuple[bool, str]:
        root = data_root() / self.name
        return self.is_there(root), str(root)

    @property
    def reader(self) -> Any:
        """The class in torchvision."""
        import torchvision.datasets

        return getattr(torchvision.datasets, self.torchvision)

    def is_there(self, root: Path) -> bool:
        """Whether the dataset was unpacked below a folder."""
        return (root / self.reader.base_folder).is_dir()

    def files(self) -> dict[str, str]:
        """The files that torchvision downloads, with their URLs."""
        return {self.reader.filename: self.reader.url}

    def download_folder(self, root: Path) -> Path:
        """The folder for the downloaded files."""
        return root

    def _download(self, root: Path, offline: bool) -> None:
        files, folder = self.files(), self.download_folder(root)
        by_hand = f"Download {' and '.join(files.values())} into {folder} and run the same command again"
        if (offline or settings.offline()) and not all((folder / file).is_file() for file in files):
            raise UserError(f"dataset '{self.name}' is not in {root}, and downloads are off", remedy=by_hand)
        try:
            self.reader(str(root), download=True)
        except (OSError, RuntimeError) as error:
            cause = str(error).strip().splitlines()[-1]
            raise UserError(
                f"dataset '{self.name}' is not in {root} and cannot be fetched: {cause}", remedy=by_hand
            ) from error


def _scaled(pixels: Tensor) -> Tensor:
    """Converts uint8 of any layout to contiguous float32 in [0, 1]."""
    return pixels.contiguous().float() / 255
