"""What reading one file may cost: a hostile file must neither hang the reader nor exhaust the memory."""

from __future__ import annotations

from harness.errors import UserError

OPERATIONS = 2_000_000
"""The largest published checkpoints, a full training state of some 5,000 tensors, take under a tenth of this."""


class Budget:
    """Work and memory that remain for a file.

    Args:
        size: of the file, in bytes. What it holds cannot be larger, since no supported format compresses.
    """

    def __init__(self, size: int) -> None:
        self._operations, self._bytes = OPERATIONS, size

    def work(self) -> None:
        """One more operation.

        Raises:
            UserError: there were too many.
        """
        self._operations -= 1
        if self._operations < 0:
            raise UserError(
                f"The file takes more than {OPERATIONS:,} steps to read, as no real checkpoint does",
                remedy="Do not trust it",
            )

    def memory(self, size: int) -> None:
        """`size` more bytes.

        Raises:
            UserError: together they are more than the file has.
        """
        self._bytes -= size
        if self._bytes < 0:
            raise UserError("The file says that it holds more bytes than it is long", remedy="Do not trust it")
