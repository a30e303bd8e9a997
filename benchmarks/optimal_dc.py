"""Memory and time of the optimal diffusion classifier's gradient: ours against Corollary 3.3 in one autograd graph.

    python benchmarks/optimal_dc.py            prints a Markdown table, in a few minutes

D is N random images of CIFAR-10's shape in ten classes. Measured is the gradient of a margin of one image, in float32
on one thread. Each row is a process of its own; ours comes first, then the graph, which needs more. Memory is the rise
of the peak resident set above that of the process that holds D, which float32 makes 12 KiB an image. The graph keeps
differences between images, N for each timestep; where they are more than `LARGEST_GRAPH` it is not built, and its
memory and time, which grow with their number, are extrapolated and marked ~.
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

from defenses.diffusion.loss import DiffusionLoss
from defenses.diffusion.noise import GaussianNoise
from defenses.diffusion.optimal import OptimalDenoiser
from defenses.diffusion.schedule import discrete_vp
from defenses.diffusion.timesteps import time_grid
from defenses.optimal_dc import CHUNK

ROWS = ((1000, 10), (1000, 50), (5000, 10), (50_000, 10), (50_000, 50))
LARGEST_GRAPH = 50_000
CLASSES, SHAPE = 10, (3, 32, 32)


def make(count: int, timesteps: int) -> DiffusionLoss:
    """With D put in place at once: sorting images into it would leave a peak that hides the one to be measured."""
    schedule = discrete_vp()
    optimal = OptimalDenoiser(torch.zeros(CLASSES, *SHAPE), torch.arange(CLASSES), CLASSES, schedule, CHUNK)
    generator = torch.Generator().manual_seed(0)
    optimal.data = torch.empty(count, optimal.data.shape[1]).uniform_(-1, 1, generator=generator)
    optimal.counts = [count // CLASSES] * CLASSES
    return DiffusionLoss(optimal, time_grid(schedule, timesteps), GaussianNoise(), chunk=CHUNK)


def whole_graph(loss: DiffusionLoss, x: Tensor) -> Tensor:
    """Corollary 3.3 as it is printed, with new noise: (1, K)."""
    grid, optimal, image = loss.grid.to(x), loss.denoiser, (2 * x - 1).flatten(1)
    totals = []
    for known in optimal.data.split(optimal.counts):
        terms = []
        for a, sigma in zip(grid.signal, grid.sigma, strict=True):
            differences, eps = image - known, torch.randn_like(image)
            weights = torch.softmax(-(a * differences + sigma * eps).square().sum(1) / (2 * sigma**2), 0)
            terms.append((a / sigma) ** 2 * (weights @ differences).square().mean())
        totals.append(torch.stack(terms).mean())
    return torch.stack(totals)[None]


def margin(losses: Tensor) -> Tensor:
    return losses[0, 3] - losses[0, torch.arange(CLASSES) != 3].amin()


def peak() -> float:
    """MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def seconds(work: Callable[[], None]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def compare(count: int, timesteps: int) -> dict[str, float]:
    """MiB and seconds of one gradient, ours and (where it is small enough) the whole graph's."""
    torch.set_num_threads(1)
    x, seeds = torch.rand(1, *SHAPE, requires_grad=True), torch.zeros(1, dtype=torch.int64)

    def ours() -> None:
        margin(loss(x, torch.arange(CLASSES), seeds)).backward()

    loss = make(100, 1)
    ours()  # loads the libraries
    loss = make(count, timesteps)
    start = peak()
    result = {"held": start, "our_seconds": seconds(ours), "our_memory": peak() - start}
    if count * timesteps <= LARGEST_GRAPH:
        result["graph_seconds"] = seconds(lambda: margin(whole_graph(loss, x)).backward())
        result["graph_memory"] = peak() - start
    return result


def row(count: int, timesteps: int, per_difference: tuple[float, float]) -> tuple[str, tuple[float, float]]:
    """A line of the table, and the graph's MiB and seconds per difference as last measured."""
    command = [sys.executable, __file__, str(count), str(timesteps)]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    size, mark = count * timesteps, "~"
    if "graph_memory" in found:
        per_difference, mark = (found["graph_memory"] / size, found["graph_seconds"] / size), ""
    memory, spent = (size * each for each in per_difference)
    cells = [f"{count:,}", f"{timesteps}", f"{found['held']:,.0f}", f"{found['our_memory']:,.0f}"]
    cells += [f"{mark}{memory:,.0f}", f"{found['our_seconds']:.1f}", f"{mark}{spent:.1f}"]
    return f"| {' | '.join(cells)} |", per_difference


def main() -> None:
    print("| N | T' | process with D, MiB | ours, MiB | whole graph, MiB | ours, s | whole graph, s |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    per_difference = (0.0, 0.0)
    for count, timesteps in ROWS:
        line, per_difference = row(count, timesteps, per_difference)
        print(line, flush=True)


if __name__ == "__main__":
    if sys.argv[1:]:
        print(json.dumps(compare(int(sys.argv[1]), int(sys.argv[2]))))
    else:
        main()
