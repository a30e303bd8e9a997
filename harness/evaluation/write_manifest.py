"""`run.json`: what a results directory holds, and whether a suite may add to it."""

from __future__ import annotations

import datetime
from typing import Any

from harness import __version__, datasets
from harness.config.component import Component
from harness.datasets.batch import Images
from harness.defense import Defense
from harness.errors import Place, UserError
from harness.evaluation.pending import CellRun
from harness.results.changes import changes
from harness.results.manifest import CellFacts, Manifest, find_manifest, write_manifest
from harness.results.store import KEPT_IMAGES, MANIFEST, Store
from harness.suite.cell_key import CLAIMED
from harness.suite.plan import Plan
from harness.weights.checkpoint import checkpoints

SHOWN = 5
"""So many changes are told."""


def refuse_another_suite(store: Store, plan: Plan, works: list[CellRun], images: Images) -> None:
    """A results directory belongs to one suite, whose finished claims stay what they were.

    New defenses, attacks, titles and report settings may join; what exists may not change its meaning.

    Raises:
        UserError: the directory is another suite's, or the suite has changed: says what.
    """
    old = find_manifest(store)
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
    now = {**plan.suite.protocol.model_dump(), "images": datasets.fingerprint(images.x, images.y)}
    keys = {(cell.defense, cell.attack): cell.key for cell in old.cells if not _never_built(old, cell)}
    new = {_pair(work): work.stored.key for work in works}
    for_all = any(before[name] != now[name] for name in (*CLAIMED, "images"))
    moved = [_pair(work) for work in works if _moved(old.contents.model_dump(), work)]
    changed = [pair for pair in keys if for_all or pair in moved or (pair in new and keys[pair] != new[pair])]
    if changed:
        here = _contents([work for work in works if _pair(work) in changed])
        told = changes(old.document(), plan.resolved(), here, before["images"] == now["images"])
        pairs = ", ".join("/".join(pair) for pair in changed[:3]) + (", …" if len(changed) > 3 else "")
        what = "; ".join(told[:SHOWN]) or f"the code, from harness {old.harness} to {__version__}"
        raise UserError(
            f"the suite changed since these results were made, for {pairs}: {what}",
            remedy="Undo the change, run into another directory with --out, or delete this one",
            where=place,
        )


def begin(
    store: Store,
    plan: Plan,
    works: list[CellRun],
    defenses: dict[str, Defense],
    remarks: dict[str, list[str]],
    dataset: datasets.Dataset,
    images: Images,
    environment: dict[str, Any],
) -> None:
    """Writes the manifest of a session. Facts on defenses and cells that it does not touch stay as they were."""
    old = _old(store) or {"defenses": {}, "cells": [], "sessions": []}
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    known = old["defenses"] | _defenses(works, defenses, known=old["defenses"])
    content = {
        **old,
        "harness": __version__,
        "protocol": plan.suite.protocol.model_dump(mode="json"),
        "defenses": known,
        "sessions": [*old["sessions"], {"started": now, **environment}],
    }
    _write(store, content, plan, works, remarks, dataset, images)


def close(store: Store, plan: Plan, works: list[CellRun], dataset: datasets.Dataset, images: Images) -> None:
    """Writes what has become of the pairings, and what the suite says of titles, labels and reports now."""
    if old := _old(store):
        _write(store, old, plan, works, {}, dataset, images)


def _old(store: Store) -> dict[str, Any] | None:
    found = find_manifest(store)
    return found.document() if found else None


