"""Where the files of a sound directory lie that are spoilt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

Spoil = Callable[[Path], object]
"""Changes a results directory, given its folder."""

PLACES = {
    "run.json": "run.json",
    "records": "cells/plain/noise/00000-00002.parquet",
    "images": "cells/plain/noise/00000-00002.safetensors",
    "a diagnosis": "diagnose/plain.json",
}
