"""A sound run, forged: in the manifest, in the records, in the images; with the shards' hashes made anew.

`harness verify` must not answer that all holds. `THOROUGH` are forgeries that make every hash anew, the manifest's own
too, as anyone can with this package: replay sees some of them, the others are what no check of these files can show.
"""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.numpy

from benchmarks.faults.trial import Trial, bounded, prepare
from harness import datasets
from harness.results.manifest import write_manifest
from harness.results.store import Store
from helpers.forked import run

CLEAN = datasets.load("digits", "test").images.numpy()

Manifest = dict[str, Any]
Rows = list[dict[str, Any]]
Tensors = dict[str, np.ndarray[Any, Any]]


def trials(folder: Path) -> Iterator[Trial]:
    out = prepare(folder)
    sound = run(["verify", "out", "--device", "cpu"], folder)
    if sound.status != 0:
        raise RuntimeError(f"the sound run is not verified:\n{sound.out}")
    for name, forge in _all().items():
        shutil.rmtree(folder / "forged", ignore_errors=True)
        shutil.copytree(out, folder / "forged")
        forge(folder / "forged")
        done = run(["verify", "forged", "--device", "cpu"], folder)
        if broken := bounded(done):
            yield Trial("forgeries", name, "wrong", broken)
        elif done.status == 0:
            yield Trial("forgeries", name, "unseen" if name in THOROUGH else "wrong", done.out.strip()[-300:])
        else:
            yield Trial("forgeries", name, "said", f"status {done.status}")


def _all() -> dict[str, Callable[[Path], None]]:
    found: dict[str, Callable[[Path], None]] = {}
    for name, edit in MANIFEST.items():
        found[f"manifest: {name}"] = _in_manifest(edit)
    for name, change in RECORDS.items():
        found[f"records: {name}"] = _in_shard(lambda rows, _, change=change: change(rows))  # type: ignore[misc]
    for name, alter in IMAGES.items():
        found[f"images: {name}"] = _in_shard(lambda _, tensors, alter=alter: alter(tensors))  # type: ignore[misc]
    return found | FILES | THOROUGH


def _in_manifest(edit: Callable[[Manifest], None]) -> Callable[[Path], None]:
    def forge(out: Path) -> None:
        manifest = json.loads((out / "run.json").read_text())
        edit(manifest)
        (out / "run.json").write_text(json.dumps(manifest, indent=1))

    return forge


def _in_shard(
    change: Callable[[Rows, Tensors], object], cell: str = "plain/pgd", number: int = 0
) -> Callable[[Path], None]:
    """A forger who makes the shard's own hashes anew."""

    def forge(out: Path) -> None:
        path = sorted((out / "cells" / cell).glob("*.parquet"))[number]
        table = pq.ParquetFile(path).read()
        rows, facts = table.to_pylist(), dict(table.schema.metadata)
        tensors = safetensors.numpy.load_file(path.with_suffix(".safetensors"))
        change(rows, tensors)
        images = safetensors.numpy.save(tensors)
        path.with_suffix(".safetensors").write_bytes(images)
        made = pa.Table.from_pylist(rows, schema=table.schema.remove_metadata())
        digest = hashlib.sha256(json.dumps(made.to_pylist(), sort_keys=True).encode()).hexdigest()
        facts |= {b"images_sha256": hashlib.sha256(images).hexdigest().encode(), b"records_sha256": digest.encode()}
        pq.write_table(made.replace_schema_metadata(facts), path)

    return forge


def _each(manifest: Manifest, **changes: Any) -> None:
    for cell in manifest["cells"]:
        cell.update(changes)


def _argument(manifest: Manifest, cell: str, name: str, value: Any) -> None:
    manifest["resolved"]["cells"][cell]["arguments"][name] = value


def _renamed(manifest: Manifest) -> None:
    manifest["cells"][0]["defense"] = "noisy"


