"""Makes one results directory of several. Killed at any moment, it is a valid run, to which the same command adds."""

from __future__ import annotations

import shutil
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.archive.layout import fault_of
from harness.errors import UserError
from harness.files import BLOCK, replacing
from harness.guard.untrusted import Unreadable, digest, opened
from harness.joining.agreement import refuse_unlike
from harness.joining.cells import Part, copy, owners
from harness.joining.manifests import joined
from harness.results import diagnosis
from harness.results.load import Run, read_run
from harness.results.manifest import write_manifest
from harness.results.merge import merge
from harness.results.store import KEPT_IMAGES, MANIFEST, CellStore, Lock, ShardRange, Store, shard_ranges

LARGEST_KEPT = 1 << 36
"""The largest size in bytes of the images that were passed in Python."""


@dataclass(frozen=True)
class Joined:
    """A directory that was made of others.

    Attributes:
        copied: shards that this call brought in; missing: shards that no directory has.
        errors: images that ended in errors in every directory that has them.
        remarks: what was left out, one sentence each.
    """

    path: Path
    copied: int
    missing: int
    errors: int
    remarks: tuple[str, ...]


def join(sources: Sequence[Path], out: Path) -> Joined:
    """Makes one results directory of several runs of one suite, whose files are copied byte for byte.

    Args:
        sources: results directories, finished or not, which are only read.
        out: the results directory; made if absent, or else a run of the same suite, to which the others are added.

    Raises:
        UserError: a directory holds no run, is damaged or was edited; the runs are not of the same suite, code, weights
            and images; two of them have different results for an image; or `out` cannot be written.
    """
    runs = [_read(path) for path in sources]
    if any(_same(path, out) for path in sources):
        raise UserError(f"{out} is among the directories to merge", remedy="Choose another directory with --out")
    _refuse_foreign(out)
    content, shards = _agreed(runs, out)  # before anything is made
    with Store(out).locked() as lock:
        if (out / MANIFEST).exists():
            runs.insert(0, _read(out))
            content, shards = _agreed(runs, out)
        return _write(runs, content, shards, out, lock)


Shards = dict[tuple[str, str], dict[ShardRange, Part]]
"""Of each pairing, which directory gives which shard."""


def _agreed(runs: Sequence[Run], out: Path) -> tuple[dict[str, Any], Shards]:
    """The manifest of all runs, and their shards. Raises UserError if two of the runs contradict each other."""
    for run in runs[1:]:
        refuse_unlike(runs[0], run)
    pairs = dict.fromkeys(pair for run in runs for pair in run.cells)
    shards = {pair: owners([Part.of(run, pair) for run in _longest_first(runs, pair, out)]) for pair in pairs}
    return joined(runs), shards


def _write(runs: Sequence[Run], content: dict[str, Any], shards: Shards, out: Path, lock: Lock) -> Joined:
    store, copied, missing, errors = Store(out), 0, 0, 0
    remarks = _copy_beside(runs, out)
    cells = [(cell, store.cell(cell["defense"], cell["attack"], cell["key"])) for cell in content["cells"]]
    for cell, stored in cells:
        kept = {bounds for bounds, part in shards[cell["defense"], cell["attack"]].items() if part.root == out}
        cell["records"] = _hashes(stored, kept, cell)
    write_manifest(store, content)  # so that what follows may be killed at any moment
    for cell, stored in cells:
        own, ranges = shards[cell["defense"], cell["attack"]], shard_ranges(cell["count"], cell["shard"])
        copied += copy(own, stored)
        lock.check()
        if len(own) == len(ranges):
            merge(stored, ranges, lock.check)
        cell["records"] = _hashes(stored, own, cell)
        missing += len(ranges) - len(own)
        errors += sum(int(part.records(bounds).failed.sum()) for bounds, part in own.items())
    lock.check()
    write_manifest(store, content)
    return Joined(out, copied, missing, errors, tuple(remarks))


def _hashes(stored: CellStore, having: Container[ShardRange], cell: dict[str, Any]) -> list[str | None]:
    """What the manifest records of the shards of a pairing, of which some are there."""
    ranges = shard_ranges(cell["count"], cell["shard"])
    return [stored.digest(*bounds) if bounds in having else None for bounds in ranges]


def _read(path: Path) -> Run:
    run = read_run(path)
    if fault := fault_of(run):
        raise UserError(
            f"the results in {path} do not hold together: {fault}",
            remedy="Run the suite into that directory again: it computes what is damaged; `harness verify` says more",
        )
    return run


def _refuse_foreign(out: Path) -> None:
    """Raises UserError if there is something that is no run, nor the beginning of one."""
    if (out / MANIFEST).exists() or not out.exists():
        return
    if not out.is_dir() or any(path.name != KEPT_IMAGES and path.name[0] != "." for path in out.iterdir()):
        raise UserError(f"{out} exists already, and is no run", remedy="Choose another directory with --out")


def _longest_first(runs: Sequence[Run], pair: tuple[str, str], out: Path) -> list[Run]:
    """What is there goes first, then who has most of a pairing, whose merged file may then be copied as it is."""
    having = [run for run in runs if pair in run.cells]
    return sorted(having, key=lambda run: (run.path != out, -run.cells[pair].done))


def _copy_beside(runs: Sequence[Run], out: Path) -> list[str]:
    """Copies images that were passed in Python, and diagnoses. Returns which diagnoses differ."""
    remarks, taken = list[str](), dict[str, str]()
    for run in runs:
        if run.manifest.dataset.kept and not (out / KEPT_IMAGES).exists():
            _copy_file(run.path / KEPT_IMAGES, out / KEPT_IMAGES, LARGEST_KEPT)
        for path in sorted((run.path / diagnosis.FOLDER).glob("*.json")):
            if diagnosis.read(path) is None:
                continue
            sha256, target = digest(path, diagnosis.LARGEST), diagnosis.path_of(out, path.stem)
            if sha256 != taken.setdefault(path.stem, sha256):
                remarks.append(f"{path} differs from a diagnosis that was there before it, and is left out.")
            elif run.path != out:
                _copy_file(path, target, diagnosis.LARGEST)
    return remarks


def _copy_file(path: Path, target: Path, limit: int) -> None:
    try:
        with opened(path, limit) as source, replacing(target) as copied:
            shutil.copyfileobj(source, copied, BLOCK)
    except (FileNotFoundError, Unreadable) as error:
        raise UserError(f"cannot read {path}: {error}", remedy="Merge the directories as they were written") from error


def _same(one: Path, two: Path) -> bool:
    return one.exists() and two.exists() and one.samefile(two)
