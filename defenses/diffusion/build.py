"""What makes a diffusion classifier of checkpoints: its denoiser, its number of classes, and what fits its network."""

from __future__ import annotations

from typing import Any

from torch import nn

from defenses.diffusion.conditioning import ClassesOnly, Pair, Unconditional
from defenses.diffusion.denoiser import Denoiser, adapted, knows_no_class
from defenses.diffusion.loss import all_classes_of
from defenses.diffusion.noise import Share
from defenses.diffusion.schedule import Process
from defenses.diffusion.timesteps import EDM_WEIGHTINGS, SIGMA_DATA, Weighting
from harness.errors import UserError
from harness.weights import Checkpoint


def class_denoiser(network: nn.Module, unconditional: nn.Module | None, process: Process) -> Denoiser:
    """A denoiser for rows with a class, and for those without one if a network is there that was trained for them.

    Args:
        network: class-conditional.
        unconditional: asked for rows without a class, in place of `network`.
        process: the diffusion that both are put under.
    """
    conditional = adapted(network, process)
    if unconditional is not None:
        return Pair(conditional, Unconditional(adapted(unconditional, process)))
    return conditional if knows_no_class(network) else ClassesOnly(conditional)


def without_class(checkpoint: Checkpoint, spec: dict[str, Any] | None) -> nn.Module:
    """A checkpoint's network, which knows no classes or was trained to do without.

    Args:
        spec: its type and arguments, where the card does not say them.

    Raises:
        UserError: it must be told a class.
    """
    network = checkpoint.network(spec)
    if getattr(network, "num_classes", None) and not knows_no_class(network):
        raise UserError(
            f"the network of '{checkpoint.ref}' was never trained without a class, which purification needs",
            remedy="Name an unconditional one under `weights:`",
        )
    return network


def classes_of(network: nn.Module, ref: str) -> int:
    """K.

    Args:
        ref: what an error calls the network's checkpoint.

    Raises:
        UserError: the network knows no classes.
    """
    found = getattr(network, "num_classes", None)
    if not found:
        raise UserError(
            f"the network of checkpoint '{ref}' knows no classes",
            remedy="Name a class-conditional one; a network of your own says how many by its attribute `num_classes`",
        )
    return int(found)


def sigma_data_of(weighting: Weighting, *networks: nn.Module) -> float:
    """The sigma_data that a weighting needs, that of the first network.

    Raises:
        UserError: the weighting is EDM's, and one of the networks is not.
    """
    if weighting in EDM_WEIGHTINGS:
        for network in networks:
            if getattr(network, "predicts", None) != "edm" or not hasattr(network, "sigma_data"):
                raise UserError(
                    f"weighting is '{weighting}', but {type(network).__name__} is no EDM network",
                    remedy="Write `weighting: uniform`, or elbo. An EDM network of your own says so by its attributes "
                    "`predicts`, which is 'edm', and `sigma_data`",
                )
    return float(getattr(networks[0], "sigma_data", SIGMA_DATA))


def check_noise(share: Share, denoiser: Denoiser) -> None:
    """Raises UserError where classes that are predicted in one pass are to have noises of their own."""
    if share in ("none", "timesteps") and all_classes_of(denoiser) is not None:
        raise UserError(
            f"share_noise is '{share}', but the network predicts for all classes in one pass, of one noisy image",
            remedy="Write `share_noise: classes`, or both",
        )
