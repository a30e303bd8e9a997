"""The benchmark of the engines: it sees every difference between two runs, and says how far its ratios spread."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from harness.evaluation.run import run
from harness.suite import load_suite

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "engine.py"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    spec = importlib.util.spec_from_file_location("engine_benchmark", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_counts_the_images_whose_record_or_adversarial_image_differs(bench: ModuleType, tmp_path: Path) -> None:
    found = []
    for name, steps in (("one", 5), ("same", 5), ("other", 1)):
        suite = tmp_path / f"{name}.yaml"
        suite.write_text(bench.CHEAP.format(images=6, shard=4).replace("steps: 100", f"steps: {steps}"))
        run(load_suite(suite), tmp_path / name, bench.CPU)
        found.append(bench.contents(suite, tmp_path / name))
    one, same, other = found
    assert len(one) == 6 and bench.differences(one, same) == 0
    assert bench.differences(one, other) == 6, "the seed of an attack is part of a record"
    name, record, parts = same[2]
    pixels = bytearray(parts["images"])
    pixels[-1] ^= 1
    assert bench.differences(one, [*same[:2], (name, record, {"images": bytes(pixels)}), *same[3:]]) == 1
    assert bench.differences(one, same[:-1]) == 1, "an image that is missing"


def test_a_ratio_has_its_median_its_range_and_how_often_it_was_measured(bench: ModuleType) -> None:
    assert bench.spread([2.0, 1.0, 4.0]) == "2.00 (1.00 to 4.00), n = 3"


def test_shards_of_two_sizes_are_measured_in_turn(
    bench: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "CHEAP", bench.CHEAP.replace("steps: 100", "steps: 1"))
    bench.shards(tmp_path, images=40, repeats=2)
    cells = [cell.strip() for cell in capsys.readouterr().out.strip().splitlines()[-1].strip("|").split("|")]
    assert len(cells) == 3 and all(cell.endswith("n = 2") and float(cell.split()[0]) > 0 for cell in cells)