def _write(
    store: Store,
    content: dict[str, Any],
    plan: Plan,
    works: list[CellRun],
    remarks: dict[str, list[str]],
    dataset: datasets.Dataset,
    images: Images,
) -> None:
    cells = {(cell["defense"], cell["attack"]): cell for cell in content["cells"]}
    for work in works:
        pair = _pair(work)
        earlier = cells[pair]["flags"] if pair in cells else []
        own = [remark for checkpoint in checkpoints(work.cell.defense) for remark in checkpoint.remarks]
        flags = all_remarks(earlier, remarks.get(pair[0], []))
        cells[pair] = _cell(work, plan, images, list(dict.fromkeys([*flags, *own])))
    shown = plan.presentation()
    components = {cell.defense.name: cell.defense for cell in plan.all_cells}
    labels = {name: {"label": defense.label, "type": defense.type} for name, defense in components.items()}
    known = {**{defense: {} for defense, _ in cells}, **content["defenses"]}
    new = {
        "suite": plan.suite.suite,
        "dataset": {
            "name": dataset.name,
            "split": dataset.split,
            "count": len(images),
            "indices": images.index.tolist(),
            "fingerprint": datasets.fingerprint(images.x, images.y),
            "num_classes": dataset.num_classes,
            **({"labels": dataset.folders.of} if dataset.folders else {}),
            **({"kept": True} if plan.suite.dataset.path == store.root / KEPT_IMAGES else {}),
        },
        "cells": list(cells.values()),
        "contents": _joined(content.get("contents", {}), _contents(works)),
        "title": shown["title"],
        "report": shown["report"],
        "defenses": {name: facts | labels.get(name, {}) for name, facts in known.items()},
        "attacks": {name: {"label": spec.label} for name, spec in plan.suite.attacks.items()},
        "sweeps": shown["sweeps"],
        "resolved": plan.resolved(),
    }
    write_manifest(store, {**content, **new})


def _contents(works: list[CellRun]) -> dict[str, dict[str, Any]]:
    """What the suite does not say of its defenses and attacks, see `harness.suite.cell_key.Identities`."""
    return {
        "defenses": {work.cell.defense.name: work.parts[0].contents for work in works},
        "cells": {work.name: work.parts[1].contents for work in works},
    }


def _never_built(old: Manifest, cell: CellFacts) -> bool:
    """Whether the results of a pairing say no more than that its code failed: then it may change."""
    parts = old.contents.defenses.get(cell.defense, {}), old.contents.cells.get(cell.name, {})
    return any("failure" in part for part in parts)


def _moved(recorded: dict[str, Any], work: CellRun) -> bool:
    """Whether something that is recorded of a pairing is another now, in its key or not."""
    now = _contents([work])
    return any(recorded.get(kind, {}).get(name, part) != part for kind in now for name, part in now[kind].items())


def all_remarks(earlier: list[str], remarks: list[str]) -> list[str]:
    """All that any session remarked, once per gate: a defense that is random by chance may pass the next time."""
    gates = {flag.partition(":")[0] for flag in earlier}
    return [*earlier, *(remark for remark in remarks if remark.partition(":")[0] not in gates)]


def _pair(work: CellRun) -> tuple[str, str]:
    return work.cell.defense.name, work.cell.attack.name


def _joined(old: dict[str, Any], new: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {kind: old.get(kind, {}) | parts for kind, parts in new.items()}


def _defenses(works: list[CellRun], built: dict[str, Defense], known: dict[str, Any]) -> dict[str, Any]:
    """Facts on the defenses that this session built, and on those that cannot be built and were never known."""
    components = {work.cell.defense.name: work.cell.defense for work in works}
    return {
        name: _defense(component, built.get(name, component.cls))
        for name, component in components.items()
        if name in built or name not in known
    }


def _defense(component: Component, defense: Defense | type[Defense]) -> dict[str, Any]:
    """defense: the class knows all but what each instance works out for itself."""
    facts = {name: getattr(defense, name) for name in ("stochastic", "expected_accuracy", "expected_dataset")}
    notes = {checkpoint.ref: checkpoint.notes for checkpoint in checkpoints(component)}
    return {"type": component.type, "weights": notes} | {
        name: getattr(Defense, name) if isinstance(fact, property) else fact for name, fact in facts.items()
    }


def _cell(work: CellRun, plan: Plan, images: Images, flags: list[str]) -> dict[str, Any]:
    return {
        "defense": work.cell.defense.name,
        "attack": work.cell.attack.name,
        "key": work.stored.key,
        "threat": str(work.attack.threat),
        "method": work.attack.describe(),
        "count": len(images),
        "shard": plan.suite.protocol.shard,
        "flags": flags,
        "records": [
            None if records is None else work.stored.digest(*bounds) for bounds, records in work.shards.items()
        ],
    }
