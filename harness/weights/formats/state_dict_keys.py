"""Removes from the names of tensors the parts that come from wrappers around the network.

A wrapper that a training script puts around a network adds a part to every name. Some of these parts never occur in a
network itself, and `unwrapped` always removes them. Others may be a part of the network, and `aligned` removes them
only if the names then are those of the network.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from harness.weights.normalization import Normalization

PARALLEL = "module."
INSIDE = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""The parts that torch.compile, FSDP and activation checkpointing insert anywhere in a name."""

AVERAGED_MODEL = "n_averaged"
"""The number of updates, which torch's AveragedModel saves beside the averaged network (`module.`)."""

ATTACKER = "attacker."
"""The prefix of the second copy of the network and its normalisation that the robustness library saves."""

ROBUSTNESS = ("normalizer.", ATTACKER)
"""The prefixes of what the robustness library saves besides the network, whose own prefix is `model.`."""

WRAPPERS = ("module.", "model.", "net.", "network.", "denoise_fn.", "ema_model.", "0.", "1.")
NORMALIZATIONS = (("mean", "std"), ("mu", "sigma"), ("new_mean", "new_std"))
"""The usual names of the mean and the standard deviation in a layer that normalises images."""

MOST_CHANNELS = 4
LABELS = ("label_embed", "map_label")
AVERAGES = ("ema.", "shadow_params", "ema_model.", "model_ema.")
Shape = Sequence[int]


class Aligned(NamedTuple):
    """Tensors with the names of a network, notes on the renaming, and the normalisation saved beside the network."""

    tensors: dict[str, Tensor]
    notes: list[str]
    normalization: Normalization | None = None


