"""A benchmark of defended image classifiers: defenses, attacks, and the robust accuracy between them.

Importing this package is cheap: torch is loaded by the modules that need it, never here.
"""

from __future__ import annotations

from harness.process import compat

__version__ = "0.1.0"

compat.install()
