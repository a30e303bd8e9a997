"""Every command that a text in backticks tells a user to type exists, with its options."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from harness.cli.main import app
from harness.cli.mistakes import SETTINGS

ROOT = Path(__file__).parents[1]
TEXTS = ("*.md", "docs/**/*.md", "benchmarks/*.md", "suites/**/*.yaml", "defenses/*.yaml", "harness/**/*.py")
COMMAND = re.compile(r"`harness ([a-z]+[^`\n]*)`")


def commands() -> Iterator[tuple[str, str]]:
    """Of each text but the history, its path and a command that it names."""
    paths = sorted({path for pattern in TEXTS for path in ROOT.glob(pattern)} - {ROOT / "CHANGELOG.md"})
    for path in paths:
        for line in COMMAND.findall(path.read_text()):
            yield path.relative_to(ROOT).as_posix(), line


def unknown(line: str) -> list[str]:
    """The words of a command that the program does not know: a command or an option."""
    command, words = typer.main.get_command(app), line.split()
    while words and hasattr(command, "commands"):
        names = words.pop(0).split("|")
        if missing := [name for name in names if name not in command.commands]:
            return missing
        command = command.commands[names[0]]
    known = {option for found in command.params for option in (*found.opts, *found.secondary_opts)}
    options = [word.strip("[],.").partition("=")[0] for word in words if word.strip("[").startswith("--")]
    return sorted(set(options) - known - set(SETTINGS["help_option_names"]))


def test_texts_name_commands_that_exist() -> None:
    found = list(commands())
    assert len({path for path, _ in found}) > 20
    assert [(path, line) for path, line in found if unknown(line)] == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("run SUITE --limit 3", []),
        ("weights info x", ["info"]),
        ("rnu", ["rnu"]),
        ("weights list|fetch|info", ["info"]),
        ("run a --limt=3", ["--limt"]),
    ],
)
def test_what_does_not_exist_is_found(line: str, words: list[str]) -> None:
    assert unknown(line) == words
