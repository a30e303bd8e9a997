"""A user's file, and the modules beside it that it imports.

The folder of the file becomes a package with a name of its own, and each of its modules a submodule of it. In code of
the folder, `import helper` means helper.py beside it, as in a script that Python runs, both during loading and in any
later call. Two folders in one process may each have a helper.py. Modules of this project and of Python itself cannot be
replaced; all others are looked for beside the file first.

A file is executed once in a process. If it or another executed file of its folder changes, all of them are read again.
"""

from __future__ import annotations

import builtins
import hashlib
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, FileFinder, ModuleSpec, SourceFileLoader
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from harness.errors import UserError

OURS = ("harness", "defenses", "attacks")
"""Packages of this project."""

_folders: dict[Path, _Folder] = {}


def module_of(file: Path) -> ModuleType:
    """Loads a user's file as a module. Exceptions of its code are passed on."""
    file = file.resolve()
    folder = _folders.get(file.parent)
    if folder is None or folder.changed():
        folder = _folders[file.parent] = _Folder(file.parent, _free(f"user_{_digest(str(file.parent).encode())[:8]}"))
    return folder.load(file)


@dataclass(frozen=True)
class Imported:
    """A folder of a user's modules as it was imported.

    Args:
        path: the folder; name: of the package that stands for it.
        read: the digest of every file that was executed, in the order in which they ended.
        modules: the files of the modules directly in the folder.
    """

    path: Path
    name: str
    read: dict[Path, str]
    modules: list[Path]


def imported_folders(needed: Callable[[str], bool]) -> list[Imported]:
    """What was imported by file in this process, for a process that is to import the same.

    Args:
        needed: whether a package of this name is. Others belong to something that was done before: what they import
            may be gone, and to execute them would take time and have effects.
    """
    return [
        Imported(path, folder.name, dict(folder.read), [file for file in folder.read if file.parent == path])
        for path, folder in _folders.items()
        if needed(folder.name)
    ]


def import_folder(known: Imported) -> None:
    """Imports what another process has imported, under the same names.

    Raises:
        UserError: a file is missing here, or is not the same.
    """
    for file, then in known.read.items():
        if not file.is_file() or _digest(file.read_bytes()) != then:
            raise UserError(
                f"{file} is missing, or was changed, since the run began",
                remedy="Leave it as it is during a run, on all machines, and run the same command again",
            )
    folder = _folders.get(known.path)
    if folder is None or folder.name != known.name:
        folder = _folders[known.path] = _Folder(known.path, known.name)
    for file in known.modules:
        folder.load(file)


def beside(folder: Path, module: str) -> bool:
    """Whether code in a user's folder that imports a module gets a neighbour. module: a name without dots."""
    if module in OURS or module in sys.stdlib_module_names or not module.isidentifier():
        return False
    if any((folder / name).is_file() for name in (f"{module}.py", f"{module}/__init__.py")):
        return True
    if any((folder / f"{module}{suffix}").is_file() for suffix in EXTENSION_SUFFIXES):
        return True
    return (folder / module).is_dir() and not _elsewhere(module)


class _Folder:
    """The modules of one folder, as they were when first imported.

    Args:
        path: the folder, with symbolic links resolved.
        name: the name of the package.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        self.read: dict[Path, str] = {}
        self.builtins = vars(builtins) | {"__import__": self.import_}
        package = ModuleType(self.name)
        package.__path__ = [str(path)]
        sys.modules[self.name] = package
        if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
            sys.meta_path.insert(0, _Finder())  # before the default finder, which would find the files too

    def changed(self) -> bool:
        """Whether one of the executed files has changed since."""
        return any(not file.is_file() or _digest(file.read_bytes()) != then for file, then in self.read.items())

    def load(self, file: Path) -> ModuleType:
        """Loads a file of this folder as a module."""
        stem = file.stem if file.stem.isidentifier() else f"file_{_digest(file.name.encode())[:8]}"
        name = f"{self.name}.{stem}"
        if name not in sys.modules:
            before = set(sys.modules) - ({self.name} if not self.read else set())
            spec = cast(ModuleSpec, spec_from_file_location(name, file, loader=_Source(name, str(file), self)))
            sys.modules[name] = module_from_spec(spec)
            try:
                _Source(name, str(file), self).exec_module(sys.modules[name])
            except BaseException:
                for added in [n for n in set(sys.modules) - before if f"{n}.".startswith(f"{self.name}.")]:
                    del sys.modules[added]
                if self.name not in sys.modules:
                    del _folders[self.path]
                raise
        return sys.modules[name]

    def import_(
        self,
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """The implementation of `import` for the code of this folder."""
        top = name.partition(".")[0]
        if level or not beside(self.path, top):
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        whole = f"{self.name}.{name}"
        try:
            if fromlist:
                return builtins.__import__(whole, globals, locals, fromlist, 0)
            importlib.import_module(whole)
        except ModuleNotFoundError as error:
            error.msg = error.msg.replace(f"{self.name}.", "")
            raise
        return sys.modules[f"{self.name}.{top}"]


class _Source(SourceFileLoader):
    """Executes the current content of a file: bytecode in Python's cache may belong to an earlier state."""

    def __init__(self, name: str, path: str, folder: _Folder) -> None:
        super().__init__(name, path)
        self.folder = folder

    def exec_module(self, module: ModuleType) -> None:
        source = Path(self.path).read_bytes()
        vars(module)["__builtins__"] = self.folder.builtins
        exec(compile(source, self.path, "exec", dont_inherit=True), vars(module))
        self.folder.read[Path(self.path)] = _digest(source)


class _Finder:
    """Finds the submodules of the packages that represent folders."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        folder = next((f for f in _folders.values() if name.startswith(f"{f.name}.")), None)
        for entry in path or () if folder else ():
            finder = FileFinder(entry, (_source_of(folder), [".py"]), (ExtensionFileLoader, EXTENSION_SUFFIXES))
            if spec := finder.find_spec(name):
                return spec
        return None


def _source_of(folder: _Folder | None) -> Any:
    """Makes a loader factory for a folder, in the form that `FileFinder` needs."""
    return lambda name, path: _Source(name, path, cast(_Folder, folder))


def _elsewhere(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # raised for a module that was created by hand, without a spec
        return True


def _free(name: str) -> str:
    """The name of a package; with a number behind if modules of an earlier state of its folder still use it."""
    taken = [known for known in sys.modules if known.startswith(name)]
    return f"{name}_{len(taken)}" if taken else name


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
