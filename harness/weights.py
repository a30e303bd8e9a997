"""Checkpoints: a reference written in a suite, found, checked against its card, and loaded without running any of it.

A reference is the name of a packaged checkpoint (`digits-cnn`) or the path of a file. Beside a checkpoint may lie its
card, a YAML file of the same name that says what the weights are; a checkpoint that is not the one its card describes
is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from harness import registry, yaml_source
from harness.components import parameters
from harness.errors import UserError, blame, nearest
from harness.randomness import fenced
from harness.validation import parse

TORCH_SUFFIXES = (".pt", ".pth", ".th")
SUFFIXES = (".safetensors", *TORCH_SUFFIXES)
WRAPPERS = ("state_dict", "model")
SHOWN = 3
"""How many of the tensors that do not fit an error names."""


class Card(BaseModel):
    """What a checkpoint is, where it comes from and how well it does."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="what a suite calls it")
    summary: str = Field(description="one line for people")
    network: dict[str, Any] = Field(description="architecture: its type and arguments, as in a suite")
    parameters: int = Field(description="learned numbers in the network")
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="of the checkpoint file")
    dataset: str = Field(description="what it was trained and measured on")
    num_classes: int
    clean_accuracy: float = Field(ge=0, le=1, description="fraction of the dataset's test split classified correctly")
    measured: str = Field(description="how clean_accuracy was measured")
    recipe: str = Field(description="the recipe that made it, as a name under suites/train")
    seed: int
    steps: int
    licence: str
    source: str = Field(description="who made it, or the address it was published at")


