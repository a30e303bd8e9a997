from __future__ import annotations

import json
from dataclasses import asdict

import pytest
import torch
import torch.nn.functional as F

from defenses.networks.layers import fir_down, fir_up, sinusoids
from defenses.networks.ncsnpp import NCSNpp
from defenses.networks.ncsnpp_config import NCSNppConfig
from harness.errors import UserError
from helpers.originals import assert_summary, fill, golden, rule_image, rule_noise

pytestmark = pytest.mark.slow

SHAPE = (2, 3, 16, 16)
VARIANTS = [
    "ve_continuous",
    "ffhq_form",
    "ddpm_blocks",
    "ddpm_fir_residual",
    "ddpm_means_output_skip",
    "five_taps",
    "odd_ddpm_taps",
]
in_both_precisions = pytest.mark.parametrize(
    ("dtype", "outputs", "tolerance"),
    [
        pytest.param(torch.float32, "outputs", 1e-4, id="float32"),
        pytest.param(torch.float64, "outputs_f64", 1e-9, id="float64"),
    ],
)


def listing(network: NCSNpp) -> list[str]:
    return [f"{name} {'x'.join(map(str, tensor.shape))}" for name, tensor in network.state_dict().items()]


def parameters(network: NCSNpp) -> int:
    return sum(p.numel() for p in network.parameters())


def published(config: dict, device: str = "cpu", **changes: int) -> NCSNpp:
    with torch.device(device):
        return NCSNpp(NCSNppConfig.from_published(config, **changes))


def digits_network(**options: object) -> NCSNpp:
    small = {"image_size": 8, "channels": 1, "nf": 8, "ch_mult": (1, 2), "num_res_blocks": 1, "attn_resolutions": (4,)}
    return NCSNpp(**(small | {"init_scale": 1.0, "num_classes": 10} | options)).eval()


@pytest.fixture
def filled():
    """filled(config, dtype, **changes): a network of a published configuration with the rule's weights."""

    def build(config: dict, dtype: torch.dtype, exempt: tuple[str, ...] = ("sigmas",), **changes: int) -> NCSNpp:
        return fill(published(config, **changes).to(dtype), exempt=exempt)

    return build


# --- names, shapes and order ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["tiny", "full"])
def test_unconditional_tensors_are_those_of_the_checkpoint(size):
    reference = golden("ncsnpp_diffpure")
    network = published(reference["configs"][size], "meta")
    assert listing(network) == reference["listings"][size]
    assert parameters(network) == reference["parameters"][size]


def test_parameters_come_in_the_order_of_the_published_moving_averages():
    reference = golden("ncsnpp_diffpure")
    network = published(reference["configs"]["tiny"], "meta")
    assert [name for name, _ in network.named_parameters()] == reference["parameter_order_tiny"]


@pytest.mark.parametrize(
    ("name", "changes"), [("ncsnpp_rdc_cond", {}), ("ncsnpp_rdc_multihead", {"heads": 10})], ids=["table", "heads"]
)
def test_class_forms_add_their_tensors_at_the_end(name, changes):
    reference, unconditional = golden(name), golden("ncsnpp_diffpure")["listings"]["full"]
    tiny = published(reference["configs"]["tiny"], "meta", num_classes=10, **changes)
    full = published(reference["configs"]["full"], "meta", num_classes=10, **changes)
    assert listing(tiny) == reference["listings"]["tiny"]
    assert listing(full) == unconditional[:-2] + reference["listings"]["full_tail"]
    assert [parameters(tiny), parameters(full)] == [reference["parameters"][size] for size in ("tiny", "full")]


def test_eleventh_head_for_guidance_changes_only_the_last_tensors():
    reference = golden("ncsnpp_rdc_multihead")
    network = published(reference["configs"]["tiny"], "meta", num_classes=11, heads=11)
    assert listing(network) == reference["listings"]["tiny"][:-4] + reference["listings"]["tiny_11_tail"]
    assert parameters(network) == reference["parameters"]["tiny_11"]


