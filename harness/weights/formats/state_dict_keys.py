"""Names of tensors: what training scripts wrap around a network shows as a part of every name.

Some wrappers say so in a name that no network would use, and go at once. Others could as well be a part of the network
itself, and go only where the names of the network that the tensors are for are known.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from harness.weights.normalization import Normalization

PARALLEL = "module."
INSIDE = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Parts of names that torch.compile, FSDP and activation checkpointing put in, anywhere."""

AVERAGED_MODEL = "n_averaged"
"""What torch's AveragedModel keeps beside the averaged network (`module.`)."""

ATTACKER = "attacker."
"""The robustness library saves a second copy of the network and its normalisation."""
ROBUSTNESS = ("normalizer.", ATTACKER)
"""Beside the network (`model.`), it saves its normalisation, and all of it a second time."""

WRAPPERS = ("module.", "model.", "net.", "network.", "denoise_fn.", "ema_model.", "0.", "1.")
NORMALIZATIONS = (("mean", "std"), ("mu", "sigma"), ("new_mean", "new_std"))
"""What layers that normalise images call what they subtract, and then divide by."""

MOST_CHANNELS = 4
LABELS = ("label_embed", "map_label")
AVERAGES = ("ema.", "shadow_params", "ema_model.", "model_ema.")
Shape = Sequence[int]


class Aligned(NamedTuple):
    """Tensors under a network's names, what was taken off, and the normalisation that stood beside the network."""

    tensors: dict[str, Tensor]
    notes: list[str]
    normalization: Normalization | None = None


def unwrapped(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors without what is known to be no part of a network's names, and notes on what was taken away.

    `module.` of data-parallel training goes if all names have it (or all of the network inside HybViT's diffusion
    wrapper, `denoise_fn.module.`); so does what PyTorch's own wrappers and the robustness library add.
    """
    found, notes = _without_inside(dict(tensors))
    parallel = "it was saved from data-parallel training"
    if AVERAGED_MODEL in (name.removeprefix(PARALLEL) for name in found):
        found, _ = _strip(found, PARALLEL) if PARALLEL + AVERAGED_MODEL in found else (found, False)
        network, stripped = _strip({name: t for name, t in found.items() if name != AVERAGED_MODEL}, PARALLEL)
        if stripped:
            count, found = int(found[AVERAGED_MODEL]), network
            notes.append(f"averaged weights, of torch's AveragedModel after {count:,} updates")
    found, stripped = _strip(found, PARALLEL)
    inner = "denoise_fn." + PARALLEL
    if any(name.startswith(inner) for name in found):
        found, stripped = {name.replace(inner, "denoise_fn.", 1): value for name, value in found.items()}, True
    if stripped:
        notes.append(f"prefix '{PARALLEL}' taken off the names: {parallel}")
    if any(name.startswith(ROBUSTNESS) for name in found):
        kept = {name: value for name, value in found.items() if not name.startswith(ROBUSTNESS)}
        normalizer = {name: value for name, value in found.items() if name.startswith(ROBUSTNESS[0])}
        found = _strip(kept, "model.")[0] | normalizer
        notes.append("attacker of the robustness library left aside, prefix 'model.' taken off")
    return found, notes


def aligned(tensors: Mapping[str, Tensor], expected: Collection[str]) -> Aligned:
    """The tensors without the wrapper's prefix that keeps their names from being the expected ones, and a note on it.

    Args:
        tensors: as found.
        expected: the names of the network that they are for.

    Returns:
        The tensors, under the names as found unless taking off prefixes that all of them share makes more names fit.
        A normalisation of images that is not the network's own is none of its tensors.
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
    best, best_prefix = dict(tensors), ""
    current, prefix = best, ""
    while current and (wrapper := next((w for w in WRAPPERS if all(name.startswith(w) for name in current)), None)):
        current, prefix = _strip(current, wrapper)[0], prefix + wrapper
        if len(current.keys() & set(expected)) > len(best.keys() & set(expected)):
            best, best_prefix = current, prefix
    return Aligned(best, [f"prefix '{best_prefix}' taken off the names"] if best_prefix else [])


def _normalization(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Normalization | None]:
    """The tensors without the layer that holds a mean and a standard deviation by channel, and it, if there is one."""
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


def likely_cause(found: Mapping[str, Shape], expected: Mapping[str, Shape]) -> str:
    """Why a checkpoint does not fit a network, as a sentence without its full stop.

    Args:
        found: shapes of the checkpoint's tensors, by name.
        expected: shapes of the network's.
    """
    missing, unexpected = expected.keys() - found.keys(), found.keys() - expected.keys()
    if any(".lora_" in name for name in unexpected):
        return "The file holds adapters (LoRA); merge them into the network (`merge_and_unload` of peft) and save that"
    if unexpected and any(name.startswith(AVERAGES) for name in unexpected):
        return (
            "The file mixes averaged (EMA) and last weights; name the prefix of those you mean, as in `#key=ema_model`"
        )
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


def _without_inside(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    parts = {name: name.split(".") for name in tensors}
    taken = [part for part in INSIDE if any(part in found for found in parts.values())]
    renamed = {".".join(part for part in parts[name] if part not in taken): value for name, value in tensors.items()}
    if not taken or len(renamed) < len(tensors):
        return tensors, []
    return renamed, [f"'{part}.' taken out of the names: a wrapper of PyTorch's" for part in taken]


def _strip(tensors: dict[str, Tensor], prefix: str) -> tuple[dict[str, Tensor], bool]:
    if not tensors or not all(name.startswith(prefix) for name in tensors):
        return tensors, False
    return {name.removeprefix(prefix): value for name, value in tensors.items()}, True
