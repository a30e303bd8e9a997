"""What the server of `helpers.commands` imports once for all its processes."""

from __future__ import annotations

from helpers.forked import preload

preload()
