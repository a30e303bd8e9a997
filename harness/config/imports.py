"""The dependencies of a user's file, read from its source: all modules that it imports, and data files that it names.

Imports at the top and inside functions are followed from file to file within the user's own code: not into this
project, the standard library, or installed packages. If a name is constructed at run time, as in
`import_module(f"models.{name}")`, all Python files below the folder count.
"""

from __future__ import annotations

import ast
import itertools
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path

from harness.config.neighbours import OURS, beside
from harness.files import digest
from harness.process.foreign_code import theirs

DYNAMIC = ("import_module", "__import__", "spec_from_file_location", "SourceFileLoader", "run_path", "run_module")
"""Functions that import the module named by their argument."""

MOST_FILES = 1000
"""The largest number of Python files below a folder that count if a name is constructed at run time."""

DATA = (
    *(".pt", ".pth", ".th", ".ckpt", ".bin", ".pkl", ".safetensors", ".onnx", ".h5"),
    *(".npz", ".npy", ".mat", ".json", ".yaml", ".yml", ".toml"),
)
"""Texts in source code with these endings may be names of files that the code loads."""


def sources_of_file(file: Path) -> dict[str, str]:
    """The sha256 of a user's file and of its dependencies, by paths relative to its folder or names of modules."""
    file = file.resolve()
    return _closure([_Module(file, file.parent, neighbours=True)])


def sources_of_module(name: str) -> dict[str, str]:
    """The sha256 of a module and of its dependencies, as for a file; empty for a module of an installed package."""
    return _closure(list(_absolute(name, None)))


@dataclass(frozen=True)
class _Module:
    """A source file.

    Args:
        root: the folder in which the search for its package begins.
        neighbours: whether `root` is the folder of the user's file, whose modules take precedence over others.
    """

    file: Path
    root: Path
    neighbours: bool = False

    @property
    def name(self) -> str:
        """Its name in records: `models/net.py` beside the user's file, `models.net` elsewhere."""
        path = self.file.relative_to(self.root)
        if self.neighbours:
            return path.as_posix()
        parts = path.with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def beside(self, file: Path) -> _Module:
        return replace(self, file=file)


def _closure(waiting: list[_Module]) -> dict[str, str]:
    found: dict[str, str] = {}
    seen: set[Path] = set()
    while waiting:
        module = waiting.pop()
        if module.file in seen:
            continue
        seen.add(module.file)
        found[module.name] = digest(module.file)
        if module.file.suffix == ".py":
            tree = _tree(module.file.read_bytes())
            found |= {_data_name(path, module): digest(path) for path in _data_files(tree, module)}
            waiting += _imported(tree, module)
    return dict(sorted(found.items()))


def _imported(tree: ast.Module, module: _Module) -> Iterator[_Module]:
    """The user's modules that a source file imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _named(alias.name, module)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield from _named(f"{'.' * node.level}{node.module or ''}.{alias.name}", module)
        elif isinstance(node, ast.Call) and _called(node) in DYNAMIC:
            name = node.args[0] if node.args else None
            if _called(node) in DYNAMIC[:2] and isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield from _named(name.value, module)
            else:
                yield from _below(module)


def _named(written: str, module: _Module) -> Iterator[_Module]:
    """The files that an imported name refers to. It may have leading dots, and its last part need not be a module."""
    relative = written.lstrip(".")
    steps, level = [part for part in relative.split(".") if part], len(written) - len(relative)
    if level:
        above = [folder for folder in module.file.parents if folder.is_relative_to(module.root)]
        yield from _along(above[min(level, len(above)) - 1], steps, module)
    elif steps:
        yield from _absolute(".".join(steps), module if module.neighbours else None)


def _absolute(name: str, module: _Module | None) -> Iterator[_Module]:
    """The files that importing a module by its full name executes. module: the importing module of the user."""
    top, *rest = name.split(".")
    if top in OURS or top in sys.stdlib_module_names:
        return
    if module and beside(module.root, top):
        yield from _along(module.root, [top, *rest], module)
        return
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):  # raised for a module that was created by hand, without a spec
        return
    locations = [*(spec.submodule_search_locations or ()), spec.origin or ""] if spec else []
    for place in (Path(location) for location in locations[:1] if location):
        if place.exists() and theirs(str(place)):
            yield from _along(place.parent, [top, *rest], _Module(place, place.parent))


def _below(module: _Module) -> Iterator[_Module]:
    """The Python files below a module's folder."""
    folder = module.file.parent
    files = (f for f in sorted(folder.rglob("*.py")) if theirs(str(f)) and not _hidden(f.relative_to(folder)))
    yield from (module.beside(file) for file in itertools.islice(files, MOST_FILES))


def _along(start: Path, steps: list[str], module: _Module) -> Iterator[_Module]:
    """The files of a package, its subpackage and so on, for as many of the steps as are modules."""
    place = start
    for step in steps:
        place = place / step
        candidates = (place / "__init__.py", *(place.with_name(f"{step}{end}") for end in (".py", *EXTENSION_SUFFIXES)))
        yield from (module.beside(file) for file in [path for path in candidates if path.is_file()][:1])
        if not place.is_dir():
            return


def _data_files(tree: ast.Module, module: _Module) -> list[Path]:
    """The existing files that texts in a source file name, relative to its folder or to the current one."""
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    named = [base / text for text in sorted(texts) if text.endswith(DATA) for base in (module.file.parent, Path())]
    return list(dict.fromkeys(path.resolve() for path in named if os.path.isfile(path)))


def _data_name(file: Path, module: _Module) -> str:
    return file.relative_to(module.root).as_posix() if file.is_relative_to(module.root) else file.name


def _called(node: ast.Call) -> str:
    return str(getattr(node.func, "attr", getattr(node.func, "id", "")))


def _tree(source: bytes) -> ast.Module:
    """The syntax tree of a source file; an empty tree if it is not valid Python."""
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError):
        return ast.Module([], [])


def _hidden(file: Path) -> bool:
    return any(part.startswith(".") for part in file.parts)
