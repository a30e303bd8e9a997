"""Nothing that others wrote reaches a terminal as a command, or as something that it is not."""

from __future__ import annotations

import ast
import io
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

import harness
from harness.errors import UserError, one_line
from harness.process.console import echo, new_console, plain_column
from harness.process.visible_text import all_visible, visible

HOSTILE = {
    "colour": ("\x1b[31mred", r"\x1b[31mred"),
    "title of the window": ("\x1b]0;mine\x07", r"\x1b]0;mine\x07"),
    "eight-bit escape": ("\x9b2J", r"\x9b2J"),
    "line break": ("a\nerror: all is well", r"a\nerror: all is well"),
    "return": ("100.0\r  0.0", r"100.0\r  0.0"),
    "right to left": ("a\u202eb", r"a\u202eb"),
    "isolate": ("a\u2066b\u2069", r"a\u2066b\u2069"),
    "line separator": ("a\u2028b", r"a\u2028b"),
    "nothing": ("a\u200bb\ufeff", r"a\u200bb\ufeff"),
    "tag": ("a\U000e0041", r"a\U000e0041"),
    "surrogate of a file's name": ("a\udcff", r"a\udcff"),
}
PLAIN = [
    "",
    "eps 8/255",
    "Ölβ ε∞ 中文 é",
    "no-break\xa0space",
    "क्\u200dष می\u200cخواهم",
    "👩\u200d🔬",
    "100 % \\x1b [bold]",
]


@pytest.mark.parametrize(("text", "shown"), HOSTILE.values(), ids=HOSTILE.keys())
def test_what_a_terminal_would_obey_is_written_out(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert all_visible({text: [text, (1, None, text)]}) == {shown: [shown, [1, None, shown]]}


@pytest.mark.parametrize("text", PLAIN)
def test_what_readers_see_stays_as_it_is(text: str) -> None:
    assert visible(text) == text


def test_what_is_kept_is_kept() -> None:
    assert visible("a\n\tb\x1b", "\n\t") == "a\n\tb\\x1b"


@given(st.text(max_size=40))
@settings(deadline=None)
def test_no_control_or_format_character_is_left(text: str) -> None:
    left = {unicodedata.category(character) for character in visible(text) if character not in "\u200c\u200d"}
    assert not left & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert visible(visible(text)) == visible(text)
    visible(text).encode()


# --- printing


def printed(thing: object, **options: object) -> str:
    sink = io.StringIO()
    new_console(file=sink, width=60, force_terminal=True, no_color=True).print(thing, **options)  # type: ignore[arg-type]
    return sink.getvalue()


@pytest.mark.parametrize("text", ["\x1b[31mred", "\x9b2J", "a\u202eb", "a\udcffb"])
def test_a_console_writes_out_what_it_is_given_wherever_it_stands(text: str) -> None:
    table = Table(title=escape(text))
    table.add_column(escape(text))
    table.add_row(escape(text))
    below = Table(title=Text(text))
    below.add_row(Text(text))
    for thing, times in ((escape(text), 1), (Text(text), 1), (table, 3), (below, 1)):
        shown = printed(thing, highlight=False)
        assert shown.count(visible(text)) >= times
        assert not set(text) & set("\x9b\u202e\udcff") & set(shown)
        assert "\x1b[31m" not in shown


def test_a_console_keeps_styles_and_lines() -> None:
    sink = io.StringIO()
    new_console(file=sink, force_terminal=True, color_system="standard").print("[red]one[/]\ntwo")
    assert sink.getvalue() == "\x1b[31mone\x1b[0m\ntwo\n"


def test_no_name_becomes_an_emoji() -> None:
    table = Table(":x:", title=":x:")
    table.add_row(":x:")
    assert printed(table).count(":x:") == 3
    assert printed(":x:") == ":x:\n"
    sink = io.StringIO()
    with Progress(plain_column(), console=new_console(file=sink, force_terminal=True, no_color=True)) as progress:
        progress.add_task(":x: [bold]y[/]")
    assert ":x: [bold]y[/]" in sink.getvalue()


def test_single_lines_are_written_out_too(capsys: pytest.CaptureFixture[str]) -> None:
    echo("a,\x1b[31m\n\tb\x9b")
    assert capsys.readouterr().out == "a,\\x1b[31m\n\tb\\x9b\n"


@pytest.mark.slow
def test_nothing_else_in_the_harness_prints() -> None:
    """No module but `console` makes a console of rich's, or writes to the terminal past it."""
    for path in Path(harness.__file__).parent.rglob("*.py"):
        if path.name == "console.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            assert called not in ("Console", "rich.print", "typer.echo", "typer.secho", "click.echo"), (path, called)
            if called in ("TextColumn", "Progress") and path.name != "console.py":
                assert called != "TextColumn" and "console" in {word.arg for word in node.keywords}, path  # type: ignore[attr-defined]


# --- errors


@pytest.mark.parametrize(("text", "shown"), HOSTILE.values(), ids=HOSTILE.keys())
def test_an_error_is_one_paragraph_of_visible_text(text: str, shown: str) -> None:
    assert str(UserError(f"there is no '{text}'")) == f"there is no '{shown}'."
    told = one_line(ValueError(f"bad {text}"))
    assert told.startswith("ValueError: bad ")
    assert visible(told) == told
