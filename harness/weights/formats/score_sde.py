"""Reads the training state of score-SDE (`checkpoint_8.pth` of DiffPure), whose averaged weights have no names.

    {"optimizer": …, "model": state dict, "ema": {"decay", "num_updates", "shadow_params": [tensor, …]}, "step": …}

The list `shadow_params` holds one average for each trained parameter, in the order in which the network registers
them. This is the order of `model` without the two entries that are not trained: the table of noise levels (a buffer)
and the frequencies of the Fourier embedding (a fixed parameter of the first layer). DiffPure uses only the averages.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from harness.errors import UserError
from harness.weights.formats import state_dict_keys

KEYS = ("ema", "model")
"""The keys by which `#key=` chooses the averaged and the last weights."""

NOT_TRAINED = ("sigmas", "all_modules.0.W")
OTHER_SCRIPT = "It may come from another network or a changed training script; save the averaged state_dict by name"


def recognises(content: Any) -> bool:
    """Tells whether the content of a file has the parts of this layout that are needed."""
    return (
        isinstance(content, dict)
        and isinstance(content.get("model"), dict)
        and isinstance(content.get("ema"), dict)
        and isinstance(content["ema"].get("shadow_params"), list)
    )


def read(content: dict[str, Any], ema: bool) -> tuple[dict[str, Tensor], list[str]]:
    """Returns the state dict, without the prefix of data-parallel training, and notes on how it was read.

    Args:
        content: the dictionary that was loaded from the file.
        ema: whether to take the averaged weights, not the last ones.

    Raises:
        UserError: the number or the shapes of the averages are not those of the parameters in `model`.
    """
    model = content["model"]
    if not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in model.items()):
        raise UserError("The training state's 'model' is not a state dict", remedy=OTHER_SCRIPT)
    state, notes = state_dict_keys.unwrapped(model)
    if not ema:
        return state, [*notes, "the last weights of training, as asked; the published results use the averaged ones"]
    trained = [key for key in state if key not in NOT_TRAINED]
    averages = content["ema"]["shadow_params"]
    if len(averages) != len(trained):
        raise UserError(
            f"The training state has {len(averages)} averages for the {len(trained)} parameters of its network",
            remedy=OTHER_SCRIPT,
        )
    for index, (key, average) in enumerate(zip(trained, averages, strict=True)):
        _check(index, key, state[key], average)
    notes.append(f"averaged weights (EMA) laid over {len(trained)} parameters in order; the last weights left aside")
    return state | dict(zip(trained, averages, strict=True)), notes


def _check(index: int, key: str, last: Tensor, average: Any) -> None:
    if not isinstance(average, Tensor) or average.shape != last.shape:
        description = tuple(average.shape) if isinstance(average, Tensor) else type(average).__name__
        raise UserError(
            f"Average {index} of the training state is {description}, but parameter '{key}' is {tuple(last.shape)}",
            remedy=OTHER_SCRIPT,
        )