def test_full_variance_exploding_network_has_the_published_size():
    reference = golden("ncsnpp_variants")["full_ve"]
    network = published(reference["config"], "meta")
    assert parameters(network) == reference["parameters"]
    assert sum(p.requires_grad for p in network.parameters()) == reference["trained"]


# --- outputs -------------------------------------------------------------------------------------------------------


@in_both_precisions
def test_unconditional_form_predicts_the_reference_noise(
    dtype,
    outputs,
    tolerance,
    filled,
):
    reference = golden("ncsnpp_diffpure")
    network = filled(reference["configs"]["tiny"], dtype)
    x = 2 * rule_image(SHAPE, dtype) - 1
    for labels in ([0, 0], [10.5, 10.5], [500, 500], [999, 999], [10.5, 999]):
        name = f"eps_label_{labels[0]}" if labels[0] == labels[1] else "eps_labels_mixed_[10.5,999]"
        assert_summary(network(x, torch.tensor(labels, dtype=dtype)), reference[outputs][name], tolerance)


@in_both_precisions
def test_scaled_prediction_is_the_reference_score(
    dtype,
    outputs,
    tolerance,
    filled,
):
    reference = golden("ncsnpp_diffpure")
    network = filled(reference["configs"]["tiny"], dtype)
    x = 2 * rule_image(SHAPE, dtype) - 1
    for t in (0.001, 0.1, 0.5):
        score = -network(x, torch.full((2,), t * 999, dtype=dtype)) / reference[outputs][f"std_t_{t}"]
        assert_summary(score, reference[outputs][f"score_t_{t}"], tolerance)


@in_both_precisions
def test_smallest_form_predicts_the_reference_noise(
    dtype,
    outputs,
    tolerance,
    filled,
):
    reference = golden("ncsnpp_diffpure")
    network = filled(reference["configs"]["nano"], dtype)
    assert parameters(network) == reference["parameters"]["nano"]
    x = 2 * rule_image(SHAPE, dtype) - 1
    for t in (10.5, 500):
        eps = network(x, torch.full((2,), t, dtype=dtype))
        assert_summary(eps, reference[outputs][f"nano_eps_label_{t}"], tolerance)


@in_both_precisions
def test_labels_become_the_reference_sinusoids(
    dtype,
    outputs,
    tolerance,
):
    summary = golden("ncsnpp_diffpure")[outputs]["timestep_embedding_dim32_t_[0,10.5,999]"]
    assert_summary(sinusoids(torch.tensor([0, 10.5, 999], dtype=dtype), 32), summary, tolerance)


@in_both_precisions
def test_class_conditional_form_predicts_the_reference_noise(
    dtype,
    outputs,
    tolerance,
    filled,
):
    reference = golden("ncsnpp_rdc_cond")
    network = filled(reference["configs"]["tiny"], dtype, num_classes=10)
    x = 2 * rule_image(SHAPE, dtype) - 1
    for t in (0, 10.5, 500, 999):
        labels = torch.full((2,), t, dtype=dtype)
        for y, name in ((None, "None"), (torch.tensor([0, 3]), "[0,3]")):
            assert_summary(network(x, labels, y), reference[outputs][f"eps_label_{t}_y_{name}"], tolerance)
    eps = network(x, torch.tensor([125, 875]), torch.tensor([9, 5]))
    assert_summary(eps, reference[outputs]["eps_inttime_[125,875]_y_[9,5]"], tolerance)


@in_both_precisions
@pytest.mark.parametrize("heads", [10, 11])
def test_multi_head_form_predicts_the_reference_noise(
    heads,
    dtype,
    outputs,
    tolerance,
    filled,
):
    reference = golden("ncsnpp_rdc_multihead")
    network = filled(reference["configs"]["tiny"], dtype, num_classes=heads, heads=heads)
    x = 2 * rule_image(SHAPE, dtype) - 1
    for t in (0, 500, 999):
        eps = network(x, torch.full((2,), t))
        assert eps.shape == (2, heads, 3, 16, 16)
        assert_summary(eps.flatten(1, 2), reference[outputs][f"nc{heads}_eps_label_{t}"], tolerance)


