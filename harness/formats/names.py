"""Names of tensors: what training scripts wrap around a network shows as a prefix of every name."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from torch import Tensor

PARALLEL = "module."
ROBUSTNESS = ("normalizer.", "attacker.")
"""Beside the network (`model.`), the robustness library saves its preprocessing and a second copy of the network."""
WRAPPERS = ("module.", "model.", "net.", "network.", "denoise_fn.", "ema_model.", "0.")
LABELS = ("label_embed", "map_label")
AVERAGES = ("ema.", "shadow_params", "ema_model.", "model_ema.")
Shape = Sequence[int]


def unwrapped(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors without what is known to be no part of a network's names, and notes on what was taken away.

    `module.` of data-parallel training goes if all names have it (or all of the network inside HybViT's diffusion
    wrapper, `denoise_fn.module.`); so does what the robustness library adds.
    """
    notes: list[str] = []
    found, stripped = _strip(dict(tensors), PARALLEL)
    inner = "denoise_fn." + PARALLEL
    if any(name.startswith(inner) for name in found):
        found, stripped = {name.replace(inner, "denoise_fn.", 1): value for name, value in found.items()}, True
    if stripped:
        notes.append(f"prefix '{PARALLEL}' taken off the names: the network was saved from data-parallel training")
    if any(name.startswith(ROBUSTNESS) for name in found):
        found, _ = _strip({name: value for name, value in found.items() if not name.startswith(ROBUSTNESS)}, "model.")
        notes.append("preprocessing and attacker of the robustness library left aside, prefix 'model.' taken off")
    return found, notes


def aligned(tensors: Mapping[str, Tensor], expected: Collection[str]) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors without the wrapper's prefix that keeps their names from being the expected ones, and a note on it.

    Args:
        tensors: as found.
        expected: the names of the network that they are for.

    Returns:
        The tensors, under the names as found unless taking off prefixes that all of them share makes more names fit.
    """
    best, best_prefix = dict(tensors), ""
    current, prefix = best, ""
    while current and (wrapper := next((w for w in WRAPPERS if all(name.startswith(w) for name in current)), None)):
        current, prefix = _strip(current, wrapper)[0], prefix + wrapper
        if len(current.keys() & set(expected)) > len(best.keys() & set(expected)):
            best, best_prefix = current, prefix
    return best, [f"prefix '{best_prefix}' taken off the names"] if best_prefix else []


def likely_cause(found: Mapping[str, Shape], expected: Mapping[str, Shape]) -> str:
    """Why a checkpoint does not fit a network, as a sentence without its full stop.

    Args:
        found: shapes of the checkpoint's tensors, by name.
        expected: shapes of the network's.
    """
    missing, unexpected = expected.keys() - found.keys(), found.keys() - expected.keys()
    if unexpected and any(name.startswith(AVERAGES) for name in unexpected):
        return "The file mixes averaged (EMA) and last weights; save one of the two alone"
    if not expected.keys() & found.keys():
        if any(name.endswith(tuple(f".{other}" for other in expected)) for name in found):
            return "The names carry a prefix that the network's do not; save the state_dict of the network itself"
        return "The checkpoint belongs to another network; check `type` under `network:`"
    if (missing or unexpected) and all(any(label in name for label in LABELS) for name in missing | unexpected):
        kind = "unconditional" if missing else "class-conditional"
        return f"The checkpoint is the {kind} variant; check the number of classes under `network:`"
    if missing or unexpected:
        size = "smaller or of another variant" if len(missing) > len(unexpected) else "larger or of another variant"
        return f"The checkpoint's network is {size}; check depth, blocks and attention under `network:`"
    return "The names agree, so the checkpoint is of another width or number of classes; check them under `network:`"


def _strip(tensors: dict[str, Tensor], prefix: str) -> tuple[dict[str, Tensor], bool]:
    if not tensors or not all(name.startswith(prefix) for name in tensors):
        return tensors, False
    return {name.removeprefix(prefix): value for name, value in tensors.items()}, True
