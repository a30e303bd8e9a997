"""Every adapter against a closed form, the original implementations' numbers, and its network's missing class."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from defenses.diffusion.denoiser import (
    NO_CLASS,
    DiscreteVP,
    EDMDenoiser,
    ImagePredictor,
    MultiHead,
    NoisePredictor,
    ScorePredictor,
    WithoutVariance,
    adapted,
    knows_no_class,
    score,
)
from defenses.diffusion.schedule import ContinuousVE, ContinuousVP, Process, discrete_ve, discrete_vp
from defenses.networks.edm import EDM
from defenses.networks.ncsnpp import NCSNpp
from defenses.networks.ncsnpp_config import NCSNppConfig
from harness.errors import UserError
from helpers.originals import assert_summary, fill, golden, rule_image, rule_noise

SHAPE = (2, 3, 16, 16)
PAIR = torch.tensor([0, 3])
NOTHING = torch.tensor([NO_CLASS, NO_CLASS])
DTYPES = {torch.float32: ("outputs", 1e-4), torch.float64: ("outputs_f64", 1e-9)}
PRECISIONS = pytest.mark.parametrize("dtype", list(DTYPES), ids=["float32", "float64"])


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    scale = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * scale)


# --- data of which everything is known -------------------------------------------------------------------------------

STD = 0.4
"""Of the data, x ~ N(0, STD^2 I): grad log p_t = -x_t / v and E[x | x_t] = a STD^2 x_t / v, v = a^2 STD^2 + sigma^2."""


def alpha(t: int) -> float:
    return math.prod(1 - (0.1 + 19.9 * step / 999) / 1000 for step in range(t))


PROCESSES: dict[str, tuple[Process, Tensor, list[float], list[float]]] = {
    # a process, times, the alphas and the labels that belong to them
    "discrete_vp": (discrete_vp(), torch.tensor([1, 1000]), [alpha(1), alpha(1000)], [0, 999]),
    "continuous_vp": (ContinuousVP(), double(0.001, 0.5), [math.exp(-0.00010995), math.exp(-2.5375)], [0.999, 499.5]),
    "continuous_ve": (ContinuousVE(), double(0.002, 3.0), [1.0, 1.0], [0.002, 3.0]),
    "discrete_ve": (discrete_ve(double(0.5, 80.0)), torch.tensor([2, 1]), [1.0, 1.0], [1, 0]),
}
VE_SIGMAS = {"continuous_ve": [0.002, 3.0], "discrete_ve": [80.0, 0.5]}


class Known(nn.Module):
    """c x with a coefficient c of its own for each image; remembers the labels it was given."""

    def __init__(self, coefficients: Sequence[float]) -> None:
        super().__init__()
        self.coefficients, self.labels = double(*coefficients), double()

    def forward(self, x: Tensor, label: Tensor, y: Tensor | None = None) -> Tensor:
        self.labels = label
        return self.coefficients[:, None, None, None] * x


@pytest.mark.parametrize("name", PROCESSES)
def test_whatever_a_network_predicts_of_gaussian_data_its_noise_is_the_same(name) -> None:
    process, t, alphas, labels = PROCESSES[name]
    sigmas = VE_SIGMAS.get(name) or [math.sqrt(1 - a) for a in alphas]
    parts = list(zip(alphas, sigmas, strict=True))
    variances = [a * STD**2 + s**2 for a, s in parts]
    image = [math.sqrt(a) * STD**2 / v for a, v in zip(alphas, variances, strict=True)]
    edm = [STD**2 / (STD**2 + s**2 / a) for a, s in parts]
    x_t = rule_noise(SHAPE, dtype=torch.float64)
    expected = double(*(s / v for s, v in zip(sigmas, variances, strict=True)))[:, None, None, None] * x_t
    cases: dict[type, tuple[list[float], list[float]]] = {
        NoisePredictor: ([s / v for s, v in zip(sigmas, variances, strict=True)], labels),
        ImagePredictor: (image, labels),
        ScorePredictor: ([-1 / v for v in variances], labels),
        EDMDenoiser: (edm, [s / math.sqrt(a) for a, s in parts]),
    }
    for adapter, (coefficients, told) in cases.items():
        denoiser = adapter(Known(coefficients), process)
        close(denoiser.eps(x_t, t), expected)
        close(denoiser.network.labels.double(), double(*told))
        close(score(denoiser, process, x_t, t), -x_t / double(*variances)[:, None, None, None])


# --- published networks ----------------------------------------------------------------------------------------------


@pytest.fixture
def ncsnpp() -> Callable[..., nn.Module]:
    """ncsnpp(file, dtype, **changes): the tiny network of a golden file."""

    def build(name: str, dtype: torch.dtype = torch.float64, **changes: int) -> nn.Module:
        config = NCSNppConfig.from_published(golden(name)["configs"]["tiny"], **changes)
        return fill(NCSNpp(config).to(dtype), exempt=["sigmas"])

    return build


@pytest.fixture
def edm() -> Callable[..., EDM]:
    """edm(case, dtype): a tiny network of edm_songunet."""

    def build(case: str = "a_cond_vp", dtype: torch.dtype = torch.float64) -> EDM:
        numbers = golden("edm_songunet")
        network = EDM.from_published(numbers["config"][case]["tiny"])
        return fill(network, exempt=numbers["exceptions"][case]).to(dtype)

    return build


@PRECISIONS
def test_the_score_of_diffpures_network_is_the_original_one(
    dtype,
    ncsnpp,
) -> None:
    # The original's own float32 loses digits of sigma where t is small.
    measured, process = golden("ncsnpp_diffpure")["outputs_f64"], ContinuousVP()
    denoiser = NoisePredictor(ncsnpp("ncsnpp_diffpure", dtype), process)
    for t in (0.001, 0.1, 0.5):
        found = score(denoiser, process, 2 * rule_image(SHAPE, dtype) - 1, torch.full((2,), t, dtype=dtype))
        assert_summary(found, measured[f"score_t_{t}"], DTYPES[dtype][1])


@PRECISIONS
def test_the_class_conditional_ncsnpp_adds_nothing_for_no_class(
    dtype,
    ncsnpp,
) -> None:
    outputs, tolerance = DTYPES[dtype]
    measured = golden("ncsnpp_rdc_cond")[outputs]
    denoiser = DiscreteVP(ncsnpp("ncsnpp_rdc_cond", dtype, num_classes=10))
    x, t = 2 * rule_image(SHAPE, dtype) - 1, torch.tensor([501, 501])
    assert_summary(denoiser.eps(x, t, PAIR), measured["eps_label_500_y_[0,3]"], tolerance)
    for y in (None, NOTHING):
        assert_summary(denoiser.eps(x, t, y), measured["eps_label_500_y_None"], tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("y", [PAIR, NOTHING, None], ids=["classes", "no_class", "none"])
def test_edm_predicts_the_image_that_the_original_does_with_a_zero_one_hot_for_no_class(
    y,
    edm,
) -> None:
    measured, name = golden("edm_songunet")["outputs_f64"], "[0,3]" if y is PAIR else "None"
    denoiser = EDMDenoiser(edm(), ContinuousVE())
    for sigma in (0.002, 0.5, 3, 80):
        x_t = 2 * rule_image(SHAPE, torch.float64) - 1 + sigma * rule_noise(SHAPE, dtype=torch.float64)
        image = x_t - sigma * denoiser.eps(x_t, double(sigma, sigma), y)
        expected = measured[f"a_cond_vp/D_sigma_{sigma}_y_{name}"]
        close(image.flatten()[expected["idx"]], double(*expected["at_idx"]))
        close(image.norm(), double(expected["l2"])[0])


def test_edm_finds_the_same_noise_through_any_diffusion(
    edm,
) -> None:
    network, y = edm(), torch.tensor([4, NO_CLASS])
    x, noise = 2 * rule_image(SHAPE, torch.float64) - 1, rule_noise(SHAPE, dtype=torch.float64)
    vp, t = discrete_vp(), torch.tensor([3, 700])
    level = vp.level(t)
    expected = EDMDenoiser(network, ContinuousVE()).eps(x + level[:, None, None, None] * noise, level, y)
    views: list[tuple[Process, Tensor]] = [
        (vp, t),
        (ContinuousVP(), ContinuousVP().time(level)),
        (discrete_ve(level), torch.tensor([1, 2])),
    ]
    for process, times in views:
        signal, sigma = (values[:, None, None, None] for values in (process.signal(times), process.sigma(times)))
        close(EDMDenoiser(network, process).eps(signal * x + sigma * noise, times, y), expected)
        rescaled = ImagePredictor(_Rescaled(network, process, times), process)
        close(rescaled.eps(signal * x + sigma * noise, times, y), expected)


class _Rescaled(nn.Module):
    """EDM's network as one that predicts the image from x_t itself."""

    def __init__(self, network: nn.Module, process: Process, times: Tensor) -> None:
        super().__init__()
        self.network, self.signal, self.level = network, process.signal(times), process.level(times)

    def forward(self, x: Tensor, label: Tensor, y: Tensor | None) -> Tensor:
        return self.network(x / self.signal[:, None, None, None], self.level, y)


