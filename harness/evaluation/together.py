"""How many shards are attacked in one call, as one batch, before they are cut into shards again.

A shard is the unit that is stored, 32 images unless the suite says otherwise. As a batch it is small: a cheap network
takes up to twice as long for an image as in a batch of 128 to 256, and as images fall, a batch of 32 is soon one of a
few. So shards in a row are attacked together, up to

    images  =  min(BATCH / network evaluations per image, MEMORY / bytes of a gradient per image, batch_size)

with both constants by type of device. A diffusion defense, which spends hundreds of evaluations on an image, fills the
device with one shard and keeps it; so does a network whose graph of 256 images would not fit.

The rule depends on the defense, the device and the protocol, and on nothing else: not on the engine, the number of
workers, or what is done already. In another batch floats are rounded in another way, so all runs of a suite must have
the same batches for their records to be the same to the bit. Therefore shards are joined by their place (`batches`),
and a batch of which some shards are stored is attacked as a whole again, if a run was stopped between two of its files.

Workers can share a run only as far as it has batches: on a CPU there are two for 256 images of a pairing. Where workers
stay idle for want of batches, the run is a short one, and would not end much earlier in shards, in which each image
takes longer.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise

import torch
from torch import Tensor

from harness.defense import Defense
from harness.evaluation.seeds import Seeds
from harness.predict import query
from harness.process.graph_size import Meter
from harness.results.store import ShardRange
from harness.suite.schema import Protocol

BATCH = {"cpu": 128, "cuda": 256}
"""Network evaluations in a batch beyond which one more takes as long as any other, by type of device. On two cores, the
digits' networks under APGD take 1.2 to 1.3 times as long per image in batches of 256 as of 128, whose data fit a cache,
if no image leaves; see also `benchmarks/engine.py --parts shards`."""

MEMORY = {"cpu": 2**30, "cuda": 2**32}
"""Bytes that the graph of a batch may take."""

Batch = tuple[ShardRange, ...]
"""Shards in a row that are attacked together."""


def images_together(defense: Defense, evaluations: float, x: Tensor, seeds: Seeds, protocol: Protocol) -> int:
    """How many images of a defense are attacked together; 1, for one shard, if two would be too many.

    Args:
        evaluations: of its network, in a forward pass of an image.
        x: any of the images, (1, C, H, W), on the device that the defense is on.
        seeds: of any of its pairings.
    """
    kind = x.device.type
    most = min(protocol.batch_size, int(BATCH.get(kind, BATCH["cuda"]) / max(evaluations, 1)))
    if most < 2 * protocol.shard:
        return 1
    room = MEMORY.get(kind, MEMORY["cuda"]) // _rounded_up(_graph_bytes(defense, x, seeds))
    return max(1, min(most, room))


def batches(shards: Sequence[ShardRange], images: int) -> list[Batch]:
    """Cuts all shards of a pairing into batches of about the same length, of at most so many images if they can be.

    Example:
        >>> batches([(0, 4), (4, 8), (8, 10)], images=8)
        [((0, 4), (4, 8)), ((8, 10),)]
        >>> batches([(0, 4), (4, 8), (8, 10)], images=1)
        [((0, 4),), ((4, 8),), ((8, 10),)]
    """
    if not shards or shards[-1][1] - shards[0][0] <= images:
        return [tuple(shards)] if shards else []
    longest = max(1, images // max(stop - start for start, stop in shards))
    count = -(-len(shards) // longest)
    short, longer = divmod(len(shards), count)
    ends = [short * place + min(place, longer) for place in range(count + 1)]
    return [tuple(shards[start:stop]) for start, stop in pairwise(ends)]


def _graph_bytes(defense: Defense, x: Tensor, seeds: Seeds) -> int:
    """What a graph keeps of one image more. A defense that fails here, or has no graph, counts as one that needs none:
    the attack will tell.
    """
    kept = []
    with suppress(Exception), torch.enable_grad():
        for count in (1, 2):
            meter = Meter()
            images = x.repeat(count, 1, 1, 1).requires_grad_()
            with meter.measuring():
                answer = query(defense, images, seeds.gradient_noise(torch.arange(count, device=x.device)))
            kept.append(meter.bytes)
            del answer
        return max(1, kept[1] - kept[0])
    return 1


def _rounded_up(count: int) -> int:
    """To a power of two, so that a few bytes more on one machine than on another make no other batches."""
    return 1 << (count - 1).bit_length()
