"""A run, or weights with their card, to and from the Hub.

run       a repository of the kind "dataset": README.md with the table, and run.zip, see `harness.archive`
weights   a repository of the kind "model": README.md, weights.safetensors, and their card, weights.yaml
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import yaml

from harness.archive.reading import Imported, import_run
from harness.archive.writing import Exported, export_run
from harness.errors import UserError
from harness.hub.client import download, upload
from harness.reporting.render import markdown
from harness.reporting.render.layout import lay_out
from harness.reporting.tables.table import Table, summarise
from harness.results.load import read_run
from harness.weights.card import Card
from harness.weights.checkpoint import Checkpoint

RUN = "run.zip"
WEIGHTS, CARD = "weights.safetensors", "weights.yaml"
README = "README.md"

TAGS = ["adversarial-robustness", "adversarial-harness"]


def push_run(
    root: Path, repository: str, *, folder: Path = Path(), trust: bool = False, private: bool = False
) -> tuple[str, Exported]:
    """Puts a run on the Hub. Returns the address, and what was exported; arguments and errors as for `export_run`."""
    with tempfile.TemporaryDirectory() as temporary:
        exported = export_run(root, Path(temporary) / RUN, folder=folder, trust=trust)
        files: dict[str, bytes | Path] = {
            README: _about_run(summarise(read_run(root)), repository).encode(),
            RUN: exported.path,
        }
        return upload(repository, "dataset", files, f"sha256 {exported.sha256}", private=private), exported


def pull_run(repository: str, out: Path | None = None, *, revision: str | None = None) -> Imported:
    """Makes a results directory of a run on the Hub. Arguments and errors as for `import_run`."""
    with tempfile.TemporaryDirectory() as temporary:
        (path,) = download(repository, "dataset", (RUN,), Path(temporary), revision)
        return import_run(path, out)


def push_weights(file: Path, repository: str, *, private: bool = False) -> str:
    """Puts weights on the Hub, with the card beside them. Returns the address.

    Raises:
        UserError: they are not in safetensors, have no card, or are not what it describes; or as for `upload`.
    """
    if file.suffix != ".safetensors":
        raise UserError(f"{file} is no safetensors file", remedy=f"Convert it: harness weights import {file} OUT")
    card = Checkpoint.find(str(file.absolute())).card
    if not isinstance(card, Card):
        raise UserError(
            f"{file} has no card", remedy=f"Describe it in {file.with_suffix('.yaml')}, as `harness train` does"
        )
    text = _front(library="adversarial-harness", licence=card.licence)
    text += f"# {card.name}\n\n{card.summary}\n\n"
    text += f"Clean accuracy {100 * card.clean_accuracy:.1f}% on {card.dataset} ({card.measured}).\n\n"
    text += f"```sh\nharness pull {repository} --weights --out {card.name}.safetensors\n```\n"
    files: dict[str, bytes | Path] = {README: text.encode(), WEIGHTS: file, CARD: file.with_suffix(".yaml")}
    return upload(repository, "model", files, f"sha256 {card.sha256}", private=private)


def pull_weights(repository: str, out: Path, *, revision: str | None = None) -> Path:
    """Fetches weights and their card, which lies beside them. Returns the file of the weights.

    Args:
        out: the safetensors file, which must not exist yet.

    Raises:
        UserError: it exists, or the weights are not those of their card; or as for `upload`.
    """
    places = {WEIGHTS: out.with_suffix(".safetensors"), CARD: out.with_suffix(".yaml")}
    for place in places.values():
        if place.exists() or place.is_symlink():
            raise UserError(f"{place} exists already", remedy="Choose another file with --out")
    parent = out.absolute().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=parent, prefix=f".{out.stem}.") as temporary:
            for path in download(repository, "model", tuple(places), Path(temporary), revision):
                if not path.is_file() or path.is_symlink():
                    raise UserError(f"{path.name} of {repository} is no regular file", remedy="Ask its owner")
            if Checkpoint.find(str(Path(temporary) / WEIGHTS)).card is None:
                raise UserError(f"the weights of {repository} have no card", remedy="Ask its owner for one")
            for name in (CARD, WEIGHTS):
                os.replace(Path(temporary) / name, places[name])
    except OSError as error:
        raise UserError(f"cannot write {out} ({error.strerror})", remedy="Choose another file with --out") from error
    return places[WEIGHTS]


def _about_run(table: Table, repository: str) -> str:
    return (
        f"{_front()}{markdown.render([lay_out(table)])}\n"
        f"Every number can be counted anew from `{RUN}`: unpack it and run `python check.py`, which needs numpy and "
        f"pyarrow, or:\n\n```sh\nharness pull {repository}\n```\n"
    )


def _front(library: str | None = None, licence: str | None = None) -> str:
    """What the Hub reads of a README: tags, and a licence by the name that the Hub has for it."""
    content = {"tags": TAGS, **({"library_name": library} if library else {})}
    if licence:
        content |= {"license": licence.lower() if licence in ("MIT", "Apache-2.0") else "other"}
    return f"---\n{yaml.safe_dump(content)}---\n\n"
