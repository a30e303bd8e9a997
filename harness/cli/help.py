"""The pages that `--help` prints: wrapped at the width of the terminal, and never inside a word.

Arguments, options and commands stand in two columns. A name that is too long for the left one has its text below it.
"""

from __future__ import annotations

import inspect
import shutil
import textwrap
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import Any

import typer

NARROWEST, WIDEST = 40, 120
"""Limits of the width that a page is written for."""

INDENT, GAP = 2, 2
"""Spaces before a name, and between a name and its text."""

Pairs = Sequence[tuple[str, str]]
"""Names, and what is said of them."""


def page(command: Any, ctx: typer.Context) -> str:
    """The page of a command, or of a group of commands.

    Args:
        command: typer's command; ctx: the context of its call.
    """
    width = max(NARROWEST, min(WIDEST, shutil.get_terminal_size().columns))
    text, _, examples = inspect.cleandoc(command.help or "").partition("Examples:\n")
    parameters = command.get_params(ctx)
    arguments = [found for found in parameters if found.param_type_name == "argument"]
    options = [found for found in parameters if found.param_type_name == "option"]
    commands = getattr(command, "commands", {})
    usage = [ctx.command_path, "[OPTIONS]", *(["COMMAND"] if commands else map(_usage, arguments))]
    parts = [_wrapped("Usage: " + " ".join(usage), width, "       ")]
    parts += [_wrapped(" ".join(paragraph.split()), width) for paragraph in text.split("\n\n")]
    if examples.strip():
        lines = [line.strip() for line in examples.splitlines() if line.strip()]
        parts.append("\n".join([_heading("Examples"), *(_wrapped(line, width, "      ", "    ") for line in lines)]))
    for title, pairs in (
        ("Arguments", [(_metavar(found), _text(found)) for found in arguments]),
        ("Options", [(_names(found), _text(found)) for found in options]),
        ("Commands", [(name, summary(found)) for name, found in commands.items()]),
    ):
        if pairs:
            parts.append("\n".join([_heading(title), *_listed(pairs, width)]))
    return "\n\n".join(part for part in parts if part)


def summary(command: Any) -> str:
    """The first paragraph of what a command says of itself."""
    return " ".join(inspect.cleandoc(command.help or "").split("\n\n")[0].split())


def _heading(text: str) -> str:
    return typer.style(f"{text}:", bold=True)


def _wrapped(text: str, width: int, later: str = "", first: str = "") -> str:
    """Text in lines of this width. first, later: what the first and the later lines begin with."""
    return textwrap.fill(
        text,
        width,
        initial_indent=first,
        subsequent_indent=later,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _listed(pairs: Pairs, width: int) -> Iterator[str]:
    """Two columns. The left one is as wide as its longest name that takes no more than a third of the line."""
    fitting = [len(name) for name, _ in pairs if len(name) <= width // 3]
    left = INDENT + max(fitting, default=4) + GAP
    for name, text in pairs:
        beside = len(name) <= left - INDENT - GAP
        head = " " * INDENT + name
        if not beside:
            yield head
        if text or beside:
            yield _wrapped(text, width, " " * left, head.ljust(left) if beside else " " * left)


def _metavar(parameter: Any) -> str:
    """What stands for the value of an argument or an option."""
    return str(parameter.metavar or parameter.name.upper().replace("_", "-")).strip("[]")


def _usage(argument: Any) -> str:
    text = _metavar(argument) + ("..." if argument.nargs == -1 else "")
    return text if argument.required else f"[{text}]"


def _names(option: Any) -> str:
    """An option as it is typed: `-h, --help`, `--limit N`, `--trust/--no-trust`."""
    names = ", ".join(sorted(option.opts, key=len))
    if option.secondary_opts:
        names += "/" + "/".join(option.secondary_opts)
    return names if option.is_flag else f"{names} {option.metavar or _metavar(option)}"


def _text(parameter: Any) -> str:
    text, default = " ".join((parameter.help or "").split()), parameter.default
    if default is None or isinstance(default, bool | Callable) or default == () or default == []:
        return text
    return f"{text} Default: {default.value if isinstance(default, Enum) else default}."
