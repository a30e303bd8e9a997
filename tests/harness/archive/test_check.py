"""`check.py`, the program inside an exported run, finds what is wrong, and needs nothing of this package."""

from __future__ import annotations

import ast
import json
import runpy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.archive.layout import numbers
from harness.archive.writing import _names, export_run
from harness.reporting.tables.table import summarise
from harness.results.load import read_run
from harness.results.record import Record
from helpers.archives import CHECKER, WITHOUT, check, content, packed, relisted, unpacked
from helpers.verified import COUNTED, FLOWS, Tensors, finish, forge
from tests.harness.reporting.conftest import Maker, record

MODEL = """
import torch
from harness.weights.checkpoint import Checkpoint
from defenses.undefended import Undefended

network = Undefended(Checkpoint.find("digits-{}")).eval()

def classify(images):
    with torch.no_grad():
        return network(torch.from_numpy(images.copy())).numpy()
"""


def test_it_has_at_most_150_lines_and_imports_the_standard_library_numpy_and_pyarrow_alone() -> None:
    text = CHECKER.read_text()
    assert len(text.splitlines()) <= 150
    names = set[str]()
    for node in ast.walk(ast.parse(text)):
        names |= {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
        names |= {node.module or ""} if isinstance(node, ast.ImportFrom) else set()
    assert {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names) == {"numpy", "pyarrow"}


@pytest.mark.slow
def test_it_accepts_a_sound_run_in_a_process_without_the_package(folder: Path) -> None:
    command = [sys.executable, "-I", "-c", WITHOUT, str(folder / "check.py")]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "24 files, 320 records, 55 accuracies\n"


def test_a_changed_byte_in_any_file_is_found(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in json.loads((folder / "export.json").read_text())["files"]:
        if name == "check.py":
            continue
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        assert check(folder, monkeypatch) == 1
        assert f"wrong: {name} is missing, or was changed" in capsys.readouterr().out
        (folder / name).write_bytes(data)
    assert check(folder, monkeypatch) == 0


@pytest.mark.parametrize("key", ["accuracy", "benign"])
@pytest.mark.parametrize("change", [0.01, None], ids=["other", "none"])
def test_a_changed_number_is_found_whichever_it_is(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], key: str, change: float | None
) -> None:
    index = json.loads((folder / "export.json").read_text())
    for line in index["table"]:
        line[key] = change and line[key] + change
    (folder / "export.json").write_text(json.dumps(index))
    assert check(folder, monkeypatch) == 1
    assert capsys.readouterr().out.count(f"wrong: {key} of ") == len(index["table"]) == 55


def forged(results: Path, folder: Path, change: Callable[[list[Record], Tensors], list[Record]]) -> Path:
    """An archive of results in which a shard of an attack in Linf was changed, and every hash computed anew."""
    forge(results, change, "at_linf/linf", (0, 32))
    return unpacked(export_run(results, folder.with_suffix(".zip")).path, folder)


def _far(records: list[Record], tensors: Tensors) -> list[Record]:
    value = tensors["images"][3, 0, 4, 4]
    tensors["images"][3, 0, 4, 4] = value + 0.3 if value < 0.5 else value - 0.3
    return records


def _outside(records: list[Record], tensors: Tensors) -> list[Record]:
    image = tensors["images"][3]
    image[image == image.max()] += 1e-4 + 1 - image.max()
    return records


def _nan(records: list[Record], tensors: Tensors) -> list[Record]:
    tensors["images"][3, 0, 0, 0] = float("nan")
    return records


def _verdict(records: list[Record], tensors: Tensors) -> list[Record]:
    other = {"robust": "fooled", "fooled": "robust"}
    return [replace(r, verdict=other[r.verdict]) if at == 3 else r for at, r in enumerate(records)]  # type: ignore[arg-type]


def _order(records: list[Record], tensors: Tensors) -> list[Record]:
    return [*records[:3], records[4], records[3], *records[5:]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_far, "outside the budget Linf 0.2"),
        (_outside, "outside the budget"),
        (_nan, "outside the budget"),
        (_verdict, "by its votes"),
        (_order, "in another's place"),
    ],
)
def test_a_forged_shard_is_found_though_every_hash_is_right(
    results: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: Any,
    said: str,
) -> None:
    folder = forged(results, tmp_path / "forged", change)
    assert check(folder, monkeypatch) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("wrong: cells/at_linf/linf/") and said in line]


