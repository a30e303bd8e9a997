"""The flow's likelihood against closed forms, the original implementation's numbers, and one whole graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from defenses.diffusion.denoiser import NoisePredictor
from defenses.diffusion.flow import END, START, FlowLikelihood, RademacherSigns, RoundedVP, bits_per_dim
from defenses.diffusion.runge_kutta import TABLEAUS
from defenses.diffusion.schedule import ContinuousVP
from defenses.networks.ncsnpp import NCSNpp
from helpers.originals import assert_summary, fill, golden, rule_image, rule_noise

pytestmark = pytest.mark.slow

SEEDS = torch.tensor([5, 1 << 61])
TOLERANCE = {torch.float32: 2e-4, torch.float64: 1e-9}
PRECISIONS = pytest.mark.parametrize("dtype", list(TOLERANCE), ids=["float32", "float64"])


class Gaussian:
    """The exact eps for images (in [-1, 1]) of independent normal pixels: class y has mean (y + 1) / 10."""

    def __init__(self, process: ContinuousVP, scale: float) -> None:
        self.process = process
        generator = torch.Generator().manual_seed(1)
        self.variance = scale * (0.2 + 0.7 * torch.rand(1, 3, 4, dtype=torch.float64, generator=generator))

    def at(self, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of x_t."""
        signal, sigma = (part[:, None, None, None] for part in (self.process.signal(t), self.process.sigma(t)))
        return signal * (y[:, None, None, None] + 1) / 10, (signal**2 * self.variance + sigma**2).sqrt()

    def eps(self, x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        mean, deviation = self.at(t, y)
        return self.process.sigma(t)[:, None, None, None] * (x_t - mean) / deviation**2

    def log_density(self, x: Tensor, y: Tensor, start: float = 0.0) -> Tensor:
        """log p(x_start | y), (N,), for x in [0, 1]."""
        normal = torch.distributions.Normal(*self.at(torch.full((len(x),), start), y))
        return (normal.log_prob(2 * x - 1) + math.log(2)).flatten(1).sum(1)

    def flow_density(self, x: Tensor, y: Tensor, start: float = START) -> Tensor:
        """What the equation gives without an error of its solver: its paths keep (x_t - mean) / deviation, so that
        div v is d log(deviation) / dt, and they end in a standard normal distribution by assumption."""
        first, last = (self.at(torch.full((len(x),), t, dtype=torch.float64), y) for t in (start, END))
        end = last[0] + last[1] * (2 * x - 1 - first[0]) / first[1]
        growth = last[1].log() - first[1].log()
        normal = torch.distributions.Normal(0.0, 1.0).log_prob(end)
        return (normal + growth + math.log(2)).flatten(1).sum(1)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 1, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def every(x: Tensor, count: int = 3) -> Tensor:
    return torch.arange(count).expand(len(x), -1)


def gaussian(scale: float = 1.0, **options) -> tuple[FlowLikelihood, Gaussian]:
    exact = Gaussian(ContinuousVP(), scale)
    return FlowLikelihood(exact, exact.process, **options), exact


def error(images: Tensor, scale: float = 1.0, **options) -> float:
    flow, exact = gaussian(scale, **options)
    y = torch.tensor([0, 2])
    return float((flow(images, y[:, None], SEEDS)[:, 0] - exact.flow_density(images, y, flow.start)).abs().max())


def test_it_is_the_log_density_of_gaussian_images_over_0_to_1(images) -> None:
    for options in ({"solver": "rk4", "steps": 20}, {"solver": "dopri5", "tolerance": 1e-5}):
        flow, exact = gaussian(**options)
        y = torch.tensor([0, 2])
        found = flow(images, y[:, None], SEEDS)[:, 0]
        torch.testing.assert_close(found, exact.log_density(images, y), rtol=0, atol=0.02)  # x_1 is not quite normal


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("midpoint", 2), ("rk4", 4)])
@pytest.mark.parametrize("spacing", ["quadratic", "uniform"])
def test_its_error_falls_with_the_order_of_the_solver(images, solver, order, spacing) -> None:
    coarse, fine = (error(images, solver=solver, steps=n, spacing=spacing) for n in (20, 40))
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.8)
    assert fine < {"euler": 0.1, "midpoint": 5e-3, "rk4": 5e-6}[solver]


