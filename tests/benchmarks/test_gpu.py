"""The GPU benchmark fills its section of the page, and leaves the page alone where there is no GPU."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"
PAGE = "# Page\n\nbefore\n<!-- gpu -->\nold\n<!-- /gpu -->\nafter\n"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_benchmark", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.long
def test_every_network_precision_and_row_is_measured_in_small(
    bench: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = dict(list(bench.ROWS.items())[:1]) | {"dc": bench.ROWS["dc"], "rdc": bench.ROWS["rdc"]}
    monkeypatch.setattr(bench, "ROWS", rows)
    monkeypatch.setattr(bench, "QUERIES", 2)
    monkeypatch.setattr(bench, "STEPS", 1)
    text = bench.section(bench.Bench(torch.device("cpu"), tiny=True))
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:2] == "| "]
    measured = [line for line in lines if line[0] in rows.values() and line[1] in bench.PRECISIONS]
    assert [line[:2] for line in measured] == [[title, kind] for title in rows.values() for kind in ("float32", "bf16")]
    assert all(float(cell.replace(",", "")) > 0 for line in measured for cell in line[2:])
    attacked = next(line for line in lines if line[0] == bench.ROWS["at_edm_linf"] and len(line) == 5)
    assert all(float(cell.replace(",", "")) > 0 for cell in attacked[1:])
    hours = {line[1]: float(line[3]) for line in lines if line[0] == "`table1_sota`"}
    assert {"dc", "rdc", "diffpure_linf", "jem"} <= hours.keys() and min(hours.values()) > 0
    assert "failed" not in capsys.readouterr().out


def test_hours_of_a_row_are_those_of_all_its_pairings(bench: ModuleType) -> None:
    cells = [
        bench.cost.CellCost(name, attack, "Linf", "pgd", 10, 1, 1, per_image)
        for name, attack, per_image in (("a", "linf", 720), ("a", "l2", 360), ("b", "linf", 3600))
    ]
    assert bench.sorted_hours(cells, {"a": 3.0, "b": 10.0}) == {"a": 1.0, "b": 1.0}


def test_the_section_of_the_page_is_replaced_and_nothing_else(bench: ModuleType) -> None:
    assert bench.replaced(PAGE, "new") == PAGE.replace("old", "new")


def test_without_a_gpu_it_says_so_and_leaves_the_page_alone(
    bench: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "RESULTS.md"
    page.write_text(PAGE)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    bench.main(["--page", str(page)])
    assert page.read_text() == PAGE
    assert "no GPU" in capsys.readouterr().out


def test_the_projects_page_has_the_section(bench: ModuleType) -> None:
    page = bench.RESULTS.read_text()
    assert page.count(bench.START) == page.count(bench.END) == 1
