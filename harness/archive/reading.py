"""Makes a results directory of an archive that anybody may have made. Nothing in it is executed."""

from __future__ import annotations

import io
import os
import secrets
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness import datasets
from harness.archive.layout import CLEAN, INDEX, MOST_FILES, Index, Number, fault_of, limit_of, numbers, of_the_run
from harness.archive.zip_file import copy, entries
from harness.errors import Place, UserError
from harness.guard.untrusted import Unreadable, opened, parse_json
from harness.process.visible_text import visible
from harness.reporting.tables.table import summarise
from harness.results.load import Run, read_run

LARGEST = 1 << 40
"""The largest size of an archive in bytes."""

EXACT = 1e-6
"""The largest difference between two countings of one number."""


@dataclass(frozen=True)
class Imported:
    """A results directory that was made of an archive. remarks: what it does not show, one sentence each."""

    path: Path
    suite: str
    remarks: tuple[str, ...]


def import_run(path: Path, out: Path | None = None) -> Imported:
    """Makes a results directory of an archive, after every hash, the clean images and the table were found right.

    Args:
        path: the archive.
        out: the results directory, which must not exist yet; left out, `results/SUITE`.

    Raises:
        UserError: it is no archive of `harness export`, was changed, contradicts itself, or cannot be written.
    """
    try:
        with opened(path, LARGEST) as file, entries(file, path, limit_of, MOST_FILES) as archive:
            index = _index(archive, path)
            out = out or Path("results") / index.suite
            with _new_folder(out) as folder:
                _unpack(archive, index, folder, path)
                remarks = _examine(folder, index, path)
    except (FileNotFoundError, Unreadable) as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise UserError(f"cannot read {path}: {reason}", remedy="Give the file of an exported run") from error
    return Imported(out, index.suite, remarks)


def _index(archive: zipfile.ZipFile, path: Path) -> Index:
    """The content of `export.json`, which must name exactly the files that there are."""
    if INDEX not in archive.namelist():
        raise _contradiction(path, f"it holds no {INDEX}")
    sink = io.BytesIO()
    copy(archive, INDEX, sink, path)
    try:
        content = parse_json(sink.getvalue())
        if isinstance(content, dict) and content.get("format") != 1:
            raise _contradiction(path, f"it has the format {str(content.get('format'))[:20]}, this harness reads 1")
        index = Index.model_validate(content)
    except ValueError as error:
        raise _contradiction(path, f"its {INDEX} is not valid") from error
    if different := sorted(index.files.keys() ^ (set(archive.namelist()) - {INDEX})):
        raise _contradiction(path, f"'{different[0][:100]}' is among its files or in {INDEX}, and not in both")
    return index


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """An empty folder, which becomes `out` when the block ends without an exception, and is removed otherwise."""
    if out.is_symlink() or (out.exists() and not (out.is_dir() and not any(out.iterdir()))):
        raise UserError(f"{out} exists already", remedy="Choose another directory with --out")
    folder = out.absolute().with_name(f".{out.name}.{secrets.token_hex(8)}.tmp")
    try:
        folder.mkdir(parents=True)
        yield folder
        os.replace(folder, out)
    except OSError as error:
        raise UserError(
            f"cannot write {out} ({error.strerror})", remedy="Choose another directory with --out"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unpack(archive: zipfile.ZipFile, index: Index, folder: Path, path: Path) -> None:
    for name, sha256 in index.files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target, "xb") as file:
            found = copy(archive, name, file, path)
        if found != sha256:
            raise _contradiction(path, f"the file '{name}' is not the one that was exported")


def _examine(folder: Path, index: Index, path: Path) -> tuple[str, ...]:
    """Whether a run holds together, once its files have the right hashes. Leaves the results directory alone."""
    try:
        run = read_run(folder)
        table = {number.title: number for number in numbers(summarise(run))}
    except UserError as error:
        raise _contradiction(path, error.message) from error
    stale = [name for name, pairing in run.cells.items() if pairing.stale]
    if fault := (
        fault_of(run)
        or ("its run.json is that of another suite" if run.manifest.suite != index.suite else None)
        or (f"it has records of another run for {'/'.join(stale[0])}" if stale else None)
        or _other_images(folder / CLEAN, run)
    ):
        raise _contradiction(path, fault)
    for number in index.table:
        counted = table.get(number.title)
        if counted is None or not _same(number, counted):
            what = "no such number" if counted is None else f"{counted.accuracy}"
            raise _contradiction(path, f"its table says {number.accuracy} for {number.title}, its records say {what}")
    for file in [name for name in index.files if not of_the_run(name)]:
        (folder / file).unlink()
    return tuple(_remarks(index, table))


def _other_images(file: Path, run: Run) -> str | None:
    """Why the clean images of an archive are not those that its run attacked, or None."""
    import safetensors
    import safetensors.torch

    facts = run.manifest.dataset
    try:
        found = safetensors.torch.load_file(file)
        images, labels, indices = (found[name] for name in ("images", "labels", "indices"))
    except (safetensors.SafetensorError, KeyError, OSError) as error:
        return f"its clean images cannot be read ({error})"
    if datasets.fingerprint(images, labels) != facts.fingerprint or indices.tolist() != list(facts.indices):
        return "its clean images are not those that were attacked"
    return None


def _same(stated: Number, counted: Number) -> bool:
    pairs = [(getattr(stated, name), getattr(counted, name)) for name in ("accuracy", "benign")]
    return all(a is b is None or (None not in (a, b) and abs(a - b) <= EXACT) for a, b in pairs)


def _remarks(index: Index, table: dict[str, Number]) -> Iterator[str]:
    """Doubts that rest on what an archive does not hold, such as the runs of `harness eot`."""
    for number in index.table:
        if number.headline and number.doubt and not table[number.title].doubt:
            yield visible(
                f"{number.title}: it was in doubt where it was exported, which no report here shows: {number.doubt}."
            )


def _contradiction(path: Path, reason: str) -> UserError:
    return UserError(reason, remedy="Ask for the file that `harness export` wrote", where=Place(path))