@in_both_precisions
@pytest.mark.parametrize(("heads", "guidance"), [(10, 0), (11, 0), (11, 0.5)])
def test_multi_head_logits_are_the_reference_ones(
    heads,
    guidance,
    dtype,
    outputs,
    tolerance,
    filled,
):
    reference = golden("ncsnpp_rdc_multihead")
    network = filled(reference["configs"]["tiny"], dtype, num_classes=heads, heads=heads)
    ts = reference["ts"]
    noise = torch.cat([rule_noise((1, *SHAPE[1:]), k, dtype) for k in range(len(ts))])
    alpha_bar = (1 - torch.linspace(0.1 / 1000, 20 / 1000, 1000, dtype=dtype)).cumprod(0)[ts][:, None, None, None]
    logits = []
    with torch.no_grad():
        for image in 2 * rule_image(SHAPE, dtype) - 1:
            eps = network(alpha_bar.sqrt() * image + (1 - alpha_bar).sqrt() * noise, torch.tensor(ts))
            eps = (1 + guidance) * eps[:, :10] - guidance * eps[:, -1:]
            logits.append(-(eps - noise[:, None]).square().mean(dim=(0, 2, 3, 4)))
    expected = torch.tensor(reference[outputs][f"nc{heads}_cached_logits_cfg{guidance}"], dtype=dtype)
    torch.testing.assert_close(torch.stack(logits), expected, rtol=tolerance, atol=0)


@in_both_precisions
@pytest.mark.parametrize("variant", VARIANTS)
def test_other_members_of_the_family_predict_the_reference_noise(
    variant,
    dtype,
    outputs,
    tolerance,
    filled,
):
    reference = golden("ncsnpp_variants")["variants"][variant]
    network = filled(reference["config"], dtype)
    assert listing(network) == reference["listing"]
    image = rule_image(SHAPE, dtype)
    x = 2 * image - 1 if reference["config"]["data"]["centered"] else image
    if network.config.scale_by_sigma and network.config.embedding_type == "positional":
        tolerance = max(tolerance, 1e-6)  # the noise levels are kept in float32
    eps = network(x, torch.tensor(reference["labels"], dtype=dtype))
    assert_summary(eps, reference[outputs]["eps"], tolerance)


# --- properties ----------------------------------------------------------------------------------------------------


def test_class_of_minus_one_is_no_class():
    network = fill(digits_network())
    x, labels = rule_noise((3, 1, 8, 8)), torch.tensor([1.0, 20.0, 300.0])
    mixed = network(x, labels, torch.tensor([4, -1, 0]))
    absent, present = network(x, labels), network(x, labels, torch.tensor([4, 4, 0]))
    torch.testing.assert_close(mixed[1], absent[1])
    torch.testing.assert_close(mixed[[0, 2]], present[[0, 2]])
    assert not torch.allclose(mixed[0], absent[0])


def test_rows_without_a_class_leave_the_table_untouched():
    network = digits_network()
    network(rule_noise((2, 1, 8, 8)), torch.zeros(2), torch.tensor([-1, 7])).square().sum().backward()
    touched = network.label_embed.weight.grad.abs().sum(dim=1) > 0
    assert touched.nonzero().flatten().tolist() == [7]


@pytest.mark.parametrize(
    "options",
    [{}, {"fir": True, "progressive": "output_skip", "progressive_input": "residual"}, {"resblock_type": "ddpm"}],
    ids=["plain", "fir_pyramids", "ddpm"],
)
def test_network_is_twice_differentiable_in_the_image(
    options,
):
    network = fill(digits_network(image_size=4, nf=4, attn_resolutions=(4,), **options).double())
    x = rule_noise((1, 1, 4, 4), dtype=torch.float64).requires_grad_()
    labels, y = torch.tensor([30.0]), torch.tensor([2])

    def loss(x: torch.Tensor) -> torch.Tensor:
        return network(x, labels, y).square().mean()

    assert torch.autograd.gradcheck(loss, x)
    assert torch.autograd.gradgradcheck(loss, x)


