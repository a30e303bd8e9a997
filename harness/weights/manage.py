"""The operations behind `harness weights`: they find, fetch, verify and convert checkpoints."""

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
"""Takes the name of a checkpoint, and returns the function that is called with the progress of its download."""


@dataclass(frozen=True)
class Item:
    """A checkpoint that a suite can name.

    Args:
        ref: the reference by which a suite names it.
        summary: its description in one line, or "" if there is none.
        state: "by hand" if the user must download it in a browser, "missing" for a path without a file.
        path: the place of the file or folder, whether or not it exists.
        origin: the address of the file or of a page about it, or None.
        manual: what the user must do on that page.
        stated: the SHA-256 that its card, its entry in the registry or its address states.
        entry: its entry in the registry, for a published checkpoint.
        folder: the folder that a relative path starts from.
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
        """The number of bytes on this machine, or None if there is no file."""
        files = [self.path] if self.path.is_file() else list(self.path.glob("*")) if self.path.is_dir() else []
        return sum(file.stat().st_size for file in files) if files else None

    @property
    def sha256(self) -> str | None:
        """The published SHA-256 of the file or, if there is none, the one that was recorded at the first download."""
        return self.stated or (download.first_seen(self.path) if self.path.is_file() else None)


def fetch(wanted: Item, watch: Watch, *, sha256: str | None = None, offline: bool = False) -> Path:
    """Downloads a checkpoint into the cache, or verifies it if it is already there. Returns its place.

    Raises:
        UserError: the checkpoint cannot be downloaded. The message says what to do.
    """
    if is_address(wanted.ref):
        url, stated = split_address(wanted.ref)
        return download.fetch(url, sha256=sha256 or stated, offline=offline, progress=watch(wanted.ref))
    if wanted.entry is None:
        return Checkpoint.find(wanted.ref, wanted.folder).path
    return wanted.entry.obtain(offline=offline, progress=watch(wanted.ref))


def verify(held: Item) -> str:
    """Compares an available checkpoint with its expected SHA-256, and returns this.

    Raises:
        UserError: the checkpoint is absent, or differs from its card, its entry in the registry or the first download.
    """
    if held.entry is not None:
        held.entry.obtain(offline=True)
    return Checkpoint.find(held.ref, held.folder).sha256


def convert(source: Path, target: Path, *, ema: bool = True) -> formats.Loaded:
    """Converts a file of any supported format to safetensors. Returns the weights that were read.

    Args:
        source: the file. `x.pt#key=ema` chooses one of several sets of weights in it.
        target: the file to write.
        ema: whether to take the averaged weights of a score-SDE training state, not the last ones.

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
    """Returns the checkpoint that a reference means. Relative paths start from `folder`."""
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
