"""The one way to the terminal: whatever is printed is made visible first, and nothing in it becomes an emoji."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import TextColumn
from rich.segment import Segment
from rich.text import Text

from harness.process.visible_text import visible

LINES = "\n\t"
"""What text of several lines is made of."""


class _Console(Console):
    """Escapes hidden characters in all that it renders, down to the cells of tables and the texts of live displays."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Here already, so that columns become as wide as what they will show."""
        return super().render_str(visible(text, LINES), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text, LINES), segment.style)


def new_console(**options: Any) -> Console:
    """A console of rich, for text that others wrote too. options: of `rich.console.Console`."""
    return _Console(emoji=False, **options)


def plain_column(text: str = "{task.description}") -> TextColumn:
    """A column of a progress display, whose text is read neither as markup nor for emoji."""
    return TextColumn(text, markup=False)


def echo(text: str = "", *, err: bool = False, nl: bool = True) -> None:
    """Prints text as it is, without styles or wrapping: for what programs read, and for single lines."""
    typer.echo(visible(text, LINES), err=err, nl=nl)