MANIFEST: dict[str, Callable[[Manifest], None]] = {
    "count lowered": lambda m: _each(m, count=8),
    "count lowered in the dataset too": lambda m: (_each(m, count=8), m["dataset"].update(count=8))[0],
    "count and indices lowered": lambda m: (
        _each(m, count=8),
        m["dataset"].update(count=8, indices=m["dataset"]["indices"][:8]),
    )[0],
    "count raised": lambda m: _each(m, count=16),
    "shard size": lambda m: _each(m, shard=6),
    "method says AutoAttack": lambda m: _each(m, method="autoattack, standard"),
    "method of one pairing": lambda m: m["cells"][0].update(method="pgd, 1000 steps"),
    "threat raised": lambda m: _each(m, threat="Linf 0.5"),
    "threat of one pairing": lambda m: m["cells"][0].update(threat="Linf 0.3"),
    "threat of another norm": lambda m: m["cells"][0].update(threat="L2 0.15"),
    "key": lambda m: m["cells"][0].update(key="0" * 32),
    "keys exchanged": lambda m: m["cells"][0].update(key=m["cells"][1]["key"]),
    "a gate's remark added": lambda m: m["cells"][0].update(flags=["softmaxed logits"]),
    "gates' remarks removed": lambda m: _each(m, flags=[]) or m["cells"][2].update(flags=["x"]),
    "stochastic set": lambda m: m["defenses"]["plain"].update(stochastic=True),
    "stochastic cleared": lambda m: m["defenses"]["noisy"].update(stochastic=False),
    "votes lowered": lambda m: m["protocol"].update(votes=1),
    "votes raised": lambda m: m["protocol"].update(votes=9),
    "seed": lambda m: m["protocol"].update(seed=1),
    "protocol's shard": lambda m: m["protocol"].update(shard=12),
    "indices exchanged": lambda m: m["dataset"]["indices"].reverse(),
    "an index replaced": lambda m: m["dataset"]["indices"].__setitem__(0, 77),
    "an index repeated": lambda m: m["dataset"]["indices"].__setitem__(0, m["dataset"]["indices"][1]),
    "dataset's split": lambda m: m["dataset"].update(split="train"),
    "dataset's name": lambda m: m["dataset"].update(name="cifar10"),
    "dataset's fingerprint": lambda m: m["dataset"].update(fingerprint="0" * 64),
    "a pairing removed": lambda m: m["cells"].pop(0),
    "a pairing added": lambda m: m["cells"].append(copy.deepcopy(m["cells"][0]) | {"attack": "new"}),
    "a pairing named as another": _renamed,
    "a pairing twice": lambda m: m["cells"].append(copy.deepcopy(m["cells"][0])),
    "resolved steps raised": lambda m: _argument(m, "plain/pgd", "steps", 1000),
    "resolved eps raised": lambda m: _argument(m, "plain/pgd", "eps", 0.5),
    "resolved loss": lambda m: _argument(m, "plain/pgd", "loss", "ce"),
    "resolved restarts added": lambda m: _argument(m, "plain/pgd", "restarts", 20),
    "resolved defense's rate": lambda m: m["resolved"]["defenses"]["noisy"]["arguments"].update(rate=0.5),
    "resolved defense's type": lambda m: m["resolved"]["defenses"]["plain"].update(type="at"),
    "resolved defense of an unknown type": lambda m: m["resolved"]["defenses"]["plain"].update(type="nothing"),
    "resolved attack removed": lambda m: m["resolved"]["cells"].pop("plain/pgd"),
    "resolved section removed": lambda m: m.pop("resolved"),
    "votes' rule": lambda m: m["report"].update(vote="worst"),
    "average without an attack": lambda m: m["report"].update(average=["pgd"]),
}


def _first(rows: Rows, **changes: Any) -> None:
    rows[0].update(changes)


def _robust(rows: Rows) -> None:
    for row in rows:
        row.update(verdict="robust", adv_votes=[row["label"]])


def _misclassified(rows: Rows) -> None:
    for row in rows:
        row.update(verdict="fooled", adv_votes=[(row["label"] + 1) % 10])


RECORDS: dict[str, Callable[[Rows], object]] = {
    "all verdicts robust": lambda rows: [row.update(verdict="robust") for row in rows],
    "all verdicts and votes robust": _robust,
    "all verdicts and votes misclassified": _misclassified,
    "one verdict": lambda rows: _first(rows, verdict="robust" if rows[0]["verdict"] == "fooled" else "fooled"),
    "a verdict that there is not": lambda rows: _first(rows, verdict="held"),
    "an error in place of a verdict": lambda rows: _first(rows, verdict="error", error="lost"),
    "clean votes wrong": lambda rows: _first(rows, clean_votes=[(rows[0]["label"] + 1) % 10]),
    "votes added": lambda rows: _first(rows, adv_votes=rows[0]["adv_votes"] * 3),
    "votes removed": lambda rows: _first(rows, adv_votes=[]),
    "margins on adversarial images": lambda rows: _first(rows, adv_margins=[rows[0]["adv_margins"][0] + 1.0]),
    "margins on clean images": lambda rows: _first(rows, clean_margins=[rows[0]["clean_margins"][0] + 1.0]),
    "margins that are NaN": lambda rows: _first(rows, adv_margins=[float("nan")]),
    "distance in Linf": lambda rows: _first(rows, linf=0.01),
    "distance in L2": lambda rows: _first(rows, l2=0.01),
    "distance in L1": lambda rows: _first(rows, l1=0.01),
    "a flow where there is none": lambda rows: _first(rows, flow=0.1),
    "a violation": lambda rows: _first(rows, violation=0.5),
    "a negative violation": lambda rows: _first(rows, violation=-1.0),
    "passes raised": lambda rows: _first(rows, forwards=10**6),
    "passes lowered": lambda rows: [row.update(forwards=1, backwards=0) for row in rows],
    "backward passes negative": lambda rows: _first(rows, backwards=-5),
    "seed": lambda rows: _first(rows, seed=7),
    "label": lambda rows: _first(rows, label=(rows[0]["label"] + 1) % 10),
    "index": lambda rows: _first(rows, index=900),
    "records exchanged": lambda rows: rows.reverse(),
    "a record removed": lambda rows: rows.pop(),
    "a record repeated": lambda rows: rows.append(dict(rows[0])),
    "a flag added": lambda rows: _first(rows, flags=["all well"]),
    "seconds lowered": lambda rows: [row.update(seconds=0.0) for row in rows],
}


