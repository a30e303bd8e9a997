"""Summary and parameters of a class, read from its source without importing it."""

from __future__ import annotations

import ast
import keyword
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from os.path import isfile
from pathlib import Path

from harness.config.docstrings import meanings
from harness.process.foreign_code import folder_of


@dataclass(frozen=True)
class Parameter:
    """An argument of a constructor.

    annotation, default: as in the source; default is None for a required argument. meaning: what the docstring of its
    class, or of a base class, says of it.
    """

    name: str
    annotation: str
    default: str | None
    meaning: str = ""


@dataclass(frozen=True)
class Entry:
    """Something that a suite can name.

    summary: its class's attribute `summary`, or the first line of its docstring. head: the docstring of its module.
    """

    name: str
    summary: str
    module: str
    cls: str
    parameters: tuple[Parameter, ...]
    head: str = ""


@dataclass(frozen=True)
class _Class:
    node: ast.ClassDef
    tree: ast.Module


def describe(name: str, module: str, cls: str) -> Entry:
    """Describes the class `cls` of a module. Without source (a compiled extension), only the names are known."""
    source = _class(module, cls)
    if source is None:
        return Entry(name, "", module, cls, ())
    text = _text_attribute(source.node, "summary") or (ast.get_docstring(source.node) or "").strip()
    head = ast.get_docstring(source.tree) or ""
    return Entry(name, text.split("\n")[0], module, cls, _explained(source), head)


def _explained(cls: _Class) -> tuple[Parameter, ...]:
    """The arguments of a class with their meanings, which come from the nearest class that documents them."""
    known = _meanings(cls)
    return tuple(replace(found, meaning=known.get(found.name, "")) for found in _parameters(cls))


def _meanings(cls: _Class) -> dict[str, str]:
    inherited: dict[str, str] = {}
    for base in reversed(list(_bases(cls))):
        inherited |= _meanings(base)
    documented = meanings(ast.get_docstring((_configuration(cls) or cls).node) or "")
    return inherited | {in_suite(name): text for name, text in documented.items()}


def _text_attribute(cls: ast.ClassDef, name: str) -> str:
    """The text that a class assigns to an attribute, or ""."""
    for node in cls.body:
        targets = node.targets if isinstance(node, ast.Assign) else ()
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in targets):
            return str(node.value.value) if isinstance(node.value, ast.Constant) else ""
    return ""


def class_in(path: Path, stem: str, contract: str) -> str | None:
    """The class that is spelt like its file (at.py -> AT, wide_resnet.py -> WideResNet) and extends `contract`."""
    wanted, tree = stem.replace("_", "").lower(), _tree(path)
    classes = [_Class(node, tree) for node in tree.body if isinstance(node, ast.ClassDef)]
    return next((c.node.name for c in classes if c.node.name.lower() == wanted and _extends(c, contract)), None)


def source_of(module: str) -> Path | None:
    """The file of a module, found without importing the module."""
    parent, _, last = module.rpartition(".")
    folder = folder_of(parent) if parent else None
    places = [folder / f"{last}.py", folder / last / "__init__.py"] if folder else []
    if not parent and (spec := find_spec(last)) and spec.origin:
        places = [Path(spec.origin)]
    return next((path for path in places if path.suffix == ".py" and isfile(path)), None)  # no name is too long for it


def _parameters(cls: _Class) -> tuple[Parameter, ...]:
    if configuration := _configuration(cls):
        return tuple(_fields(configuration))
    init = _constructor(cls)
    if init is None:
        return next((_parameters(base) for base in _bases(cls)), ())
    positional = [*init.args.posonlyargs, *init.args.args]
    defaults = [None] * (len(positional) - len(init.args.defaults)) + init.args.defaults
    pairs = [*zip(positional, defaults, strict=True), *zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True)]
    return tuple(
        Parameter(in_suite(a.arg), ast.unparse(a.annotation) if a.annotation else "", _text(d)) for a, d in pairs[1:]
    )


def _constructor(cls: _Class) -> ast.FunctionDef | None:
    return next((n for n in cls.node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)


def _configuration(cls: _Class) -> _Class | None:
    """The dataclass whose fields a constructor such as `__init__(self, config: Config | None, **options)` takes."""
    init = _constructor(cls)
    if init is None or init.args.kwarg is None:
        return None
    hints = [hint for given in init.args.args if (hint := given.annotation)]
    names = [node.id for hint in hints for node in ast.walk(hint) if isinstance(node, ast.Name)]
    found = (known for name in names for known in _known_as(name, cls.tree))
    return next((known for known in found if _is_dataclass(known.node)), None)


def _is_dataclass(cls: ast.ClassDef) -> bool:
    return any("dataclass" in ast.unparse(decorator) for decorator in cls.decorator_list)


def _fields(dataclass: _Class) -> Iterator[Parameter]:
    for node in dataclass.node.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield Parameter(in_suite(node.target.id), ast.unparse(node.annotation), _text(node.value))


def in_suite(name: str) -> str:
    """The name of an argument in a suite: `from` for an argument that must be called `from_` in Python."""
    return name[:-1] if name.endswith("_") and keyword.iskeyword(name[:-1]) else name


def _text(default: ast.expr | None) -> str | None:
    """A default value in the notation of suites: `8/255` for Quantity("8/255")."""
    if isinstance(default, ast.Call) and ast.unparse(default.func) == "Quantity":
        return str(ast.literal_eval(default.args[0]))
    return ast.unparse(default) if default else None


def _extends(cls: _Class, contract: str) -> bool:
    named = any(ast.unparse(base).rpartition(".")[2] == contract for base in cls.node.bases)
    return named or any(_extends(base, contract) for base in _bases(cls))


def _bases(cls: _Class) -> Iterator[_Class]:
    """The base classes that are defined in the same file or imported from another one by name."""
    for name in (base.id for base in cls.node.bases if isinstance(base, ast.Name)):
        yield from (base for base in _known_as(name, cls.tree) if base.node is not cls.node)


def _known_as(name: str, tree: ast.Module) -> Iterator[_Class]:
    """The classes that a file calls so: its own, and those that it imports from another one by name."""
    if local := _local(tree, name):
        yield local
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            imported = (_class(node.module, a.name) for a in node.names if name == (a.asname or a.name))
            yield from (cls for cls in imported if cls)


def _class(module: str, name: str) -> _Class | None:
    path = source_of(module)
    return _local(_tree(path), name) if path else None


def _local(tree: ast.Module, name: str) -> _Class | None:
    return next((_Class(n, tree) for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name), None)


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes(), filename=str(path))
