"""`harness import`: the way back, and archives from people who mean harm."""

from __future__ import annotations

import json
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save

from harness import cli
from harness.archive.reading import import_run
from harness.archive.writing import export_run
from harness.errors import UserError
from harness.reporting import report
from helpers.archives import FINISHED, Files, content, packed, relisted
from helpers.verified import forge, pushed


def tree(folder: Path) -> Files:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_imported_run_is_the_exported_one_file_by_file(exported: Path, tmp_path: Path) -> None:
    done = import_run(exported, tmp_path / "theirs")
    assert (done.path, done.suite, done.remarks) == (tmp_path / "theirs", "quickstart", ())
    assert tree(tmp_path / "theirs") == tree(FINISHED)
    assert report(tmp_path / "theirs", "md") == report(FINISHED, "md")
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


def test_an_imported_run_exports_to_the_same_bytes(exported: Path, tmp_path: Path) -> None:
    import_run(exported, tmp_path / "theirs")
    assert export_run(tmp_path / "theirs", tmp_path / "again.zip").path.read_bytes() == exported.read_bytes()


def test_a_directory_that_exists_is_left_alone(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    import_run(exported, tmp_path / "mine")
    with pytest.raises(UserError, match="exists already"):
        import_run(exported, tmp_path / "mine")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="exists already"):
        import_run(exported, tmp_path / "link")


def refusal(archive: Path, tmp_path: Path) -> str:
    """Why an archive is refused. Nothing may be left behind."""
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError) as caught:
        import_run(archive, tmp_path / "theirs")
    assert sorted(tmp_path.rglob("*")) == before
    return str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "/tmp/evil",
        "cells/../../evil",
        "cells/a/b/../../../evil.parquet",
        "a.py",
        "run.json/x",
        "cells\\x",
        "",
    ],
)
def test_a_name_that_no_run_has_is_refused(exported: Path, tmp_path: Path, name: str) -> None:
    archive = packed(tmp_path / "a.zip", relisted({**content(exported), name: b"evil"}))
    assert "which no exported run has" in refusal(archive, tmp_path)


def test_a_symbolic_link_becomes_a_file_and_leads_nowhere(exported: Path, tmp_path: Path) -> None:
    """Its target is the content of the file, as for any other reader, and no valid manifest."""
    files = relisted({**content(exported), "run.json": b"/etc/passwd"})
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as made:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name)
            entry.create_system, entry.external_attr = 3, 0o120777 << 16
            made.writestr(entry, data)
    assert "not a manifest" in refusal(archive, tmp_path)


def test_a_bomb_is_refused_before_it_unpacks(exported: Path, tmp_path: Path) -> None:
    archive = packed(tmp_path / "a.zip", {**content(exported), "data.npz": b"\0" * (1 << 24)}, zipfile.ZIP_DEFLATED)
    assert archive.stat().st_size < 1 << 20
    assert "compressed" in refusal(archive, tmp_path)


def test_files_that_share_their_bytes_are_refused(exported: Path, tmp_path: Path) -> None:
    """A bomb needs no compression: a thousand entries of the table of contents may name the same bytes."""
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as made:
        for name, data in content(exported).items():
            made.writestr(zipfile.ZipInfo(name), data)
        made.writestr(zipfile.ZipInfo("data.npz"), b"\0" * 100_000)
        big = made.filelist[-1]
        for number in range(100):
            copy = zipfile.ZipInfo(f"cells/a/b/{number:05d}-99999.safetensors")
            copy.header_offset, copy.CRC, copy.file_size = big.header_offset, big.CRC, big.file_size
            copy.compress_size = big.compress_size
            made.filelist.append(copy)
    assert "more than the archive itself" in refusal(archive, tmp_path)


def test_a_huge_table_of_contents_is_not_read(exported: Path, tmp_path: Path) -> None:
    data = exported.read_bytes()
    large = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, 1 << 40, 0)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, len(data), 1)
    (tmp_path / "a.zip").write_bytes(data[:-22] + large + locator + data[-22:])
    assert "more than 200,000 files" in refusal(tmp_path / "a.zip", tmp_path)


def test_a_file_twice_is_refused(exported: Path, tmp_path: Path) -> None:
    archive = packed(tmp_path / "a.zip", content(exported))
    with warnings.catch_warnings(), zipfile.ZipFile(archive, "a") as made:
        warnings.simplefilter("ignore")
        made.writestr(zipfile.ZipInfo("run.json"), b"{}")
    assert "'run.json' twice" in refusal(archive, tmp_path)


def test_files_and_their_list_must_agree(exported: Path, tmp_path: Path) -> None:
    files = content(exported)
    for name in ("check.py", "run.json", "cells/dc/l2/00000-00032.parquet"):
        changed = {**files, name: files[name] + b"\n"}
        assert f"'{name}' is not the one that was exported" in refusal(packed(tmp_path / "a.zip", changed), tmp_path)
        less = {other: data for other, data in files.items() if other != name}
        assert f"'{name}' is among its files or" in refusal(packed(tmp_path / "a.zip", less), tmp_path)
    more = {**files, "diagnose/dc.json": b"{}"}
    assert "'diagnose/dc.json' is among" in refusal(packed(tmp_path / "a.zip", more), tmp_path)
    del files["export.json"]
    assert "it holds no export.json" in refusal(packed(tmp_path / "a.zip", files), tmp_path)


