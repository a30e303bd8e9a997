"""Tables as JSON: their lines (`harness.reporting.tables.lines`), curves, diagnostics, certificates and manifests."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

from harness.reporting.tables.curves import Curve, curves
from harness.reporting.tables.diagnostics import document
from harness.reporting.tables.lines import lines
from harness.reporting.tables.table import Table
from harness.results.bounds import Bounds

SCHEMA_VERSION = 1


def render(tables: list[Table], images: int | None = None) -> str:
    """JSON, indented."""
    runs = [
        {
            "path": str(table.run.path),
            "manifest": table.run.manifest.document(),
            "lines": [vars(line) for line in lines(table)],
            "curves": [_curve(curve) for curve in curves(table)],
            "diagnostics": document(table.run),
            "certificates": [_certificate(known) for known in table.certified],
        }
        for table in tables
    ]
    return json.dumps({"schema_version": SCHEMA_VERSION, "runs": runs}, indent=1) + "\n"


def _certificate(known: Bounds) -> dict[str, Any]:
    images = zip(*(values.tolist() for values in (known.index, known.truth, known.lower, known.upper)), strict=True)
    found = known.certified
    return {
        "defense": known.defense,
        "certificate": known.certificate,
        "sigma": known.sigma,
        "alpha": known.alpha,
        "n0": known.draws[0],
        "n": known.draws[1],
        "abstains": known.abstains,
        "errors": known.failed,
        "images": [
            {
                "index": index,
                "label": label,
                "certified_class": int(found.classes[row]),
                "p_low": float(found.p_low[row]),
                "radius": float(found.radii[row]),
                "lower": lower,
                "upper": upper if math.isfinite(upper) else None,
                "upper_by": known.by[row],
            }
            for row, (index, label, lower, upper) in enumerate(images)
        ],
        "faults": [asdict(fault) for fault in known.faults],
    }


def _curve(curve: Curve) -> dict[str, Any]:
    return {
        "swept": curve.sweep.kind[:-1],
        "name": curve.sweep.name,
        "parameters": list(curve.sweep.paths),
        "defense_label": curve.defense,
        "attack_label": curve.attack,
        "points": [
            {
                "values": list(point.values),
                "defense": point.row.name,
                "attack": point.column.name,
                "clean": asdict(point.clean.estimate) if point.clean.estimate else None,
                "robust": asdict(point.robust.estimate) if point.robust.estimate else None,
                "doubt": "; ".join(point.robust.doubts),
                "change": asdict(point.change) if point.change else None,
            }
            for point in curve.points
        ],
        "verdict": asdict(curve.verdict) if curve.verdict else None,
    }
