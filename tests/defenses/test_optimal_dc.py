"""OptimalDC on the digits and on files: which images it knows, what its result's identity covers, how it answers."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from attacks.pgd import PGD
from defenses.diffusion.denoiser import NO_CLASS
from defenses.optimal_dc import Files, OptimalDC
from harness import datasets
from harness.checks import check_defense
from harness.config.component import Component, bind
from harness.config.yaml_file import parse
from harness.errors import Place, UserError
from harness.quantity import Quantity
from harness.randomness import fold
from harness.suite.cell_key import component_hash
from harness.target import Target

SEEDS = torch.tensor([5, 1 << 61])


def ask(defense: OptimalDC, x: Tensor, seeds: Tensor = SEEDS) -> Tensor:
    with torch.no_grad(), defense.drawing(seeds):
        return defense(x)


@pytest.fixture(scope="module")
def x() -> Tensor:
    return datasets.load("digits").images[:2]


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (12, 5, 4, 3), dtype=np.uint8), np.arange(12) % 3
    np.savez(tmp_path / "own.npz", images=images, labels=labels)
    return tmp_path / "own.npz"


def test_logits_are_the_mean_over_timesteps_of_the_weighted_distance_to_the_posterior_mean(x) -> None:
    """Corollary 3.3 by hand for one timestep and class, with the noise that the seeds give."""
    defense = OptimalDC("digits", timesteps=[120], noise="fixed", share_noise="classes", reduction="sum")
    train = datasets.load("digits", "train")
    known = (2 * train.images[train.labels == 4] - 1).double()
    t, a, sigma = torch.tensor([120]), *(v.double() for v in (defense.loss.grid.signal, defense.loss.grid.sigma))
    zero = torch.zeros(1, dtype=torch.int64)
    eps = defense.loss.noise(zero, zero, t, zero, (1, 8, 8), torch.float32).double()
    for image, logits in zip((2 * x - 1).double(), defense(x), strict=True):
        s = torch.softmax(-(a * (image - known) + sigma * eps).square().sum((1, 2, 3)) / (2 * sigma**2), 0)
        distance = (image - (s[:, None, None, None] * known).sum(0)).square().sum()
        assert logits[4].item() == pytest.approx(-float((a / sigma) ** 2 * distance), rel=1e-5)


@pytest.mark.slow
def test_it_keeps_the_contract_of_a_defense() -> None:
    test = datasets.load("digits").select(range(6))
    for options in ({}, {"noise": "fixed", "per_class": 20}):
        findings = check_defense(OptimalDC("digits", timesteps=10, **options), test.images, test.labels)
        assert {v.name: v.message for v in findings if v.status not in ("passed", "skipped")} == {}


def test_memory_knobs_change_no_number(x) -> None:
    plain, tuned = (
        ask(OptimalDC("digits", timesteps=10, **knobs), x) for knobs in ({}, {"chunk": 7, "gradient_passes": "single"})
    )
    torch.testing.assert_close(plain, tuned, rtol=1e-4, atol=1e-6)


def test_votes_differ_unless_the_noise_is_fixed(x) -> None:
    fresh, fixed = (OptimalDC("digits", timesteps=10, noise=noise) for noise in ("fresh", "fixed"))
    assert (fresh.stochastic, fixed.stochastic) == (True, False)
    assert (ask(fresh, x) != ask(fresh, x, fold(SEEDS, 1))).any()
    assert torch.equal(ask(fixed, x), ask(fixed, x, fold(SEEDS, 1)))


def test_energy_is_the_loss_when_all_images_are_one_class(x) -> None:
    defense = OptimalDC("digits", timesteps=[300], noise="fixed", share_noise="classes")
    loss = defense.loss(x, torch.tensor([NO_CLASS]), torch.zeros(2).long())
    assert torch.equal(defense.energy(x)[:, None], 64 * loss)
    assert (defense.energy(x) != -64 * defense(x).amax(1)).all()


def test_the_images_it_knows_are_not_attacked_successfully(x) -> None:
    """The paper's claim (Sec. 3.3): PGD with the exact gradient, on images of D."""
    known = datasets.load("digits").select(range(20))
    defense = OptimalDC("digits", split="test", timesteps=10, noise="fixed")
    seeds = torch.arange(20)
    for norm, eps in (("Linf", "8/255"), ("L2", "0.5")):
        attack = PGD(norm, Quantity(eps), steps=5, loss="margin")
        found = attack.perturb(Target(defense, known.images, seeds), known.images, known.labels)
        assert float((found - known.images).abs().max()) > 0.02
        assert (ask(defense, found, seeds).argmax(1) == known.labels).all()


def test_files_are_read_and_only_the_first_images_of_each_class_kept(npz) -> None:
    whole, part = (OptimalDC("npz", path=Files(npz, "own.npz"), per_class=n, timesteps=2) for n in (None, 2))
    assert (whole.num_classes, whole.denoiser.counts, part.denoiser.counts) == (3, [4, 4, 4], [2, 2, 2])
    kept = datasets.load("npz", "train", npz).images[[0, 3, 1, 4, 2, 5]]
    torch.testing.assert_close(part.denoiser.data, 2 * kept.flatten(1) - 1)


def entry(folder: Path, **arguments: object) -> Component:
    text = "\n".join(["type: optimal_dc", *(f"{key}: {value}" for key, value in arguments.items())])
    return bind("defenses", "mine", parse(text, folder / "suite.yaml").root)


def test_the_content_of_a_file_counts_in_the_identity_and_its_place_does_not(npz, tmp_path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(npz, elsewhere / "copy.npz")
    here, there = entry(tmp_path, dataset="npz", path="own.npz"), entry(elsewhere, dataset="npz", path="copy.npz")
    assert here.build().num_classes == 3
    assert component_hash(here) == component_hash(there)
    np.savez(npz, images=np.zeros((3, 5, 4, 3), dtype=np.uint8), labels=np.arange(3))
    assert component_hash(entry(tmp_path, dataset="npz", path="own.npz")) != component_hash(there)


def test_the_content_of_a_folder_counts_in_the_identity(tmp_path) -> None:
    (tmp_path / "images" / "cat").mkdir(parents=True)
    (tmp_path / "images" / "cat" / "1.png").write_bytes(b"one")
    before = Files(tmp_path / "images", "images").sha256
    (tmp_path / "images" / "cat" / "1.png").rename(tmp_path / "images" / "cat" / "2.png")
    assert Files(tmp_path / "images", "images").sha256 != before


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"dataset": "digit"}, "Did you mean 'digits'"),
        ({"dataset": "digits", "per_class": 0}, "per_class is 0"),
        ({"dataset": "digits", "samples": 0}, "samples is 0"),
        ({"dataset": "digits", "chunk": 0}, "chunk is 0"),
        ({"dataset": "digits", "timesteps": 1001}, "timesteps is 1001"),
        ({"dataset": "digits", "path": "own.npz"}, "has a place of its own"),
        ({"dataset": "npz", "path": "absent.npz"}, "does not exist"),
        ({"dataset": "npz", "path": 3}, "path"),
        ({"dataset": "npz"}, "needs a path"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(npz, tmp_path, arguments, complaint) -> None:
    with pytest.raises(UserError) as error:
        entry(tmp_path, **arguments).build()
    assert complaint in str(error.value)
    assert error.value.where and error.value.where.file == Place(tmp_path / "suite.yaml").file