def test_the_error_of_dopri5_falls_with_its_tolerance(images) -> None:
    coarse, fine = (error(images, solver="dopri5", tolerance=tolerance) for tolerance in (1e-3, 1e-7))
    assert fine < 1e-5 < coarse < 0.05


def test_pixels_of_small_variance_need_small_steps_near_time_0(images) -> None:
    still = 0.55 + torch.tensor([0.0, 0.1]).view(2, 1, 1, 1) + 0.02 * (images - 0.5)  # the means of classes 0 and 2
    uniform, quadratic = (error(still, 1e-3, solver="midpoint", steps=40, spacing=s) for s in ("uniform", "quadratic"))
    assert quadratic < 0.2 < 10 * quadratic < uniform


def test_a_later_start_gives_the_density_of_noisy_images(images) -> None:
    flow, exact = gaussian(solver="rk4", steps=20, start=0.1)
    y = torch.tensor([0, 2])
    found = flow(images, y[:, None], SEEDS)[:, 0]
    torch.testing.assert_close(found, exact.flow_density(images, y, 0.1), rtol=0, atol=1e-5)
    torch.testing.assert_close(found, exact.log_density(images, y, 0.1), rtol=0, atol=0.02)


class Mixing(nn.Module):
    """A small noise predictor of many classes whose Jacobian is full."""

    def __init__(self, pixels: int = 12) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(2, pixels, pixels, dtype=torch.float64, generator=generator) * 0.3)
        self.bias = nn.Parameter(torch.randn(10, pixels, dtype=torch.float64, generator=generator))
        self.rows: list[int] = []

    def forward(self, x: Tensor, label: Tensor, y: Tensor) -> Tensor:
        self.rows.append(len(x))
        inner = torch.tanh(x.flatten(1) @ self.weight[0] + self.bias[y] + label[:, None].to(x) / 999)
        return (inner @ self.weight[1]).view_as(x)


def mixing(**options) -> FlowLikelihood:
    process = ContinuousVP()
    return FlowLikelihood(NoisePredictor(Mixing(), process), process, **options)


def test_many_signs_estimate_the_trace_of_the_jacobian(images) -> None:
    flow, y = mixing(), torch.tensor([3, 4])
    _, found = flow.slope(0.3, images, y, RademacherSigns(4000)(SEEDS, y, images.shape[1:], images.dtype))
    for n in range(2):
        jacobian = torch.autograd.functional.jacobian(
            lambda x, n=n: flow.slope(0.3, x, y[n, None], torch.ones(1, 1, 1, 3, 4))[0], images[n, None]
        )
        assert float(found[n]) == pytest.approx(float(jacobian.view(12, 12).trace()), rel=0.02)


def whole_graph(flow: FlowLikelihood, x: Tensor, y: Tensor, seeds: Tensor) -> Tensor:
    """log p by plain autograd: the same equation written out, and nothing recomputed. (N,)."""
    z = flow.signs(seeds, y, x.shape[1:], x.dtype)
    tableau, h = TABLEAUS[flow.solver], (math.sqrt(1 - 1e-5) - math.sqrt(flow.start)) / flow.steps
    now, total = 2 * x - 1, torch.zeros(len(x), dtype=x.dtype)
    for i in range(flow.steps):
        slopes: list[tuple[Tensor, Tensor]] = []
        for node, row in zip(tableau.nodes, tableau.rows, strict=True):
            s = math.sqrt(flow.start) + (i + node) * h
            at = now
            for a, (change, _) in zip(row, slopes, strict=True):
                at = at + h * a * change
            beta = 0.1 + 19.9 * s * s
            sigma = math.sqrt(1 - math.exp(-(0.1 * s * s + 19.9 * s**4 / 2)))
            eps = flow.denoiser.network(at, torch.full((len(x),), 999 * s * s, dtype=x.dtype), y)
            velocity = s * beta * (eps / sigma - at)
            estimates = [
                (torch.autograd.grad(velocity, at, sign, create_graph=True)[0] * sign).flatten(1).sum(1) for sign in z
            ]
            slopes.append((velocity, torch.stack(estimates).mean(0)))
        for b, (change, growth) in zip(tableau.weights, slopes, strict=True):
            now, total = now + h * b * change, total + h * b * growth
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(now).flatten(1).sum(1)
    return normal + total + 12 * math.log(2)


