"""`run.json`: what a results directory holds, and whether a suite may add to it."""

from __future__ import annotations

import datetime
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any, TypeVar

from harness import __version__
from harness.attack import Attack
from harness.certification.certificate import Certificate
from harness.checks.gradient_noise import GradientNoise
from harness.config.component import Component
from harness.errors import Place, UserError
from harness.evaluation.context import RunContext
from harness.evaluation.examined import Examined, facts_of
from harness.evaluation.pending import CellRun
from harness.results.changes import changes
from harness.results.facts import CellFacts
from harness.results.manifest import Manifest, find_manifest, write_manifest
from harness.results.store import KEPT_IMAGES, MANIFEST, Store
from harness.suite.cell_key import CLAIMED
from harness.suite.plan import Plan
from harness.weights.checkpoint import checkpoints

SHOWN = 5
"""Changes that a message names."""

K = TypeVar("K")
V = TypeVar("V")


def refuse_another_suite(store: Store, context: RunContext) -> None:
    """A results directory belongs to one suite, whose finished claims stay what they were.

    New defenses, attacks, titles and report settings may join; what exists may not change its meaning.

    Raises:
        UserError: the directory is another suite's, or the suite has changed: says what.
    """
    old, plan, cell_runs = find_manifest(store), context.plan, context.cell_runs
    if old is None:
        return
    place = Place(store.root / MANIFEST)
    if old.edited:
        raise UserError(
            "this manifest was tampered with",
            remedy="Undo the edit, or delete the file and run the same command again: finished shards are kept",
            where=place,
        )
    if old.suite != plan.suite.suite:
        raise UserError(
            f"these are the results of suite '{old.suite}', not of '{plan.suite.suite}'",
            remedy="Choose another directory with --out",
            where=place,
        )
    before = {**old.protocol.model_dump(), "images": old.dataset.fingerprint}
    now = {**plan.suite.protocol.model_dump(), "images": context.fingerprint}
    keys = {(cell.defense, cell.attack): cell.key for cell in old.cells if not _never_built(old, cell)}
    new = {_pair(cell_run): cell_run.stored.key for cell_run in cell_runs}
    for_all = any(before[name] != now[name] for name in (*CLAIMED, "images"))
    moved = [_pair(cell_run) for cell_run in cell_runs if _moved(old.contents.model_dump(), cell_run)]
    changed = [pair for pair in keys if for_all or pair in moved or (pair in new and keys[pair] != new[pair])]
    if changed:
        here = _contents([cell_run for cell_run in cell_runs if _pair(cell_run) in changed])
        differing = changes(old.document(), plan.resolved(), here, before["images"] == now["images"])
        pairs = ", ".join("/".join(pair) for pair in changed[:3]) + (", …" if len(changed) > 3 else "")
        what = "; ".join(differing[:SHOWN]) or f"the code, from harness {old.harness} to {__version__}"
        raise UserError(
            f"the suite changed since these results were made, for {pairs}: {what}",
            remedy=f"Undo the change{_set_then(old, plan)}, run into another directory with --out, or delete this one",
            where=place,
        )


def recorded_gpu_memory(store: Store, context: RunContext) -> dict[str, int]:
    """What earlier sessions measured of these pairings, see `RunContext.gpu_memory`."""
    old, keys = find_manifest(store), {cell_run.name: cell_run.stored.key for cell_run in context.cell_runs}
    cells = old.cells if old else ()
    return {cell.name: cell.gpu_memory for cell in cells if cell.gpu_memory and keys.get(cell.name) == cell.key}


def _set_then(old: Manifest, plan: Plan) -> str:
    """How to undo a change that lies in values set from outside the suite's file; empty if they are the same."""
    if old.settings == plan.settings:
        return ""
    given = " ".join(f"--set {shlex.quote(text)}" for text in old.settings)
    return f" (these results were made with {given or 'no --set'})"