def _set(tensors: Tensors, name: str, value: np.ndarray[Any, Any]) -> None:
    tensors[name] = np.ascontiguousarray(value)


IMAGES: dict[str, Callable[[Tensors], object]] = {
    "one moved beyond the budget": lambda t: _set(t, "images", np.clip(t["images"] + 0.2, 0, 1)),
    "outside [0, 1]": lambda t: _set(t, "images", t["images"] - 0.5),
    "NaN": lambda t: _set(t, "images", t["images"] * np.float32("nan")),
    "exchanged": lambda t: _set(t, "images", t["images"][::-1]),
    "one removed": lambda t: _set(t, "images", t["images"][:-1]),
    "of another shape": lambda t: _set(t, "images", t["images"].reshape(len(t["images"]), 1, 4, 16)),
    "of another precision": lambda t: _set(t, "images", t["images"].astype(np.float64)),
    "slightly moved": lambda t: _set(t, "images", np.clip(t["images"] * np.float32(0.999), 0, 1)),
    "with a tensor too many": lambda t: _set(t, "more", np.zeros(3, np.float32)),
    "with a flow that made none": lambda t: _set(t, "flow", np.zeros((len(t["images"]), 8, 8, 2), np.float32)),
}


def _thorough(change: Callable[[Rows, Tensors], object], edit: Callable[[Manifest], object] = lambda m: None):  # type: ignore[no-untyped-def]
    """A forger who makes all hashes anew. change: of each shard of plain/pgd; edit: of the manifest."""

    def forge(out: Path) -> None:
        for number in range(len(list((out / "cells/plain/pgd").glob("*.parquet")))):
            _in_shard(change, number=number)(out)
        content = json.loads((out / "run.json").read_text())
        for cell in content["cells"]:
            paths = sorted((out / "cells" / cell["defense"] / cell["attack"]).glob("*.parquet"))
            cell["records"] = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
        edit(content)
        content.pop("seal")
        write_manifest(Store(out), content)

    return forge


def _unattacked(rows: Rows, tensors: Tensors) -> None:
    """As if the attack had found nothing: the clean images, which a reader would have to attack to know better."""
    tensors["images"] = np.ascontiguousarray(CLEAN[[row["index"] for row in rows]])
    for row in rows:
        right = row["clean_votes"] == [row["label"]]
        row.update(verdict="robust" if right else "fooled", adv_votes=row["clean_votes"])
        row.update(adv_margins=row["clean_margins"], linf=0.0, l2=0.0, l1=0.0)


def _nothing(rows: Rows, tensors: Tensors) -> None:
    """Leaves a shard as it is."""


THOROUGH: dict[str, Callable[[Path], None]] = {
    "all hashes made anew: verdicts and votes robust": _thorough(lambda rows, _: _robust(rows)),
    "all hashes made anew: images beyond the budget": _thorough(
        lambda _, t: _set(t, "images", np.clip(t["images"] + 0.2, 0, 1))
    ),
    "all hashes made anew: method says AutoAttack": _thorough(
        _nothing, lambda m: _each(m, method="autoattack, standard")
    ),
    "all hashes made anew: stochastic set": _thorough(
        _nothing, lambda m: m["defenses"]["plain"].update(stochastic=True)
    ),
    "all hashes made anew: what a weaker attack would have found": _thorough(_unattacked),
    "all hashes made anew: passes lowered": _thorough(
        lambda rows, _: [r.update(forwards=1, backwards=1) for r in rows]
    ),
    "all hashes made anew: seconds lowered": _thorough(lambda rows, _: [r.update(seconds=0.1) for r in rows]),
    "all hashes made anew: margins moved within rounding": _thorough(
        lambda rows, _: [r.update(adv_margins=[m * (1 + 1e-6) for m in r["adv_margins"]]) for r in rows]
    ),
    "all hashes made anew: made on another day": _thorough(
        _nothing, lambda m: [s.update(started="2020-01-01T00:00:00+00:00") for s in m["sessions"]]
    ),
}


def _shards(out: Path, cell: str) -> list[Path]:
    return sorted((out / "cells" / cell).glob("*"))


def _moved(out: Path) -> None:
    for path in _shards(out, "plain/pgd"):
        shutil.copy(path, out / "cells/plain/stadv" / path.name)


def _without_last(out: Path) -> None:
    for path in _shards(out, "plain/pgd")[-2:]:
        path.unlink()


FILES: dict[str, Callable[[Path], None]] = {
    "files: the last shard removed": _without_last,
    "files: the images of a shard removed": lambda out: _shards(out, "plain/pgd")[1].unlink(),
    "files: a pairing's shards removed": lambda out: shutil.rmtree(out / "cells/plain/pgd"),
    "files: a defense's shards removed": lambda out: shutil.rmtree(out / "cells/plain"),
    "files: one pairing's shards under another": _moved,
    "files: all shards removed": lambda out: shutil.rmtree(out / "cells"),
}
