"""No defense makes the host wait for the device, forwards or backwards, but where `harness.process.waits` says so.

Left out are those that work on the host by design: `jpeg`, whose encoder does, and `sbgc` with the solver `dopri5`,
which picks each step by the error of the last, one image at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from defenses.adp import ADP
from defenses.canaries.bit_depth import BitDepth
from defenses.canaries.input_dropout import InputDropout
from defenses.canaries.resize_and_pad import ResizeAndPad
from defenses.canaries.scaled_logits import ScaledLogits
from defenses.canaries.shattered import Shattered
from defenses.canaries.thermometer import Thermometer
from defenses.dc import DC
from defenses.ddim import DDIM
from defenses.diffpure import DiffPure
from defenses.diffusion.random_times import RandomTimes
from defenses.fixed_noise import FixedNoise
from defenses.gdmp import GDMP
from defenses.jem import JEM
from defenses.langevin import Langevin
from defenses.likelihood_maximizer import LikelihoodMaximizer
from defenses.likelihood_threshold import LikelihoodThreshold
from defenses.optimal_dc import OptimalDC
from defenses.rdc import RDC
from defenses.rectified_flow import RectifiedFlow
from defenses.sbgc import SBGC
from defenses.undefended import Undefended
from harness.defense import Defense
from harness.gradients import VIEWS, Gradient
from harness.predict import query
from harness.search import Narrowing, Search

pytestmark = pytest.mark.slow

VP, EDM, HEADS = "digits-ncsnpp", "digits-edm", "digits-multihead"


def cnn() -> Undefended:
    return Undefended("digits-cnn")


DEFENSES: dict[str, Callable[[], Defense]] = {
    "undefended": cnn,
    "jem": lambda: JEM("digits-jem", noise=0.03),
    "hybvit": lambda: Undefended("digits-hybvit"),
    "dc": lambda: DC(VP, timesteps=3),
    "dc_single_pass": lambda: DC(VP, timesteps=3, gradient_passes="single"),
    "dc_fixed_noise": lambda: DC(VP, timesteps=3, noise="fixed", share_noise="both"),
    "dc_prior": lambda: DC(VP, timesteps=3, prior=[0.1] * 10),
    "dc_edm": lambda: DC(EDM, timesteps=3, weighting="edm"),
    "dc_edm_pair": lambda: DC(EDM, unconditional=VP, timesteps=3),
    "dc_heads": lambda: DC(HEADS, timesteps=3, share_noise="classes"),
    "dc_heads_without_graphs": lambda: DC(HEADS, timesteps=3, share_noise="classes", graph_memory=0),
    "rdc": lambda: RDC(VP, timesteps=2, steps=1),
    "rdc_tanh": lambda: RDC(VP, timesteps=2, steps=1, sign_gradient="tanh"),
    "rdc_l2": lambda: RDC(VP, timesteps=2, steps=1, norm="L2"),
    "rdc_adam": lambda: RDC(
        VP, timesteps=2, steps=1, optimizer="adam", purify_timesteps=RandomTimes(random=1), norm="L2"
    ),
    "likelihood_maximizer": lambda: LikelihoodMaximizer(VP, cnn(), timesteps=2, steps=1),
    "diffpure_sde": lambda: DiffPure(VP, cnn(), t_star=0.1, dt=0.1),
    "diffpure_ode": lambda: DiffPure(VP, cnn(), t_star=0.1, dt=0.1, solver="ode"),
    "diffpure_ddpm": lambda: DiffPure(VP, cnn(), t_star=0.1, dt=0.1, solver="ddpm"),
    "fixed_noise": lambda: FixedNoise(InputDropout(cnn(), 0.1)),
    "ddim": lambda: DDIM(VP, cnn(), steps=2),
    "gdmp": lambda: GDMP(VP, cnn(), t_star=0.1, dt=0.05, rounds=2),
    "gdmp_ssim": lambda: GDMP(VP, cnn(), t_star=0.1, dt=0.05, rounds=1, distance="ssim"),
    "rectified_flow": lambda: RectifiedFlow(VP, cnn(), steps=1),
    "rectified_flow_edm": lambda: RectifiedFlow(EDM, cnn(), steps=1, solver="euler"),
    "adp": lambda: ADP(VP, cnn(), steps=2),
    "langevin": lambda: Langevin("digits-jem", cnn(), steps=2),
    "likelihood_threshold": lambda: LikelihoodThreshold(VP, DDIM(VP, cnn(), steps=1), 0.2, timesteps=2),
    "likelihood_threshold_soft": lambda: LikelihoodThreshold(VP, DDIM(VP, cnn(), steps=1), 0.2, width=0.1, timesteps=2),
    "sbgc": lambda: SBGC(VP, steps=1, solver="euler", time="rounded"),
    "optimal_dc": lambda: OptimalDC("digits", per_class=3, timesteps=3),
    "bit_depth": lambda: BitDepth(cnn()),
    "input_dropout": lambda: InputDropout(cnn(), 0.1),
    "resize_and_pad": lambda: ResizeAndPad(cnn(), 6),
    "scaled_logits": lambda: ScaledLogits(cnn()),
    "shattered": lambda: Shattered(cnn()),
    "thermometer": lambda: Thermometer("digits-thermometer"),
}

# What a query may wait for, forwards and then backwards; all others wait for nothing.
CLASSES_OF_PAIRS = ["places"]
WAITS = {
    **dict.fromkeys((name for name in DEFENSES if name.startswith(("dc", "rdc"))), ([], CLASSES_OF_PAIRS)),
    "dc_single_pass": ([], []),
    "dc_heads": ([], []),  # whose graphs are kept
    "dc_heads_without_graphs": ([], CLASSES_OF_PAIRS),
    "sbgc": ([], CLASSES_OF_PAIRS),
    "optimal_dc": (["distinct", "places"], ["places", "distinct", "places"]),  # each class has its own images
}


@pytest.mark.parametrize("name", DEFENSES)
def test_queries_and_their_gradients_wait_for_the_device_where_it_is_said_and_nowhere_else(
    name: str, on_device: Callable[[], Any]
) -> None:
    defense = DEFENSES[name]().eval().to("meta")
    x = torch.rand(3, 1, 8, 8, device="meta", requires_grad=True)
    seeds = torch.arange(3, device="meta")
    for view in views(defense):
        with on_device() as waited:
            logits = query(defense, x, seeds, partial(VIEWS[view], defense))
            forwards = list(waited)
            (gradient,) = torch.autograd.grad(logits.sum(), x)
        assert logits.shape == (3, 10) and gradient.shape == x.shape
        assert logits.device == gradient.device == x.device
        assert (forwards, waited[len(forwards) :]) == WAITS.get(name, ([], [])), view


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("name", ["dc", "dc_edm_pair", "dc_heads", "rdc", "rdc_tanh", "likelihood_maximizer"])
def test_a_narrowed_query_of_a_search_waits_for_no_more(name: str, full: bool, on_device: Callable[[], Any]) -> None:
    defense = DEFENSES[name]().eval().to("meta")
    x = torch.rand(3, 1, 8, 8, device="meta", requires_grad=True)
    labels, classes = torch.zeros(3, device="meta").long(), torch.zeros(3, 3, device="meta").long()
    search = Search(timesteps=0.5, importance=True, purify_timesteps=0.5, rivals=2, common_noise=True)
    shares = torch.rand(3, 2 if name.startswith("rdc") else 3, device="meta")
    narrowed = (None, labels) if full else (classes, labels, shares)
    with on_device() as waited:
        logits = query(defense, x, torch.arange(3, device="meta"), narrowing=Narrowing(search, full, *narrowed))
        forwards = list(waited)
        (gradient,) = torch.autograd.grad(logits.sum(), x)
    assert gradient.shape == x.shape and not forwards and set(waited) <= set(CLASSES_OF_PAIRS)


def views(defense: Defense) -> list[Gradient]:
    """Those that differ for it. One that does not move images has the same in all."""
    if not defense.defines("purify"):
        return ["exact"]
    offers_adjoint = defense.defines("purify_adjoint")
    return ["exact", "bpda", "blind", *(["adjoint"] if offers_adjoint else [])]