@pytest.mark.parametrize("solver", ["euler", "midpoint", "rk4"])
@pytest.mark.parametrize("passes", ["two", "single"])
def test_its_gradient_is_that_of_one_whole_graph(images, solver, passes) -> None:
    flow = mixing(solver=solver, steps=4, passes=passes, chunk=4, signs=RademacherSigns(2, shared=False))
    x, weights = images.requires_grad_(), torch.tensor([[1.0, -2.0, 0.5], [0.0, 0.3, 0.0]], dtype=torch.float64)
    values = flow(x, every(x), SEEDS)
    wanted = torch.stack([whole_graph(flow, x, torch.full((2,), y), SEEDS) for y in range(3)], dim=1)
    torch.testing.assert_close(values, wanted, rtol=1e-10, atol=0)
    found, expected = (torch.autograd.grad((weights * v).sum(), x)[0] for v in (values, wanted))
    assert float((found - expected).norm() / expected.norm()) < 1e-9


@pytest.mark.parametrize("solver", ["midpoint", "dopri5"])
def test_its_gradient_is_its_derivative(images, solver) -> None:
    flow = mixing(solver=solver, steps=4, tolerance=1e-9)
    x, y = images[:1].requires_grad_(), torch.tensor([[7]])
    (gradient,) = torch.autograd.grad(flow(x, y, SEEDS[:1]).sum(), x)
    direction = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(3))
    ahead, behind = (flow(x.detach() + h * direction, y, SEEDS[:1]) for h in (1e-5, -1e-5))
    assert float((gradient * direction).sum()) == pytest.approx(float(ahead - behind) / 2e-5, rel=1e-6)


def test_the_steps_of_dopri5_are_an_images_own(images) -> None:
    flow = mixing(solver="dopri5", tolerance=1e-3)
    together = flow(images, every(images), SEEDS)
    for n in range(2):
        for y in range(3):
            alone = flow(images[n : n + 1], torch.tensor([[y]]), SEEDS[n : n + 1])
            torch.testing.assert_close(together[n, y], alone[0, 0], rtol=1e-12, atol=0)


def test_no_more_pairs_than_a_chunk_are_integrated_at_once(images) -> None:
    values = []
    for chunk in (2, 6):
        flow = mixing(steps=2, chunk=chunk)
        values.append(flow(images, every(images), SEEDS))
        assert max(flow.denoiser.network.rows) == chunk
    torch.testing.assert_close(values[0], values[1], rtol=1e-12, atol=0)


def test_classes_without_weight_are_not_differentiated(images) -> None:
    flow = mixing(solver="euler", steps=2, passes="two", chunk=1)
    values, rows = flow(images.requires_grad_(), every(images, 10), SEEDS), flow.denoiser.network.rows
    assert sum(rows) == 2 * 10 * 2
    (values[0, 3] - values[0, 4]).backward()
    assert sum(rows) == 2 * 10 * 2 + 2 * 2 * 2  # two classes of one image: forth and, rebuilt, back


def test_eight_bits_cost_eight_bits_under_a_uniform_density() -> None:
    assert float(bits_per_dim(torch.tensor(0.0), 12)) == 8
    assert float(bits_per_dim(torch.tensor(12 * math.log(2)), 12)) == pytest.approx(7)


