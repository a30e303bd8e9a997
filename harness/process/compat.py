"""Install traps of the libraries we stand on, absorbed once so that no user meets them.

robustbench 1.1.1 imports `autoattack`, which no package index carries; `pyautoattack` is the same code under another
name. A finder makes one the alias of the other, module object for module object, when somebody asks for it.
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
        # In front: the path finder would load `autoattack.state` from the real package's folder as a second copy.
        sys.meta_path.insert(0, AliasFinder("autoattack", "pyautoattack"))
    # robustbench's use of pkg_resources, which our bound on setuptools keeps alive.
    warnings.filterwarnings("ignore", message="pkg_resources is deprecated as an API", category=UserWarning)


class AliasFinder:
    """Resolves `alias` and its submodules to `name` and its submodules, unless a real `alias` is installed.

    A finder by its methods alone: the base class of `importlib.abc` would double the time that the command takes to
    start listening to signals.
    """

    def __init__(self, alias: str, name: str) -> None:
        self.alias, self.name = alias, name

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        head, _, tail = fullname.partition(".")
        if head != self.alias or not self._stands_in(tail):
            return None
        import importlib.util

        name = f"{self.name}.{tail}" if tail else self.name
        real = importlib.util.find_spec(name)
        package = real is not None and real.submodule_search_locations is not None
        return real and ModuleSpec(fullname, _AliasLoader(name), is_package=package)  # type: ignore[arg-type]

    def _stands_in(self, tail: str) -> bool:
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
        """Gives the module its own spec back, which the import system has just overwritten with the alias's."""
        module.__spec__ = self.spec
