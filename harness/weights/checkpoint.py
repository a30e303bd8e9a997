"""Finds the checkpoint that a suite refers to, compares it with its card, and loads it without executing its code.

A reference has one of these forms:

    digits-cnn                      a checkpoint that comes with the package, with a card beside it
    edm-cifar10-32x32-cond-vp       a published checkpoint, which `harness weights fetch` downloads into the cache
    https://host/x.pt#sha256=...    a file that is downloaded; the hash is optional
    ./x.pt                          a file, by its path relative to the suite
    ./x.pt#key=ema                  one of several sets of weights in a file (after an address: `#sha256=...&key=ema`)

The format of a file is determined by its content: see `harness.weights.formats`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_args, get_type_hints

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema
from torch import Tensor, nn

from harness.config import registry
from harness.config.component import Component
from harness.config.signature import parameters
from harness.errors import UserError, nearest, one_line
from harness.files import digest
from harness.guard.untrusted import Unreadable, contents, parse_json
from harness.randomness import fenced
from harness.weights import download, formats, published
from harness.weights.card import Card, read_card
from harness.weights.formats import state_dict_keys
from harness.weights.normalization import Normalization, stated_by
from harness.weights.published import Published

SUFFIXES = (".safetensors", ".pt", ".pth", ".th", ".pkl")
"""A reference with one of these endings is the path of a file, not a name. The format follows from the content."""

DIFFUSERS = "UNet2DModel"
"""The only class of Hugging Face Diffusers whose networks can be read."""

LARGEST_CONFIG = 1 << 20
"""The largest number of bytes that the configuration beside a Hugging Face model may have."""

SHOWN = 3
"""The largest number of tensors that an error message names."""


class Checkpoint:
    """Weights in a file. A constructor argument with this annotation accepts a reference from a suite.

    Args:
        ref: the reference, as the user wrote it.
        path: the file or, for a Hugging Face model, the folder.
        card: the description of the checkpoint, or None if there is none.
        base: the folder that relative paths in the same place of the suite start from.

    Attributes:
        key: the name of the set of weights in the file that is meant, or None if the reference names none.
        notes: sentences that say which weights were chosen, which were ignored and how they were renamed when the
            network was made.
        remarks: facts that a table must show, since another reading of the same file would give other numbers.
        normalization: the normalisation of images that the file holds, if it is applied before the network.

    Example:
        >>> checkpoint = Checkpoint.find("digits-cnn")
        >>> checkpoint.card.dataset, checkpoint.card.num_classes
        ('digits', 10)
    """

    def __init__(self, ref: str, path: Path, card: Card | Published | None, base: Path | None = None) -> None:
        self.ref, self.path, self.card, self.base = ref, path, card, base
        self.key = split_key(ref)[1]
        self.notes: list[str] = []
        self.remarks: list[str] = []
        self.normalization: Normalization | None = None

    @classmethod
    def find(cls, ref: str | Checkpoint, base: Path | None = None) -> Checkpoint:
        """Returns the checkpoint that a reference means, without downloading anything.

        Args:
            ref: a reference in one of the forms at the head of this module.
            base: the folder that relative paths start from; by default the current folder.

        Raises:
            UserError: there is no such checkpoint, or the file is not the one that its card describes.
        """
        if isinstance(ref, Checkpoint):
            return ref
        plain, _ = split_key(ref)
        if is_address(ref):
            return cls(ref, _fetched(plain), None, base)
        if not _is_name(plain):
            return _described(ref, _local(plain, base), base)
        if plain in packaged():
            return _described(ref, packaged()[plain], base)
        entry = _published(plain)
        if not entry.present():
            raise UserError(
                f"checkpoint '{plain}' is not in the cache: there is no {entry.path()}",
                remedy=f"Run `harness weights fetch {plain}`"
                if entry.fetchable
                else f"{entry.manual} ({entry.page}), and put it there",
            )
        return cls(ref, entry.path(), entry, base)

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of the file in hexadecimal. For a folder, it is taken over the names and hashes of its files."""
        if self.path.is_dir():
            parts = [f"{file.name} {digest(file)}" for file in sorted(self.path.iterdir()) if _belongs(file)]
            return hashlib.sha256("\n".join(parts).encode()).hexdigest()
        return digest(self.path)

    def tensors(self) -> dict[str, Tensor]:
        """Returns the tensors by name, on the CPU. Nothing in the file is executed.

        Raises:
            UserError: the file has no supported format, or it holds code.
        """
        return self._loaded().tensors

    def _loaded(self) -> formats.Loaded:
        return formats.read(self.path, key=self.key)

    def network(self, spec: Mapping[str, Any] | None = None) -> nn.Module:
        """Returns the network with these weights, frozen and in evaluation mode.

        Args:
            spec: the type and the arguments of the network; by default those of the card or, if there is no card,
                those that the file itself states.

        Raises:
            UserError: the architecture is not known, or the weights belong to another one.
        """
        if self.path.is_dir():
            return self._diffusers().eval().requires_grad_(False)
        loaded = self._loaded()
        spec = spec or (self.card.network if self.card else None)
        with fenced(0):  # leaves the caller's generators as they were
            if spec is not None:
                network = build_network(spec, self.base)
            elif loaded.network is not None and (name := published.network_of_class(loaded.network_class)):
                network = registry.find("networks", name).from_published(loaded.network)
            else:
                raise UserError(
                    f"checkpoint '{self.ref}' does not say what network it belongs to",
                    remedy="Add `network: {type: ..., ...}` beside `weights:`",
                )
        self._fill(network, loaded)
        return network.eval().requires_grad_(False)

    def load_into(self, network: nn.Module) -> nn.Module:
        """Loads these weights into an existing network, and returns it frozen and in evaluation mode.

        Raises:
            UserError: the weights belong to another network, or the checkpoint is a folder.
        """
        if self.path.is_dir():
            raise UserError(f"checkpoint '{self.ref}' is a folder", remedy="Name the file of weights in it")
        self._fill(network, self._loaded())
        return network.eval().requires_grad_(False)

    def _diffusers(self) -> nn.Module:
        """Returns the network of a Hugging Face folder, which holds its configuration and its weights."""
        cls = registry.find("networks", str(published.network_of_class(DIFFUSERS)))
        config, weights = self.path / "config.json", self.path / "diffusion_pytorch_model.safetensors"
        try:
            published_config = parse_json(contents(config, LARGEST_CONFIG))
        except (OSError, Unreadable, ValueError) as error:
            raise UserError(
                f"checkpoint '{self.ref}' is a folder, but no readable config.json is in it ({error})",
                remedy="Name the file of weights, or the folder of a Hugging Face UNet2DModel",
            ) from error
        with fenced(0):
            network: nn.Module = cls.from_published(published_config)
        loaded = formats.read(weights)
        self._fill(network, replace(loaded, tensors=cls.current_names(loaded.tensors)))
        return network

    def _fill(self, network: nn.Module, loaded: formats.Loaded) -> None:
        """Copies the weights into a network, if their names and shapes are those of the network."""
        wanted = network.state_dict()
        tensors, renamed, normalization = state_dict_keys.aligned(loaded.tensors, wanted)
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
        descriptions = [f"{len(keys)} tensors {what} ({_some(keys)})" for what, keys in faults.items() if keys]
        if descriptions:
            shapes = [{key: tuple(tensor.shape) for key, tensor in side.items()} for side in (tensors, wanted)]
            raise UserError(
                f"checkpoint '{self.ref}' does not fit {type(network).__name__}: {'; '.join(descriptions)}",
                remedy=state_dict_keys.likely_cause(*shapes),
            )
        network.load_state_dict(tensors)
        self.notes = [*loaded.notes, *renamed]
        self.remarks = [f"weights '{self.key}' of {self.path.name}"] if self.key else []
        if normalization is not None:
            self._normalize(network, normalization)

    def _normalize(self, network: nn.Module, normalization: Normalization) -> None:
        """Applies the normalisation in the file before the network, since the network was trained on its output.

        Raises:
            UserError: the network states another normalisation, or a number is not finite or a divisor not positive.
        """
        if not all(map(math.isfinite, (*normalization.mean, *normalization.std))) or min(normalization.std) <= 0:
            raise UserError(
                f"the normalisation in checkpoint '{self.ref}' is {normalization}, which divides by what it should not"
            )
        stated = stated_by(network)
        if stated is None:
            self.remarks.append(f"normalised as {self.path.name} says: {normalization}")
            self.notes.append(f"the file's own normalisation is applied before the network: {normalization}")
            self.normalization = normalization
            network.register_forward_pre_hook(lambda _, inputs: (normalization(inputs[0]), *inputs[1:]))
        elif not normalization.agrees(*stated):
            raise UserError(
                f"checkpoint '{self.ref}' normalises images by {normalization}, "
                f"but {type(network).__name__} by {stated}",
                remedy="Name the network that the weights were trained in",
            )

    def __repr__(self) -> str:
        return f"Checkpoint({self.ref!r})"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(
            cls._validate,
            serialization=core_schema.plain_serializer_function_ser_schema(cls._stored),
        )

    def _stored(self) -> dict[str, str]:
        """Returns the description of the checkpoint that is stored with the results."""
        return {"name": self.ref, "sha256": self.sha256} | ({"key": self.key} if self.key else {})

    @classmethod
    def _validate(cls, ref: Any, info: core_schema.ValidationInfo) -> Checkpoint:
        if not isinstance(ref, str | Checkpoint):
            raise ValueError(f"{ref!r} is not the name or path of a checkpoint")
        return cls.find(ref, (info.context or {}).get("base"))


