"""How much a run may hold. What is beyond is refused: where a suite asks for it, and where results claim to have it."""

from __future__ import annotations

MOST_IMAGES = 1_000_000
MOST_CLASSES = 2**20

MOST_VOTES, MOST_FLAGS = 1_000, 100
"""Of an image."""

MOST_CELLS, MOST_PLACES = 5_000, 20_000
"""Most pairings of a run, and most places of its table (defenses x attacks)."""

MOST_VARIANTS = 1_000
"""Of a swept component."""

VALUES, LISTS, MOST_VALUES = 14, 4, 1_500_000
"""Of a record: its single values, and its lists of a value per vote. Of a shard: all of them together."""
