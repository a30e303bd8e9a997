"""Limits on the work and the memory for reading one file, so that a hostile file can exhaust neither."""

from __future__ import annotations

from harness.errors import UserError

OPERATIONS = 2_000_000
"""The largest number of operations per file. The largest published checkpoint takes less than a tenth of it."""


class Budget:
    """The operations and the bytes that remain for reading a file.

    Args:
        size: the size of the file in bytes. Its content cannot be larger, since no supported format is compressed.
    """

    def __init__(self, size: int) -> None:
        self._operations, self._bytes = OPERATIONS, size

    def work(self) -> None:
        """Counts one more operation.

        Raises:
            UserError: there were more than `OPERATIONS`.
        """
        self._operations -= 1
        if self._operations < 0:
            raise UserError(
                f"The file takes more than {OPERATIONS:,} steps to read, as no real checkpoint does",
                remedy="Do not trust it",
            )

    def memory(self, size: int) -> None:
        """Counts `size` more bytes.

        Raises:
            UserError: the bytes counted so far are more than the file has.
        """
        self._bytes -= size
        if self._bytes < 0:
            raise UserError("The file says that it holds more bytes than it is long", remedy="Do not trust it")