def build_network(spec: Mapping[str, Any], base: Path | None = None) -> nn.Module:
    """Builds a network from its type and arguments. Torch's global generator initialises its weights.

    Args:
        spec: the `type` of the network and the arguments of its constructor.
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
        known = next((entry.parameters for entry in registry.entries("networks") if entry.name == kind), None)
        takes = parameters(cls) if known is None else [argument.name for argument in known]
        message = f"network '{kind}' cannot be built: {one_line(error)}"
        raise UserError(message, remedy=f"It takes: {', '.join(takes)}") from error
    return network


def checkpoint_arguments(cls: type[Any]) -> list[str]:
    """Returns the names of the constructor's arguments whose annotation is `Checkpoint`."""
    hints = get_type_hints(cls.__init__)
    return [name for name, hint in hints.items() if Checkpoint in (hint, *get_args(hint))]


def packaged() -> dict[str, Path]:
    """Returns the files of the checkpoints that come with the package, by the names of the checkpoints."""
    zoo = published.beside("defenses", "zoo")
    return {card.stem: card.with_suffix(".safetensors") for card in sorted(zoo.glob("*.yaml"))}


def is_address(ref: str) -> bool:
    """Tells whether a reference is the address of a file on the network."""
    return ref.startswith(("https://", "http://"))


