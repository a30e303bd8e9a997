"""Fashion-MNIST (Xiao, Rasul & Vollgraf 2017, arXiv:1708.07747)."""

from __future__ import annotations

from pathlib import Path

from harness.datasets.source import Known
from harness.datasets.torchvision import TorchVision


class FashionMNIST(TorchVision):
    """Grey images of clothes, in four files."""

    summary = "Fashion-MNIST, 28x28 grey, 10 classes, 60,000 train / 10,000 test; through torchvision"
    name, torchvision = "fashion_mnist", "FashionMNIST"
    known = Known((1, 28, 28), 10, 60_000, 10_000)

    def is_there(self, root: Path) -> bool:
        return all((self.download_folder(root) / Path(file).stem).is_file() for file in self.files())

    def files(self) -> dict[str, str]:
        return {file: self.reader.mirrors[0] + file for file, _ in self.reader.resources}

    def download_folder(self, root: Path) -> Path:
        return root / self.torchvision / "raw"