def unwrapped(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Removes the parts of names that never belong to a network, and returns the tensors and notes on the removal.

    These are the prefix `module.` of data-parallel training, if all names have it or if it follows the prefix
    `denoise_fn.` of HybViT's diffusion wrapper, and the parts that the wrappers of PyTorch and the robustness library
    add.
    """
    remaining, notes = _without_inside(dict(tensors))
    parallel = "it was saved from data-parallel training"
    if AVERAGED_MODEL in (name.removeprefix(PARALLEL) for name in remaining):
        remaining, _ = _strip(remaining, PARALLEL) if PARALLEL + AVERAGED_MODEL in remaining else (remaining, False)
        network, stripped = _strip({name: t for name, t in remaining.items() if name != AVERAGED_MODEL}, PARALLEL)
        if stripped:
            count, remaining = int(remaining[AVERAGED_MODEL]), network
            notes.append(f"averaged weights, of torch's AveragedModel after {count:,} updates")
    remaining, stripped = _strip(remaining, PARALLEL)
    inner = "denoise_fn." + PARALLEL
    if any(name.startswith(inner) for name in remaining):
        remaining, stripped = {name.replace(inner, "denoise_fn.", 1): value for name, value in remaining.items()}, True
    if stripped:
        notes.append(f"prefix '{PARALLEL}' taken off the names: {parallel}")
    if any(name.startswith(ROBUSTNESS) for name in remaining):
        kept = {name: value for name, value in remaining.items() if not name.startswith(ROBUSTNESS)}
        normalizer = {name: value for name, value in remaining.items() if name.startswith(ROBUSTNESS[0])}
        remaining = _strip(kept, "model.")[0] | normalizer
        notes.append("attacker of the robustness library left aside, prefix 'model.' taken off")
    return remaining, notes


def aligned(tensors: Mapping[str, Tensor], expected: Collection[str]) -> Aligned:
    """Removes prefixes that all names share, if more of the names are then those of the network.

    Args:
        tensors: the tensors of the file by name.
        expected: the names of the network's tensors.

    Returns:
        The tensors and a note on the prefix that was removed. A normalisation of images that is not a part of the
        network is returned separately.
    """
    whole = _aligned(tensors, expected)
    rest, normalization = _normalization(tensors)
    if normalization is None:
        return whole
    network = _aligned(rest, expected)
    if len(whole.tensors.keys() & set(expected)) > len(network.tensors.keys() & set(expected)):
        return whole
    return Aligned(network.tensors, network.notes, normalization)


def _aligned(tensors: Mapping[str, Tensor], expected: Collection[str]) -> Aligned:
    """Removes the prefixes with which the most names are expected ones; without any gain, it removes none."""
    best, best_prefix = dict(tensors), ""
    current, prefix = best, ""
    while current and (wrapper := next((w for w in WRAPPERS if all(name.startswith(w) for name in current)), None)):
        current, prefix = _strip(current, wrapper)[0], prefix + wrapper
        if len(current.keys() & set(expected)) > len(best.keys() & set(expected)):
            best, best_prefix = current, prefix
    return Aligned(best, [f"prefix '{best_prefix}' taken off the names"] if best_prefix else [])


def _normalization(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Normalization | None]:
    """Separates the tensors from the layer that normalises images by channel, if there is exactly one."""
    pairs = []
    for name in tensors:
        layer, dot, last = name.rpartition(".")
        beside = {other for other in tensors if dot and other.startswith(layer + dot)}
        for first, second in NORMALIZATIONS:
            pair = (name, f"{layer}{dot}{second}")
            if last == first and pair[1] in tensors and beside <= set(pair) and _is_small(tensors, pair):
                pairs.append(pair)
    if len(pairs) != 1:
        return dict(tensors), None
    mean, std = (tuple(tensors[name].double().flatten().tolist()) for name in pairs[0])
    return {name: value for name, value in tensors.items() if name not in pairs[0]}, Normalization(mean, std)


def _is_small(tensors: Mapping[str, Tensor], names: Collection[str]) -> bool:
    return all(0 < tensors[name].numel() <= MOST_CHANNELS for name in names)


def likely_cause(actual: Mapping[str, Shape], expected: Mapping[str, Shape]) -> str:
    """Returns a sentence without its full stop that says why a checkpoint probably does not fit a network.

    Args:
        actual: the shapes of the checkpoint's tensors by name.
        expected: the shapes of the network's tensors by name.
    """
    missing, unexpected = expected.keys() - actual.keys(), actual.keys() - expected.keys()
    if any(".lora_" in name for name in unexpected):
        return "The file holds adapters (LoRA); merge them into the network (`merge_and_unload` of peft) and save that"
    if unexpected and any(name.startswith(AVERAGES) for name in unexpected):
        return (
            "The file mixes averaged (EMA) and last weights; name the prefix of those you mean, as in `#key=ema_model`"
        )
    if not expected.keys() & actual.keys():
        if any(name.endswith(tuple(f".{other}" for other in expected)) for name in actual):
            return "The names carry a prefix that the network's do not; save the state_dict of the network itself"
        return "The checkpoint belongs to another network; check `type` under `network:`"
    if (missing or unexpected) and all(any(label in name for label in LABELS) for name in missing | unexpected):
        kind = "unconditional" if missing else "class-conditional"
        return f"The checkpoint is the {kind} variant; check the number of classes under `network:`"
    if missing or unexpected:
        size = "smaller or of another variant" if len(missing) > len(unexpected) else "larger or of another variant"
        return f"The checkpoint's network is {size}; check depth, blocks and attention under `network:`"
    return "The names agree, so the checkpoint is of another width or number of classes; check them under `network:`"


def _without_inside(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Removes the parts in `INSIDE` from the names, unless two names would become the same."""
    parts = {name: name.split(".") for name in tensors}
    taken = [part for part in INSIDE if any(part in words for words in parts.values())]
    renamed = {".".join(part for part in parts[name] if part not in taken): value for name, value in tensors.items()}
    if not taken or len(renamed) < len(tensors):
        return tensors, []
    return renamed, [f"'{part}.' taken out of the names: a wrapper of PyTorch's" for part in taken]


def _strip(tensors: dict[str, Tensor], prefix: str) -> tuple[dict[str, Tensor], bool]:
    """Removes a prefix from the names if all have it. Returns the tensors and whether the prefix was removed."""
    if not tensors or not all(name.startswith(prefix) for name in tensors):
        return tensors, False
    return {name.removeprefix(prefix): value for name, value in tensors.items()}, True