def test_signs_are_shared_over_classes_or_are_not() -> None:
    y = torch.tensor([0, 1])
    shared, own = (RademacherSigns(3, shared)(SEEDS[[0, 0]], y, (1, 8, 8), torch.float32) for shared in (True, False))
    assert shared.shape == (3, 2, 1, 8, 8)
    assert shared.abs().eq(1).all()
    assert torch.equal(shared[:, 0], shared[:, 1])
    assert not torch.equal(own[:, 0], own[:, 1])
    assert not torch.equal(own[0], own[1])


@pytest.fixture
def original() -> Callable[..., FlowLikelihood]:
    """original(dtype, **options): as the original code has it, with its network and signs."""

    def signs(seeds: Tensor, classes: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        return rule_noise((math.prod(shape),), dtype=dtype).sign().view(1, 1, *shape).expand(1, len(seeds), *shape)

    def build(dtype: torch.dtype, **options) -> FlowLikelihood:
        network = NCSNpp(
            image_size=16, nf=32, ch_mult=(1, 2, 2), num_res_blocks=2, attn_resolutions=(8,), num_classes=10
        )
        denoiser = NoisePredictor(fill(network, exempt=["sigmas"]).to(dtype), RoundedVP())
        return FlowLikelihood(denoiser, RoundedVP(), signs, solver="euler", spacing="uniform", **options)

    return build


@PRECISIONS
def test_velocities_and_traces_are_the_original_ones(original, dtype) -> None:
    flow, x = original(dtype), 2 * rule_image((2, 3, 16, 16), dtype) - 1
    expected, y = golden("sbgc")[str(dtype).removeprefix("torch.")], torch.tensor([0, 3])
    for time in (1e-5, 0.1, 0.5, 0.99999):
        velocity, trace = flow.slope(time, x, y, flow.signs(y, y, x.shape[1:], dtype))
        assert_summary(velocity.flatten(1), expected[f"rhs_t_{time}/drift_y_[0,3]"], TOLERANCE[dtype])
        wanted = torch.tensor(expected[f"rhs_t_{time}/trace_y_[0,3]"], dtype=torch.float64)
        torch.testing.assert_close(trace.double(), wanted, rtol=TOLERANCE[dtype], atol=0)


@PRECISIONS
def test_log_likelihoods_are_the_original_ones(original, dtype) -> None:
    flow, x = original(dtype, steps=5), rule_image((2, 3, 16, 16), dtype)
    expected, y = golden("sbgc")[str(dtype).removeprefix("torch.")], torch.tensor([0, 4, 6])
    close = dict(rtol=TOLERANCE[dtype], atol=0)

    def wanted(name: str) -> Tensor:
        return torch.tensor(expected[name], dtype=torch.float64)[y]

    found = flow(x, y.expand(2, -1), SEEDS)
    for n in range(2):
        nats, bits = (
            wanted(f"euler5/image{n}/{name}") for name in ("log_likelihood_nats", "minus_bpd(=forward output)")
        )
        torch.testing.assert_close(found[n].double(), nats + 768 * math.log(2), **close)
        torch.testing.assert_close(-bits_per_dim(found[n], 768).double(), bits, **close)
    latents, integral = flow.integrate(2 * x[:1] - 1, y[:1], flow.signs(y[:1], y[:1], x.shape[1:], dtype))
    assert_summary(latents[0].flatten(), expected["euler5/image0/latent_class0"], TOLERANCE[dtype])
    torch.testing.assert_close(integral.double(), wanted("euler5/image0/delta_trace_integral")[:1], **close)


def test_log_likelihoods_in_ten_steps_are_the_original_ones(
    original,
) -> None:
    x, y = rule_image((2, 3, 16, 16), torch.float64)[:1], torch.tensor([2, 6])
    found = original(torch.float64, steps=10)(x, y[None], SEEDS[:1])[0] - 768 * math.log(2)
    wanted = torch.tensor(golden("sbgc")["float64"]["euler10/image0/log_likelihood_nats"], dtype=torch.float64)[y]
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=0)
