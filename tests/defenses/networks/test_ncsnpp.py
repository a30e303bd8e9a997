from __future__ import annotations

import pytest
import torch

from defenses.networks.ncsnpp import NCSNpp, NCSNppConfig

SHAPE = (2, 3, 16, 16)
PRECISIONS = [
    pytest.param(torch.float32, "outputs", 1e-4, id="float32"),
    pytest.param(torch.float64, "outputs_f64", 1e-9, id="float64"),
]


def listing(network: torch.nn.Module) -> list[str]:
    return [f"{name} {'x'.join(map(str, tensor.shape))}" for name, tensor in network.state_dict().items()]


def parameters(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def published(config: dict, **changes) -> NCSNpp:
    return NCSNpp(NCSNppConfig.from_published(config, **changes))


@pytest.mark.parametrize(("dtype", "outputs", "tolerance"), PRECISIONS)
def test_class_conditional_form_predicts_the_reference_noise(
    dtype, outputs, tolerance, golden, fill, rule_image, assert_summary
):
    reference = golden("ncsnpp_rdc_cond")
    network = fill(published(reference["configs"]["tiny"], num_classes=10).to(dtype), exempt=["sigmas"])
    x = 2 * rule_image(SHAPE, dtype) - 1
    for t in (0, 10.5, 500, 999):
        labels = torch.full((2,), t, dtype=dtype)
        for y, name in ((None, "None"), (torch.tensor([0, 3]), "[0,3]")):
            assert_summary(network(x, labels, y), reference[outputs][f"eps_label_{t}_y_{name}"], tolerance)
    eps = network(x, torch.tensor([125, 875]), torch.tensor([9, 5]))
    assert_summary(eps, reference[outputs]["eps_inttime_[125,875]_y_[9,5]"], tolerance)