def begin(
    store: Store,
    context: RunContext,
    examined: Mapping[str, Examined],
    environment: dict[str, Any],
) -> None:
    """Writes the manifest of a session. Facts on defenses and cells that it does not touch stay as they were.

    Args:
        examined: the defenses that the session examined, by name.
        environment: versions and hardware, see `harness.results.environment`.
    """
    old = _old(store) or {"defenses": {}, "cells": [], "sessions": []}
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    facts = {name: found.facts for name, found in examined.items() if found.facts is not None}
    known = old["defenses"] | _defenses(context.cell_runs, facts, known=old["defenses"])
    content = {
        **old,
        "harness": __version__,
        "protocol": context.protocol.model_dump(mode="json"),
        "defenses": known,
        "sessions": [*old["sessions"], {"started": now, **environment}],
    }
    _write(store, content, context, examined)


def close(store: Store, context: RunContext) -> None:
    """Writes what has become of the pairings, and what the suite says of titles, labels and reports now."""
    if old := _old(store):
        _write(store, old, context, {})


def _old(store: Store) -> dict[str, Any] | None:
    manifest = find_manifest(store)
    return manifest.document() if manifest else None


def _write(
    store: Store,
    content: dict[str, Any],
    context: RunContext,
    examined: Mapping[str, Examined],
) -> None:
    plan, dataset, images = context.plan, context.dataset, context.images
    cells = {(cell["defense"], cell["attack"]): cell for cell in content["cells"]}
    for cell_run in context.cell_runs:
        pair = _pair(cell_run)
        earlier = cells[pair]["flags"] if pair in cells else []
        own = [remark for checkpoint in checkpoints(cell_run.cell.defense) for remark in checkpoint.remarks]
        found = examined.get(pair[0], Examined())
        flags = all_remarks(earlier, found.remarks)
        measured = _measured(cells.get(pair, {}), found.noise, cell_run)
        cells[pair] = _cell(cell_run, context, list(dict.fromkeys([*flags, *own]))) | measured
    shown = plan.presentation()
    components = {cell.defense.name: cell.defense for cell in plan.all_cells}
    labels = {name: {"label": defense.label, "type": defense.type} for name, defense in components.items()}
    known = {**{defense: {} for defense, _ in cells}, **content["defenses"]}
    cells = _in_order(cells, [(cell.defense.name, cell.attack.name) for cell in plan.all_cells])
    known = _in_order(known, [cell.defense.name for cell in plan.all_cells])
    new = {
        "suite": plan.suite.suite,
        "dataset": {
            "name": dataset.name,
            "split": dataset.split,
            "count": len(images),
            "indices": images.index.tolist(),
            "fingerprint": context.fingerprint,
            "num_classes": dataset.num_classes,
            **({"labels": dataset.folders.of} if dataset.folders else {}),
            **({"kept": True} if plan.suite.dataset.path == store.root / KEPT_IMAGES else {}),
        },
        "cells": list(cells.values()),
        "contents": _joined(content.get("contents", {}), _contents(context.cell_runs)),
        "title": shown["title"],
        "report": shown["report"],
        "defenses": {name: facts | labels.get(name, {}) for name, facts in known.items()},
        "attacks": {name: {"label": spec.label} for name, spec in plan.suite.attacks.items()},
        **_labelled_certificates(plan),
        "sweeps": shown["sweeps"],
        "resolved": plan.resolved(),
    }
    kept = {key: value for key, value in content.items() if key != "settings"}
    settings = {"settings": list(plan.settings)} if plan.settings else {}
    write_manifest(store, {**kept, **new, **settings})


def _in_order(found: dict[K, V], names: Iterable[K]) -> dict[K, V]:
    """What was found, as the suite names it now, whatever a session computed first; what it names no longer is last."""
    first = {name: found[name] for name in names if name in found}
    return first | found


