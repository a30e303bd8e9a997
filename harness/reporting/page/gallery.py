"""The images that the page's explorer shows: a bounded number for each pairing, before and after, with their records.

Every pairing shows the same first images of the run, so that pairings can be compared image by image. The
result is plain data for JSON; pictures are data URIs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
from torch import Tensor

from harness.quantity import TOLERANCE
from harness.reporting.page.originals import Originals, originals
from harness.reporting.page.pictures import arrows, difference, gain_of, png
from harness.results.load import CellResults, Run
from harness.results.record import NO_CLASS, vote
from harness.results.store import CellStore, ShardRange, Store, shard_ranges

MOST = 64
"""Images per pairing by default."""

PIXELS = 12_000_000
"""Values in all pictures of a page by default, which take a few tens of megabytes."""

FEWEST = 4
"""Images per pairing at least, where the user gives no number."""

Shard = dict[str, Tensor]


def gallery(run: Run, most: int | None = None, folder: Path | None = None) -> dict[str, Any]:
    """All pairings with at least one image on disk.

    Args:
        most: images per pairing; `MOST`, or as many as `PIXELS` allow, if left out.
        folder: where the page will lie. If the run lies in it or below it, each image has a link to its record.
    """
    clean = originals(run.manifest, run.path)
    pairings = [pairing for pairing in run.pairings.values() if pairing.done]
    shown = [(pairing, _images(run, pairing, _bound(run, pairing, len(pairings), most))) for pairing in pairings]
    used = {pairing.record(place)["index"] for pairing, images in shown for place in images}
    return {
        "missing": clean.missing,
        "clean": {index: png(image) for index, image in clean.images.items() if index in used},
        "pairings": [_pairing(run, pairing, images, clean, folder) for pairing, images in shown],
    }


def _bound(run: Run, pairing: CellResults, pairings: int, most: int | None) -> int:
    if most is not None:
        return most
    values = math.prod(_cell(run, pairing).shapes(*_bounds(pairing)[0])["images"][1:])
    return max(FEWEST, min(MOST, PIXELS // (2 * values * pairings)))


def _images(run: Run, pairing: CellResults, most: int) -> dict[int, Shard]:
    """The first images with a record, by position in the run: {"images": (C, H, W), "flow": (H, W, 2) if any}."""
    chosen: dict[int, Shard] = {}
    for start, stop in _bounds(pairing):
        if len(chosen) >= most:
            break
        rows = range(min(stop - start, most - len(chosen)))
        tensors = _cell(run, pairing).images(start, stop, len(rows))
        chosen |= {start + row: {name: tensor[row] for name, tensor in tensors.items()} for row in rows}
    return chosen


def _bounds(pairing: CellResults) -> list[ShardRange]:
    """The ranges of the shards whose records count."""
    facts = pairing.facts
    done = set(pairing.places.tolist())
    return [bounds for bounds in shard_ranges(facts.count, facts.shard) if bounds[0] in done]


def _cell(run: Run, pairing: CellResults) -> CellStore:
    facts = pairing.facts
    return Store(run.path).cell(facts.defense, facts.attack, facts.key)


def _pairing(
    run: Run, pairing: CellResults, images: dict[int, Shard], clean: Originals, folder: Path | None
) -> dict[str, Any]:
    facts, manifest = pairing.facts, run.manifest
    where = _where(run, pairing, images, folder)
    before = {place: _before(pairing.record(place), tensors, clean) for place, tensors in images.items()}
    largest = [
        float((images[place]["images"] - x).abs().max().nan_to_num(0)) for place, x in before.items() if x is not None
    ]
    gain = gain_of(max(largest, default=0.0))
    return {
        "defense": facts.defense,
        "attack": facts.attack,
        "labels": [manifest.defenses[facts.defense].title(facts.defense), _attack_label(run, facts.attack)],
        "threat": facts.threat,
        "method": facts.method,
        "total": facts.count,
        "gain": gain,
        "images": [
            _image(pairing.record(place), tensors, before[place], gain, clean, where[place])
            for place, tensors in images.items()
        ],
    }


def _where(run: Run, pairing: CellResults, places: Iterable[int], folder: Path | None) -> dict[int, list[str]]:
    """For each image: the file of its record, in words; and the address of the file as seen from `folder`, if any."""
    cell, found = _cell(run, pairing), {}
    linked = folder is not None and run.path.absolute().is_relative_to(folder.absolute())
    for start, stop in _bounds(pairing):
        inside = [place for place in places if start <= place < stop]
        if not inside:
            continue
        stem, before = cell.place(start, stop)
        path = cell.path(stem, "parquet")
        name = path.relative_to(run.path).as_posix()
        address = [quote(path.absolute().relative_to(folder.absolute()).as_posix())] if linked and folder else []
        for place in inside:
            found[place] = [f"row {before + place - start} of {name}", *address]
    return found


def _before(record: dict[str, Any], tensors: Shard, clean: Originals) -> Tensor | None:
    """The image before the attack, if it is available and has the same size."""
    x = clean.images.get(record["index"])
    return x if x is not None and x.shape == tensors["images"].shape else None


def _attack_label(run: Run, name: str) -> str:
    facts = run.manifest.attacks.get(name)
    return (facts.label if facts else None) or name


def _image(
    record: dict[str, Any], tensors: Shard, x: Tensor | None, gain: int, clean: Originals, where: list[str]
) -> dict[str, Any]:
    """One image as data for the page. where: the row and file of its record, and the address, if any.

    adv, difference: pictures; None where the attack changed nothing, and difference also where the clean image is not
    available. answer: the class that the votes decide for, or "tie" or "error".
    """
    x_adv, flow = tensors["images"], tensors.get("flow")
    same = x is not None and torch.equal(x, x_adv)
    return {
        "index": int(record["index"]),
        "size": [int(x_adv.shape[2]), int(x_adv.shape[1])],
        "true": clean.class_name(int(record["label"])),
        "verdict": record["verdict"],
        **_answer(record, clean),
        "before": list(_votes(record, "clean", clean)),
        "after": list(_votes(record, "adv", clean)),
        "facts": list(_facts(record, where)),
        "adv": None if same else png(x_adv),
        "difference": None if same or x is None else png(difference(x, x_adv, gain)),
        "flow": None if flow is None or not flow.any() else arrows(flow.nan_to_num(0)),
    }


def _answer(record: dict[str, Any], clean: Originals) -> dict[str, Any]:
    votes = [int(each) for each in record["adv_votes"]]
    if record["verdict"] == "error" or not votes:
        return {"decided": False, "answer": "error"}
    choice = vote(votes)
    return {"decided": choice != NO_CLASS, "answer": "tie" if choice == NO_CLASS else clean.class_name(choice)}


def _votes(record: dict[str, Any], side: str, clean: Originals) -> Iterator[list[Any]]:
    """For each draw: the class, whether it is right, and the margin of the true class."""
    for guess, margin in zip(record[f"{side}_votes"], record[f"{side}_margins"], strict=True):
        name = clean.class_name(guess) if guess != NO_CLASS else "no answer"
        yield [name, bool(guess == record["label"]), f"{margin:+.2f}".replace("-", "−")]


def _facts(record: dict[str, Any], where: list[str]) -> Iterator[list[str]]:
    """Further facts of the record: a name, a text, and perhaps an address. where: of the record, as `_where` says."""
    sizes = [f"Linf {record['linf']:.4g}", f"L2 {record['l2']:.4g}", f"L1 {record['l1']:.4g}"]
    if record["flow"] is not None and record["flow"] == record["flow"]:
        sizes.append(f"Flow {record['flow']:.4g}")
    if record["l0"] is not None and record["l0"] == record["l0"]:
        sizes.append(f"L0 {record['l0']:.4g}")
    yield ["Distance", ", ".join(sizes)]
    if record["violation"] > TOLERANCE:
        yield ["Beyond the budget", f"{record['violation']:.3g}"]
    yield ["Passes", f"{record['forwards']:,} forward, {record['backwards']:,} backward"]
    yield ["Time", f"{record['seconds']:.2g} s"]
    yield ["Seed", str(record["seed"])]
    yield ["Record", *where]
    if record["flags"] is not None and len(record["flags"]):
        yield ["Flags", ", ".join(record["flags"])]
    if record["error"]:
        yield ["Error", record["error"]]
