"""Where the user called the harness from, for messages about what the call said."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from harness.errors import Place


def calling_line() -> Place:
    """The line outside this package that called it; of a notebook or a prompt, its line alone."""
    frame = sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] == "harness":
        frame = frame.f_back
    file = frame.f_code.co_filename
    if not os.path.isfile(file):
        return Place(Path("<python>"), frame.f_lineno)
    path = Path(file)
    return Place(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path, frame.f_lineno)
