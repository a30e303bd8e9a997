"""The command line: one file per command, and what they show."""

from __future__ import annotations

from harness.cli.main import main

__all__ = ["main"]
