"""The suites and recipes that come with the package, or those of the folder ./suites."""

from __future__ import annotations

from pathlib import Path

from harness.process.foreign_code import folder_of


def suite_files() -> list[Path]:
    """The suites below ./suites if that folder exists, otherwise the installed ones."""
    return [path for path, is_recipe in _files() if not is_recipe]


def recipe_files() -> list[Path]:
    """The recipes for `harness train`, in the folders `train` where the suites are."""
    return [path for path, is_recipe in _files() if is_recipe]


def called(name: str) -> list[Path]:
    """The suites and recipes whose file has a name, with or without its ending; those in the fewest folders first."""
    return sorted((path for path, _ in _files() if name in (path.name, path.stem)), key=lambda path: len(path.parts))


def _files() -> list[tuple[Path, bool]]:
    """The suites and recipes, and whether each is a recipe."""
    local = Path("suites")
    folder = local if local.is_dir() else folder_of("suites")
    paths = sorted(folder.rglob("*.yaml")) if folder else []
    return [(path, "train" in path.relative_to(folder or path).parts) for path in paths]
