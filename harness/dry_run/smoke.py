"""A cheap trial of a suite that runs all code from published file to table: `harness run SUITE --smoke`.

It uses two images, networks of full size, and arguments that each defense and attack limits itself (`reduced`). Missing
checkpoints are replaced by random weights, which are written in the layout and to the path of the published file and
read as usual; a missing dataset is replaced by random images. The label of an image is the defense's own prediction,
because attacks skip images that are misclassified from the start. The numbers mean nothing; title and labels say so.

Defenses run one after another, so that memory and disk contain the weights of only one. As their labels differ, each
has its own results directory below the suite's: `harness report` shows them one after the other. Rows that become the
same after the reduction run once, and so do rows of a sweep that differ only in its numbers.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.callback import SILENT, Callback
from harness.config.component import Component, recast
from harness.datasets.by_name import absent_dataset, request_of
from harness.datasets.spec import Dataset
from harness.defense import Defense
from harness.dry_run.meta_checkpoints import changed
from harness.dry_run.placeholders import absent, fill, placeholder_cache, random_images, with_dataset
from harness.errors import UserError
from harness.evaluation.pending import load_images
from harness.evaluation.run import run
from harness.predict import query
from harness.quantity import Quantity
from harness.randomness import derive, row_seeds
from harness.results.load import find_runs, read_run
from harness.results.store import MANIFEST, Store
from harness.suite.build import build_defense
from harness.suite.names import Only
from harness.suite.plan import Plan, load_suite

IMAGES = 2
TITLE = "SMOKE, the numbers mean nothing"


@dataclass(frozen=True)
class Ready(Component):
    """A defense that has been built already."""

    instance: Any = None

    def build(self) -> Any:
        return self.instance


def smoke(
    suite: Path,
    out: Path | None,
    device: torch.device,
    callback: Callback = SILENT,
    *,
    only: Only = None,
    settings: Sequence[str] = (),
) -> Path:
    """Runs a smoke run. Returns the results directory, by default results/SUITE-smoke; earlier results are replaced.

    Args:
        only, settings: as for `harness.suite.load_suite`.

    Raises:
        UserError: for the same reasons as `harness.evaluation.run.run`, or because the directory contains other
            results, or an image ended in an error.
    """
    disk = out.parent if out else Path("results")
    disk.mkdir(parents=True, exist_ok=True)
    with placeholder_cache(disk) as root:
        plan = load_suite(suite, only=only, settings=settings)
        folder = out or disk / f"{plan.suite.suite}-smoke"
        _make_way(folder)
        for name, first in same_when_small(plan).items():
            if name != first:
                callback.note(f"{name}: skipped, because its reduced version is the same as that of {first}")
                continue
            began = time.monotonic()
            _one(partial(load_suite, suite, settings=settings), name, only, root, folder / name, device, callback)
            callback.note(f"{name}: {time.monotonic() - began:.0f} s")
        _refuse_errors(folder)
    return folder


def _one(
    load: Callable[..., Plan],
    name: str,
    only: Only,
    root: Path,
    folder: Path,
    device: torch.device,
    callback: Callback,
) -> None:
    """Runs all attacks on one defense. load: reads the suite, given `only`."""
    needed = absent(load(only=name).cells[0].defense)
    for entry in needed:
        callback.note(f"{name}: random weights for {entry.name}, in its published format ({entry.format})")
        fill(entry)
    plan = load(only=only)
    plan = replace(plan, cells=tuple(cell for cell in plan.cells if cell.defense.name == name))
    plan = small(replace(plan, all_cells=plan.cells))
    component = plan.cells[0].defense
    defense = build_defense(component)
    images = _images(plan)
    logits = _logits(defense.to(device), images.to(device)).cpu()
    file = root / f"{name}-smoke.npz"
    np.savez(file, images=images.numpy(), labels=logits.argmax(1).numpy(), num_classes=logits.shape[1])
    label = f"{component.label or name} (random weights)" if needed else component.label
    ready = recast(component, Ready, label=label, instance=defense.cpu())
    run(_renamed(changed(plan, lambda _: ready), file), folder, device, callback)
    for entry in needed:
        entry.path().write_bytes(b"")


def small(plan: Plan) -> Plan:
    """The plan with reduced defenses and attacks."""
    plan = changed(plan, reduced)
    cut = {id(cell.attack): reduced(cell.attack) for cell in plan.all_cells}
    cells, every = (
        tuple(replace(cell, attack=cut[id(cell.attack)]) for cell in cells) for cells in (plan.cells, plan.all_cells)
    )
    return replace(plan, cells=cells, all_cells=every)


def same_when_small(plan: Plan) -> dict[str, str]:
    """For every defense of the plan, the first one whose reduced row runs the same code; often itself."""
    swept = {name: sweep.paths for sweep in plan.sweeps if sweep.kind == "defenses" for name in sweep.variants}
    rows: dict[str, list[str]] = {}
    for cell in small(plan).cells:
        row = rows.setdefault(cell.defense.name, [_path(cell.defense, swept.get(cell.defense.name, ()))])
        row.append(f"{cell.attack.name} {_path(cell.attack)}")
    firsts: dict[tuple[str, ...], str] = {}
    return {name: firsts.setdefault(tuple(row), name) for name, row in rows.items()}


def _path(component: Component, swept: Sequence[str] = ()) -> str:
    """Identifies the code that a component runs. swept: arguments whose numerical values do not affect that."""
    numbers = {name for name in swept if type(component.arguments.get(name)) in (int, float, Quantity)}
    arguments = {name: value for name, value in component.resolved().items() if name not in numbers}
    return f"{component.cls} {json.dumps(arguments, sort_keys=True)}"


def reduced(component: Component) -> Component:
    """Replaces a defense or an attack, and those inside it, by their cheap versions."""
    inner = {name: _reduced_inside(value) for name, value in component.arguments.items()}
    cls, arguments = component.cls.reduced(inner)
    if component.kind == "defenses":
        arguments = with_dataset(arguments, cls)
    return replace(component, cls=cls, arguments=arguments)


def _reduced_inside(value: Any) -> Any:
    if isinstance(value, Component):
        return reduced(value)
    return [_reduced_inside(item) for item in value] if isinstance(value, list) else value


def _images(plan: Plan) -> Tensor:
    """The suite's first images, (2, C, H, W), or random ones."""
    spec = plan.suite.dataset
    if known := absent_dataset(spec.name, request_of(spec)):
        path = random_images(spec.name, known)
        plan = replace(plan, suite=plan.suite.model_copy(update={"dataset": Dataset(name="npz", path=path)}))
    return load_images(plan)[1].x[:IMAGES]


