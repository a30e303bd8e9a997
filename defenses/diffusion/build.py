"""From checkpoints to the parts of a diffusion classifier: its denoiser, its number of classes, checks of arguments."""

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
    """A denoiser for rows with a class, and for rows without one if one of the networks was trained for them.

    Args:
        network: a class-conditional network.
        unconditional: a network for rows without a class, in place of `network`.
        process: the diffusion that both networks are used on.
    """
    conditional = adapted(network, process)
    if unconditional is not None:
        return Pair(conditional, Unconditional(adapted(unconditional, process)))
    return conditional if knows_no_class(network) else ClassesOnly(conditional)


def without_class(checkpoint: Checkpoint, spec: dict[str, Any] | None) -> nn.Module:
    """The network of a checkpoint that has no classes, or was also trained without them.

    Args:
        spec: its type and arguments, where the card does not give them.

    Raises:
        UserError: the network needs a class.
    """
    network = checkpoint.network(spec)
    if getattr(network, "num_classes", None) and not knows_no_class(network):
        raise UserError(
            f"the network of '{checkpoint.ref}' was never trained without a class, which purification needs",
            remedy="Name an unconditional network under `weights:`",
        )
    return network


def denoiser_without_class(weights: str | Checkpoint, spec: dict[str, Any] | None, process: Process) -> Denoiser:
    """The denoiser of a purifier: a network that needs no class, on a diffusion.

    Args:
        weights: its checkpoint, or the name of one.
        spec: its type and arguments, where the card does not give them.

    Raises:
        UserError: there is no such checkpoint, or the network needs a class.
    """
    return adapted(without_class(Checkpoint.find(weights), spec), process)


def classes_of(network: nn.Module, ref: str) -> int:
    """The number of classes of a network, K.

    Args:
        ref: the name of the network's checkpoint, for the error message.

    Raises:
        UserError: the network has no classes.
    """
    number = getattr(network, "num_classes", None)
    if not number:
        raise UserError(
            f"the network of checkpoint '{ref}' has no classes",
            remedy="Name a class-conditional one. Your own network gives their number by its attribute `num_classes`",
        )
    return int(number)


def sigma_data_of(weighting: Weighting, *networks: nn.Module) -> float:
    """The sigma_data that a weighting needs: that of the first network.

    Raises:
        UserError: the weighting is for EDM networks, and one of the networks is none.
    """
    if weighting in EDM_WEIGHTINGS:
        for network in networks:
            if getattr(network, "predicts", None) != "edm" or not hasattr(network, "sigma_data"):
                raise UserError(
                    f"weighting is '{weighting}', but {type(network).__name__} is not an EDM network",
                    remedy="Write `weighting: uniform`, or elbo. Your own EDM network needs the attributes "
                    "`predicts`, which is 'edm', and `sigma_data`",
                )
    return float(getattr(networks[0], "sigma_data", SIGMA_DATA))


def check_noise(share: Share, denoiser: Denoiser) -> None:
    """Raises UserError if each class is to have its own noise, and the network predicts all classes in one pass."""
    if share in ("none", "timesteps") and all_classes_of(denoiser) is not None:
        raise UserError(
            f"share_noise is '{share}', but the network predicts for all classes in one pass, of one noisy image",
            remedy="Write `share_noise: classes`, or both",
        )