def _contents(cell_runs: list[CellRun]) -> dict[str, dict[str, Any]]:
    """What the suite does not say of its defenses and attacks, see `harness.suite.cell_key.Identities`."""
    return {
        "defenses": {cell_run.cell.defense.name: cell_run.parts[0].contents for cell_run in cell_runs},
        "cells": {cell_run.name: cell_run.parts[1].contents for cell_run in cell_runs},
    }


def _never_built(old: Manifest, cell: CellFacts) -> bool:
    """Whether the results of a pairing say no more than that its code failed: then it may change."""
    parts = old.contents.defenses.get(cell.defense, {}), old.contents.cells.get(cell.name, {})
    return any("failure" in part for part in parts)


def _moved(recorded: dict[str, Any], cell_run: CellRun) -> bool:
    """Whether something that is recorded of a pairing is another now, in its key or not."""
    now = _contents([cell_run])
    return any(recorded.get(kind, {}).get(name, part) != part for kind in now for name, part in now[kind].items())


def all_remarks(earlier: list[str], remarks: list[str]) -> list[str]:
    """All that any session remarked, once per gate: a defense that is random by chance may pass the next time."""
    gates = {flag.partition(":")[0] for flag in earlier}
    return [*earlier, *(remark for remark in remarks if remark.partition(":")[0] not in gates)]


def _measured(earlier: dict[str, Any], noise: dict[str, GradientNoise | None], cell_run: CellRun) -> dict[str, Any]:
    """The noise of a pairing's gradients as its cell says it: of several sessions, what the first one measured."""
    field = "gradient_noise"
    known = {field: earlier[field]} if field in earlier and earlier["key"] == cell_run.stored.key else {}
    if known.get(field) or cell_run.name not in noise:
        return known
    found = noise[cell_run.name]
    return {field: None if found is None else asdict(found)}


def _certificate(attack: Attack) -> dict[str, Any]:
    if not isinstance(attack, Certificate):
        return {}
    return {"certificate": {"n0": attack.n0, "n": attack.n, "alpha": attack.alpha}}


def _labelled_certificates(plan: Plan) -> dict[str, Any]:
    known = {name: {"label": spec.label} for name, spec in plan.suite.certificates.items()}
    return {"certificates": known} if known else {}


def _pair(cell_run: CellRun) -> tuple[str, str]:
    return cell_run.cell.defense.name, cell_run.cell.attack.name


def _joined(old: dict[str, Any], new: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {kind: old.get(kind, {}) | parts for kind, parts in new.items()}


def _defenses(cell_runs: list[CellRun], facts: Mapping[str, dict[str, Any]], known: dict[str, Any]) -> dict[str, Any]:
    """Facts on the defenses that this session built, and on those that cannot be built and were never known."""
    components = {cell_run.cell.defense.name: cell_run.cell.defense for cell_run in cell_runs}
    return {
        name: _defense(component, facts.get(name) or facts_of(component.cls))
        for name, component in components.items()
        if name in facts or name not in known
    }


def _defense(component: Component, facts: dict[str, Any]) -> dict[str, Any]:
    notes = {checkpoint.ref: checkpoint.notes for checkpoint in checkpoints(component)}
    return {"type": component.type, "weights": notes, **facts}


def _cell(cell_run: CellRun, context: RunContext, flags: list[str]) -> dict[str, Any]:
    return {
        "defense": cell_run.cell.defense.name,
        "attack": cell_run.cell.attack.name,
        "key": cell_run.stored.key,
        "threat": str(cell_run.attack.threat),
        "method": cell_run.attack.describe(),
        "count": len(context.images),
        "shard": context.protocol.shard,
        "flags": flags,
        "least_cosine": cell_run.attack.least_cosine(),
        **({"gpu_memory": context.gpu_memory[cell_run.name]} if cell_run.name in context.gpu_memory else {}),
        **_certificate(cell_run.attack),
        **({"nearest": True} if cell_run.attack.nearest else {}),
        "records": [
            None if records is None else cell_run.stored.digest(*bounds) for bounds, records in cell_run.shards.items()
        ],
    }
