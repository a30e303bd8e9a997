"""Adversarial images and their records against the clean images: budgets, distances, and what the votes come to."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from harness.datasets.batch import Images
from harness.quantity import Quantity
from harness.results.facts import CellFacts
from harness.results.record import Record, verdict_of
from harness.results.shard_files import Shapes
from harness.threat import L0, NORMS, TOLERANCE, Flow, ThreatModel
from harness.threats import CORRUPTIONS, PARAMETRIC

RELATIVE, ABSOLUTE = 1e-5, 1e-6
"""Differences between a recorded and a measured distance that float rounding explains."""


def threat_of(facts: CellFacts) -> ThreatModel | None:
    """The budget that a manifest writes as `Linf 8/255`; None for a threat model that is not the harness's own."""
    name, _, eps = facts.threat.partition(" ")
    models: dict[str, type[ThreatModel]] = {**NORMS, L0.name: L0, Flow.name: Flow, **PARAMETRIC, **CORRUPTIONS}
    try:
        return models[name](Quantity(eps))
    except (KeyError, ValueError):
        return None


def malformed(records: list[Record], shapes: Shapes, clean: Images) -> str | None:
    """Why a shard's content is not that of these images at all, or None. shapes: of its tensors."""
    if len(records) != len(clean):
        return f"{len(records)} records for {len(clean)} images"
    if "images" not in shapes:
        return "there are no adversarial images"
    counts = shapes.get("counts", ())
    expected = {
        "images": tuple(clean.x.shape),
        "flow": (len(clean), *clean.x.shape[2:], 2),
        "parameters": (len(clean), *shapes.get("parameters", ())[1:]),  # the threat model knows their shape
        "counts": (len(clean), 2, *counts[2:]),
        "radii": (len(clean),),
    }
    for name, shape in shapes.items():
        if name not in expected:
            return f"there is no '{name}' in results"
        if shape != expected[name]:
            return f"'{name}' has the shape {shape}, expected {expected[name]}"
    return None


def faults(
    records: list[Record], tensors: dict[str, Tensor], clean: Images, threat: ThreatModel
) -> Iterator[str | None]:
    """For each image the first thing wrong with it or with its record, or None.

    Args:
        tensors: "images" (N, C, H, W) and, if any, "flow" (N, H, W, 2) or "parameters" (N, ...), as they were stored.
    """
    x_adv, flow = tensors["images"], tensors.get("flow")
    measured: dict[str, list[Any]] = {
        name.lower(): norm(Quantity(0)).size(clean.x, x_adv).tolist() for name, norm in NORMS.items()
    }
    counts = isinstance(threat, L0)
    measured["l0"] = threat.size(clean.x, x_adv).tolist() if counts else [None] * len(clean)
    measured["flow"] = [None] * len(clean) if flow is None else flow.abs().flatten(1).amax(1).tolist()
    parameters = tensors.get(threat.evidence)
    sizes = threat.size(clean.x, x_adv, parameters).tolist()
    excess = threat.violation(clean.x, x_adv, parameters).tolist()
    truth = zip(clean.index.tolist(), clean.y.tolist(), strict=True)
    for row, (record, (index, label)) in enumerate(zip(records, truth, strict=True)):
        distances = {name: values[row] for name, values in measured.items()}
        yield (
            _outside(x_adv[row], sizes[row], excess[row], threat)
            or _misstated(record, distances)
            or _inconsistent(record, index, label)
        )


def _outside(image: Tensor, size: float, excess: float, threat: ThreatModel) -> str | None:
    if excess <= TOLERANCE:
        return None
    if not torch.isfinite(image).all():
        return "the adversarial image is not finite"
    if max(-image.min().item(), image.max().item() - 1) > TOLERANCE:
        return f"the adversarial image leaves [0, 1]: it spans {image.min():.6g} to {image.max():.6g}"
    if isinstance(threat, Flow) and math.isinf(size):
        return "the adversarial image is not the warp of its flow"
    if math.isinf(size):
        return f"the adversarial image is not the one that {threat.name} makes of its parameters"
    return f"out of budget: {threat.name} {size:.6g}, where {threat.eps} is allowed"


def _misstated(record: Record, measured: dict[str, float | None]) -> str | None:
    for name, distance in measured.items():
        said = getattr(record, name)
        if (said is None) != (distance is None) or (
            said is not None and not math.isclose(said, distance or 0.0, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
        ):
            return f"the record says {name} {_shown(said)}, its image has {_shown(distance)}"
    if record.violation > TOLERANCE and measured["linf"]:
        return "the record says that the attack's image was discarded, yet the image is not the clean one"
    return None


def _inconsistent(record: Record, index: int, label: int) -> str | None:
    if (record.index, record.label) != (index, label):
        return (
            f"the record is about image {record.index} of class {record.label}; this is image {index} of class {label}"
        )
    if record.verdict == "error":
        return None
    for votes, margins in ((record.clean_votes, record.clean_margins), (record.adv_votes, record.adv_margins)):
        for guess, margin in zip(votes, margins, strict=True):
            if math.isnan(margin) != (guess < 0) or (margin > 0 and guess != label) or (margin < 0 and guess == label):
                return f"the record has a vote for class {guess} with the margin {margin:.4g}"
    if ("violation" in record.flags) != (record.violation > TOLERANCE):
        return f"the record says violation {record.violation + 0.0:.3g} and has the flags {record.flags}"
    if not record.adv_votes:
        return f"the record says {record.verdict}, without a vote"
    follows = verdict_of(record.adv_votes, label)
    if record.verdict != follows:
        return f"the record says {record.verdict}, its votes {record.adv_votes} make it {follows}"
    return None


def _shown(value: float | None) -> str:
    return "nothing" if value is None else f"{value:.6g}"
