"""Whether every module that a defense calls is in evaluation mode, those too that `eval()` does not reach.

A module in a plain list, in a dictionary or in a closure is no submodule: `eval()` passes it by, and it goes on
dropping activations at random, or normalising by the statistics of the batch. Calls are watched, so it does not matter
where the module is kept. Modules whose answer does not depend on the mode are left alone.
"""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from harness.checks.finding import Outcome, check
from harness.checks.probe import Probe


@check("evaluation mode", passes=0)
def evaluation_mode(probe: Probe) -> Outcome:
    _ = probe.logits
    called = list({id(module): module for module in probe.called}.values())
    names = {id(module): name for name, module in probe.defense.named_modules()}
    for module in called:
        if fault := _fault(module, probe.defense.stochastic):
            hidden = id(module) not in names
            which = "that is no submodule of the defense" if hidden else f"`{names[id(module)]}`"
            remedy = "keep it in an nn.ModuleList or as an attribute, so that eval() reaches it" if hidden else ""
            return "failed", f"a {type(module).__name__} {which} {fault}" + (f"; {remedy}" if remedy else "")
    return "passed", f"{len(called)} modules are called, none of them as while training"


def _fault(module: nn.Module, random: bool) -> str | None:
    """What a module does that belongs to training. random: the defense says that it draws noise."""
    if isinstance(module, _BatchNorm):
        if module.training:
            return "is in training mode and normalises by the statistics of the batch"
        if module.running_mean is None:
            return "keeps no running statistics and normalises by those of the batch"
    drops = module.p if isinstance(module, _DropoutNd) else module.dropout if _attends(module) else 0
    if module.training and not random and (drops or isinstance(module, nn.RReLU)):
        return "is in training mode and answers at random"
    return None


def _attends(module: nn.Module) -> bool:
    return isinstance(module, nn.MultiheadAttention | nn.RNNBase)
