"""Street View House Numbers (Netzer et al. 2011)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from harness.datasets.dataset import Split
from harness.datasets.source import Known
from harness.datasets.torchvision import TorchVision
from harness.errors import UserError


class SVHN(TorchVision):
    """Small colour images of digits on houses, in two files of MATLAB's. Label k is the digit k."""

    summary = "SVHN, 32x32 colour, 10 classes, 73,257 train / 26,032 test; through torchvision"
    name, torchvision = "svhn", "SVHN"
    known = Known((3, 32, 32), 10, 73_257, 26_032)

    def is_there(self, root: Path, split: Split) -> bool:
        return (root / self.reader.split_list[split][1]).is_file()

    def read(self, root: Path, split: Split) -> tuple[Tensor, Tensor, list[str]]:
        try:
            data = self.reader(str(root), split=split, download=False)
        except (RuntimeError, OSError, ValueError) as error:
            url, file, _ = self.reader.split_list[split]
            raise UserError(
                f"dataset 'svhn' in {root / file} is damaged: {error}", remedy=f"Download {url} again in its place"
            ) from error
        return torch.from_numpy(data.data), torch.from_numpy(data.labels), [str(digit) for digit in range(10)]

    def files(self) -> dict[str, str]:
        return {file: url for url, file, _ in (self.reader.split_list[split] for split in ("train", "test"))}

    def missing(self, root: Path, split: Split) -> str:
        return f"the file {self.reader.split_list[split][1]}"

    def download(self, root: Path) -> None:
        for split in ("train", "test"):
            self.reader(str(root), split=split, download=True)
