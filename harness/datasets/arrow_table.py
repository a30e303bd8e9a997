"""Reads a split of a dataset of Hugging Face from local Parquet and Arrow files, by pyarrow alone.

    file.parquet, file.arrow     one table
    folder                       what `datasets.Dataset.save_to_disk` and `DatasetDict.save_to_disk` write, or Parquet
                                 files whose names or folders begin with the split, as on the hub:
                                 data/test-00000-of-00001.parquet

The names of classes, and which columns are images and labels, stand in the metadata of the schema.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from harness.datasets.look_around import below, holds
from harness.errors import Place, UserError

STATE, SPLITS = "state.json", "dataset_dict.json"
LARGEST_JSON = 2**24


def read_table(path: Path, split: str) -> pa.Table:
    """A split as a table.

    Raises:
        UserError: there is no such table at the path, or it is damaged.
    """
    if path.is_file():
        return _checked(_file, path)
    if (path / SPLITS).is_file():
        named = _checked(_json, path / SPLITS).get("splits")
        if not isinstance(named, list) or split not in named:
            raise UserError(
                f"{path} has no split '{split}', but {', '.join(map(str, named or []))}", remedy="Set `split:`"
            )
        return read_table(path / split, split)
    if (path / STATE).is_file():
        return _checked(lambda folder: _saved(folder, split), path)
    return pa.concat_tables([_checked(_file, file) for file in _parquet_files(path, split)])


def _checked(read: Callable[[Path], Any], path: Path) -> Any:
    """What `read` returns for a path; pyarrow's and other errors become a UserError that names the path."""
    try:
        return read(path)
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"it cannot be read: {reason}", remedy="Write or download it again", where=Place(path)
        ) from error


def _file(path: Path) -> pa.Table:
    if path.suffix == ".parquet":
        return pq.read_table(path, memory_map=True)
    with pa.memory_map(str(path)) as source:
        try:
            return pa.ipc.open_stream(source).read_all()
        except pa.ArrowInvalid:
            return pa.ipc.open_file(source).read_all()


def _json(path: Path) -> dict[str, Any]:
    if path.stat().st_size > LARGEST_JSON:
        raise ValueError("it is too large")
    content = json.loads(path.read_text())
    if not isinstance(content, dict):
        raise ValueError("it is no mapping")
    return content


def _saved(folder: Path, split: str) -> pa.Table:
    """A table that `save_to_disk` wrote."""
    state = _json(folder / STATE)
    if state.get("_indices_data_files"):
        raise UserError(
            "it is a selection of another table", remedy="Save it after `.flatten_indices()`", where=Place(folder)
        )
    if state.get("_split") not in (None, split):
        message = f"it is the split '{state['_split']}', and '{split}' is asked for"
        raise UserError(message, remedy="Set `split:`", where=Place(folder))
    files = [folder / Path(file["filename"]).name for file in state["_data_files"]]
    return pa.concat_tables([_file(file) for file in files])


def _parquet_files(folder: Path, split: str) -> list[Path]:
    files = [file for inside in below(folder) for file in sorted(inside.glob("*.parquet"))]
    chosen = [file for file in files if _split_of(file, folder) == split]
    if not chosen:
        found = f"its Parquet files are of {', '.join(sorted({_split_of(file, folder) for file in files}))}"
        raise UserError(
            f"dataset 'hf': {folder} has no split '{split}': {found if files else holds(folder)}",
            remedy="Give a folder that datasets.save_to_disk wrote, a .parquet or .arrow file, or a folder of files "
            f"such as {split}-00000-of-00001.parquet",
        )
    return chosen


def _split_of(file: Path, folder: Path) -> str:
    """The split of a Parquet file by its name, test-00000-of-00001.parquet, or by its folder, test/0000.parquet."""
    inside = file.relative_to(folder)
    name = inside.stem.partition("-")[0]
    return name if not name.isdigit() or len(inside.parts) == 1 else inside.parts[-2]
