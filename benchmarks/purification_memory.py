"""Memory and time of the gradient through a purification: step by step, by the adjoint, and in one autograd graph.

    python benchmarks/purification_memory.py            prints a Markdown table, in a few minutes

Each number comes from a process of its own; memory is the rise of its peak resident set, time that of its one thread
(the best of a few), so that a busy machine matters little. "Kept graphs" is step by step with as many graphs kept as a
defense keeps on this machine. The network is a small NCSN++ on four 8x8 images, in
float32; the gradient is that of the sum of the purified images.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from defenses.diffusion.denoiser import NoisePredictor
from defenses.diffusion.graph_memory import allowance
from defenses.diffusion.reverse import (
    Ancestral,
    Draw,
    EulerMaruyama,
    Solver,
    continuous_times,
    denoised,
    denoised_by_adjoint,
    discrete_times,
)
from defenses.diffusion.schedule import ContinuousVP, discrete_vp
from defenses.networks.ncsnpp import NCSNpp
from harness.randomness import fold, normal

SOLVERS, STEPS = ("sde", "ode", "ddpm"), (10, 100, 1000)
SHAPE = (4, 1, 8, 8)
REPEATS = 2


def reverse(kind: str, steps: int) -> Solver:
    """The whole diffusion, t* = 1, in so many steps."""
    torch.manual_seed(0)
    network = NCSNpp(image_size=8, channels=1, nf=16, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=())
    if kind == "ddpm":
        schedule = discrete_vp()
        times = discrete_times(1, 1 / steps, len(schedule))
        return Ancestral(NoisePredictor(network, schedule), schedule, times)
    process = ContinuousVP()
    times = continuous_times(1, 1 / steps)
    return EulerMaruyama(NoisePredictor(network, process), process, times, noise=kind == "sde")


def whole_graph(solver: Solver, x: Tensor, draw: Draw) -> Tensor:
    for i in range(len(solver)):
        x = solver.step(i, x, draw)
    return x


WAYS: dict[str, Callable[[Solver, Tensor, Draw], Tensor]] = {
    "step-wise": denoised,
    "kept graphs": lambda solver, x, draw: denoised(solver, x, draw, allowed=allowance(x, None)),
    "adjoint": denoised_by_adjoint,
    "whole graph": whole_graph,
}


def peak() -> float:
    """MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(kind: str, steps: int, way: str) -> dict[str, float]:
    """MiB and seconds of one gradient."""
    torch.set_num_threads(1)
    x, seeds = torch.rand(SHAPE, requires_grad=True), torch.arange(SHAPE[0])

    def gradient(solver: Solver) -> float:
        began = time.process_time()
        end = WAYS[way](solver, x, lambda i: normal(fold(seeds, i), SHAPE[1:]))
        torch.autograd.grad(end.sum(), x)
        return time.process_time() - began

    gradient(reverse(kind, 2))  # loads the libraries
    start, solver = peak(), reverse(kind, steps)
    seconds = gradient(solver)
    memory = peak() - start
    return {"memory": memory, "seconds": min([seconds, *(gradient(solver) for _ in range(REPEATS - 1))])}


def row(kind: str, steps: int) -> str:
    found = {}
    for way in WAYS:
        command = [sys.executable, __file__, kind, str(steps), way]
        found[way] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    seconds = {way: numbers["seconds"] for way, numbers in found.items()}
    cells = [kind, f"{steps}", *(f"{numbers['memory']:,.1f}" for numbers in found.values())]
    cells += [f"{seconds['step-wise']:.2f}"]
    cells += [f"{seconds[way] / seconds['whole graph']:.2f}" for way in ("step-wise", "kept graphs", "adjoint")]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    heads = ["solver", "steps", *(f"{way}, MiB" for way in WAYS)]
    heads += ["step-wise, s", *(f"{way} / graph" for way in ("step-wise", "kept graphs", "adjoint"))]
    print(f"| {' | '.join(heads)} |")
    print("|---|" + "---:|" * (len(heads) - 1))
    for kind in SOLVERS:
        for steps in STEPS:
            print(row(kind, steps), flush=True)


if __name__ == "__main__":
    if sys.argv[1:]:
        print(json.dumps(measure(sys.argv[1], int(sys.argv[2]), sys.argv[3])))
    else:
        main()
