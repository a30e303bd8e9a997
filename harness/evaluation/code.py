"""Which code computes: what other code has computed is not continued, nor computed beside it."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import torch

from harness.config import neighbours
from harness.process.foreign_code import folder_of


@cache
def code_digest() -> str:
    """A digest of the sources of this project as they were when first asked for, and of the version of PyTorch."""
    digest = hashlib.sha256(torch.__version__.encode())
    for package in neighbours.OURS:
        root = folder_of(package) or Path()
        for path in sorted(path for suffix in ("*.py", "*.yaml") for path in root.rglob(suffix)):
            digest.update(f"{path.relative_to(root)} {hashlib.sha256(path.read_bytes()).hexdigest()}".encode())
    return digest.hexdigest()
