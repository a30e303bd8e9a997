"""The command line: one file per command, and the displays of long commands."""

from __future__ import annotations

from harness.cli.main import main

__all__ = ["main"]
