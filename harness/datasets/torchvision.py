"""Datasets that torchvision downloads into the user's cache, and that are read from there or from a user's folder.

A folder that a suite names with `path:` is searched where these files usually lie, and is never downloaded into.
"""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from harness import settings
from harness.datasets.dataset import Dataset, Split
from harness.datasets.idx import read_idx
from harness.datasets.look_around import not_there
from harness.datasets.source import Request, Source
from harness.errors import Place, UserError
from harness.settings import data_root

SPLITS: tuple[Split, ...] = ("train", "test")


class TorchVision(Source):
    """A dataset of torchvision.

    Attributes:
        name: its name in suites, and of its folder in the cache.
        torchvision: the name of torchvision's class.
    """

    name: ClassVar[str]
    torchvision: ClassVar[str]
    fixed = True
    takes = ("path",)

    def load(self, request: Request) -> Dataset:
        root = self._given(request.path, request.split) if request.path else self._cached(request)
        pixels, labels, classes = self.read(root, request.split)
        if len(pixels) != len(labels):
            raise UserError(f"there are {len(pixels)} images and {len(labels)} labels", where=Place(root))
        return Dataset(self.name, request.split, _scaled(pixels), labels.long(), classes, len(classes))

    def presence(self) -> tuple[bool, str]:
        root = data_root() / self.name
        return all(self.is_there(root, split) for split in SPLITS), str(root)

    @property
    def reader(self) -> Any:
        """The class in torchvision."""
        import torchvision.datasets

        return getattr(torchvision.datasets, self.torchvision)

    @abstractmethod
    def is_there(self, root: Path, split: Split) -> bool:
        """Whether a split lies below a folder."""

    @abstractmethod
    def read(self, root: Path, split: Split) -> tuple[Tensor, Tensor, list[str]]:
        """The images of a split that is there, (N, C, H, W) uint8, their labels, (N,), and the names of the classes."""

    @abstractmethod
    def files(self) -> dict[str, str]:
        """The files that torchvision downloads, with their URLs."""

    @abstractmethod
    def missing(self, root: Path, split: Split) -> str:
        """What a folder that a suite names must hold and does not, for messages."""

    def download_folder(self, root: Path) -> Path:
        """The folder for the downloaded files."""
        return root

    def download(self, root: Path) -> None:
        """Downloads and unpacks all files."""
        self.reader(str(root), download=True)

    def completed(self, root: Path, split: Split) -> str | None:
        """How a folder that holds a part of what it must, if it does, gets all of it: a sentence's beginning."""
        return None

    def root_of(self, path: Path) -> Path:
        """The folder that is meant by a path, which may be that of one of the files."""
        return path.parent if path.is_file() else path

    def _given(self, path: Path, split: Split) -> Path:
        root = self.root_of(path)
        if self.is_there(root, split):
            return root
        missing, completed = self.missing(root, split), self.completed(root, split)
        raise not_there(self.name, path, missing, lambda folder: self.is_there(folder, split), completed)

    def _cached(self, request: Request) -> Path:
        root = data_root() / self.name
        if self.is_there(root, request.split):
            return root
        files, folder = self.files(), self.download_folder(root)
        by_hand = f"Download {' and '.join(files.values())} into {folder} and run the same command again"
        if (request.offline or settings.offline()) and not all((folder / file).is_file() for file in files):
            raise UserError(f"dataset '{self.name}' is not in {root}, and downloads are off", remedy=by_hand)
        try:
            self.download(root)
        except (OSError, RuntimeError) as error:
            cause = str(error).strip().splitlines()[-1]
            raise UserError(
                f"dataset '{self.name}' is not in {root} and cannot be fetched: {cause}", remedy=by_hand
            ) from error
        return root