class Checkpoint:
    """A file of weights. As an annotation of a defense's constructor it accepts a reference from a suite.

    Args:
        ref: as the user wrote it.
        path: the file.
        card: what is known about it, or None.
        base: the folder that paths written beside it are relative to.
    """

    def __init__(self, ref: str, path: Path, card: Card | None, base: Path | None = None) -> None:
        self.ref, self.path, self.card, self.base = ref, path, card, base

    @classmethod
    def find(cls, ref: str | Checkpoint, base: Path | None = None) -> Checkpoint:
        """The checkpoint that a reference means.

        Args:
            ref: a packaged name, or a path ending in .safetensors, .pt, .pth or .th.
            base: the folder that relative paths start from; the current one if left out.

        Raises:
            UserError: nothing is there, the format is not supported, or the file is not the one its card describes.
        """
        if isinstance(ref, Checkpoint):
            return ref
        path = _locate(ref, base)
        found = cls(ref, path, _read_card(path.with_suffix(".yaml")), base)
        claimed = found.card.sha256 if found.card else found.sha256
        if claimed != found.sha256:
            again = "Install the package again" if _is_name(ref) else "Fetch it again, or remove the card"
            raise UserError(
                f"checkpoint '{ref}' is damaged: {path} has the sha256 {found.sha256}, its card says {claimed}",
                remedy=again,
            )
        return found

    @cached_property
    def sha256(self) -> str:
        """Of the file's bytes, in hexadecimal."""
        digest = hashlib.sha256()
        with self.path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name, on the CPU. Nothing in the file is executed.

        Raises:
            UserError: the file is not what its suffix says, or holds anything but tensors.
        """
        tensors = _load_torch(self.path) if self.path.suffix in TORCH_SUFFIXES else _load_safetensors(self.path)
        prefixed = all(key.startswith("module.") for key in tensors)
        return {key.removeprefix("module."): value for key, value in tensors.items()} if prefixed else tensors

    def network(self, spec: Mapping[str, Any] | None = None) -> nn.Module:
        """The network with these weights, frozen and in evaluation mode.

        Args:
            spec: its type and arguments; left out, the card's.

        Raises:
            UserError: no architecture is known, or the weights belong to another one.
        """
        spec = spec or (self.card.network if self.card else None)
        if spec is None:
            raise UserError(
                f"checkpoint '{self.ref}' does not say what network it belongs to",
                remedy="Add `network: {type: ..., ...}` beside `weights:`",
            )
        with fenced(0):  # leaves the caller's generators as they were
            network = build_network(spec, self.base)
        self._fill(network)
        return network.eval().requires_grad_(False)

    def _fill(self, network: nn.Module) -> None:
        tensors, wanted = self.tensors(), network.state_dict()
        reshaped = [
            f"{key} is {tuple(tensors[key].shape)}, expected {tuple(wanted[key].shape)}"
            for key in wanted.keys() & tensors.keys()
            if tensors[key].shape != wanted[key].shape
        ]
        faults = {
            "missing": sorted(wanted.keys() - tensors.keys()),
            "unexpected": sorted(tensors.keys() - wanted.keys()),
            "of another shape": sorted(reshaped),
        }
        told = [f"{len(keys)} tensors {what} ({_some(keys)})" for what, keys in faults.items() if keys]
        if told:
            raise UserError(
                f"checkpoint '{self.ref}' does not fit {type(network).__name__}: {'; '.join(told)}",
                remedy="Check the arguments under `network:`",
            )
        network.load_state_dict(tensors)

    def __repr__(self) -> str:
        return f"Checkpoint({self.ref!r})"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(
            cls._validate,
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda found: {"name": found.ref, "sha256": found.sha256}
            ),
        )

    @classmethod
    def _validate(cls, ref: Any, info: core_schema.ValidationInfo) -> Checkpoint:
        if not isinstance(ref, str | Checkpoint):
            raise ValueError(f"{ref!r} is not the name or path of a checkpoint")
        return cls.find(ref, (info.context or {}).get("base"))


def build_network(spec: Mapping[str, Any], base: Path | None = None) -> nn.Module:
    """A network from its type and arguments, freshly initialised by torch's global generator.

    Args:
        spec: `type` and the arguments of its constructor.
        base: the folder that a type such as `./mine.py:Net` is relative to.

    Raises:
        UserError: there is no such network, or it does not take these arguments.
    """
    arguments = dict(spec)
    if not isinstance(kind := arguments.pop("type", None), str):
        raise UserError("the network has no type", remedy="Write `network: {type: ..., ...}`")
    cls = registry.find("networks", kind, base)
    try:
        network: nn.Module = cls(**arguments)
    except UserError:
        raise
    except Exception as error:
        takes = ", ".join(parameters(cls))
        raise UserError(f"network '{kind}' cannot be built: {blame(error)}", remedy=f"It takes: {takes}") from error
    return network


def packaged() -> dict[str, Path]:
    """The checkpoints that come with the package, by name."""
    zoo = Path(str(resources.files("defenses"))) / "zoo"
    return {card.stem: card.with_suffix(".safetensors") for card in sorted(zoo.glob("*.yaml"))}


def _is_name(ref: str) -> bool:
    return Path(ref).suffix not in SUFFIXES and Path(ref).name == ref


def _locate(ref: str, base: Path | None) -> Path:
    if _is_name(ref):
        names = packaged()
        if ref not in names:
            raise UserError(
                f"no checkpoint is called '{ref}'",
                remedy=f"{nearest(ref, names)} A file is named by its path, ending in {', '.join(SUFFIXES)}",
            )
        path = names[ref]
    else:
        path = (base or Path()) / Path(ref).expanduser()
    if not path.is_file():
        raise UserError(f"checkpoint '{ref}': there is no file {path.absolute()}", remedy="Check the path")
    if path.suffix not in SUFFIXES:
        raise UserError(f"checkpoint '{ref}' is not of a known format", remedy=f"Known: {', '.join(SUFFIXES)}")
    return path


def _read_card(path: Path) -> Card | None:
    if not path.is_file():
        return None
    return parse(Card, yaml_source.read(path).root, "the card")


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path} is not a readable safetensors file: {error}", remedy="Fetch it again") from error


def _load_torch(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile file can raise anything
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"{path} cannot be loaded as plain tensors: {reason}",
            remedy="It is damaged, or holds code, which is never run; save its state_dict alone",
        ) from error
    for key in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise UserError(f"{path} does not hold a state dict", remedy=f"Save one, bare or under {' or '.join(WRAPPERS)}")
    return content


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:SHOWN]) + (", …" if len(keys) > SHOWN else "")