# --- many heads ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@PRECISIONS
@pytest.mark.parametrize("guidance", [0, 0.5])
def test_guided_heads_classify_as_the_original_does(
    dtype,
    guidance,
    ncsnpp,
) -> None:
    measured, schedule = golden("ncsnpp_rdc_multihead"), discrete_vp()
    network = ncsnpp("ncsnpp_rdc_multihead", dtype, num_classes=11, heads=11)
    denoiser = MultiHead(network, schedule, null_head=True, guidance=1 + guidance)
    t = torch.tensor(measured["ts"]) + 1
    noise = torch.cat([rule_noise((1, *SHAPE[1:]), k, dtype) for k in range(len(t))])
    signal, sigma = (values.to(dtype)[:, None, None, None] for values in (schedule.signal(t), schedule.sigma(t)))
    with torch.no_grad():
        found = [
            -(denoiser.eps_all(signal * x + sigma * noise, t) - noise[:, None]).square().mean((0, 2, 3, 4))
            for x in 2 * rule_image(SHAPE, dtype) - 1
        ]
    outputs, tolerance = DTYPES[dtype]
    expected = torch.tensor(measured[outputs][f"nc11_cached_logits_cfg{guidance}"], dtype=dtype)
    torch.testing.assert_close(torch.stack(found), expected, rtol=tolerance, atol=0)