def _logits(defense: Defense, images: Tensor) -> Tensor:
    """The logits of the defense, (N, K)."""
    with torch.no_grad():
        return query(defense, images, row_seeds(derive("smoke"), torch.arange(len(images), device=images.device)))


def _renamed(plan: Plan, file: Path) -> Plan:
    suite = plan.suite
    random = ", on random images" if absent_dataset(suite.dataset.name, request_of(suite.dataset)) else ""
    update = {
        "suite": f"{suite.suite}-smoke",
        "title": f"{TITLE}{random}: {suite.title or suite.suite}",
        "dataset": Dataset(name="npz", path=file),
        "protocol": suite.protocol.model_copy(update={"votes": min(suite.protocol.votes, 2), "shard": IMAGES}),
        "report": suite.report.model_copy(update={"reference": None, "groups": {}}),
    }
    return replace(plan, suite=suite.model_copy(update=update))


def _make_way(folder: Path) -> None:
    earlier = [path.parent for path in sorted(folder.rglob(MANIFEST))]
    for path in earlier:
        if not str((Store(path).manifest() or {}).get("title", "")).startswith(TITLE):
            raise UserError(f"{path} contains results that are not of --smoke", remedy="Choose another one with --out")
    for path in earlier:
        shutil.rmtree(path)


def _refuse_errors(folder: Path) -> None:
    for path in find_runs(folder):
        for (defense, attack), pairing in read_run(path).cells.items():
            failed = pairing.records[pairing.records["verdict"] == "error"]
            if len(failed):
                raise UserError(f"{defense}/{attack} ended in an error: {failed['error'].iloc[0]}")
