"""How wide the columns of a table are on a line that cannot hold all of them in full."""

from __future__ import annotations

from collections.abc import Sequence


def fit_columns(full: Sequence[int], least: Sequence[int], room: int) -> list[int] | None:
    """Widths of columns that together take no more than `room`; None where even the least widths take more.

    The columns are widened evenly from their least widths, so that a narrow one is whole before a wide one is.

    Args:
        full: the widths at which nothing is wrapped; least: those below which words would break.

    Example:
        >>> fit_columns([10, 40], [10, 12], 60)
        [10, 40]
        >>> fit_columns([10, 40], [6, 12], 30)
        [10, 20]
        >>> fit_columns([10, 40], [10, 12], 20) is None
        True
    """
    widths, left = list(least), room - sum(least)
    if left < 0:
        return None
    while left and (short := [at for at, width in enumerate(widths) if width < full[at]]):
        narrowest = min(short, key=lambda at: widths[at])
        widths[narrowest] += 1
        left -= 1
    return widths


def longest_word(texts: Sequence[str]) -> int:
    """The number of characters of the longest word in some texts."""
    return max((len(word) for text in texts for word in text.split()), default=0)
