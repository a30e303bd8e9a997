"""Graphs kept between two passes: the same gradient with fewer evaluations, and never more memory than was allowed."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from defenses.diffusion import graph_memory
from defenses.diffusion.denoiser import MultiHead
from defenses.diffusion.graph_memory import MIB, SHARE, allowance, check_graph_memory, free_memory
from defenses.diffusion.loss import DiffusionLoss
from defenses.diffusion.noise import GaussianNoise
from defenses.diffusion.schedule import discrete_vp
from defenses.diffusion.step_gradient import stepwise
from defenses.diffusion.timesteps import time_grid
from harness.errors import UserError
from harness.process.graph_size import Meter

SEEDS = torch.tensor([3, 1 << 60])
X = torch.rand(2, 2, 5, 5, generator=torch.Generator().manual_seed(1))


class Alive(torch.autograd.Function):
    """The identity, which counts how many of its graphs are there and were at most; none waits for a collector."""

    alive = most = built = 0

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        if ctx.needs_input_grad[0]:
            Alive.built += 1
            Alive.alive += 1
            Alive.most = max(Alive.most, Alive.alive)
            weakref.finalize(ctx, Alive.freed)
        return x.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient

    @staticmethod
    def freed() -> None:
        Alive.alive -= 1


@pytest.fixture(autouse=True)
def nothing_alive() -> None:
    Alive.alive = Alive.most = Alive.built = 0


class Network(nn.Module):
    """A noise predictor of two convolutions, or of four heads."""

    def __init__(self, heads: int = 1) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.read, self.write = nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(6, heads * 2, 3, padding=1)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.5
        self.requires_grad_(False)
        self.heads, self.rows = heads, 0

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        self.rows += len(x)
        found = self.write(torch.tanh(self.read(Alive.apply(x)) + (label / 500)[:, None, None, None]))
        return found.unflatten(1, (self.heads, 2))

    def eps(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return self(x_t, t)[:, 0]


def loss(network: nn.Module, denoiser: object, chunk: int = 4, mib: float | None = 0) -> DiffusionLoss:
    grid = time_grid(discrete_vp(), 8)
    return DiffusionLoss(denoiser, grid, GaussianNoise("classes"), chunk=chunk, graph_memory=mib)


def of_steps(mib: float | None) -> tuple[Tensor, int]:
    """The gradient through eight steps, and how often the network was evaluated."""
    x, network = X.clone().requires_grad_(), Network()
    allowed = allowance(x, mib)

    def step(i: int, x: Tensor) -> tuple[Tensor]:
        return (x - 0.1 * network.eps(x, torch.full((2,), 100 * i)),)

    (end,) = stepwise(step, 8, (x,), allowed=allowed)
    (found,) = torch.autograd.grad(end.pow(3).sum(), x)
    return found, network.rows // 2


def of_gradients(mib: float | None) -> tuple[Tensor, int]:
    """The derivative of a loss's gradient, of four chunks, and how often the network was evaluated on each."""
    x, network = X.clone().requires_grad_(), Network()
    found = loss(network, network, mib=mib).gradients(x, torch.tensor([0]), SEEDS)
    (second,) = torch.autograd.grad(found.pow(3).sum(), x)
    return second, network.rows // 2


def of_all_classes(mib: float | None) -> tuple[Tensor, int]:
    """The gradient of the losses of four classes at once, and how often the network was evaluated."""
    x, network = X.clone().requires_grad_(), Network(heads=4)
    denoiser = MultiHead(network, discrete_vp(), null_head=False)
    losses = loss(network, denoiser, mib=mib)(x, torch.arange(4), SEEDS)
    (found,) = torch.autograd.grad((losses @ torch.tensor([1.0, -2, 3, 0])).square().sum(), x)
    return found, network.rows // 2


BUDGETS = 0.002, 0.005, 0.01, 0.015, 0.02, 0.0225, 0.025, 0.0275, 0.03, 0.035, 0.04, 0.05, 0.06
"""MiB, from less than one graph of any chain here to more than some of all."""

CHAINS: dict[str, Callable[[float | None], tuple[Tensor, int]]] = {
    "steps": of_steps,
    "gradients of gradients": of_gradients,
    "all classes at once": of_all_classes,
}


def test_a_meter_counts_each_storage_once_and_no_parameter() -> None:
    meter, x = Meter(), torch.rand(1000, requires_grad=True)
    with meter.measuring():
        y = x.exp().sin().exp()  # keeps exp's and the last result, the first for two nodes
    assert meter.bytes == 2 * 4000
    with meter.measuring():
        z = nn.functional.conv1d(y[None], nn.Parameter(torch.rand(7, 1, 3), requires_grad=False))
    assert meter.bytes == 0 and z.requires_grad  # y is known
    with meter.measuring():
        y * x.exp()
    assert meter.bytes == 4000  # x.exp() is new, both for exp and for the product


