"""Commands whose mistakes are reported like all others: one paragraph, with what was wrong and what to do about it.

The library of the command line has messages of its own for an unknown option, a missing argument or a value of the
wrong type. Here they become `UserError`, in the words that the rest of the program uses.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from harness.cli.help import page
from harness.errors import UserError, nearest

UsageError: type[Any] = typer.BadParameter.__mro__[1]
"""The library's class of all mistakes of a command line. Some versions of typer import it, others have a copy."""

SETTINGS = {"help_option_names": ["-h", "--help"]}


class Command(TyperCommand):
    """A command whose help and mistakes are those of this package. An option that is given twice is a mistake."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write(page(self, ctx))

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        written = list(args)
        try:
            return super().make_context(info_name, args, parent, **extra)
        except UsageError as error:
            raise explained(error, self, _path(info_name, parent), written) from error

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _refuse_repeated(self, ctx, args)
        return super().parse_args(ctx, args)


class Group(TyperGroup):
    """A group of commands, likewise. Without arguments it prints its help."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write(page(self, ctx))

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        written = list(args)
        try:
            return super().make_context(info_name, args or ["--help"], parent, **extra)
        except UsageError as error:
            raise explained(error, self, _path(info_name, parent), written) from error

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _refuse_repeated(self, ctx, args)
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] not in self.commands and not args[0].startswith("-"):
            remedy = nearest(args[0], self.commands)
            raise UserError(f"`{ctx.command_path}` has no command '{args[0]}'", remedy=remedy)
        return super().resolve_command(ctx, args)


def _refuse_repeated(command: Any, ctx: Any, args: Sequence[str]) -> None:
    """Refuses an option with one value that is given twice: the library would keep the last one, and say nothing.

    Raises:
        UserError: there is one.
    """
    if ctx.resilient_parsing:  # a shell completes the line
        return
    given = command.make_parser(ctx).parse_args(args=list(args))[2]
    for parameter, times in Counter(given).items():
        switch = getattr(parameter, "is_flag", False) and not parameter.secondary_opts
        if times > 1 and parameter.param_type_name == "option" and not parameter.multiple and not switch:
            name = "/".join([max(parameter.opts, key=len), *parameter.secondary_opts])
            raise UserError(
                f"`{ctx.command_path}` was given {name} {times} times, and it has one value",
                remedy=f"Leave out all but one. {_see(ctx.command_path)}",
            )


def _path(info_name: str | None, parent: Any) -> str:
    """The command as it is typed, such as `harness weights list`."""
    return f"{parent.command_path} {info_name}" if parent else str(info_name)


def explained(error: Any, command: Any, path: str, written: Sequence[str]) -> UserError:
    """A mistake of the library as one of ours.

    Args:
        command: that was called; path: it as it is typed.
        written: its arguments as they were typed.

    The library's error on what is missing has a `param_type`, and that on a value has none.
    """
    parameter, name = getattr(error, "param", None), getattr(error, "option_name", None)
    if name and hasattr(error, "possibilities"):
        known = [option for found in command.params for option in (*found.opts, *found.secondary_opts)]
        options = [option for option in (*known, *SETTINGS["help_option_names"]) if option.startswith("-")]
        return UserError(f"`{path}` has no option '{name}'", remedy=nearest(name, options))
    if name:
        return UserError(f"the option '{name}' of `{path}` needs a value", remedy=_see(path))
    if parameter is None:
        extra = re.search(r"unexpected extra arguments?(?:\(s\))? \((.*)\)", error.message)
        if extra:
            return UserError(f"`{path}` takes no argument '{extra[1]}'", remedy=_see(path))
        return UserError(f"`{path}`: {error.message.rstrip('.')}", remedy=_see(path))
    title = max(parameter.opts, key=len) if parameter.param_type_name == "option" else parameter.metavar
    value = None if hasattr(error, "param_type") else _value(parameter, command, error.ctx, written)
    if value is None:
        return UserError(f"`{path}` needs {title}", remedy=f"{parameter.help.rstrip('.')}. {_see(path)}")
    return UserError(f"{title} is '{value}': {_reason(error.message)}", remedy=_see(path))


def _see(path: str) -> str:
    return f"`{path} --help` explains it"


def _value(parameter: Any, command: Any, ctx: Any, written: Sequence[str]) -> str | None:
    """What was typed for an option or an argument; the first, of several."""
    typed = command.make_parser(ctx).parse_args(args=list(written))[0].get(parameter.name)
    return typed[0] if isinstance(typed, (list, tuple)) and typed else typed


def _reason(message: str) -> str:
    """Why a value does not fit, in the words that messages on suites use."""
    text = re.sub(r"^(Value error, )?", "", message).rstrip(".")
    for word, plain in (("Input should be", "it should be"), ("a valid integer", "a whole number")):
        text = text.replace(word, plain)
    return text.partition(", unable to")[0]


def one_of(what: str, names: Callable[[], Iterable[str]]) -> dict[str, Any]:
    """Settings of an option or argument that takes one of several names.

    Args:
        what: what a name stands for, such as "report format".
        names: called when they are needed.
    """

    def chosen(text: str) -> str:
        known = list(names())
        if text not in known:
            raise UserError(f"there is no {what} '{text}'", remedy=nearest(text, known))
        return text

    return {"parser": chosen, "autocompletion": lambda: list(names())}
