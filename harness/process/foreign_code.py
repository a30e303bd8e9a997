"""Exceptions from code outside the harness, such as a user's defense: containing them, and finding the line."""

from __future__ import annotations

import inspect
import sysconfig
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

from harness.process.signals import from_outside

PARTS = ("defenses", "attacks")
"""The packages of this project whose classes suites name and the engine calls."""


class Escape(Exception):
    """An exception that would have ended the process, such as `sys.exit()` in a defense, is its cause."""

    def __str__(self) -> str:
        text = str(self.__cause__)
        return f"{text}; this would end the whole program" if text else "this would end the whole program"


class contained:
    """Converts exceptions of the code inside the block that would end the process, such as SystemExit, to `Escape`.

    A signal passes through, and so does the GeneratorExit of a generator that is closed inside the block. `os._exit`
    cannot be caught and ends the process.
    """

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, Exception) or from_outside(error) or _closing(error):
            return
        raise Escape().with_traceback(trace) from error


def _closing(error: BaseException) -> bool:
    """Whether the exception was raised at a `yield` by closing the generator."""
    trace = error.__traceback__
    waits = trace is not None and trace.tb_next is None and trace.tb_frame.f_code.co_flags & inspect.CO_GENERATOR
    return isinstance(error, GeneratorExit) and bool(waits)


def kind(error: BaseException) -> str:
    """The name of the type of the original exception."""
    return type(error.__cause__ if isinstance(error, Escape) else error).__name__


def line_of(error: BaseException) -> str | None:
    """The origin of an exception, as "mine.py:12, in purify": the deepest line in the user's code, if there is one."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
    for ours in (theirs, _in_parts, _everywhere):
        if found := [frame for frame in frames if ours(frame.filename)]:
            functions = [frame.name for frame in found if not frame.name.startswith("<")]  # such as <listcomp>
            return _describe(found[-1].filename, found[-1].lineno, functions[-1] if functions else None)
    return None


def is_theirs(error: BaseException) -> bool:
    """Whether an exception passed through a line of the user's code."""
    return any(theirs(frame.filename) for frame in traceback.extract_tb(error.__traceback__))


def definition(function: Callable[..., Any]) -> str | None:
    """The place where the user defined a function, as "mine.py:9, in purify", or None for other functions."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return _describe(code.co_filename, code.co_firstlineno, code.co_name) if code and theirs(code.co_filename) else None


def _describe(filename: str, line: int | None, function: str | None) -> str:
    """Describes a line: the path relative to the current folder if the file is below it, otherwise the name."""
    path = Path(filename)
    shown: Path | str = path.name
    with suppress(OSError, ValueError):  # the current folder may be deleted, or not contain the file
        shown = path.relative_to(Path.cwd())
    return f"{shown}:{line}" + (f", in {function}" if function else "")


def folder_of(package: str) -> Path | None:
    """The folder of a package, found without importing it or its parents."""
    top, *rest = package.split(".")
    spec = find_spec(top)
    roots = spec.submodule_search_locations if spec else None
    return next((path for root in roots or [] if (path := Path(root, *rest)).is_dir()), None)


def theirs(filename: str) -> bool:
    """Whether a file belongs to the user: not to this project, not to an installed package, not to Python itself."""
    path = Path(filename)
    installed = {"site-packages", "dist-packages"} & set(path.parts)
    return not (filename.startswith("<") or installed or any(path.is_relative_to(root) for root in _not_theirs()))


def _in_parts(filename: str) -> bool:
    return any(Path(filename).is_relative_to(root) for root in _roots(*PARTS))


def _everywhere(filename: str) -> bool:
    return True


@cache
def _not_theirs() -> tuple[Path, ...]:
    library = [Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")]
    return (*_roots("harness", *PARTS), *library, *(path.resolve() for path in library))


@cache
def _roots(*packages: str) -> tuple[Path, ...]:
    folders = [folder for package in packages if (folder := folder_of(package))]
    return (*folders, *(folder.resolve() for folder in folders))
