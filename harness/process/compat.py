"""Workarounds for installation problems of the libraries that this package depends on.

robustbench 1.1.1 imports `autoattack`, which is not on the package index; `pyautoattack` is the same code under another
name. A finder makes one the alias of the other when it is imported, so that both names give the same module objects.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType


def install() -> None:
    """Makes `import robustbench` and `import autoattack` work in this process. Imports nothing; safe to repeat."""
    if not any(isinstance(finder, AliasFinder) for finder in sys.meta_path):
        # It must come first: the path finder would load `autoattack.state` from the real package's folder again.
        sys.meta_path.insert(0, AliasFinder("autoattack", "pyautoattack"))
    # robustbench uses pkg_resources, which the bound on setuptools in our requirements keeps available.
    warnings.filterwarnings("ignore", message="pkg_resources is deprecated as an API", category=UserWarning)


class AliasFinder:
    """Resolves `alias` and its submodules to `name` and its submodules, unless a real `alias` is installed.

    It does not inherit from the base class in `importlib.abc`, because that import would double the time before the
    command handles signals.
    """

    def __init__(self, alias: str, name: str) -> None:
        self.alias, self.name = alias, name

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        head, _, tail = fullname.partition(".")
        if head != self.alias or not self._replaces(tail):
            return None
        import importlib.util

        name = f"{self.name}.{tail}" if tail else self.name
        real = importlib.util.find_spec(name)
        package = real is not None and real.submodule_search_locations is not None
        return real and ModuleSpec(fullname, _AliasLoader(name), is_package=package)  # type: ignore[arg-type]

    def _replaces(self, tail: str) -> bool:
        if tail:
            return sys.modules[self.alias].__name__ == self.name
        return PathFinder.find_spec(self.alias) is None


class _AliasLoader:
    def __init__(self, name: str) -> None:
        self.name = name

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        self.module = importlib.import_module(self.name)
        self.spec = self.module.__spec__
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        """Restores the module's own spec, which the import system has overwritten with that of the alias."""
        module.__spec__ = self.spec
