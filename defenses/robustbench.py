"""Any model of RobustBench's zoo, through its own package (Croce et al. 2021, arXiv:2010.09670).

    MODEL_DIR/DATASET/THREAT/MODEL.pt               most models: one file, published on Google Drive
    MODEL_DIR/DATASET/THREAT/MODEL.pt_m0.pt, ...    the members of an ensemble
    MODEL_DIR/hub/checkpoints/FILE                  the few that are published elsewhere

RobustBench reads the files with torch.load, which before PyTorch 2.6 ran the code in them by default. A switch of
PyTorch makes it accept tensors alone, in every version and whatever the user's environment says.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from harness.defense import Defense
from harness.errors import UserError, nearest, one_line
from harness.randomness import fenced
from harness.settings import offline, weights_root
from harness.weights import published
from harness.weights.download import fetch
from harness.weights.published import ROBUSTBENCH

Dataset = Literal["cifar10", "cifar100", "imagenet"]
Threat = Literal["Linf", "L2", "corruptions"]
CIFAR_IMAGE = (3, 32, 32)


class RobustBench(Defense):
    """A model of RobustBench's zoo, by its identifier there, with its own normalisation.

    The paper's AT-DDPM is `Rebuffi2021Fixing_70_16_cutmix_ddpm` and its AT-EDM `Wang2023Better_WRN-70-16` (Sec. 4.2),
    both with threats Linf and L2. Files that are missing from `model_dir` are downloaded.

    Args:
        model: the identifier.
        threat: the threat under which the zoo lists it.
        dataset: the dataset that it was trained on.
        model_dir: the folder of its files; left out, robustbench in $HARNESS_WEIGHTS or in the user's cache.

    Raises:
        UserError: the zoo has no such model, or a file cannot be downloaded, is not that model's, or holds more than
            tensors.
    """

    memory_knobs: ClassVar[tuple[str, ...]] = ("model_dir",)

    def __init__(
        self, model: str, threat: Threat = "Linf", dataset: Dataset = "cifar10", model_dir: Path | None = None
    ) -> None:
        super().__init__()
        zoo_model = _ZooModel(model, threat, dataset, Path(model_dir or weights_root() / ROBUSTBENCH).expanduser())
        self.image_shape = None if dataset == "imagenet" else CIFAR_IMAGE
        self.network = zoo_model.load()
        self.num_classes = zoo_model.num_classes
        self.expected_dataset, self.expected_accuracy = dataset, zoo_model.clean_accuracy

    def classify(self, x: Tensor) -> Tensor:
        if self.image_shape not in (None, x.shape[1:]):
            raise UserError(
                f"the model was trained on {self.expected_dataset}, with images of shape {self.image_shape}; "
                f"these have shape {tuple(x.shape[1:])}",
                remedy="Choose a model of this dataset",
            )
        logits: Tensor = self.network(x)
        return logits


@dataclass(frozen=True)
class _File:
    """The path at which RobustBench expects a file, its address and, on Google Drive, its identifier."""

    path: Path
    url: str
    drive: str | None = None


@dataclass(frozen=True)
class _ZooModel:
    name: str
    threat: Threat
    dataset: Dataset
    root: Path

    def load(self) -> nn.Module:
        """The network, frozen and in evaluation mode. Files that are absent are downloaded."""
        from robustbench.utils import load_model

        files = self.files()
        for file in files:
            if not file.path.is_file():
                self._download(file)
        try:
            # Fenced, because the network draws random weights before it reads the file.
            with fenced(0), _tensors_only(self.root):
                network: nn.Module = load_model(self.name, self.root, self.dataset, self.threat)
        except Exception as error:  # of PyTorch, RobustBench, or the model's own code
            code = isinstance(error, pickle.UnpicklingError)
            reason = "the file is damaged, or holds code, which is never run" if code else one_line(error)
            raise UserError(
                f"model '{self.name}' cannot be loaded from {', '.join(str(file.path) for file in files)}: {reason}",
                remedy="If the file is at fault, remove it, and it will be downloaded again",
            ) from error
        return network.eval().requires_grad_(False)

    def files(self) -> list[_File]:
        """All files that the model needs."""
        import timm
        from torchvision.models import ResNet50_Weights

        drive = self._entry()["gdrive_id"]
        timm_name = f"{self.name}_{self.dataset}_{self.threat}".lower().replace("-", "_")
        if timm.is_model(timm_name):
            return [self._in_hub(timm.get_pretrained_cfg(timm_name).url)]
        if self.dataset == "imagenet" and "Standard" in self.name:
            return [self._in_hub(ResNet50_Weights.IMAGENET1K_V1.url)]
        path = self.root / self.dataset / self.threat / f"{self.name}.pt"
        members = {f"{path}_m{i}.pt": id for i, id in enumerate(drive)} if isinstance(drive, list) else {path: drive}
        return [_File(Path(place), f"https://drive.google.com/file/d/{id}/view", id) for place, id in members.items()]

    def _in_hub(self, url: str) -> _File:
        return _File(self.root / "hub" / "checkpoints" / url.rpartition("/")[2], url)

    def _entry(self) -> Mapping[str, Any]:
        from robustbench.model_zoo import model_dicts

        zoo = {(d.value, t.value): models for d, threats in model_dicts.items() for t, models in threats.items()}
        entries: Mapping[str, Mapping[str, Any]] = zoo.get((self.dataset, self.threat), {})
        if self.name not in entries:
            others = [f"{threat} on {dataset}" for (dataset, threat), models in zoo.items() if self.name in models]
            raise UserError(
                f"model '{self.name}' is not in RobustBench's zoo for threat {self.threat} on {self.dataset}",
                remedy=f"The zoo has it for {', '.join(others)}" if others else nearest(self.name, entries),
            )
        return entries[self.name]

    def _download(self, file: _File) -> None:
        if file.drive is None:
            fetch(file.url, file.path.relative_to(self.root), root=self.root)
            return
        from robustbench.utils import download_gdrive_new

        reason = "downloads are switched off (--offline or HARNESS_OFFLINE)"
        if not offline():
            try:
                file.path.parent.mkdir(parents=True, exist_ok=True)
                with redirect_stdout(sys.stderr):
                    download_gdrive_new(file.drive, file.path)
                reason = "the download brought no file"
            except Exception as error:  # of the disk, of the network, or Google's refusal, which gdown words
                reason = one_line(error)
        if not file.path.is_file():
            raise UserError(
                f"model '{self.name}' cannot be downloaded from {file.url} to {file.path}: {reason}",
                remedy=f"Open the address in a browser and save the file as {file.path}",
            )

    @property
    def num_classes(self) -> int:
        from robustbench.model_zoo.enums import BenchmarkDataset
        from robustbench.utils import DATASET_CLASSES

        return int(DATASET_CLASSES[BenchmarkDataset(self.dataset)])

    @property
    def clean_accuracy(self) -> float | None:
        """The accuracy that RobustBench publishes, for models that this package lists; else None."""
        own = published.ZooModel(dataset=self.dataset, threat=self.threat, model=self.name)
        return next((known.clean_accuracy for known in published.entries() if known.robustbench == own), None)


@contextmanager
def _tensors_only(root: Path) -> Iterator[None]:
    """Makes every torch.load refuse anything but tensors, and PyTorch's hub keep its files below `root`."""
    switches = {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "0", "TORCH_HOME": str(root)}
    before = {name: os.environ.get(name) for name in switches}
    os.environ.update(switches)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