def split_address(ref: str) -> tuple[str, str | None]:
    """Splits a reference such as `https://host/x.pt#sha256=...` into the address and the hash, if it states one."""
    url, _, fragment = split_key(ref)[0].partition("#")
    return url, fragment.removeprefix("sha256=") if fragment.startswith("sha256=") else None


def split_key(ref: str) -> tuple[str, str | None]:
    """Splits a reference into the file and the key of the weights in it: `x.pt#key=ema` gives ("x.pt", "ema")."""
    start, sign, fragment = ref.rpartition("#")
    parts = fragment.split("&") if sign else []
    keys = [part.removeprefix("key=") for part in parts if part.startswith("key=")]
    if not keys or not keys[0]:
        return ref, None
    rest = "&".join(part for part in parts if not part.startswith("key="))
    return f"{start}#{rest}" if rest else start, keys[0]


def checkpoints(component: Component) -> list[Checkpoint]:
    """Returns the checkpoints among the arguments of a defense, and among those of the defenses inside it."""
    collected: list[Checkpoint] = []
    for value in component.arguments.values():
        if isinstance(value, Checkpoint):
            collected.append(value)
        elif isinstance(value, Component):
            collected += checkpoints(value)
    return collected


def _fetched(ref: str) -> Path:
    """Returns the file that was fetched from an address, after it was compared with the hash in the reference."""
    url, sha256 = split_address(ref)
    path = download.place(url)
    if not path.is_file():
        raise UserError(f"{url} is not in the cache: there is no {path}", remedy=f"Run `harness weights fetch '{ref}'`")
    return download.verified(url, path.relative_to(download.weights_root().resolve()), sha256=sha256)


def _published(ref: str) -> Published:
    known = {entry.name: entry for entry in published.entries()}
    if ref not in known:
        near = nearest(ref, [*known, *packaged()])
        raise UserError(
            f"no checkpoint is called '{ref}'",
            remedy=f"{near} (A file is named by its path, ending in {', '.join(SUFFIXES)})",
        )
    return known[ref]


def _local(ref: str, base: Path | None) -> Path:
    path = (base or Path()) / Path(ref).expanduser()
    if not (path.is_file() or path.is_dir()):  # a named pipe, for example, would never end
        beside = _beside(path)
        raise UserError(
            f"checkpoint '{ref}': there is no file {path.absolute()}",
            remedy="Check the path" if beside is None else f"Write {Path(ref).with_suffix(beside.suffix)}",
        )
    if path.suffix in (".yaml", ".yml") and (beside := _beside(path)):
        raise UserError(
            f"checkpoint '{ref}' is the card of {beside.name}",
            remedy=f"Name the weights, {Path(ref).with_suffix(beside.suffix)}; the card beside them is found by itself",
        )
    return path


def _beside(path: Path) -> Path | None:
    """A file of weights that differs from a path by its ending alone, if there is one."""
    return next((file for suffix in SUFFIXES if (file := path.with_suffix(suffix)).is_file()), None)


def _described(ref: str, path: Path, base: Path | None) -> Checkpoint:
    """Returns a checkpoint together with the card beside it, if there is one."""
    card = read_card(path.with_suffix(".yaml")) if path.name else None  # "/" and "." have no name, and no card
    checkpoint = Checkpoint(ref, path, card, base)
    if card and card.sha256 != checkpoint.sha256:
        raise UserError(
            f"checkpoint '{ref}' is damaged: {path} has the sha256 {checkpoint.sha256}, its card says {card.sha256}",
            remedy="Install the package again" if _is_name(ref) else "Fetch it again, or remove the card",
        )
    return checkpoint


def _is_name(ref: str) -> bool:
    return Path(ref).suffix not in SUFFIXES and Path(ref).name == ref


def _belongs(file: Path) -> bool:
    """Tells whether a file in a folder is a part of the checkpoint, not a hidden file or a record of a download."""
    return file.is_file() and not file.name.startswith(".") and not file.name.endswith(".origin.json")


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:SHOWN]) + (", …" if len(keys) > SHOWN else "")
