"""`harness export`: what an archive holds, and what is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from harness import cli, datasets
from harness.archive.layout import limit_of, of_the_run
from harness.archive.writing import export_run
from harness.errors import UserError
from harness.results.load import read_run
from helpers.archives import FINISHED, content
from helpers.verified import FILES, edit_manifest, finish, own_files


def test_the_same_results_give_the_same_bytes_wherever_they_lie(exported: Path, results: Path, tmp_path: Path) -> None:
    for file in results.rglob("*"):
        file.touch()
    again = export_run(results, tmp_path / "again.zip")
    assert again.path.read_bytes() == exported.read_bytes()
    assert again.sha256 == hashlib.sha256(exported.read_bytes()).hexdigest()


def test_an_archive_has_every_file_of_the_run_as_it_is_and_the_hash_of_each(exported: Path) -> None:
    files = content(exported)
    on_disk = {path.relative_to(FINISHED).as_posix(): path for path in FINISHED.rglob("*") if path.is_file()}
    assert {name for name in files if of_the_run(name)} == set(on_disk)
    assert all(files[name] == path.read_bytes() for name, path in on_disk.items())
    index = json.loads(files.pop("export.json"))
    assert index["files"] == {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    assert all(limit_of(name) for name in files)
    with zipfile.ZipFile(exported) as archive:
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}


def test_the_clean_images_are_those_that_were_attacked(exported: Path) -> None:
    tensors, facts = load(content(exported)["clean.safetensors"]), read_run(FINISHED).manifest.dataset
    chosen = datasets.load(facts.name, facts.split).select(facts.indices)
    assert torch.equal(tensors["images"], chosen.images) and torch.equal(tensors["labels"], chosen.labels)
    assert tensors["indices"].tolist() == list(facts.indices)


def test_a_damaged_shard_and_an_edited_manifest_are_refused(results: Path, tmp_path: Path) -> None:
    shard = next(results.glob("cells/dc/l2/*.safetensors"))
    data = shard.read_bytes()
    shard.write_bytes(data[:-1] + b"!")
    with pytest.raises(UserError, match="do not hold together: dc/l2: "):
        export_run(results, tmp_path / "run.zip")
    shard.write_bytes(data)
    edit_manifest(results, lambda content: content.update(title="Another"))
    with pytest.raises(UserError, match="was edited"):
        export_run(results, tmp_path / "run.zip")
    assert not (tmp_path / "run.zip").exists()


def test_records_that_the_manifest_does_not_name_are_refused(results: Path, tmp_path: Path) -> None:
    def forget(content: dict[str, object]) -> None:
        cells = content["cells"]
        assert isinstance(cells, list)
        cells[0]["records"] = ["0" * 64]

    edit_manifest(results, forget, sealed=True)
    with pytest.raises(UserError, match=r"the records 0-32 are not those of run\.json"):
        export_run(results, tmp_path / "run.zip")


def test_an_unfinished_run_is_exported_and_said_to_be_one(results: Path, tmp_path: Path) -> None:
    shutil.rmtree(results / "cells" / "rdc" / "l2")
    done = export_run(results, tmp_path / "run.zip")
    assert done.remarks == ("The run is unfinished: rdc/l2.",)
    table = json.loads(content(done.path)["export.json"])["table"]
    assert {line["status"] for line in table if line["defense"] == "rdc" and line["attack"] == "l2"} == {"unfinished"}


def test_a_run_that_bears_on_the_numbers_is_named(results: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(results, results.parent / "quickstart-eot-rdc-linf"))

    def rename(content: dict[str, dict[str, object]]) -> None:
        content["suite"] = content["resolved"]["suite"] = "quickstart-eot-rdc-linf"  # type: ignore[assignment]

    edit_manifest(other, rename, sealed=True)
    (remark,) = export_run(results, tmp_path / "run.zip").remarks
    assert remark.startswith("quickstart-eot-rdc-linf varies the draws")


@pytest.mark.slow
def test_a_dataset_that_is_gone_or_another_is_refused(small_suite: Path, tmp_path: Path) -> None:
    own_files(tmp_path)
    results = finish(small_suite, FILES)
    export_run(results, tmp_path / "run.zip", folder=tmp_path)
    with pytest.raises(UserError, match="npz"):
        export_run(results, tmp_path / "other.zip", folder=tmp_path / "nowhere")
    own = tmp_path / "own.npz"
    own.write_bytes((tmp_path / "own.npz").read_bytes())
    import numpy as np

    arrays = dict(np.load(own))
    np.savez(own, **{**arrays, "images": arrays["images"][::-1]})
    with pytest.raises(UserError, match="fingerprint"):
        export_run(results, tmp_path / "other.zip", folder=tmp_path)


def test_the_command_says_what_it_wrote(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["export", str(results), "--out", str(tmp_path / "run.zip")])
    assert not ended.value.code
    digest = hashlib.sha256((tmp_path / "run.zip").read_bytes()).hexdigest()
    assert capsys.readouterr().out == f"Wrote {tmp_path}/run.zip: 25 files, sha256 {digest}\n"
