"""Memory and time of the gradient of SBGC's likelihood: ours against one whole autograd graph.

    python benchmarks/sbgc_memory.py          prints a Markdown table, in a minute

Each row is a process of its own: ours is measured first, then the whole graph, which needs more; memory is the rise of
the peak resident set. The gradient is that of log p(x | y) of one 8x8 image under four classes, integrated together by
the midpoint method, on one thread, in float32; the time is that thread's own (the best of a few). The network is a
small conditional NCSN++. A graph of more than `LARGEST_GRAPH` steps is not built: its memory, which grows with their
number, is extrapolated and marked ~.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from unittest import mock

import torch
from torch import Tensor

from defenses.diffusion import runge_kutta
from defenses.diffusion.denoiser import NoisePredictor
from defenses.diffusion.flow import FlowLikelihood
from defenses.diffusion.schedule import ContinuousVP
from defenses.diffusion.step_gradient import State, Step
from defenses.networks.ncsnpp import NCSNpp

STEPS = (5, 20, 80, 320)
LARGEST_GRAPH = 80
CLASSES = 4
REPEATS = 2


def likelihood(steps: int) -> FlowLikelihood:
    torch.manual_seed(0)
    network = NCSNpp(
        image_size=8, channels=1, nf=16, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(), num_classes=CLASSES
    )
    process = ContinuousVP()
    return FlowLikelihood(NoisePredictor(network, process), process, solver="midpoint", steps=steps, passes="single")


def one_graph(step: Step, count: int, state: State) -> State:
    """What `stepwise` does, as plain autograd has it."""
    for i in range(count):
        state = step(i, *state)
    return state


def gradient(flow: FlowLikelihood) -> Tensor:
    x = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
    values = flow(x, torch.arange(CLASSES)[None], torch.zeros(1, dtype=torch.int64))
    (found,) = torch.autograd.grad(values.sum(), x)
    return found


def whole_graph_gradient(flow: FlowLikelihood) -> Tensor:
    with mock.patch.object(runge_kutta, "stepwise", one_graph):
        return gradient(flow)


def peak() -> float:
    """MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def seconds(work: Callable[[FlowLikelihood], Tensor], flow: FlowLikelihood) -> float:
    began = time.process_time()
    work(flow)
    return time.process_time() - began


def compare(steps: int) -> dict[str, float]:
    """MiB and seconds of one gradient, ours and (where it is small enough) the whole graph's."""
    torch.set_num_threads(1)
    flow = likelihood(steps)
    whole_graph_gradient(likelihood(1))  # loads the libraries
    start = peak()
    result = {"our_seconds": seconds(gradient, flow), "our_memory": peak() - start}
    if steps > LARGEST_GRAPH:
        return result
    result |= {"graph_seconds": seconds(whole_graph_gradient, flow), "graph_memory": peak() - start}
    for _ in range(REPEATS):
        result["our_seconds"] = min(result["our_seconds"], seconds(gradient, flow))
        result["graph_seconds"] = min(result["graph_seconds"], seconds(whole_graph_gradient, flow))
    found, expected = gradient(flow), whole_graph_gradient(flow)
    return result | {"difference": float((found - expected).norm() / expected.norm())}


def row(steps: int, per_step: float) -> tuple[str, float]:
    """A line of the table, and the graph's MiB per step as last measured."""
    found = json.loads(
        subprocess.run([sys.executable, __file__, str(steps)], check=True, stdout=subprocess.PIPE).stdout
    )
    cells = [f"{steps}", f"{found['our_memory']:,.0f}"]
    if "graph_memory" in found:
        per_step = found["graph_memory"] / steps
        ratio = found["our_seconds"] / found["graph_seconds"]
        cells += [f"{found['graph_memory']:,.0f}", f"{found['our_seconds']:.2f}", f"{ratio:.2f}"]
    else:
        cells += [f"~{per_step * steps:,.0f}", f"{found['our_seconds']:.2f}", ""]
    cells.append(f"{found['difference']:.0e}" if "difference" in found else "")
    return f"| {' | '.join(cells)} |", per_step


def main() -> None:
    print("| steps | ours, MiB | whole graph, MiB | ours, s | time, ours / whole graph | relative difference |")
    print("|---:|---:|---:|---:|---:|---:|")
    per_step = 0.0
    for steps in STEPS:
        line, per_step = row(steps, per_step)
        print(line, flush=True)


if __name__ == "__main__":
    if sys.argv[1:]:
        print(json.dumps(compare(int(sys.argv[1]))))
    else:
        main()
