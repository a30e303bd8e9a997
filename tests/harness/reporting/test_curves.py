"""A sweep is shown as a curve in every format, and a curve over EOT with an honest verdict."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from harness.reporting import report, summarise
from harness.reporting.stats.change import change
from harness.reporting.tables.curves import curves
from harness.reporting.tables.verdict import judged
from harness.results.load import read_run
from harness.results.record import Record

ETA = {
    "kind": "defenses",
    "name": "rdc",
    "label": "RDC",
    "paths": ["eta"],
    "variants": {"rdc.eta-0": [0], "rdc.eta-2_255": ["2/255"]},
}


def eot(*draws: int, name: str = "linf") -> dict[str, Any]:
    variants = {f"{name}.eot-{count}": [count] for count in draws}
    return {"kind": "attacks", "name": name, "label": name, "paths": ["eot"], "variants": variants}


@pytest.fixture
def swept(maker: Any, rec: Callable[..., Record], column: Callable[..., list[Record]]) -> Path:
    """A plain row, a swept defense, and a swept attack on a stochastic defense."""
    maker.cell("plain", "l2", column("rrww"), threat="L2 0.5")
    maker.cell("rdc.eta-0", "l2", column("rwww"), threat="L2 0.5")
    maker.cell("rdc.eta-2_255", "l2", column("rrr"[:2]), threat="L2 0.5")
    for name, adv in (("linf.eot-1", "rr"), ("linf.eot-5", "rw")):
        maker.cell("noisy", name, [rec(i, "rr", adv) for i in range(4)], stochastic=True)
    root: Path = maker.finish(votes=2, sweeps=[ETA, eot(1, 5)])
    return root


def text(root: Path, format: str) -> str:
    found = report(root, format)  # type: ignore[arg-type]
    if isinstance(found, str):
        return found
    sink = io.StringIO()
    Console(file=sink, width=100).print(found)
    return sink.getvalue()


def test_the_parameter_is_the_first_column(swept: Path) -> None:
    lines = [line.rstrip() for line in text(swept, "table").splitlines()]
    at = lines.index("RDC, by eta")
    assert lines[at + 2].split() == ["l2"] and lines[at + 3].split() == ["eta", "Clean", "L2", "0.5"]
    assert lines[at + 5].split() == ["0", "100.0", "25.0"] and lines[at + 7].split() == ["2/255", "2/4", "2/4"]
    at = next(i for i, line in enumerate(lines) if line.startswith("noisy under linf, by eot"))
    assert lines[at + 3].split() == ["eot", "Clean", "Linf", "8/255", "Change", "p"]
    assert lines[at + 7].split() == ["5", "100.0", "50.0", "−50.0", "0.125"]


def test_the_main_table_leaves_variants_out(swept: Path) -> None:
    main = text(swept, "table").split("RDC, by eta")[0]
    assert "plain" in main and "l2" in main and "rdc" not in main and "linf" not in main


def test_markdown_and_latex_have_every_block(swept: Path) -> None:
    page = text(swept, "md")
    assert "RDC, by eta:\n\n| eta | Clean | l2<br>L2 0.5 |" in page
    assert "| 5 | 100.0 <sub>51.0–100</sub> | 50.0 <sub>15.0–85.0</sub> | −50.0 <sub>" in page
    paper = text(swept, "latex")
    assert paper.count("\\begin{tabular}") == paper.count("\\end{tabular}") == 4
    assert "2/255" in paper and "Cannot tell: from EOT 1 to 5" in paper


def test_csv_and_json_name_the_parameters(swept: Path) -> None:
    lines = [line for line in csv.DictReader(io.StringIO(text(swept, "csv"))) if line["kind"] == "attack"]
    assert {line["parameters"] for line in lines if line["status"] != "absent"} == {
        "",
        "defense.rdc.eta=0",
        "defense.rdc.eta=2/255",
        "attack.linf.eot=1",
        "attack.linf.eot=5",
    }
    found = json.loads(text(swept, "json"))["runs"][0]["curves"]
    assert [(curve["swept"], curve["parameters"]) for curve in found] == [("defense", ["eta"]), ("attack", ["eot"])]
    assert found[0]["points"][1] == {
        "values": ["2/255"],
        "defense": "rdc.eta-2_255",
        "attack": "l2",
        "clean": None,
        "robust": None,
        "doubt": "",
        "change": None,
    }
    step = found[1]["points"][1]
    assert step["robust"]["value"] == 0.5 and step["change"]["value"] == -0.5 and step["change"]["n"] == 4


def test_products_have_no_steps_and_deterministic_defenses_no_verdict(
    maker: Any, column: Callable[..., list[Record]]
) -> None:
    both = {**eot(1, 5), "paths": ["eot", "steps"], "variants": {"linf.a": [1, 10], "linf.b": [5, 10]}}
    for name in ("linf.a", "linf.b", "l2.eot-1", "l2.eot-5"):
        maker.cell("plain", name, column("rrww"))
    root = maker.finish(sweeps=[both, eot(1, 5, name="l2")])
    product, single = curves(summarise(read_run(root)))
    assert product.points[1].change is None and single.points[1].change is not None
    assert product.verdict is None and single.verdict is None
    assert "eot  steps" in text(root, "table")


def test_what_the_run_does_not_have_is_left_out(maker: Any, column: Callable[..., list[Record]]) -> None:
    maker.cell("noisy", "linf.eot-5", column("rrww"), stochastic=True)
    root = maker.finish(sweeps=[ETA, eot(1, 5, 10)])
    (curve,) = curves(summarise(read_run(root)))
    assert [point.values for point in curve.points] == [(5,)] and curve.verdict is None
    assert "RDC" not in text(root, "table")


def step(n: int, lost: int, gained: int = 0) -> Any:
    before, after = np.full(n, 0.0), np.full(n, 0.0)
    before[:lost], after[lost : lost + gained] = 1, 1
    return change(before, after)


@pytest.mark.parametrize(
    ("n", "lost", "gained", "kind", "told"),
    [
        (512, 30, 2, "falling", "Still falling: from EOT 5 to 10, robust accuracy fell by 5.5 points (95% interval"),
        (512, 2, 1, "converged", "Converged: from EOT 5 to 10, robust accuracy fell by 0.2 points"),
        (512, 1, 40, "converged", "robust accuracy rose by 7.6 points"),
        (512, 60, 60, "open", "Cannot tell"),
        (512, 9, 2, "open", "fell by 1.4 points"),
        (10, 0, 0, "open", "fell by 0.0 points, and 10 images leave room for a drop of up to 27.8 points"),
    ],
)
def test_a_verdict_is_no_surer_than_its_images(n: int, lost: int, gained: int, kind: str, told: str) -> None:
    verdict = judged(step(n, lost, gained), "from EOT 5 to 10")
    assert verdict.kind == kind and told in verdict.text


def test_errors_are_no_drop() -> None:
    verdict = judged(step(512, 60), "from EOT 5 to 10", errors=60)
    assert verdict.kind == "open" and "60 errors leave others open" in verdict.text