class Heads(nn.Module):
    """Head k predicts (k + 1) x."""

    def __init__(self, heads: int, null_head: bool = False) -> None:
        super().__init__()
        self.heads, self.null_head = heads, null_head

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return torch.arange(1, self.heads + 1)[:, None, None, None] * x[:, None]


def test_a_head_answers_for_its_class_and_the_null_head_for_none() -> None:
    x, t, y = rule_noise((3, 1, 2, 2), dtype=torch.float64), torch.tensor([1, 2, 3]), torch.tensor([1, NO_CLASS, 0])
    plain, guided = (MultiHead(Heads(4), discrete_vp(), null_head=True, guidance=w) for w in (1, 3))
    assert plain.eps_all(x, t).shape == (3, 3, 1, 2, 2)
    factor = torch.tensor([2, 4, 1])[:, None, None, None]
    close(plain.eps(x, t, y), factor * x)
    close(plain.eps(x, t), 4 * x)
    close(guided.eps(x, t, y), (4 + torch.tensor([3 * -2, 0, 3 * -3])[:, None, None, None]) * x)
    close(guided.eps(x, t, torch.tensor([2, 2, 2])), guided.eps_all(x, t)[:, 2])


@pytest.mark.parametrize("y", [None, torch.tensor([0, NO_CLASS])], ids=["none", "one_row"])
def test_without_a_null_head_an_image_without_a_class_is_refused(y) -> None:
    denoiser = MultiHead(Heads(3), discrete_vp())
    x, t = rule_noise((2, 1, 2, 2), dtype=torch.float64), torch.tensor([1, 2])
    close(denoiser.eps(x, t, torch.tensor([2, 0])), torch.tensor([3, 1])[:, None, None, None] * x)
    with pytest.raises(UserError, match="without a class"):
        denoiser.eps(x, t, y)


def test_guidance_without_a_null_head_is_refused() -> None:
    with pytest.raises(UserError, match="null head"):
        MultiHead(Heads(3), discrete_vp(), guidance=2.0)


def test_a_network_says_itself_how_many_heads_it_has_and_whether_one_is_for_no_class() -> None:
    x, t = rule_noise((2, 1, 2, 2), dtype=torch.float64), torch.tensor([1, 2])
    for null_head in (True, False):
        network = Heads(4, null_head)
        denoiser = adapted(network, discrete_vp())
        assert isinstance(denoiser, MultiHead)
        assert denoiser.null_head == knows_no_class(network) == null_head
        assert denoiser.eps_all(x, t).shape[1] == 4 - null_head


# --- networks that do not fit ----------------------------------------------------------------------------------------


def test_a_learned_variance_is_cut_off_on_request_and_refused_otherwise() -> None:
    both = nn.Conv2d(3, 6, 1)
    network = _Unlabelled(both)
    x, t = rule_noise(SHAPE), torch.tensor([1, 1000])
    close(DiscreteVP(WithoutVariance(network)).eps(x, t), both(x)[:, :3])
    with pytest.raises(UserError, match="WithoutVariance"):
        DiscreteVP(network).eps(x, t)


@pytest.mark.parametrize("network", [nn.Identity(), nn.Unflatten(1, (1, 3))], ids=["one", "other"])
def test_a_network_with_one_head_is_no_multi_head_network(network) -> None:
    denoiser = MultiHead(_Unlabelled(nn.Sequential(nn.Conv2d(2, 3, 1), network)), discrete_vp())
    with pytest.raises(UserError, match=r"\(2, 2, 4, 4\)"):
        denoiser.eps_all(rule_noise((2, 2, 4, 4)), torch.tensor([1, 2]))


class _Unlabelled(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, label: Tensor, y: Tensor | None = None) -> Tensor:
        return self.layer(x)


def test_networks_are_frozen_and_move_with_their_denoiser() -> None:
    for denoiser in (DiscreteVP(nn.Conv2d(1, 1, 1)), MultiHead(nn.Conv2d(1, 1, 1), ContinuousVP())):
        assert not denoiser.network.training
        assert {p.dtype for p in denoiser.double().parameters()} == {torch.float64}
        assert not any(p.requires_grad for p in denoiser.parameters())
