"""Placeholders for missing checkpoints and datasets, for commands whose output does not depend on them.

`harness show` counts network evaluations, which needs architectures but no weights. `harness run --smoke` runs all code
from published file to table, on networks of full size with random weights. Neither may change the user's cache: both
work in a cache of their own, with links to the user's files, and with an empty file for every published checkpoint that
is missing, so that suites which name it can be read.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
from pydantic import TypeAdapter
from torch import nn

from harness.config.component import Component
from harness.config.signature import Class
from harness.datasets.by_name import absent_dataset
from harness.datasets.source import Known
from harness.dry_run.fake_checkpoints import WRITERS, write
from harness.randomness import derive, fenced
from harness.settings import weights_kept_in, weights_root
from harness.weights import published
from harness.weights.checkpoint import Checkpoint, build_network
from harness.weights.published import Published

PER_CLASS = 2
"""The number of images per class in the placeholder of a dataset."""

FEW, MOST_VALUES = 8, 2**24
"""If images are large, a placeholder has fewer, at least FEW, and at most so many values."""


# --- the cache


@contextmanager
def placeholder_cache(folder: Path | None = None) -> Iterator[Path]:
    """Uses, inside the block, a cache with an empty file for every checkpoint that is missing in the user's cache.

    Args:
        folder: the folder to create it in; by default the folder for temporary files.
    """
    real = weights_root()
    with tempfile.TemporaryDirectory(prefix=".harness-", dir=folder) as made:
        root = Path(made).resolve()
        for file in (file for file in real.rglob("*") if file.is_file()):
            _parent(root / file.relative_to(real)).symlink_to(file.resolve())
        for entry in published.entries():
            if entry.format in WRITERS and not entry.present(root):
                _parent(entry.path(root)).touch()
        with weights_kept_in(root):
            yield root


def absent(component: Component) -> list[Published]:
    """The published checkpoints of a defense, and of those inside it, that are placeholders."""
    return list({entry.name: entry for entry in _named(component) if is_empty(entry.path())}.values())


def how_to_get(entry: Published) -> str:
    """Describes in one line how to get a checkpoint."""
    return f"harness weights fetch {entry.name}" if entry.fetchable else f"{entry.manual} ({entry.page})"


def _named(component: Component) -> Iterator[Published]:
    known = {entry.path(): entry for entry in published.entries()}
    if component.kind == "defenses" and (zoo := zoo_entry(component)):
        yield zoo
    for value in component.arguments.values():
        if isinstance(value, Checkpoint) and value.path in known:
            yield known[value.path]
        elif isinstance(value, Component):
            yield from _named(value)


def zoo_entry(component: Component) -> Published | None:
    """The entry of a RobustBench model, which a defense names by three arguments; None for other defenses."""
    given = component.arguments
    if not {"model", "threat", "dataset"} <= given.keys() or given.get("model_dir"):
        return None
    wanted = {key: given[key] for key in ("model", "threat", "dataset")}
    return next((e for e in published.entries() if e.robustbench and e.robustbench.model_dump() == wanted), None)


def is_empty(path: Path) -> bool:
    """Whether a file is the placeholder of a missing one."""
    return path.is_file() and path.stat().st_size == 0


def _parent(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


# --- random weights and images


def network_of(entry: Published) -> nn.Module:
    """The untrained network of a published checkpoint; layers that are initialised with zeros get random values."""
    with fenced(derive("stand-in", entry.name)):
        if entry.robustbench is not None:
            network = _zoo_network(entry.robustbench)
        else:
            network = build_network(entry.network or {})
        for parameter in network.parameters():
            if parameter.dim() > 1 and not parameter.is_meta and not parameter.any():
                nn.init.normal_(parameter, std=0.02)
    return network.eval().requires_grad_(False)


def _zoo_network(model: published.ZooModel) -> nn.Module:
    from robustbench.model_zoo import model_dicts
    from robustbench.model_zoo.enums import BenchmarkDataset, ThreatModel

    entry = model_dicts[BenchmarkDataset(model.dataset)][ThreatModel(model.threat)][model.model]
    network: nn.Module = entry["model"]()
    return network


def fill(entry: Published) -> None:
    """Writes a network with random weights at the path of a published file, inside `placeholder_cache`."""
    write(entry.format, network_of(entry), entry.network or {}, entry.path())


def random_images(name: str, known: Known) -> Path:
    """Writes random images with a dataset's shape and classes to an .npz file, inside `placeholder_cache`."""
    path = weights_root() / f"{name}-{'x'.join(map(str, known.shape))}.npz"
    if not path.is_file():
        count = min(PER_CLASS * known.classes, max(FEW, MOST_VALUES // prod(known.shape)))
        generator = np.random.RandomState(0)
        images = generator.rand(count, *known.shape).astype(np.float32)
        np.savez(path, images=images, labels=np.arange(count) % known.classes, num_classes=known.classes)
    return path


def with_dataset(arguments: dict[str, Any], cls: Class) -> dict[str, Any]:
    """Replaces a missing dataset in a defense's arguments by random images."""
    name, hints = arguments.get("dataset"), get_type_hints(cls.__init__, include_extras=True)
    if "path" not in hints or not isinstance(name, str) or not (known := absent_dataset(name)):
        return arguments
    path = TypeAdapter(hints["path"]).validate_python(str(random_images(name, known)), context={"base": Path()})
    return arguments | {"dataset": "npz", "path": path}
