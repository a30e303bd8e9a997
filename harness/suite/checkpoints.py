"""The checkpoints that a suite names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from harness.config import yaml_file
from harness.config.component import class_of
from harness.suite.nested import inner_entries
from harness.suite.plan import written_out
from harness.suite.sweep import entry_of
from harness.weights import published
from harness.weights.checkpoint import checkpoint_arguments, packaged
from harness.weights.manage import Item, item


def items(suite: Path | None = None) -> list[Item]:
    """All known checkpoints, or those that a suite's defenses and attacks name. None of the files need exist.

    Raises:
        UserError: the suite cannot be read, or names an unknown checkpoint.
    """
    if suite is None:
        return [item(ref) for ref in [*packaged(), *(entry.name for entry in published.entries())]]
    document, _ = written_out(yaml_file.read(suite))
    return [item(ref, folder) for ref, folder in dict.fromkeys(_references(document.root))]


def _references(node: yaml_file.Node) -> Iterator[tuple[str, Path]]:
    """Every checkpoint among the arguments of defenses and attacks, with the folder of the file that names it."""
    for kind in ("defenses", "attacks"):
        entries = node.child(kind)
        for name in entries.value if entries and isinstance(entries.value, dict) else ():
            entry = entry_of(node, kind, name)
            if isinstance(entry.value, dict):
                yield from _named_in(kind, name, entry)


def _named_in(kind: str, name: str, entry: yaml_file.Node) -> Iterator[tuple[str, Path]]:
    cls = class_of(kind, name, entry)
    for argument in checkpoint_arguments(cls):
        given = entry.child(argument)
        if given and isinstance(given.value, str):
            yield given.value, given.place.file.parent
    for inner in inner_entries(cls, entry):
        yield from _named_in("defenses", "inner", inner)
