"""Writes a results directory as an archive. The same results give the same bytes."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from harness import __version__
from harness.archive.layout import CHECKER, CLEAN, GUIDE, INDEX, Index, fault_of, limit_of, numbers
from harness.archive.zip_file import add
from harness.config import registry
from harness.errors import UserError
from harness.files import BLOCK, digest_of, replacing
from harness.guard.untrusted import Unreadable, opened
from harness.reporting.tables.doubts import beside
from harness.reporting.tables.table import summarise
from harness.results.cell_files import MERGED
from harness.results.diagnosis import FOLDER as DIAGNOSES
from harness.results.load import Run, read_run
from harness.results.store import KEPT_IMAGES, MANIFEST, Store
from harness.verification.inputs import Mismatch, attacked


@dataclass(frozen=True)
class Exported:
    """An archive that was written.

    Attributes:
        files: how many it holds.
        sha256: of the archive.
        remarks: what a reader of the results should have besides, one sentence each.
    """

    path: Path
    files: int
    sha256: str
    remarks: tuple[str, ...]


def export_run(root: Path, path: Path, *, folder: Path = Path(), trust: bool = False) -> Exported:
    """Writes a run as an archive, finished or not.

    Args:
        root: the results directory.
        path: the archive, which is replaced if it exists.
        folder: where the suite's relative paths start.
        trust: import the code of a dataset that the results name.

    Raises:
        UserError: there is no run, it is damaged or was edited, its dataset is missing or has changed, or the archive
            cannot be written.
    """
    run = read_run(root)
    if fault := fault_of(run):
        raise UserError(
            f"the results in {root} do not hold together: {fault}",
            remedy="Run the same command again: it computes what is damaged; `harness verify` says more",
        )
    clean = _clean_images(run, folder, trust)
    with replacing(path) as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            files = {name: add(archive, name, len(data), [data]) for name, data in _added(clean)}
            files |= {name: _add_file(archive, name, root / name) for name in _names(run)}
            table = tuple(numbers(summarise(run)))
            index = Index(harness=__version__, suite=run.manifest.suite, files=files, table=table)
            data = (json.dumps(index.model_dump(mode="json"), indent=1) + "\n").encode()
            add(archive, INDEX, len(data), [data])
        file.seek(0)
        sha256 = digest_of(file)
    return Exported(path, len(files) + 1, sha256, tuple(_remarks(run)))


def _clean_images(run: Run, folder: Path, trust: bool) -> bytes:
    """The clean images with their labels and indices, as a safetensors file."""
    import safetensors.torch

    try:
        with nullcontext() if trust else registry.built_in_only():
            images = attacked(run.manifest, run.path, folder).images
    except registry.Foreign as error:
        raise UserError(error.message, remedy="Add --trust to run it") from error
    except Mismatch as error:
        raise UserError(str(error), remedy="Export the results where their dataset is") from error
    tensors = {"images": images.x, "labels": images.y, "indices": images.index}
    return bytes(safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()}))


def _added(clean: bytes) -> Iterator[tuple[str, bytes]]:
    """What an archive holds besides the results directory."""
    own = resources.files("harness.archive")
    yield GUIDE, (own / "guide.md").read_bytes()
    yield CHECKER, (own / "check.py").read_bytes()
    yield CLEAN, clean


def _names(run: Run) -> Iterator[str]:
    """The files of the results directory, of merged records before those of single shards, which go before them."""
    yield MANIFEST
    if run.manifest.dataset.kept:
        yield KEPT_IMAGES
    yield from sorted(path.relative_to(run.path).as_posix() for path in run.path.glob(f"{DIAGNOSES}/*.json"))
    for (defense, attack), pairing in run.cells.items():
        cell = Store(run.path).cell(defense, attack, pairing.facts.key)
        places = set(pairing.places.tolist())
        paths = cell.paths(bounds for bounds in cell.shards() if bounds[0] in places and pairing.facts.has(*bounds))
        records_first = [path for path in paths if MERGED.fullmatch(path.with_suffix(".parquet").name)]
        for path in [*records_first, *(path for path in paths if path not in records_first)]:
            yield path.relative_to(run.path).as_posix()


def _add_file(archive: zipfile.ZipFile, name: str, path: Path) -> str:
    limit = limit_of(name)
    if limit is None:
        raise UserError(f"{path} is no file of a run", remedy="Move it away, and export again")
    try:
        with opened(path, limit) as file:
            size = file.seek(0, 2)
            file.seek(0)
            return add(archive, name, size, iter(lambda: file.read(BLOCK), b""))
    except (FileNotFoundError, Unreadable) as error:
        raise UserError(f"cannot read {path}: {error}", remedy="Run the suite again, and export then") from error


def _remarks(run: Run) -> Iterator[str]:
    unfinished = [f"{defense}/{attack}" for (defense, attack), pairing in run.cells.items() if not pairing.finished]
    if unfinished:
        yield f"The run is unfinished: {', '.join(unfinished[:3])}{', …' if len(unfinished) > 3 else ''}."
    for other in dict.fromkeys(other.path for pair in run.pairings for other in beside(run, *pair)):
        yield f"{other.name} varies the draws of an attack of this run, and bears on its numbers: export it, too."
