"""Upper limits for the size of a run. Suites and stored results that exceed them are rejected."""

from __future__ import annotations

MOST_IMAGES = 1_000_000
MOST_CLASSES = 2**20

MOST_VOTES, MOST_FLAGS = 1_000, 100
"""Upper limits per image."""

MOST_CELLS, MOST_PLACES = 5_000, 20_000
"""Upper limits for the pairings of a run, and for the places of its table (defenses x attacks)."""

MOST_VARIANTS = 1_000
"""The largest number of variants of a swept component."""

VALUES, LISTS, MOST_VALUES = 14, 4, 1_500_000
"""The number of single values in a record, the number of its lists with a value per vote, and the upper limit for the
number of all values in a shard."""
