"""Training from Python: what `harness train` does, without a terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness.callback import SILENT, Callback
from harness.settings import device_of
from harness.training import loop
from harness.weights.checkpoint import Checkpoint

if TYPE_CHECKING:
    import torch


def train(
    recipe: str | Path,
    out: str | Path | None = None,
    *,
    device: str | torch.device | None = None,
    callback: Callback = SILENT,
    runs: str | Path = "runs",
) -> Checkpoint:
    """Trains a network by a recipe, or continues a training that was stopped, as `harness train` does.

    Args:
        recipe: the YAML file of the recipe.
        out: the folder for the weights, NAME.safetensors, and their card; left out, `runs`/NAME.
        device: "cpu", "cuda", ...; left out, a GPU where there is one.
        callback: is told how far the training is; left out, nothing is printed.
        runs: the folder for checkpoints, from which another call continues.

    Returns:
        The checkpoint: its `card` has the clean accuracy, `network()` is the network.

    Raises:
        UserError: the recipe is not valid, another one has left a checkpoint under its name, or memory runs out.
        KeyboardInterrupt: it was stopped; the current step was finished, and a checkpoint written.

    Example:
        >>> from pathlib import Path
        >>> recipe = Path(folder) / "tiny.yaml"
        >>> _ = recipe.write_text(
        ...     "{recipe: tiny, trainer: {type: classifier}, network: {type: cnn, width: 4}, dataset: {name: digits},"
        ...     " steps: 5, batch_size: 32, card: {summary: a small CNN, licence: MIT, source: me}}"
        ... )
        >>> checkpoint = harness.train(recipe, folder, runs=folder)
        >>> checkpoint.card.steps, checkpoint.network().training
        (5, False)
    """
    file, folder = Path(recipe).expanduser(), None if out is None else Path(out).expanduser()
    weights = loop.train(file, folder, device_of(device), callback=callback, runs=Path(runs).expanduser())
    return Checkpoint.find(str(weights.resolve()), base=file.parent)  # its network may be in a file beside the recipe
