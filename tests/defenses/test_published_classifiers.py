"""JEM, HybViT and PAT compute what the originals computed, from images in [0, 1]: their preprocessing is inside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from defenses import jem
from defenses.jem import JEM
from defenses.pat import PAT
from defenses.undefended import Undefended
from harness.checks import gates
from harness.config.registry import find
from harness.errors import UserError
from harness.weights import Checkpoint, build_network
from helpers.originals import fill, golden, rule_image, rule_noise

HybViT = find("defenses", "hybvit")
LABELS = torch.tensor([3, 7])
CASES: dict[type[Undefended], tuple[str, int, dict[str, Any]]] = {
    JEM: ("jem_wrn", 32, {"type": "jem_wrn", "depth": 10, "width": 2}),
    HybViT: ("hybvit", 16, {"type": "hybvit", "img_size": 16, "dim": 48, "depth": 2, "heads": 12, "dim_head": 4}),
    PAT: ("pat_resnet50", 32, {"type": "pat_resnet", "blocks": [1, 1, 1, 1]}),
}
LOGITS = {
    JEM: "classify_logits",
    HybViT: "logits_t_None (test-time classifier)",
    PAT: "tiny_bottleneck_[1,1,1,1]_logits (normalised input)",
}


@pytest.fixture
def build(
    tmp_path: Path,
) -> Callable[..., Undefended]:
    """A defense on the golden file's network, loaded from a checkpoint as a suite would."""

    def built(cls: type[Undefended], **arguments: Any) -> Undefended:
        name, _, spec = CASES[cls]
        network = fill(build_network(spec), golden(name).get("exceptions") or ())
        save_file(network.state_dict(), tmp_path / f"{name}.safetensors")
        return cls(Checkpoint.find(f"{name}.safetensors", tmp_path), spec, **arguments).eval()

    return built


def assert_close(found: Tensor, recorded: list[Any]) -> None:
    expected = torch.tensor(recorded)
    assert (found.detach() - expected).abs().max() <= 1e-4 * expected.abs().max()


def gradient(scalar: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return torch.autograd.grad(scalar(x.requires_grad_()), x)[0]


@pytest.mark.parametrize("cls", CASES)
def test_logits_of_images_in_the_unit_range_are_the_originals(
    cls: type[Undefended],
    build: Callable,
) -> None:
    name, side, _ = CASES[cls]
    defense = build(cls)
    logits = defense(rule_image((2, 3, side, side)))
    assert_close(logits, golden(name)["outputs"][LOGITS[cls]])
    assert torch.equal(logits, defense(rule_image((2, 3, side, side))))
    assert not defense.stochastic


@pytest.mark.parametrize(
    ("cls", "key", "scale"),
    # d/dx of the image in [0, 1] is 2 d/dx of the one in [-1, 1]
    [(PAT, "grad_ce_mean_labels_[3,7]_wrt_x01", 1), (HybViT, "grad_ce_mean_labels_[3,7]_wrt_x_raw", 2)],
)
def test_gradients_with_respect_to_the_image_are_the_originals(
    cls: type[Undefended],
    key: str,
    scale: float,
    build: Callable,
) -> None:
    name, side, _ = CASES[cls]
    defense, recorded = build(cls), golden(name)["outputs"][key]
    found = gradient(lambda x: F.cross_entropy(defense(x), LABELS), rule_image((2, 3, side, side))) / scale
    assert_close(found.flatten()[recorded["idx"]], recorded["at_idx"])


def test_jems_energy_is_low_where_the_originals_logsumexp_is_high(
    build: Callable,
) -> None:
    numbers, defense, x = golden("jem_wrn")["outputs"], build(JEM), rule_image((2, 3, 32, 32))
    assert_close(-defense.energy(x), numbers["logsumexp_forward"])
    recorded = numbers["grad_logsumexp_wrt_x_raw"]
    found = -gradient(lambda x: defense.energy(x).sum(), x) / 2
    assert_close(found.flatten()[recorded["idx"]], recorded["at_idx"])


def test_jems_noise_is_that_of_the_original_on_images_of_minus_one_to_one(
    build: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jem, "normal", lambda seeds, shape, dtype: rule_noise((len(seeds), *shape), 0, dtype))
    logits = build(JEM, noise=0.03)(rule_image((2, 3, 32, 32)))
    assert_close(logits, golden("jem_wrn")["outputs"]["classify_logits_x_plus_0.03_noise_k0"])


def test_jem_with_noise_is_stochastic_and_repeats_itself_from_its_seeds(build: Callable) -> None:
    defense, x = build(JEM, noise=0.03), rule_image((2, 3, 32, 32))
    seeds = torch.tensor([1, 2])
    with defense.drawing(seeds):
        first = defense(x)
    with defense.drawing(seeds.flip(0)):
        other = defense(x)
    with defense.drawing(seeds):
        assert torch.equal(defense(x), first)
    assert defense.stochastic
    assert not torch.equal(other, first)


def test_a_negative_noise_is_told(build: Callable) -> None:
    with pytest.raises(UserError, match=r"noise is -0\.1"):
        build(JEM, noise=-0.1)


def test_pat_clamps_as_the_original_does_and_its_gradient_reaches_black_and_white(build: Callable) -> None:
    defense, x = build(PAT), torch.rand(2, 3, 32, 32)
    assert torch.equal(defense(5 * x - 2), defense((5 * x - 2).clamp(0, 1)))
    extremes = (x > 0.5).float()
    assert (gradient(lambda x: defense(x)[:, 0].sum(), extremes) != 0).all()


@pytest.mark.slow
def test_pat_takes_the_normalisation_of_other_data(build: Callable) -> None:
    x = torch.rand(1, 3, 32, 32)
    published, plain = build(PAT), build(PAT, mean=[0.0], std=[1.0])
    assert torch.equal(plain(x), plain.network(x))
    assert not torch.equal(plain(x), published(x))


@pytest.mark.slow
@pytest.mark.parametrize("cls", CASES)
def test_the_gates_find_no_fault(cls: type[Undefended], build: Callable) -> None:
    _, side, _ = CASES[cls]
    assert gates(build(cls), rule_image((2, 3, side, side))) == []


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    save_file(build_network({"type": "cnn", "width": 4}).state_dict(), tmp_path / "net.safetensors")
    with pytest.raises(UserError, match="does not fit JEMWRN"):
        JEM(Checkpoint.find("net.safetensors", tmp_path), CASES[JEM][2])
