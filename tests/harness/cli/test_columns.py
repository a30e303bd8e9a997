"""Tables of the terminal: words stay whole at any width, and columns take the room that is there."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.cli.columns import Column, Columns
from harness.process.column_widths import fit_columns, longest_word
from harness.process.console import new_console

HEADS = ["pairing", Column("votes equal", right=True), "what it is"]
ROWS = [
    ("undefended/linf", "12", "a classifier, trained without adversaries and never tested against any of them"),
    ("rdc/averylongname.eta-0.031", "1,024", "short"),
]


def printed(table: Columns, width: int) -> str:
    sink = io.StringIO()
    new_console(file=sink, width=width).print(table)
    return sink.getvalue()


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120, 200])
def test_every_word_is_whole_at_every_width(width: int) -> None:
    words = printed(Columns(HEADS, ROWS), 1000).split()
    narrow = printed(Columns(HEADS, ROWS), width).split()
    assert {word.strip(":") for word in narrow} == set(words) - ({"pairing"} if width < 40 else set())
    if width >= 40:
        assert all(len(line) <= width for line in printed(Columns(HEADS, ROWS), width).splitlines())


def test_a_table_of_texts_too_narrow_for_its_columns_names_each_cell() -> None:
    assert printed(Columns(["pairing", "votes\nequal", "what it is"], ROWS[1:]), 40).splitlines()[:3] == [
        "rdc/averylongname.eta-0.031",
        "    votes equal: 1,024",
        "    what it is: short",
    ]


def test_a_name_too_long_for_its_column_stands_above_its_numbers() -> None:
    heads = ["pairing", Column("forwards\nper image", right=True), Column("in total", right=True)]
    rows = [
        ("rdc.spacing-first.timesteps-10/linf\nLinf 0.2: adaptive, 2 rounds", "694", "7.266 M"),
        ("total", "", "9 M"),
    ]
    assert [line.rstrip() for line in printed(Columns(heads, rows), 42).splitlines()] == [
        "                        forwards",
        "pairing                per image  in total",
        "rdc.spacing-first.timesteps-10/linf",
        "Linf 0.2: adaptive, 2        694   7.266 M",
        "rounds",
        "total                                  9 M",
    ]


def test_markup_in_a_cell_is_text() -> None:
    assert "[red]x[/]" in printed(Columns(["a"], [("[red]x[/]",)]), 40)


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), min_size=1, max_size=6), st.integers(0, 200))
def test_fitted_widths_lie_between_least_and_full_and_use_the_room(pairs: list[tuple[int, int]], room: int) -> None:
    least, full = [min(pair) for pair in pairs], [max(pair) for pair in pairs]
    widths = fit_columns(full, least, room)
    if widths is None:
        assert sum(least) > room
        return
    assert all(low <= width <= high for low, width, high in zip(least, widths, full, strict=True))
    assert sum(widths) == min(room, sum(full))


def test_the_longest_word_is_that_of_any_of_the_texts() -> None:
    assert longest_word(["a bcd", "", "ef\nghijk l"]) == 5
    assert longest_word([]) == 0
