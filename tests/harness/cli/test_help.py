"""Help fits the terminal: every command explains itself, and no line is cut inside a word."""

from __future__ import annotations

from typing import Any

import pytest
import typer

from harness import cli
from harness.cli.help import NARROWEST, WIDEST
from harness.cli.main import app

ROOT: Any = typer.main.get_command(app)
GROUPS = [[name] for name, found in ROOT.commands.items() if hasattr(found, "commands")]
COMMANDS = [[], *([name] for name in ROOT.commands)]
COMMANDS += [[*group, name] for group in GROUPS for name in ROOT.commands[group[0]].commands]


def printed(arguments: list[str], columns: int, capsys: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch) -> str:
    patch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_has_the_same_words_at_every_width_and_lines_no_longer_than_it(
    command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = printed([*command, "--help"], WIDEST, capsys, monkeypatch).split()
    for columns in (NARROWEST, 60, 80, 120):
        text = printed([*command, "-h"], columns, capsys, monkeypatch)
        assert text.split() == wide
        longest = max(len(word) for word in wide)
        assert all(len(line) <= max(columns, longest + columns // 3 + 4) for line in text.splitlines())
        if columns >= 60:
            assert all(len(line) <= columns for line in text.splitlines()), text


def test_a_command_alone_and_a_group_without_a_command_print_their_help(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert printed([], 80, capsys, monkeypatch) == printed(["--help"], 80, capsys, monkeypatch)
    assert printed(["weights"], 80, capsys, monkeypatch) == printed(["weights", "-h"], 80, capsys, monkeypatch)


def test_every_option_and_argument_says_what_it_is_for() -> None:
    for command in (*ROOT.commands.values(), *(c for g in GROUPS for c in ROOT.commands[g[0]].commands.values())):
        for parameter in command.params:
            assert parameter.help, f"{command.name} {parameter.name}"
            if parameter.param_type_name == "option" and not parameter.is_flag:
                assert parameter.metavar, f"{command.name} {parameter.name}"
