"""How results are written: whole or not at all, by one process at a time."""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
import torch

import harness
from harness import files
from harness.errors import UserError
from harness.files import write_atomically
from harness.results import store
from harness.results.record import Record
from harness.results.store import CellStore, Store

RECORD = Record(0, 1, "robust", [1], [1], [0.5], [0.25], 0.5, 1.5, 2.5, None, 0.0, 20, 10, 0.125, 7)
IMAGES = {"images": torch.zeros(1, 1, 4, 4)}


@pytest.fixture
def cell(tmp_path: Path) -> CellStore:
    """A pairing with one finished shard."""
    cell = Store(tmp_path).cell("d", "a", "key")
    cell.write(0, 1, [RECORD], IMAGES)
    return cell


class FullFile:
    """A file on a disk that is full after the first bytes."""

    def __init__(self, path: Path, mode: str) -> None:
        self.file = io.FileIO(path, mode)

    def __enter__(self) -> FullFile:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def write(self, data: bytes) -> NoReturn:
        self.file.write(data[:3])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def fail(error: BaseException) -> Callable[..., NoReturn]:
    def raising(*arguments: object, **options: object) -> NoReturn:
        raise error

    return raising


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    return path


@pytest.mark.parametrize("stage", ["write", "fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    old: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if stage == "write":
        monkeypatch.setattr(files, "open", FullFile, raising=False)
    else:
        monkeypatch.setattr(os, stage, fail(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    with pytest.raises(UserError, match=r"No space left on device.*Free some space") as caught:
        write_atomically(old, b"new content")
    assert str(old) in caught.value.message
    assert old.read_bytes() == b"old" and os.listdir(old.parent) == ["file"]


@pytest.mark.parametrize("stage", ["fsync", "replace"])
def test_an_interrupt_leaves_the_old_file_and_nothing_else(
    old: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, stage, fail(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        write_atomically(old, b"new content")
    assert old.read_bytes() == b"old" and os.listdir(old.parent) == ["file"]


def test_a_failure_between_images_and_records_leaves_the_shard_unfinished(
    cell: CellStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.replace

    def images_only(source: Path, target: Path) -> None:
        if target.suffix == ".parquet":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        rename(source, target)

    monkeypatch.setattr(os, "replace", images_only)
    with pytest.raises(UserError):
        cell.write(1, 2, [RECORD], IMAGES)
    assert cell.read(1, 2) is None and cell.shards() == [(0, 1)]


def test_a_folder_that_cannot_be_made_is_told_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = Store(tmp_path / "file")
    with pytest.raises(UserError, match="--out"):
        store.write_manifest({})
    with pytest.raises(UserError, match="--out"), store.locked():
        pass


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_a_read_only_directory_is_told_with_a_remedy(
    tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "open", fail(OSError(code, os.strerror(code))), raising=False)
    monkeypatch.setattr(store, "open", fail(OSError(code, os.strerror(code))), raising=False)
    for attempt in (lambda: Store(tmp_path).write_manifest({}), lambda: Store(tmp_path).locked().__enter__()):
        with pytest.raises(UserError, match=rf"{os.strerror(code)}.*--out"):
            attempt()
    assert not os.listdir(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
def test_a_directory_without_write_permission_is_told_with_a_remedy(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match=r"Permission denied.*--out"):
        Store(tmp_path).write_manifest({})
    tmp_path.chmod(0o700)


def test_what_was_planted_under_a_name_of_ours_is_not_followed(
    tmp_path: Path, cell: CellStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    precious = tmp_path.parent / f"{tmp_path.name}-precious"
    precious.write_text("precious")
    monkeypatch.setattr(secrets, "token_hex", lambda count: "known")
    path = cell.folder / "00000-00001.parquet"
    path.unlink()
    path.symlink_to(precious)
    cell.write(0, 1, [RECORD], IMAGES)
    assert not path.is_symlink() and cell.read(0, 1) == [RECORD]
    (tmp_path / ".run.json.known.tmp").symlink_to(precious)
    with pytest.raises(UserError, match="File exists"):
        Store(tmp_path).write_manifest({})
    assert precious.read_text() == "precious"


@pytest.mark.parametrize("place", [".lock", "cells", "cells/d", "cells/d/a", "diagnose"])
def test_a_link_or_a_pipe_where_results_are_written_is_refused_and_left_alone(tmp_path: Path, place: str) -> None:
    root, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    path = root / place
    path.parent.mkdir(parents=True)
    elsewhere.mkdir()
    (elsewhere / ".x.parquet.1.tmp").write_text("precious")
    target = elsewhere / ".x.parquet.1.tmp" if place == ".lock" else elsewhere
    path.symlink_to(target)
    with pytest.raises(UserError, match=rf"{place} is a symbolic link.*--out"), Store(root).locked():
        pass
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match=rf"{place} is .* a special file.*--out"), Store(root).locked():
        pass
    assert (elsewhere / ".x.parquet.1.tmp").read_text() == "precious"


def test_a_results_directory_may_itself_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "large").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "large")
    with Store(tmp_path / "run").locked():
        Store(tmp_path / "run").write_manifest({})
    assert (tmp_path / "large/run.json").is_file()


@pytest.mark.parametrize("change", ["deleted", "replaced"])
def test_a_lock_tells_that_its_directory_is_no_longer_there(tmp_path: Path, change: str) -> None:
    root = tmp_path / "run"
    with Store(root).locked() as lock:
        lock.check()
        shutil.rmtree(root)
        if change == "replaced":
            root.mkdir()
            (root / ".lock").touch()
        with pytest.raises(UserError, match="was deleted, or replaced"):
            lock.check()


def child(script: str, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(harness.__file__).parents[1])}
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


SMALL_FILES_ONLY = """
import json, resource, sys
from pathlib import Path
import torch
from harness.errors import UserError
from harness.results.record import Record
from harness.results.store import Store

resource.setrlimit(resource.RLIMIT_FSIZE, (2048, resource.RLIM_INFINITY))
cell = Store(Path(sys.argv[1])).cell("d", "a", "key")
record = Record(0, 1, "robust", [1], [1], [0.5], [0.5], 0.5, 1.5, 2.5, None, 0.0, 20, 10, 0.125, 7)
told = []
for stop, size in ((1, 8), (2, 64)):  # records too large; images too large as well
    try:
        cell.write(0, stop, [record], {"images": torch.zeros(1, 1, size, size)})
    except UserError as error:
        told.append(str(error))
print(json.dumps(told))
"""


@pytest.mark.long
def test_a_file_that_really_outgrows_the_disk_is_not_kept(tmp_path: Path) -> None:
    with child(SMALL_FILES_ONLY, str(tmp_path)) as process:
        told = json.loads(process.communicate(timeout=120)[0])
    assert len(told) == 2 and all("File too large" in text and "Free some space" in text for text in told)
    assert ".parquet" in told[0] and ".safetensors" in told[1]
    assert os.listdir(tmp_path / "cells/d/a") == ["00000-00001.safetensors"]
    assert Store(tmp_path).cell("d", "a", "key").read(0, 1) is None


LOCK = """
import sys
from pathlib import Path
from harness.results.store import Store

with Store(Path(sys.argv[1])).locked():
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with child(LOCK, str(tmp_path)) as process:
        assert process.stdout and process.stdout.readline() == "locked\n"
        with pytest.raises(UserError, match="another process is writing"), store.locked():
            pass
        process.kill()
    with store.locked(), pytest.raises(UserError, match="another process"), Store(tmp_path).locked():
        pass


def test_the_lock_is_given_back_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Store(tmp_path).locked():
        _ = 1 / 0
    with Store(tmp_path).locked():
        pass


def test_a_file_system_without_locks_is_told_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", fail(OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))))
    with pytest.raises(UserError, match=r"cannot lock.*local disk"), Store(tmp_path).locked():
        pass


def test_locking_sweeps_what_a_killed_process_left_and_nothing_else(tmp_path: Path, cell: CellStore) -> None:
    kept = sorted([*cell.folder.iterdir(), tmp_path / ".mine.tmp"])
    (tmp_path / ".mine.tmp").write_text("a user's file")
    for leftover in (cell.folder / ".00004-00006.parquet.123.tmp", tmp_path / ".run.json.123.tmp"):
        leftover.write_text("half")
    with Store(tmp_path).locked():
        found = [*cell.folder.iterdir(), *(path for path in tmp_path.iterdir() if path.suffix == ".tmp")]
    assert sorted(found) == kept
