"""All output to the terminal goes through this module, which escapes hidden characters and turns off emoji codes."""

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
"""Control characters that are allowed in text of several lines."""


class _Console(Console):
    """Escapes hidden characters in everything it renders, including cells of tables and live displays.

    Nothing is cut off at the end of a line: a terminal wraps what is too long.
    """

    def print(self, *objects: Any, crop: bool = False, **options: Any) -> None:
        super().print(*objects, crop=crop, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Escapes before layout, so that columns have the right width."""
        return super().render_str(visible(text, LINES), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text, LINES), segment.style)


def new_console(**options: Any) -> Console:
    """A console of rich that is safe for untrusted text. options: those of `rich.console.Console`."""
    return _Console(emoji=False, **options)


def plain_column(text: str = "{task.description}") -> TextColumn:
    """A column of a progress display whose text may contain neither markup nor emoji codes."""
    return TextColumn(text, markup=False)


def echo(text: str = "", *, err: bool = False, nl: bool = True) -> None:
    """Prints text without styles or wrapping: for output that programs read, and for single lines."""
    typer.echo(visible(text, LINES), err=err, nl=nl)
