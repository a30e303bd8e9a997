"""Everything that a suite can name, for `harness list`. It reads source and YAML without slow imports."""

from __future__ import annotations

from pathlib import Path

import yaml

from harness.config.registry import entries
from harness.process.foreign_code import folder_of

Row = dict[str, str]


def listing(kind: str) -> list[Row]:
    """Lists rows with name, summary and arguments. kind: "defenses", "attacks", "datasets" or "suites"."""
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
    """The suites below ./suites if that folder exists, otherwise the installed ones."""
    local = Path("suites")
    folder = local if local.is_dir() else folder_of("suites")
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
