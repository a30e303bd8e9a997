"""TensorBoard's event files, in the folder WHERE/SUITE: `tensorboard --logdir WHERE` shows them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.tracking.recorder import Recorder, required

WHERE = "a folder"


def recorder(where: str) -> Recorder:
    """A recorder that writes below the folder `where`."""
    required("tensorboard", "tensorboard")
    return _TensorBoard(Path(where).expanduser())


class _TensorBoard(Recorder):
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None

    def begin(self, name: str, facts: Mapping[str, str]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(self._folder / name))
        self._writer.add_text("run", "\n".join(f"- {key}: {value}" for key, value in facts.items()))

    def record(self, numbers: Mapping[str, float], step: int) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def end(self, text: str) -> None:
        self._writer.add_text("table", text)
        self._writer.close()
