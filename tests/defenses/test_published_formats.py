"""A file in its published layout, named in a suite, becomes a defense that computes what the saved network computes."""

from __future__ import annotations

import lzma
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from defenses.diffusion.denoiser import EDMDenoiser
from defenses.diffusion.schedule import discrete_vp
from defenses.networks.edm import EDM
from defenses.networks.hybvit import HybViT
from defenses.networks.jem_wrn import JEMWRN
from defenses.networks.ncsnpp import NCSNpp
from defenses.networks.pat_resnet import PATResNet
from defenses.networks.wrn_dropout import WRNDropout
from harness.errors import UserError
from harness.suite import load_suite
from harness.weights import Checkpoint

GOLDEN = Path(__file__).parents[1] / "golden"
NCSNPP: dict[str, Any] = {
    "image_size": 8,
    "channels": 3,
    "nf": 8,
    "ch_mult": [1, 2],
    "num_res_blocks": 1,
    "attn_resolutions": [],
    "num_classes": 10,
}
CLASSIFIERS: dict[str, tuple[str, type[nn.Module], dict[str, Any]]] = {
    "jem": ("jem_wrn", JEMWRN, {"depth": 10, "width": 1}),
    "pat": ("pat_resnet", PATResNet, {"blocks": [1, 1, 1, 1], "width": 4}),
    "hybvit": ("hybvit", HybViT, {"img_size": 32, "patch_size": 8, "dim": 16, "depth": 1, "heads": 2, "dim_head": 8}),
    "undefended": ("wrn_dropout", WRNDropout, {"depth": 10, "width": 1}),
}


def defense(folder: Path, entry: str) -> Any:
    """The only defense of a suite, built as a run would build it."""
    path = folder / "suite.yaml"
    path.write_text(
        f"suite: s\ndataset: {{name: cifar10, first: 2}}\ndefenses:\n  mine: {entry}\nattacks: {{clean: {{}}}}\n"
    )
    return load_suite(path).cells[0].defense.build().eval()


def images(size: int) -> Tensor:
    return (torch.sin(torch.arange(2 * 3 * size * size) * 0.1) * 0.5 + 0.5).reshape(2, 3, size, size)


def initialised(network: nn.Module) -> nn.Module:
    """Weights that differ from any fresh network's, zero-initialised layers included."""
    generator = torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    return network.eval()


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("layout", ["safetensors", "bare", "parallel", "wrapped"])
def test_a_classifier_s_file_gives_the_logits_of_the_saved_network(name: str, layout: str, tmp_path: Path) -> None:
    kind, cls, arguments = CLASSIFIERS[name]
    network = initialised(cls(**arguments))
    state = network.state_dict()
    if layout == "safetensors":
        safetensors.torch.save_file(state, tmp_path / "net")
    else:
        parallel = {f"module.{key}": value for key, value in state.items()}
        wrapped = {"model_state_dict": state, "epoch": 7}
        torch.save({"bare": state, "parallel": parallel, "wrapped": wrapped}[layout], tmp_path / "net")
    entry = f"{{type: {name}, weights: ./net, network: { ({'type': kind} | arguments) }}}".replace("'", '"')
    found = defense(tmp_path, entry)
    x = images(32)
    with torch.no_grad():
        torch.testing.assert_close(found(x), network(network.preprocessing(x)))


def test_a_conditional_ncsnpp_s_state_dict_gives_a_diffusion_classifier(tmp_path: Path) -> None:
    network = initialised(NCSNpp(**NCSNPP))
    torch.save(network.state_dict(), tmp_path / "ema_1100.pt")
    spec = str({"type": "ncsnpp"} | NCSNPP).replace("'", '"')
    found = defense(tmp_path, f"{{type: rdc, weights: ./ema_1100.pt, network: {spec}, timesteps: 3, steps: 2}}")
    for name, value in network.state_dict().items():
        assert torch.equal(found.denoiser.network.state_dict()[name], value)
    assert found(images(8)).shape == (2, 10)


@pytest.fixture
def edm(tmp_path: Path) -> Path:
    """A genuine file of NVIDIA's layout, of a tiny network."""
    path = tmp_path / "edm_tiny_cond.pkl"
    path.write_bytes(lzma.decompress((GOLDEN / "edm_tiny_cond.pkl.xz").read_bytes()))
    return path


def test_an_edm_pickle_gives_a_diffusion_classifier_that_knows_its_network_from_the_file(
    edm: Path, tmp_path: Path
) -> None:
    found = defense(tmp_path, f"{{type: dc, weights: ./{edm.name}, timesteps: [100, 500], noise: fixed}}")
    network = Checkpoint.find(str(edm)).network()
    assert isinstance(network, EDM) and isinstance(found.denoiser.denoiser, EDMDenoiser)
    x, t, y = images(16), torch.tensor([100, 500]), torch.tensor([0, 1])
    expected = EDMDenoiser(network, discrete_vp()).eps(x, t, y)
    torch.testing.assert_close(found.denoiser.eps(x, t, y), expected)


def test_a_network_that_never_saw_images_without_a_class_is_refused_by_rdc(edm: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"suite\.yaml:4.*never trained without a class.*unconditional"):
        defense(tmp_path, f"{{type: rdc, weights: ./{edm.name}, timesteps: 2}}")
    found = defense(tmp_path, f"{{type: dc, weights: ./{edm.name}, timesteps: 2}}")
    with pytest.raises(UserError, match="never trained without a class"):
        found.energy(images(16))


def test_a_pair_of_edm_pickles_gives_rdc(edm: Path, tmp_path: Path) -> None:
    other = tmp_path / "edm_tiny_uncond.pkl"
    other.write_bytes(lzma.decompress((GOLDEN / "edm_tiny_uncond.pkl.xz").read_bytes()))
    entry = f"{{type: rdc, weights: ./{edm.name}, unconditional: ./{other.name}, timesteps: 2, steps: 1}}"
    found = defense(tmp_path, entry)
    x = images(16)
    assert found.purify(x).sub(x).abs().max() <= 8 / 255 + 1e-6
    assert torch.isfinite(found.energy(x)).all()


def test_a_score_sde_training_state_loads_its_averaged_weights_by_its_card_s_network(tmp_path: Path) -> None:
    network = initialised(NCSNpp(**{**NCSNPP, "num_classes": None}))
    averages = [parameter.detach() * 0.5 for parameter in network.parameters() if parameter.requires_grad]
    state = {
        "optimizer": {},
        "model": {f"module.{name}": value for name, value in network.state_dict().items()},
        "ema": {"decay": 0.9999, "num_updates": 3, "shadow_params": averages},
        "step": 3,
    }
    torch.save(state, tmp_path / "checkpoint_8.pth")
    spec = {"type": "ncsnpp"} | NCSNPP | {"num_classes": None}
    found = Checkpoint.find("checkpoint_8.pth", base=tmp_path).network(spec)
    for loaded, average in zip((p for p in found.parameters()), averages, strict=True):
        assert torch.equal(loaded, average)
    with pytest.raises(UserError, match="has no classes"):
        entry = str(spec).replace("'", '"').replace("None", "null")
        defense(tmp_path, f"{{type: dc, weights: ./checkpoint_8.pth, network: {entry}}}")
