"""The strided CNN is the plain sequence of layers whose published files it reads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from defenses.networks.strided_cnn import StridedCNN
from defenses.undefended import Undefended
from harness.errors import UserError
from harness.weights import Checkpoint


@pytest.mark.parametrize("kernel", [3, 4, 5, 6])
def test_each_convolution_halves_the_resolution(kernel: int) -> None:
    network = StridedCNN(3, 12, widths=(2, 3), kernel=kernel, hidden=5, num_classes=7)
    x = torch.rand(2, 3, 12, 12)
    h = F.relu(F.conv2d(x, network[0].weight, network[0].bias, 2, (kernel - 1) // 2))
    h = F.relu(F.conv2d(h, network[2].weight, network[2].bias, 2, (kernel - 1) // 2))
    assert h.shape == (2, 3, 3, 3)
    h = F.relu(h.flatten(1) @ network[5].weight.T + network[5].bias)
    assert torch.allclose(network(x), h @ network[7].weight.T + network[7].bias, atol=1e-6)


def test_its_tensors_are_called_as_in_the_published_files() -> None:
    assert list(StridedCNN().state_dict()) == [
        f"{layer}.{part}" for layer in (0, 2, 5, 7) for part in ("weight", "bias")
    ]


def test_a_normalisation_belongs_to_the_defense(tmp_path: Path) -> None:
    spec = {"channels": 3, "image_size": 8, "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.4, 0.25]}
    network = StridedCNN(**spec).eval()
    torch.save(network.state_dict(), tmp_path / "net.pt")
    defense = Undefended(Checkpoint.find("net.pt", tmp_path), {"type": "strided_cnn", **spec})
    x = torch.rand(2, 3, 8, 8)
    normalised = (x - torch.tensor(spec["mean"])[:, None, None]) / torch.tensor(spec["std"])[:, None, None]
    assert torch.allclose(defense(x), network(normalised), atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 30}, "image_size 30"),
        ({"kernel": 7}, "kernel is 7"),
        ({"kernel": 2}, "kernel is 2"),
        ({"widths": [16]}, "widths has 1"),
        ({"mean": [0.5]}, "mean and std belong together"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        StridedCNN(**arguments)