class Unpacked(TorchVision):
    """A dataset in one archive that torchvision unpacks into a folder, and checks by MD5."""

    def is_there(self, root: Path, split: Split) -> bool:
        return (root / self.reader.base_folder).is_dir()

    def read(self, root: Path, split: Split) -> tuple[Tensor, Tensor, list[str]]:
        try:
            data = self.reader(str(root), train=split == "train", download=False)
        except (RuntimeError, OSError) as error:
            folder = root / self.reader.base_folder
            raise UserError(
                f"dataset '{self.name}' in {folder} is damaged: {error}",
                remedy=f"Unpack {self.reader.url} again in its place",
            ) from error
        pixels = torch.as_tensor(np.asarray(data.data)).permute(0, 3, 1, 2)
        return pixels, torch.as_tensor(np.asarray(data.targets)), list(data.classes)

    def root_of(self, path: Path) -> Path:
        return path.parent if path.name == self.reader.base_folder else super().root_of(path)

    def files(self) -> dict[str, str]:
        return {self.reader.filename: self.reader.url}

    def missing(self, root: Path, split: Split) -> str:
        return f"the folder {self.reader.base_folder}"

    def completed(self, root: Path, split: Split) -> str | None:
        packed: str = self.reader.filename
        return f"Unpack {packed} there" if (root / packed).is_file() else None


class IDX(TorchVision):
    """A dataset in the four files of MNIST, gzipped or not, with torchvision's names or with a dot before `idx`.

    Attributes:
        begins: the first labels of each split, which tell apart datasets whose files have the same names.
    """

    begins: ClassVar[dict[Split, list[int]]]

    def is_there(self, root: Path, split: Split) -> bool:
        return bool(self._file(root, split, "images") and self._file(root, split, "labels"))

    def read(self, root: Path, split: Split) -> tuple[Tensor, Tensor, list[str]]:
        files = self._file(root, split, "images"), self._file(root, split, "labels")
        images, labels = (read_idx(file, rank).copy() for file, rank in zip(files, (3, 1), strict=True) if file)
        begins = self.begins[split]
        if len(labels) == getattr(self.known, split) and labels[: len(begins)].tolist() != begins:
            raise UserError(
                f"these are not the files of '{self.name}', whose first {split} labels are {begins}, "
                f"but those of another dataset of the same form",
                remedy="Give the folder of the right one",
                where=Place(root),
            )
        return torch.from_numpy(images)[:, None], torch.from_numpy(labels), list(self.reader.classes)

    def files(self) -> dict[str, str]:
        return {file: self.reader.mirrors[0] + file for file, _ in self.reader.resources}

    def missing(self, root: Path, split: Split) -> str:
        absent = [kind for kind in _RANKS if not self._file(root, split, kind)]
        names = " and ".join(_idx_name(split, kind) for kind in absent)
        files = "the files" if len(absent) > 1 else "the file"
        return f"{files} {names}, gzipped or not, themselves or in the folder raw or {self.torchvision}/raw"

    def completed(self, root: Path, split: Split) -> str | None:
        found = [file for kind in _RANKS if (file := self._file(root, split, kind))]
        return f"Put it beside {found[0]}" if found else None

    def download_folder(self, root: Path) -> Path:
        return root / self.torchvision / "raw"

    def _file(self, root: Path, split: Split, kind: str) -> Path | None:
        """The file of images or labels below a folder, or None."""
        names = [_idx_name(split, kind, sign) + end for sign in "-." for end in ("", ".gz")]
        folders = (self.download_folder(root), root / self.torchvision, root / "raw", root)
        return next((path for folder in folders for name in names if (path := folder / name).is_file()), None)


_RANKS = {"images": 3, "labels": 1}


def _idx_name(split: Split, kind: str, sign: str = "-") -> str:
    return f"{'train' if split == 'train' else 't10k'}-{kind}{sign}idx{_RANKS[kind]}-ubyte"


def _scaled(pixels: Tensor) -> Tensor:
    """Converts uint8 of any layout to contiguous float32 in [0, 1]."""
    return pixels.contiguous().float() / 255
