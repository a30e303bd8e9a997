"""What there is to name in a suite. Reads source and YAML; imports nothing heavy."""

from __future__ import annotations

from pathlib import Path

import yaml

from harness.config.registry import entries
from harness.process.foreign_code import folder_of

Row = dict[str, str]


def listing(kind: str) -> list[Row]:
    """Rows with name, summary and arguments. kind: "defenses", "attacks", "datasets" or "suites"."""
    if kind == "suites":
        return [_suite(path) for path in suite_files()]
    return [
        {
            "name": entry.name,
            "summary": entry.summary,
            "arguments": ", ".join(p.name + ("" if p.default is None else f"={p.default}") for p in entry.parameters),
        }
        for entry in entries(kind)
    ]


def suite_files() -> list[Path]:
    """The suites below ./suites if there are any, else those that were installed."""
    here = Path("suites")
    folder = here if here.is_dir() else folder_of("suites")
    if folder is None:
        return []
    return sorted(path for path in folder.rglob("*.yaml") if "train" not in path.relative_to(folder).parts)


def _suite(path: Path) -> Row:
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError):
        content = None
    title = content.get("title", "") if isinstance(content, dict) else "not a suite: YAML cannot be read"
    return {"name": str(path), "summary": str(title), "arguments": ""}