@pytest.mark.slow
def test_what_it_cannot_check_of_a_threat_that_moves_pixels_is_said(
    tmp_path: Path, small_suite: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = export_run(finish(small_suite, FLOWS), tmp_path / "flows.zip").path
    assert check(unpacked(archive, tmp_path / "flows"), monkeypatch) == 3
    assert "not checked: cells/plain/stadv/00000-00004.parquet: of the budget Flow 0.1" in capsys.readouterr().out
    smaller = content(archive)
    smaller["run.json"] = smaller["run.json"].replace(b'"Flow 0.1"', b'"Flow 0.01"')
    packed(archive, relisted(smaller))
    assert check(unpacked(archive, tmp_path / "smaller"), monkeypatch) == 1
    assert "outside the budget Flow 0.01" in capsys.readouterr().out


@pytest.mark.slow
def test_it_counts_the_values_that_changed_in_an_image(
    tmp_path: Path, small_suite: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = export_run(finish(small_suite, COUNTED), tmp_path / "counted.zip").path
    assert check(unpacked(archive, tmp_path / "counted"), monkeypatch) == 0, capsys.readouterr().out
    smaller = content(archive)
    smaller["run.json"] = smaller["run.json"].replace(b'"L0 20"', b'"L0 1"')
    packed(archive, relisted(smaller))
    assert check(unpacked(archive, tmp_path / "smaller"), monkeypatch) == 1
    assert "outside the budget L0 1, or outside [0, 1]" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(("weights", "status"), [("cnn", 0), ("at-linf", 1)])
def test_a_model_is_asked_for_its_predictions(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    weights: str,
    status: int,
) -> None:
    monkeypatch.chdir(tmp_path)
    module = f"model_{weights.replace('-', '_')}"
    (tmp_path / f"{module}.py").write_text(MODEL.format(weights))
    assert check(folder, monkeypatch, "--model", f"{module}:classify", "--defense", "undefended") == status
    shown = capsys.readouterr().out
    assert ("undefended/linf, adv: 32 of 32 predictions" in shown) == (status == 0)
    assert ("wrong: undefended/linf: other predictions on adv images" in shown) == (status == 1)


def _records(generator: np.random.Generator, votes: int, count: int) -> list[Record]:
    """Random records, of which some ended in an error, or have no prediction."""
    found = []
    for index in range(count):
        clean, adv = (generator.choice(["r", "w"], votes, p=p) for p in ((0.9, 0.1), (0.6, 0.4)))
        made = record(index, "".join(clean), "".join(adv))
        made = replace(made, adv_votes=[v if v == 1 else int(generator.integers(2, 4)) for v in made.adv_votes])
        if generator.random() < 0.03:
            made = replace(made, verdict="error", error="it failed", adv_votes=[], adv_margins=[])
        if generator.random() < 0.02:
            made = replace(made, clean_votes=[-1] * votes)
        found.append(made)
    return found


@pytest.mark.parametrize("seed", range(6))
def test_it_counts_as_the_report_does(maker: Maker, seed: int) -> None:
    """On random records of deterministic and stochastic defenses, with errors, and with one pairing unfinished."""
    generator = np.random.default_rng(seed)
    maker.count, maker.shard = 40, 40
    names = ("one", "two", "three")
    for defense, votes in (("plain", 1), ("noisy", 5), ("few", 2)):
        for attack in names:
            made = _records(generator, votes, 40)
            unfinished = (defense, attack, seed % 4) == ("few", "three", 0)
            maker.cell(defense, attack, made[:30] if unfinished else made, stochastic=votes > 1)
    report = {"average": names, "worst": names, "vote": "mean"}
    run = read_run(maker.finish(votes=5, report=report))
    recount = runpy.run_path(str(CHECKER))["recount"]
    compared = 0
    for number in numbers(summarise(run)):
        cells = [run.pairings[number.defense, attack] for attack in number.members]
        parts = [dict(zip(cell.places.tolist(), map(vars, cell.columns), strict=True)) for cell in cells]
        found = recount(number.model_dump(), 40, parts)
        assert found == [pytest.approx(number.accuracy), pytest.approx(number.benign)], number.title
        compared += number.accuracy is not None
    assert compared >= 10


@pytest.mark.slow
def test_certificates_are_exported_with_their_counts_and_their_numbers_are_left_to_verify(
    maker: Maker,
) -> None:
    maker.cell("s", "l2", [record(i, "r" * 20, "r" * 20) for i in range(4)], stochastic=True)
    maker.certificate("s", torch.tensor([[[0, 10], [0, 100]]] * 4), n0=10, n=100, alpha=0.001, sigma=0.5)
    run = read_run(maker.finish(votes=20))
    assert {number.kind for number in numbers(summarise(run))} == {"clean", "attack"}
    assert any(name.startswith("cells/s/cohen/") for name in _names(run))