def _accuracy(index: dict[str, Any]) -> None:
    next(line for line in index["table"] if line["defense"] == "rdc" and line["kind"] == "worst")["accuracy"] = 0.9


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_accuracy, "its table says 0.9 for rdc, worst"),
        (lambda index: index.update(format=2), "it has the format 2"),
        (lambda index: index.update(suite="../../evil"), "export.json is not valid"),
        (lambda index: index.update(suite="other"), "another suite"),
        (lambda index: index["table"][0].update(members=3), "export.json is not valid"),
    ],
)
def test_an_index_that_contradicts_the_records_is_refused(
    exported: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    archive = packed(tmp_path / "a.zip", relisted(content(exported), change))
    assert said in refusal(archive, tmp_path)


def test_an_edited_manifest_is_refused_though_its_hash_is_right(exported: Path, tmp_path: Path) -> None:
    files = content(exported)
    files["run.json"] = files["run.json"].replace(b"Digits on a laptop", b"Digits on a desktop")
    assert "was edited after it was written" in refusal(packed(tmp_path / "a.zip", relisted(files)), tmp_path)


def test_other_clean_images_are_refused(exported: Path, tmp_path: Path) -> None:
    files = content(exported)
    tensors = load(files["clean.safetensors"])
    for name, value in {"images": tensors["images"][::-1].copy(), "indices": tensors["indices"] + 1}.items():
        files["clean.safetensors"] = save({**tensors, name: value})
        assert "clean images are not those" in refusal(packed(tmp_path / "a.zip", relisted(files)), tmp_path)
    for data in (b"", b"\xff" * 100, save({"images": tensors["images"]})):
        files["clean.safetensors"] = data
        assert "clean images cannot be read" in refusal(packed(tmp_path / "a.zip", relisted(files)), tmp_path)


def test_records_of_another_run_are_refused(exported: Path, results: Path, tmp_path: Path) -> None:
    forge(results, pushed, "dc/l2", (0, 32))
    name = "cells/dc/l2/00000-00032"
    files = content(exported)
    for suffix in ("parquet", "safetensors"):
        files[f"{name}.{suffix}"] = (results / f"{name}.{suffix}").read_bytes()
    assert "are not those of run.json" in refusal(packed(tmp_path / "a.zip", relisted(files)), tmp_path)


def test_what_is_no_archive_is_refused(exported: Path, tmp_path: Path) -> None:
    for data in (b"", b"PK", b"x" * 1000, exported.read_bytes()[:-1], exported.read_bytes()[:5000]):
        (tmp_path / "a.zip").write_bytes(data)
        assert "it is not a zip file" in refusal(tmp_path / "a.zip", tmp_path)
    assert "no such file" in refusal(tmp_path / "absent.zip", tmp_path)
    assert "regular file" in refusal(Path("/dev/zero"), tmp_path)
    assert "regular file" in refusal(tmp_path, tmp_path)


def test_random_damage_is_refused_or_changes_nothing(exported: Path, tmp_path: Path) -> None:
    generator, data = np.random.default_rng(0), exported.read_bytes()
    for trial in range(40):
        damaged = bytearray(data)
        ends = (0, len(data)) if trial % 2 else (len(data) - 2000, len(data))  # in the table of contents, too
        for at in generator.integers(*ends, size=3):
            damaged[at] ^= 1 << int(generator.integers(8))
        (tmp_path / "a.zip").write_bytes(damaged)
        out = tmp_path / f"out{trial}"
        try:
            import_run(tmp_path / "a.zip", out)
        except UserError:
            assert not out.exists()
        else:
            assert tree(out) == tree(FINISHED)


def test_a_doubt_that_only_the_exporter_could_see_is_told(exported: Path, tmp_path: Path) -> None:
    def doubt(index: dict[str, Any]) -> None:
        next(line for line in index["table"] if line["defense"] == "rdc" and line["attack"] == "linf").update(
            doubt="why"
        )

    archive = packed(tmp_path / "a.zip", relisted(content(exported), doubt))
    (remark,) = import_run(archive, tmp_path / "theirs").remarks
    assert remark == "rdc, attack linf, mean: it was in doubt where it was exported, which no report here shows: why."


def test_the_command_makes_the_folder_of_the_suite(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for status, word in ((0, "harness report results/quickstart"), (2, "results/quickstart exists already")):
        with pytest.raises(SystemExit) as ended:
            cli.main(["import", str(exported)])
        assert (ended.value.code or 0) == status
        shown = capsys.readouterr()
        assert word in " ".join((shown.out + shown.err).split())
    assert json.loads((tmp_path / "results/quickstart/run.json").read_text())["suite"] == "quickstart"
