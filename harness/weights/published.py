"""The published checkpoints that a suite can name: their networks, their places in the cache and their sources.

The file `defenses/published.yaml` has an entry for each checkpoint. An entry states a hash or a size only if the
authors published it. Without a published hash, the first file that is downloaded is trusted and its hash is recorded
(`harness.weights.download`).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from harness.config import registry, yaml_file
from harness.errors import UserError, nearest
from harness.process.foreign_code import folder_of
from harness.settings import weights_root
from harness.weights.download import Progress, fetch, verified

Format = Literal["edm", "score-sde", "torch", "diffusers", "robustbench"]
NETWORKS = "published_classes.yaml"
"""The file beside the networks that says which of our networks takes the weights of a published class."""

SELF_DESCRIBED = ("diffusers", "robustbench")
"""The formats whose files state the architecture of the network themselves."""

ROBUSTBENCH = "robustbench"
"""The folder of the cache in which RobustBench keeps its models."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class File(_Strict):
    """A file of a checkpoint, which may consist of several."""

    name: str = Field(pattern=r"^[A-Za-z0-9_+-][A-Za-z0-9._+-]*(/[A-Za-z0-9_+-][A-Za-z0-9._+-]*)*$")
    url: str | None = Field(None, pattern="^https?://", description="where it can be fetched without a person")
    size: int | None = Field(None, ge=0, description="bytes, where published")
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$", description="where published")


class Preprocessing(_Strict):
    """The normalisation (x - mean) / std of images in [0, 1] before the network, with one number or one per channel."""

    mean: list[float]
    std: list[float]


class ZooModel(_Strict):
    """The dataset, the threat model and the name by which RobustBench identifies a model."""

    dataset: str
    threat: Literal["Linf", "L2", "corruptions"]
    model: str


class Published(_Strict):
    """A published checkpoint, as its entry in `defenses/published.yaml` describes it."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", description="what a suite calls it")
    summary: str = Field(description="one line for people")
    format: Format
    files: list[File] = Field(min_length=1)
    page: str = Field(pattern="^https?://", description="where a person finds it, or the one who may have it")
    manual: str | None = Field(None, description="what a person does there, where a file has no address of its own")
    network: dict[str, Any] | None = Field(None, description="architecture: its type and arguments, as in a suite")
    robustbench: ZooModel | None = None
    preprocessing: Preprocessing | None = Field(None, description="where it is outside the network")
    parameters: int | None = Field(None, description="learned numbers in the network")
    dataset: str
    num_classes: int | None = Field(None, description="of a classifier or a class-conditional model")
    clean_accuracy: float | None = Field(None, ge=0, le=1, description="as published")
    measured: str | None = Field(None, description="where clean_accuracy is from")
    licence: str
    paper: str = Field(pattern="^https?://")
    repository: str = Field(pattern="^https?://")
    source: str = Field(description="where each of these facts is from")

    @model_validator(mode="after")
    def _consistent(self) -> Published:
        if (self.network is None) != (self.format in SELF_DESCRIBED):
            raise ValueError(f"format {self.format} {'says' if self.network else 'does not say'} what the network is")
        if (self.robustbench is None) != (self.format != "robustbench"):
            raise ValueError("'robustbench' belongs to format robustbench")
        if self.fetchable == (self.manual is not None):
            raise ValueError("give every file a url, or say in 'manual' what to do")
        if (self.clean_accuracy is None) != (self.measured is None):
            raise ValueError("'clean_accuracy' and 'measured' come together")
        if len(self.files) > 1 and self.format != "diffusers":
            raise ValueError("only a diffusers checkpoint is a folder of files")
        return self

    @property
    def fetchable(self) -> bool:
        """Whether every file has an address, so that the checkpoint can be downloaded automatically."""
        return all(file.url for file in self.files)

    def path(self, root: Path | None = None) -> Path:
        """Returns the place of the checkpoint in the cache: a file, or a folder for the format of Diffusers."""
        folder = (root or weights_root()) / self._folder
        return folder if self.format == "diffusers" else folder / self.files[0].name

    def present(self, root: Path | None = None) -> bool:
        """Tells whether all files of the checkpoint are in the cache."""
        return all(((root or weights_root()) / self._folder / file.name).is_file() for file in self.files)

    def obtain(self, root: Path | None = None, *, offline: bool = False, progress: Progress | None = None) -> Path:
        """Downloads the files that are absent, verifies those that are present, and returns the place in the cache.

        Args:
            root: the folder of the cache; by default `weights_root()`.
            offline: whether to refuse downloads.
            progress: called during the download of each file, see `harness.weights.download.fetch`.

        Raises:
            UserError: a file cannot be obtained, or is not the published one. The message says what to do.
        """
        for file in self.files:
            target = Path(self._folder, file.name)
            known: dict[str, Any] = {"root": root, "sha256": file.sha256, "size": file.size}
            if file.url:
                fetch(file.url, target, **known, offline=offline, progress=progress)
            elif self.present(root):
                verified(self.page, target, **known)
            else:
                raise UserError(
                    f"checkpoint '{self.name}' is not there and cannot be fetched automatically",
                    remedy=f"{self.manual} ({self.page}). Its place is {(root or weights_root()) / target}",
                )
        return self.path(root)

    @property
    def _folder(self) -> str:
        return ROBUSTBENCH if self.robustbench else self.name


@cache
def entries() -> tuple[Published, ...]:
    """Returns all published checkpoints, in the order of `defenses/published.yaml`."""
    document = yaml_file.read(beside("defenses", "published.yaml"))
    return tuple(_entry(document, name) for name in document.data)


@cache
def network_of_class(published: str | None) -> str | None:
    """Returns the name of our network that takes the weights of a published class, or None if there is none."""
    names: dict[str, str] = yaml_file.read(beside("networks", NETWORKS)).data
    return names.get(published or "")


def beside(kind: str, name: str) -> Path:
    """Returns the path of a file or folder beside the built-in classes of a kind, a key of `registry.PACKAGES`."""
    return (folder_of(registry.PACKAGES[kind]) or Path()) / name


def find(name: str) -> Published:
    """Returns the published checkpoint of a name.

    Raises:
        UserError: there is none. The message suggests the most similar name.
    """
    known = {entry.name: entry for entry in entries()}
    if name not in known:
        raise UserError(f"no published checkpoint is called '{name}'", remedy=nearest(name, known))
    return known[name]


def _entry(document: yaml_file.Document, name: str) -> Published:
    try:
        return Published.model_validate({"name": name} | document.data[name])
    except ValidationError as error:
        first = error.errors()[0]
        where = document.place(name, *first["loc"])
        raise UserError(f"checkpoint '{name}': {first['msg']}", where=where) from error