def test_a_meter_is_not_misled_by_graphs_that_go_while_it_measures() -> None:
    meter, x = Meter(), torch.rand(1000, requires_grad=True)
    with meter.measuring():
        for _ in range(20):
            x.exp()
    assert meter.bytes == 20 * 4000
    with meter.measuring():
        kept = [x.exp() for _ in range(20)]  # some of them where one that is gone lay
    assert meter.bytes == len(kept) * 4000


@pytest.mark.parametrize("chain", CHAINS)
def test_the_gradient_is_the_same_to_the_bit_however_many_graphs_are_kept(chain) -> None:
    none, evaluations = CHAINS[chain](0)
    counts = [evaluations]
    for mib in (*BUDGETS, 100, None):
        found, evaluations = CHAINS[chain](mib)
        counts.append(evaluations)
        assert torch.equal(found, none), mib
    assert counts[1:] == sorted(counts[1:], reverse=True)
    assert counts[1] <= counts[0] + 4  # the first chunk's graph turned out too large and was made for nothing
    assert counts[-1] == 8 and counts[0] == 16 and len(set(counts)) > 2


@pytest.mark.parametrize("chain", CHAINS)
def test_no_more_graphs_are_alive_than_fit_into_what_was_allowed_beside_one(chain) -> None:
    CHAINS[chain](None)
    every = Alive.most
    most = []
    for mib in (0.0, *BUDGETS):
        Alive.alive = Alive.most = 0
        CHAINS[chain](mib)
        most.append(Alive.most)
    assert most[0] <= 2 and most[1] <= 2  # one is built while the last goes
    assert most == sorted(most) and any(2 < number < every for number in most)
    assert Alive.alive == 0


def test_a_budget_holds_as_many_graphs_as_their_bytes_say() -> None:
    x, network = X.clone().requires_grad_(), Network()
    meter = Meter()
    with meter.measuring():
        first = x - 0.1 * network.eps(x, torch.zeros(2))
    with meter.measuring():
        first - 0.1 * network.eps(first, torch.zeros(2))
    for graphs in (2, 3, 5):
        assert of_steps(graphs * meter.bytes / MIB + 1e-9)[1] == 16 - graphs


@pytest.mark.parametrize("chain", [of_gradients, of_all_classes])
def test_a_second_backward_pass_over_graphs_that_are_gone_makes_them_again(chain) -> None:
    x, network = X.clone().requires_grad_(), Network(4 if chain is of_all_classes else 1)
    if chain is of_all_classes:
        denoiser = MultiHead(network, discrete_vp(), null_head=False)
        found = loss(network, denoiser, mib=100)(x, torch.arange(4), SEEDS)
    else:
        found = loss(network, network, mib=100).gradients(x, torch.tensor([0]), SEEDS)
    first, second = (torch.autograd.grad(found.pow(3).sum(), x, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_nothing_is_allowed_where_no_gradient_can_be_asked_for() -> None:
    assert allowance(X, None) == 0
    with torch.no_grad():
        assert allowance(X.clone().requires_grad_(), 100) == 0
    assert allowance(X.clone().requires_grad_(), 100) == 100 * MIB


def test_a_container_s_limit_and_what_is_free_on_the_machine_both_bound_the_memory(tmp_path, monkeypatch) -> None:
    machine = free_memory(torch.device("cpu"))
    monkeypatch.setattr(graph_memory, "_CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("5\n")
    assert free_memory(torch.device("cpu")) == pytest.approx(machine, rel=0.3)
    (tmp_path / "memory.max").write_text(f"{10 * MIB}\n")
    (tmp_path / "memory.current").write_text(f"{4 * MIB}\n")
    assert free_memory(torch.device("cpu")) == 6 * MIB
    assert allowance(X.clone().requires_grad_(), None) == SHARE * 6 * MIB
    (tmp_path / "memory.current").write_text(f"{11 * MIB}\n")
    assert free_memory(torch.device("cpu")) == 0


def test_without_what_linux_tells_a_fixed_amount_is_taken_for_free(monkeypatch) -> None:
    def missing(path: Path) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", missing)
    assert free_memory(torch.device("cpu")) == graph_memory.UNKNOWN


@pytest.mark.parametrize("mib", [-1, float("nan")])
def test_less_than_no_memory_is_refused(mib) -> None:
    with pytest.raises(UserError, match="graph_memory is"):
        check_graph_memory(mib)


def test_a_cpu_keeps_no_more_than_pays_there_unless_it_is_told_to(monkeypatch) -> None:
    x = X.clone().requires_grad_()
    monkeypatch.setattr(graph_memory, "free_memory", lambda device: 2**40)
    assert allowance(x, None) == graph_memory.MOST_ON_CPU
    assert allowance(x.to("meta").detach().requires_grad_(), None) == SHARE * 2**40
    assert allowance(x, 5000) == 5000 * MIB
