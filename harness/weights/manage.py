"""Manages checkpoints: which exist, which are available on this machine, and how to get the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import safetensors.torch

from harness.errors import UserError
from harness.files import write_atomically
from harness.weights import download, formats, published
from harness.weights.card import read_card
from harness.weights.checkpoint import Checkpoint, is_address, packaged, split_address, split_key
from harness.weights.published import Published

State = Literal["packaged", "here", "to fetch", "by hand", "missing"]
Watch = Callable[[str], download.Progress]
"""Given a name, what to tell of its download."""


@dataclass(frozen=True)
class Item:
    """A checkpoint that a suite can name.

    Args:
        ref: as a suite names it.
        state: "by hand" where only a person can fetch it, "missing" for a path without a file.
        path: where it lies or belongs.
        origin: address or page, or None.
        manual: what a person does there.
        stated: the sha256 that its card, its registry entry or its address gives.
        entry: of the registry, for a published one.
        folder: where the reference, if it is a path, starts.
    """

    ref: str
    summary: str
    state: State
    path: Path
    origin: str | None = None
    manual: str | None = None
    stated: str | None = None
    entry: Published | None = None
    folder: Path = Path()

    @property
    def size(self) -> int | None:
        """Bytes, if it is here."""
        files = [self.path] if self.path.is_file() else list(self.path.glob("*")) if self.path.is_dir() else []
        return sum(file.stat().st_size for file in files) if files else None

    @property
    def sha256(self) -> str | None:
        """Of the file, where it was published, or else as it was when the file was first fetched."""
        return self.stated or (download.first_seen(self.path) if self.path.is_file() else None)


def fetch(wanted: Item, watch: Watch, *, sha256: str | None = None, offline: bool = False) -> Path:
    """Brings a checkpoint into the cache. What is there already is verified.

    Raises:
        UserError: it cannot be downloaded; the message says what to do.
    """
    if is_address(wanted.ref):
        url, stated = split_address(wanted.ref)
        return download.fetch(url, sha256=sha256 or stated, offline=offline, progress=watch(wanted.ref))
    if wanted.entry is None:
        return Checkpoint.find(wanted.ref, wanted.folder).path
    return wanted.entry.obtain(offline=offline, progress=watch(wanted.ref))


def verify(held: Item) -> str:
    """The sha256 of an available checkpoint, after it was compared with the expected one.

    Raises:
        UserError: it is absent, damaged, or another one than its card, registry entry or first download said.
    """
    if held.entry is not None:
        held.entry.obtain(offline=True)
    return Checkpoint.find(held.ref, held.folder).sha256


def convert(source: Path, target: Path, *, ema: bool = True) -> formats.Loaded:
    """Writes any supported file as safetensors. Returns what was read.

    Args:
        source: the file; `x.pt#key=ema` says which of several sets of weights in it.
        ema: of a score-SDE training state, take the averaged weights rather than the last.

    Raises:
        UserError: the source cannot be read, or the target exists or cannot be written.
    """
    if target.exists():
        raise UserError(f"{target} exists", remedy="Choose another name, or remove it")
    plain, key = split_key(str(source))
    loaded = formats.read(Path(plain), ema=ema, key=key)
    tensors = {name: tensor.contiguous().clone() for name, tensor in loaded.tensors.items()}
    write_atomically(target, safetensors.torch.save(tensors))
    return loaded


def item(ref: str, folder: Path = Path()) -> Item:
    """What a reference means. folder: where relative paths start."""
    if is_address(ref):
        url, stated = split_address(ref)
        path = download.place(url)
        return Item(ref, "", "here" if path.is_file() else "to fetch", path, url, stated=stated)
    plain, _ = split_key(ref)
    if plain in packaged():
        path = packaged()[plain]
        card = read_card(path.with_suffix(".yaml"))
        return Item(ref, card.summary if card else "", "packaged", path, stated=card.sha256 if card else None)
    if known := next((entry for entry in published.entries() if entry.name == plain), None):
        state: State = "here" if known.present() else "to fetch" if known.fetchable else "by hand"
        origin = known.files[0].url or known.page
        return Item(ref, known.summary, state, known.path(), origin, known.manual, known.files[0].sha256, known)
    path = folder / Path(plain).expanduser()
    return Item(ref, "", "here" if path.exists() else "missing", path, folder=folder)
