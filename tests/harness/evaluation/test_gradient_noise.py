"""A run measures how noisy the gradients of each attack are, and its tables mark the numbers that are in doubt."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from harness.callback import Callback
from harness.evaluation.run import run
from harness.reporting import report
from harness.results.load import read_run
from harness.results.store import Store
from harness.suite import load_suite
from helpers import noisy_gradient
from helpers.verified import edit_manifest, in_cell, reports

SIGMA = 1.5
SUITE = f"""
suite: gradients
dataset: {{name: npz, path: own.npz}}
protocol: {{votes: 3, shard: 6, GATES}}
defenses:
  noisy: {{type: "./noisy_gradient.py:NoisyGradient", sigma: {SIGMA}}}
  still: {{type: "./noisy_gradient.py:Still"}}
attacks:
  apgd: {{type: apgd, norm: Linf, eps: 0.001, steps: 4, loss: margin}}
  draws: {{type: apgd, norm: Linf, eps: 0.001, steps: 4, loss: margin, eot: 60}}
  noise: {{norm: Linf, eps: 0.001, tries: 1}}
"""
STILL = """

class Still(NoisyGradient):
    stochastic = False

    def __init__(self) -> None:
        super().__init__(0.0)

    def classify(self, x: Tensor) -> Tensor:
        z = 20 * (x - 0.5).flatten(1).mean(1)
        return torch.stack([torch.zeros_like(z), z], dim=1)
"""
CPU = torch.device("cpu")


class Notes(Callback):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def write_suite(folder: Path, gates: str = "gates: mark") -> Path:
    (folder / "noisy_gradient.py").write_text(Path(noisy_gradient.__file__).read_text() + STILL)
    images = 0.5 + 0.2 * np.random.default_rng(0).random((12, 1, 16, 16), dtype=np.float32)
    np.savez(folder / "own.npz", images=images, labels=np.array([1] * 12), num_classes=2)
    suite = folder / "small.yaml"
    suite.write_text(SUITE.replace("GATES", gates))
    return suite


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A finished run beside its suite, and the notes that it made."""
    folder, notes = tmp_path_factory.mktemp("gradients"), Notes()
    run(load_suite(write_suite(folder)), folder / "out", CPU, notes)
    return folder / "out", notes.notes


def noise_of(out: Path) -> dict[str, dict[str, Any] | None]:
    cells = json.loads((out / "run.json").read_text())["cells"]
    return {f"{cell['defense']}/{cell['attack']}": cell["gradient_noise"] for cell in cells}


def test_the_manifest_has_the_cosine_of_the_closed_form(finished: tuple[Path, list[str]]) -> None:
    found = noise_of(finished[0])
    for name in ("noisy/apgd", "noisy/draws"):
        noise = found.pop(name)
        assert noise is not None and noise["images"] >= 3
        assert noise["cosine"] == pytest.approx(1 / (1 + SIGMA**2), abs=0.15)
    assert found == {"noisy/noise": None, "still/apgd": None, "still/draws": None, "still/noise": None}


def test_only_the_attack_that_the_noise_misleads_is_in_doubt_and_the_run_says_so_beforehand(
    finished: tuple[Path, list[str]],
) -> None:
    out, notes = finished
    (note,) = notes
    assert note.startswith("noisy/apgd: gradients too noisy for this attack: two draws have a cosine of 0.")
    assert note.endswith("and it needs 0.90; its number will be marked")
    lines = json.loads(str(report(out, "json")))["runs"][0]["lines"]
    doubted = {(line["defense"], line["attack"]) for line in lines if line["doubt"] and line["kind"] == "attack"}
    assert doubted == {("noisy", "apgd")}


@pytest.mark.parametrize("format", ["table", "md", "latex", "html", "csv", "json"])
def test_every_format_has_the_mark(finished: tuple[Path, list[str]], format: str) -> None:
    rendered = report(finished[0], format)
    if not isinstance(rendered, str):
        sink = io.StringIO()
        Console(file=sink, width=150).print(rendered)
        rendered = sink.getvalue()
    text = " ".join(rendered.split())
    assert "gradients too noisy for this attack" in text
    assert "100.0?" in text or format in ("csv", "json")  # in data, the reason stands beside the number


def test_measuring_changes_no_key_and_no_record(finished: tuple[Path, list[str]], tmp_path: Path) -> None:
    run(load_suite(write_suite(tmp_path, "gates: 'off'")), tmp_path / "out", CPU)
    measured, unmeasured = read_run(finished[0]), read_run(tmp_path / "out")
    assert {cell.gradient_noise for cell in unmeasured.manifest.cells} == {None}
    assert measured.pairings.keys() == unmeasured.pairings.keys()
    for pair, pairing in measured.pairings.items():
        other = unmeasured.pairings[pair]
        assert pairing.facts.key == other.facts.key
        assert pairing.records.drop(columns="seconds").equals(other.records.drop(columns="seconds"))


def test_a_resumed_run_keeps_what_was_measured(finished: tuple[Path, list[str]], tmp_path: Path) -> None:
    suite = write_suite(tmp_path)
    run(load_suite(suite, only="noisy/apgd"), tmp_path / "out", CPU)
    first = noise_of(tmp_path / "out")
    (tmp_path / "out/cells/noisy/apgd/00000-00006.parquet").unlink()
    run(load_suite(suite), tmp_path / "out", CPU)
    found = noise_of(tmp_path / "out")
    assert first == {"noisy/apgd": found["noisy/apgd"]} and found == noise_of(finished[0])
    run(load_suite(suite), tmp_path / "out", CPU)
    assert noise_of(tmp_path / "out") == found


def test_verification_measures_again(finished: tuple[Path, list[str]]) -> None:
    out = finished[0]
    assert all(found.outcome == "holds" for found in reports(out).values())
    before = (out / "run.json").read_bytes()
    for forged in (None, {"cosine": 0.95, "images": 12}):
        edit_manifest(out, in_cell(gradient_noise=forged), sealed=True)
        problems = reports(out, only="noisy/apgd")["noisy/apgd"].problems
        assert len(problems) == 1 and problems[0].startswith("two gradients have a cosine of 0.")
    edit_manifest(out, lambda content: content["cells"][0].pop("gradient_noise"), sealed=True)
    found = reports(out, only="noisy/apgd")["noisy/apgd"]
    assert found.outcome == "holds" and "measured now: gradients too noisy" in found.remarks[0]
    (out / "run.json").write_bytes(before)


def test_a_manifest_of_a_run_that_was_never_measured_is_read(finished: tuple[Path, list[str]], tmp_path: Path) -> None:
    content = json.loads((finished[0] / "run.json").read_text())
    for cell in content["cells"]:
        del cell["gradient_noise"]
    del content["seal"]
    Store(tmp_path).write_manifest({key: value for key, value in content.items() if key != "schema_version"})
    assert read_run(tmp_path).manifest.cells[0].gradient_noise is None