def test_each_image_is_predicted_on_its_own():
    network = fill(digits_network().double())
    x = rule_noise((3, 1, 8, 8), dtype=torch.float64)
    labels, y = torch.tensor([5.0, 50.0, 500.0]), torch.tensor([1, -1, 3])
    alone = [network(x[i : i + 1], labels[i : i + 1], y[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(torch.cat(alone), network(x, labels, y))


def test_memory_format_is_kept_and_changes_nothing():
    network = fill(digits_network(channels=3))
    x, labels = rule_noise((2, 3, 8, 8)), torch.tensor([3.0, 900.0])
    expected = network(x, labels)
    network.to(memory_format=torch.channels_last)
    out = network(x.to(memory_format=torch.channels_last), labels)
    assert out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


def test_half_precision_keeps_neighbouring_labels_apart():
    network = fill(digits_network())
    labels = torch.tensor([997.0, 999.0])
    expected = network.embed(labels, None, torch.float32)
    actual = network.bfloat16().embed(labels, None, torch.bfloat16)
    torch.testing.assert_close(actual.float(), expected, rtol=0.05, atol=0.05)
    assert network(rule_noise((2, 1, 8, 8), dtype=torch.bfloat16), labels).dtype == torch.bfloat16


def test_fresh_network_predicts_almost_nothing():
    network = digits_network(init_scale=0.0)
    assert network(rule_noise((2, 1, 8, 8)), torch.zeros(2)).abs().max() < 1e-3


def test_configuration_survives_json():
    network = digits_network(heads=3)
    again = NCSNpp(**json.loads(json.dumps(asdict(network.config))))
    assert listing(again) == listing(network)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resblock_type": "biggen"}, "biggan"),
        ({"ch_mul": (1, 2)}, "ch_mult"),
        ({"nf": 6}, "multiple of 4"),
        ({"nf": 24, "ch_mult": [1, 2, 4]}, "144 features .* in 32 equal groups. Take a width that is a multiple of 32"),
        ({"image_size": 7}, "halved"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        digits_network(**options)


@pytest.mark.parametrize(
    "config",
    [
        {"model": {}},
        {
            "data": {"image_size": 8, "num_channels": 1, "centered": True},
            "model": {"normalization": "InstanceNorm", "nf": 8},
        },
    ],
)
def test_published_configurations_that_cannot_be_built_are_refused(config):
    with pytest.raises(UserError, match=r"no 'data'|InstanceNorm"):
        NCSNppConfig.from_published(config)


def test_options_beside_a_configuration_are_refused():
    with pytest.raises(UserError, match="both"):
        NCSNpp(NCSNppConfig(nf=8), heads=2)


def test_images_of_another_shape_are_refused():
    with pytest.raises(UserError, match=r"\(N, 1, 8, 8\)"):
        digits_network()(torch.zeros(2, 1, 16, 16), torch.zeros(2))


def test_classes_are_refused_without_a_table():
    with pytest.raises(UserError, match="no class table"):
        digits_network(num_classes=None)(torch.zeros(1, 1, 8, 8), torch.zeros(1), torch.tensor([0]))


@pytest.mark.parametrize("taps", [(1, 3, 3, 1), (1, 2, 1), (1, 1), (1, 2, 3, 1, 1)])
def test_fir_resampling_follows_its_definition(taps):
    """Zero insertion, padding and correlation with the flipped kernel, sample by sample."""
    x = rule_noise((1, 1, 4, 4), dtype=torch.float64)
    k = torch.tensor(taps, dtype=torch.float64)
    k = torch.outer(k, k) / k.sum() ** 2
    excess = len(taps) - 2

    def filtered(image: torch.Tensor, before: int, after: int) -> torch.Tensor:
        padded = F.pad(image, (before, after, before, after))
        windows = padded.unfold(2, len(taps), 1).unfold(3, len(taps), 1)
        return (windows * k.flip(0, 1)).sum(dim=(4, 5))

    spread = torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    spread[..., ::2, ::2] = x
    torch.testing.assert_close(fir_up(x, taps), 4 * filtered(spread, (excess + 1) // 2 + 1, excess // 2))
    torch.testing.assert_close(fir_down(x, taps), filtered(x, (excess + 1) // 2, excess // 2)[..., ::2, ::2])
