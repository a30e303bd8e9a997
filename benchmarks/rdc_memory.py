"""Memory and time of the gradient through likelihood maximisation: ours against one whole autograd graph.

    python benchmarks/rdc_memory.py           prints a Markdown table, in a few minutes

A gradient of `LikelihoodMaximization` with a straight-through sign, which takes a second derivative of the network for
each step and timestep; that in L2 does the same work. "Kept" is the same with as many graphs kept for the second
derivative as a defense keeps on this machine. Each row is a process of its own: ours is
measured first, then the whole graph, which needs more; memory is the rise of the peak resident set. All evaluate the
network in chunks of the same size and draw noise alike, on one thread, and the time is that thread's own (the best of a
few), so that a busy machine matters little. The network is a small conditional NCSN++ on one 8x8 image, in float32. A
graph of more than `LARGEST_GRAPH` evaluations is not built: its memory, which grows with their number, is extrapolated
and marked ~.
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

from defenses.diffusion.denoiser import NO_CLASS, DiscreteVP
from defenses.diffusion.likelihood import LikelihoodMaximization, maximize_likelihood
from defenses.diffusion.loss import DiffusionLoss
from defenses.diffusion.noise import GaussianNoise
from defenses.diffusion.schedule import discrete_vp
from defenses.diffusion.timesteps import time_grid
from defenses.networks.ncsnpp import NCSNpp

STEPS, TIMESTEPS = (1, 3, 10), (50, 200, 1000)
LARGEST_GRAPH = 1000
CHUNK = 50
REPEATS = 2


def maximization(steps: int, timesteps: int, graph_memory: float | None = 0) -> LikelihoodMaximization:
    torch.manual_seed(0)
    network = NCSNpp(
        image_size=8, channels=1, nf=16, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(), num_classes=10
    )
    grid = time_grid(discrete_vp(), timesteps)
    loss = DiffusionLoss(DiscreteVP(network), grid, GaussianNoise(), chunk=CHUNK, graph_memory=graph_memory)
    return LikelihoodMaximization(loss, steps=steps, sign_gradient="straight_through")


def whole_graph(purify: LikelihoodMaximization, x: Tensor) -> Tensor:
    """One purified image, (1, C, H, W), as plain autograd has it."""
    denoiser, grid = purify.loss.denoiser, purify.loss.grid.to(x)

    def gradient(images: Tensor, step: int) -> Tensor:
        total = torch.zeros(())
        for j in torch.arange(len(grid)).split(CHUNK):
            zero = torch.zeros_like(j)
            eps = purify.loss.noise(zero, zero, grid.timesteps[j], zero, images.shape[1:], images.dtype)
            x_t = grid.signal[j, None, None, None] * (2 * images - 1) + grid.sigma[j, None, None, None] * eps
            found = denoiser.eps(x_t, grid.timesteps[j], torch.full((len(j),), NO_CLASS))
            total = total + (found - eps).square().mean((1, 2, 3)) @ grid.weights[j]
        return torch.autograd.grad(total, images, create_graph=True)[0]

    return maximize_likelihood(x, gradient, purify.direction, ball=purify.ball, steps=purify.steps)


def peak() -> float:
    """MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def compare(steps: int, timesteps: int) -> dict[str, float]:
    """MiB and seconds of one gradient, ours and (where it is small enough) the whole graph's; seconds without one."""
    torch.set_num_threads(1)
    purify, keeping = maximization(steps, timesteps), maximization(steps, timesteps, None)
    x, seeds = torch.rand(1, 1, 8, 8, requires_grad=True), torch.zeros(1, dtype=torch.int64)

    def ours() -> None:
        purify(x, seeds).square().sum().backward()

    def kept() -> None:
        keeping(x, seeds).square().sum().backward()

    def graph() -> None:
        whole_graph(purify, x).square().sum().backward()

    whole_graph(maximization(1, 1), x).sum().backward()  # loads the libraries
    start = peak()
    result = {"our_seconds": seconds(ours), "our_memory": peak() - start}
    result["purify_seconds"] = seconds(lambda: purify(x.detach(), seeds))
    result |= {"kept_seconds": seconds(kept), "kept_memory": peak() - start}
    if steps * timesteps > LARGEST_GRAPH:
        return result
    result |= {"graph_seconds": seconds(graph), "graph_memory": peak() - start}
    for _ in range(REPEATS):
        result["our_seconds"] = min(result["our_seconds"], seconds(ours))
        result["kept_seconds"] = min(result["kept_seconds"], seconds(kept))
        result["graph_seconds"] = min(result["graph_seconds"], seconds(graph))
        result["purify_seconds"] = min(result["purify_seconds"], seconds(lambda: purify(x.detach(), seeds)))
    return result


def row(steps: int, timesteps: int, per_evaluation: float) -> tuple[str, float]:
    """A line of the table, and the graph's MiB per evaluation as last measured."""
    command = [sys.executable, __file__, str(steps), str(timesteps)]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    cells = [f"{steps}", f"{timesteps}", f"{found['our_memory']:,.0f}", f"{found['kept_memory']:,.0f}"]
    times = [f"{found[way]:.2f}" for way in ("purify_seconds", "our_seconds", "kept_seconds")]
    if "graph_memory" in found:
        per_evaluation = found["graph_memory"] / (steps * timesteps)
        ratios = [f"{found[way] / found['graph_seconds']:.2f}" for way in ("our_seconds", "kept_seconds")]
        cells += [f"{found['graph_memory']:,.0f}", *times, *ratios]
    else:
        cells += [f"~{per_evaluation * steps * timesteps:,.0f}", *times, "", ""]
    return f"| {' | '.join(cells)} |", per_evaluation


def main() -> None:
    memory, times = ["no graph kept, MiB", "kept, MiB", "whole graph, MiB"], ["purify, s", "none kept, s", "kept, s"]
    heads = ["N", "T'", *memory, *times, "none kept / whole", "kept / whole"]
    print(f"| {' | '.join(heads)} |")
    print("|" + "---:|" * len(heads))
    per_evaluation = 0.0
    for steps in STEPS:
        for timesteps in TIMESTEPS:
            line, per_evaluation = row(steps, timesteps, per_evaluation)
            print(line, flush=True)


if __name__ == "__main__":
    if sys.argv[1:]:
        print(json.dumps(compare(int(sys.argv[1]), int(sys.argv[2]))))
    else:
        main()
