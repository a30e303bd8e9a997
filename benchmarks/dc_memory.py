"""Memory and time of a diffusion classifier's gradient: ours against one whole autograd graph.

    python benchmarks/dc_memory.py            prints a Markdown table, in a few minutes

Each row is a process of its own: ours is measured first, then the whole graph, which needs more; memory is the rise of
the peak resident set. Both evaluate the network in chunks of the same size, on one thread, and the time is that
thread's own (the best of a few), so that a busy machine matters little. The network is a small conditional NCSN++ on
one 8x8 image, in float32. A graph of more than `LARGEST_GRAPH` evaluations is not built: its memory, which grows with
their number, is extrapolated and marked ~.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from defenses.diffusion.chunked_gradient import Passes
from defenses.diffusion.denoiser import DiscreteVP
from defenses.diffusion.loss import DiffusionLoss
from defenses.diffusion.noise import GaussianNoise
from defenses.diffusion.schedule import discrete_vp
from defenses.diffusion.timesteps import time_grid
from defenses.networks.ncsnpp import NCSNpp

CLASSES, TIMESTEPS = (10, 100), (50, 200, 1000)
LARGEST_GRAPH = 5000
CHUNK = 100
REPEATS = 4


def diffusion_loss(num_classes: int, timesteps: int, passes: Passes) -> DiffusionLoss:
    torch.manual_seed(0)
    network = NCSNpp(
        image_size=8, channels=1, nf=16, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(), num_classes=num_classes
    )
    grid = time_grid(discrete_vp(), timesteps)
    return DiffusionLoss(DiscreteVP(network), grid, GaussianNoise(), chunk=CHUNK, passes=passes)


def whole_graph(loss: DiffusionLoss, x: Tensor, classes: Tensor) -> Tensor:
    """The losses of one image, (1, K), as plain autograd has them."""
    grid, parts = loss.grid.to(x), []
    for y in classes:
        for j in torch.arange(len(grid)).split(CHUNK):
            eps = torch.randn(len(j), *x.shape[1:])
            x_t = grid.signal[j, None, None, None] * (2 * x - 1) + grid.sigma[j, None, None, None] * eps
            found = loss.denoiser.eps(x_t, grid.timesteps[j], y.expand(len(j)))
            parts.append((found - eps).square().mean((1, 2, 3)) @ grid.weights[j])
    return torch.stack(parts).view(1, len(classes), -1).sum(2)


def cross_entropy(logits: Tensor) -> Tensor:
    return F.cross_entropy(logits, torch.tensor([3]))


def margin(logits: Tensor) -> Tensor:
    return logits[0, 3] - logits[0, torch.arange(logits.shape[1]) != 3].amax()


def peak() -> float:
    """MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def seconds(work: Callable[[], None]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def compare(
    num_classes: int, timesteps: int, passes: Passes, objective: Callable[[Tensor], Tensor]
) -> dict[str, float]:
    """MiB and seconds of one gradient, ours and (where it is small enough) the whole graph's."""
    torch.set_num_threads(1)
    loss, classes = diffusion_loss(num_classes, timesteps, passes), torch.arange(num_classes)
    x, seeds = torch.rand(1, 1, 8, 8, requires_grad=True), torch.zeros(1, dtype=torch.int64)

    def ours() -> None:
        objective(-loss(x, classes, seeds)).backward()

    def graph() -> None:
        objective(-whole_graph(loss, x, classes)).backward()

    whole_graph(diffusion_loss(num_classes, 1, passes), x, classes[:4]).sum().backward()  # loads the libraries
    start = peak()
    result = {"our_seconds": seconds(ours), "our_memory": peak() - start}
    if num_classes * timesteps > LARGEST_GRAPH:
        return result
    result |= {"graph_seconds": seconds(graph), "graph_memory": peak() - start}
    for _ in range(REPEATS):
        result["our_seconds"] = min(result["our_seconds"], seconds(ours))
        result["graph_seconds"] = min(result["graph_seconds"], seconds(graph))
    return result


OBJECTIVES: dict[str, tuple[Callable[[Tensor], Tensor], Passes]] = {
    "margin": (margin, "two"),
    "cross-entropy": (cross_entropy, "single"),
}


def row(num_classes: int, timesteps: int, name: str, per_evaluation: float) -> tuple[str, float]:
    """A line of the table, and the graph's MiB per evaluation as last measured."""
    command = [sys.executable, __file__, str(num_classes), str(timesteps), name]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    cells = [f"{num_classes}", f"{timesteps}", f"{name} ({OBJECTIVES[name][1]})", f"{found['our_memory']:,.0f}"]
    if "graph_memory" in found:
        per_evaluation = found["graph_memory"] / (num_classes * timesteps)
        ratio = found["our_seconds"] / found["graph_seconds"]
        cells += [f"{found['graph_memory']:,.0f}", f"{found['our_seconds']:.2f}", f"{ratio:.2f}"]
    else:
        guess = per_evaluation * num_classes * timesteps
        cells += [f"~{guess:,.0f}", f"{found['our_seconds']:.2f}", ""]
    return f"| {' | '.join(cells)} |", per_evaluation


def main() -> None:
    print("| K | T' | loss (passes) | ours, MiB | whole graph, MiB | ours, s | time, ours / whole graph |")
    print("|---:|---:|---|---:|---:|---:|---:|")
    per_evaluation = 0.0
    for num_classes in CLASSES:
        for timesteps in TIMESTEPS:
            for name in OBJECTIVES:
                line, per_evaluation = row(num_classes, timesteps, name, per_evaluation)
                print(line, flush=True)


if __name__ == "__main__":
    if sys.argv[1:]:
        objective, passes = OBJECTIVES[sys.argv[3]]
        print(json.dumps(compare(int(sys.argv[1]), int(sys.argv[2]), passes, objective)))
    else:
        main()
