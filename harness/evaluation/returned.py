"""Whether a shard that came back, perhaps from another process, is the one that was asked for."""

from __future__ import annotations

import torch

from harness.datasets.batch import Images
from harness.evaluation.pending import CellRun
from harness.evaluation.shard import Shard
from harness.quantity import Quantity
from harness.results.record import verdict_of
from harness.results.store import ShardRange
from harness.threat import Linf


class Unlike(Exception):
    """A shard that came back is not the one that was asked for. It is a fault of this program, and is not stored."""


def refuse_unlike(cell_run: CellRun, bounds: ShardRange, images: Images, shard: Shard) -> None:
    """Compares a shard with what the driver itself knows of it.

    Args:
        images: of the shard, on the CPU.

    Raises:
        Unlike: the records are those of other images, or do not agree with the images beside them.
    """
    records, tensors = shard
    name = f"{cell_run.name}, images {bounds[0]} to {bounds[1] - 1}"
    found = tensors["images"]
    if found.shape != images.x.shape or found.dtype != images.x.dtype:
        raise Unlike(f"{name}: images of shape {tuple(found.shape)} came back for {tuple(images.x.shape)}")
    known = zip(images.index.tolist(), images.y.tolist(), cell_run.seeds.search(images.index).tolist(), strict=True)
    if [(record.index, record.label, record.seed) for record in records] != list(known):
        raise Unlike(f"{name}: the records that came back are those of other images")
    if any(record.verdict != verdict_of(record.adv_votes, record.label, record.error) for record in records):
        raise Unlike(f"{name}: a verdict does not follow from its votes")
    linf = Linf(Quantity(0)).size(images.x, found.cpu())
    if not torch.allclose(linf, torch.tensor([record.linf for record in records]), equal_nan=True):
        raise Unlike(f"{name}: the records that came back are not those of its images")
