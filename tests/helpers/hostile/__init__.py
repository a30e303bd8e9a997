"""Results directories that somebody made to do harm: to hang the reader, to fill its memory, to lead it out of the
directory, or to end in a traceback. Nothing here needs pytest: `sound` makes a directory, each of `CASES` spoils one.

Whoever makes them can compute hashes: shards carry the key of their pairing and hashes that hold.
"""

from __future__ import annotations

from pathlib import Path

import torch

from harness.evaluation.run import run
from harness.suite import load_suite
from helpers.hostile.beside import BESIDE
from helpers.hostile.files import FILES, instead
from helpers.hostile.images import IMAGES
from helpers.hostile.manifests import MANIFESTS
from helpers.hostile.places import PLACES, Spoil
from helpers.hostile.records import RECORDS

SUITE = """
suite: sound
dataset: {name: digits, first: 4}
protocol: {votes: 2, shard: 2}
defenses:
  plain: {type: undefended, weights: digits-cnn}
attacks:
  noise: {type: noise, norm: Linf, eps: 0.1}
  pgd: {type: pgd, norm: L2, eps: 0.5, steps: 1}
report: {average: [noise, pgd], worst: [noise, pgd]}
"""


def sound(folder: Path) -> Path:
    """A finished run of two pairings, in two shards of two images each. Returns its directory."""
    folder.mkdir(parents=True, exist_ok=True)
    suite = folder / "sound.yaml"
    suite.write_text(SUITE)
    run(load_suite(suite), folder / "sound", torch.device("cpu"))
    return folder / "sound"


CASES: dict[str, Spoil] = {
    **{f"{place}: {what}": instead(PLACES[place], make) for place in PLACES for what, make in FILES.items()},
    **{f"run.json: {name}": spoil for name, spoil in MANIFESTS.items()},
    **{f"records: {name}": spoil for name, spoil in RECORDS.items()},
    **{f"images: {name}": spoil for name, spoil in IMAGES.items()},
    **BESIDE,
}
"""By name, what spoils a sound directory."""

HARMLESS = tuple(name for name in CASES if (name in BESIDE and "cells" not in name) or name.startswith("a diagnosis"))
"""What changes nothing that `verify` looks at, but for cells that are none."""
