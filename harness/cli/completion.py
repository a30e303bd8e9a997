"""`harness completion`: prints what makes a shell complete the commands, options and names of this program."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from harness.cli.mistakes import one_of
from harness.process.console import echo

SHELLS = ("bash", "zsh", "fish")
PROGRAM, ASKED = "harness", "_HARNESS_COMPLETE"
"""The name of the program, and the variable in which a shell says that it wants to know what can follow."""

Shell = Annotated[str, typer.Argument(metavar="|".join(SHELLS), help="The shell.", **one_of("shell", lambda: SHELLS))]


def completion(shell: Shell) -> None:
    """Print the script that makes a shell complete the commands of this program.

    Examples:

        eval "$(harness completion bash)"    # in ~/.bashrc

        eval "$(harness completion zsh)"     # in ~/.zshrc, after compinit

        harness completion fish > ~/.config/fish/completions/harness.fish
    """
    from typer.completion import get_completion_script

    echo(get_completion_script(prog_name=PROGRAM, complete_var=ASKED, shell=shell))


def prepare() -> None:
    """Makes ready for a shell's question, if this call is one."""
    if ASKED in os.environ:
        from typer.completion import completion_init

        completion_init()
