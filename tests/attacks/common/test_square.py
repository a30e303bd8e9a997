"""Square on images of every size: the library's attack where that works, and no failure where it does not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pyautoattack.square import SquareAttack
from torch import Tensor, nn

from attacks.autoattack import AutoAttack
from attacks.common.square import Square, overruns, too_low
from attacks.torchattacks import TorchAttacks
from attacks.worst_of import WorstOf
from harness.dry_run.cost import estimate
from harness.dry_run.meta_checkpoints import all_on_meta
from harness.errors import UserError
from harness.evaluation.run import run
from harness.quantity import Quantity
from harness.randomness import fenced, normal, uniform
from harness.reporting import summarise
from harness.results.load import read_run as results
from harness.suite import load_suite

pytestmark = pytest.mark.slow

SQUARES = [(side, side) for side in range(5, 41)]
FEWER = [(side, side) for side in range(5, 41) if side % 4 == 0 or side in (14, 18, 19)]
RECTANGLES = [(28, 20), (24, 20), (64, 96), (5, 40), (40, 5), (7, 30), (30, 7), (19, 13), (33, 32), (48, 9)]
REFUSED_BY_THE_LIBRARY = {12, 14, 18, 19, 24}


@cache
def case(shape: tuple[int, int]) -> tuple[nn.Module, Tensor, Tensor]:
    """A linear model, two images of two channels and what it says of them."""
    size = 2 * shape[0] * shape[1]
    weights, x = normal(torch.arange(4), (size,)), uniform(torch.arange(2), (2, *shape))
    model = nn.Sequential(nn.Flatten(), nn.Linear(size, 4, bias=False)).requires_grad_(False)
    model[1].weight.copy_(weights)
    return model, x, model(x).argmax(1)


def attacked(cls: Any, shape: tuple[int, int], norm: str) -> Tensor:
    """Raises whatever the library raises."""
    model, x, y = case(shape)
    options = {"norm": norm, "eps": 0.05, "n_queries": 4, "p_init": 0.8, "resc_schedule": False, "seed": 3}
    with fenced(0):
        images: Tensor = cls(model, device="cpu", **options).perturb(x, y)
    return images


@pytest.mark.parametrize("norm", ["L2", "L1"])
def test_it_is_the_librarys_attack_wherever_that_does_not_fail(norm: str) -> None:
    failed = set()
    for shape in [*(SQUARES if norm == "L2" else FEWER), *RECTANGLES]:
        ours, (_, x, _) = attacked(Square, shape, norm), case(shape)
        try:
            assert torch.equal(ours, attacked(SquareAttack, shape, norm))
        except RuntimeError:
            failed.add(shape)
        order = 2 if norm == "L2" else 1
        sizes = torch.linalg.vector_norm((ours - x).flatten(1), order, dim=1)
        assert type(ours) is Tensor and (sizes < 0.05 + 1e-4).all() and 0 <= ours.min() <= ours.max() <= 1
    assert failed >= {(side, side) for side in REFUSED_BY_THE_LIBRARY} | {(28, 20), (24, 20), (64, 96)}
    assert {height for height, width in failed if height == width} == REFUSED_BY_THE_LIBRARY


def test_a_tile_that_leaves_the_image_is_cut_and_the_others_are_whole() -> None:
    """Of 14 pixels the tiles of 2 begin at 2: the seventh would begin at 14. Of 19 the last keeps two of three rows."""

    def start(side: int) -> Tensor:
        seen: list[Tensor] = []

        def spy(x: Tensor) -> Tensor:
            seen.append(x.clone())
            return torch.tensor([[1.0, 0.0]]).repeat(len(x), 1)

        gray = torch.full((1, 1, side, side), 0.5)
        with fenced(0):
            Square(spy, norm="L2", eps=0.1, n_queries=1, seed=0, device="cpu").perturb(gray, torch.tensor([0]))
        return (seen[1] - 0.5)[0, 0]

    assert start(14)[:2].abs().max() == 0 and (start(14)[2:, 2:].abs() > 0).all()
    assert start(19)[:2].abs().max() == 0 and (start(19)[2:, 2:].abs() > 0).float().mean() > 0.8
    assert start(19)[-1, 2:].abs().max() > 0
    assert torch.linalg.vector_norm(start(19)) == pytest.approx(0.1, abs=1e-5)


def test_copies_of_the_library_are_known_to_fail_where_they_do() -> None:
    torchattacks = pytest.importorskip("torchattacks")
    for shape in [*SQUARES, *RECTANGLES, (4, 9), (3, 3)]:
        model, x, y = case(shape)
        works = False
        with suppress(RuntimeError, ZeroDivisionError), fenced(0):
            torchattacks.Square(model, norm="L2", eps=1e-4, n_queries=8, seed=3)(x, y)
            works = True
        assert works != overruns(*shape), shape


@pytest.mark.parametrize("norm", ["L2", "L1", "Linf"])
def test_an_image_with_too_few_rows_for_tiles_is_told_so_where_there_are_tiles(norm: str) -> None:
    attack = AutoAttack(norm, Quantity("0.1"))  # type: ignore[arg-type]
    assert too_low(norm, 5) is None and attack.unsuitable_images((1, 5, 9)) is None  # type: ignore[arg-type]
    reason = attack.unsuitable_images((1, 4, 9))
    assert reason == (
        None if norm == "Linf" else f"AutoAttack's square needs images at least 5 pixels high in {norm}, not 4"
    )
    rand = AutoAttack(norm, Quantity("0.1"), version="rand")  # type: ignore[arg-type]
    assert rand.unsuitable_images((1, 4, 9)) is None
    assert WorstOf([attack]).unsuitable_images((1, 4, 9)) == reason


def test_torchattacks_square_is_refused_where_its_tiles_overrun() -> None:
    pytest.importorskip("torchattacks")
    for name, norm, refused in [("Square", "L2", True), ("AutoAttack", "L2", True), ("Square", "Linf", False)]:
        attack = TorchAttacks(name, norm, Quantity("0.1"))  # type: ignore[arg-type]
        assert bool(attack.unsuitable_images((1, 14, 14))) == refused
        assert attack.unsuitable_images((1, 32, 32)) is None
    assert TorchAttacks("PGDL2", "L2", Quantity("0.1")).unsuitable_images((1, 14, 14)) is None


DEFENSE = """
import torch
from harness.defense import Defense


class Linear(Defense):
    num_classes = 10

    def __init__(self, side: int):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("w", torch.randn(10, side * side, generator=generator) / side)

    def classify(self, x):
        return x.flatten(1) @ self.w.T
"""


@contextmanager
def suite(folder: Path, side: int) -> Iterator[Path]:
    """Four images that withstand a budget as small as this, and AutoAttack with Square last, in L2 and L1."""
    (folder / "defense.py").write_text(DEFENSE)
    x = 0.1 + 0.8 * uniform(torch.arange(4), (1, side, side))
    w = torch.randn(10, side * side, generator=torch.Generator().manual_seed(0)) / side
    np.savez(
        folder / "images.npz", images=x.numpy(), labels=(x.flatten(1) @ w.T).argmax(1).numpy(), classes=np.arange(10)
    )
    path = folder / "suite.yaml"
    path.write_text(
        "suite: square\ndataset: {name: npz, path: images.npz}\n"
        f'defenses:\n  linear: {{type: "./defense.py:Linear", side: {side}}}\n'
        "defaults: {attacks: {type: autoattack, version: custom, attacks: [apgd-ce, square], apgd_steps: 3, "
        "square_queries: 20}}\n"
        "attacks:\n  l2: {norm: L2, eps: 0.001}\n  l1: {norm: L1, eps: 0.001}\n"
    )
    yield path


def execute(path: Path, out: Path) -> None:
    run(load_suite(path), out, torch.device("cpu"))


def test_a_run_on_a_size_that_the_library_cannot_tile_gives_numbers(tmp_path: Path) -> None:
    with suite(tmp_path, 14) as path:
        execute(path, tmp_path / "out")
    (row,) = summarise(results(tmp_path / "out")).rows
    for entry in row.entries[1:3]:
        assert entry.estimate is not None and (entry.estimate.value, entry.errors, entry.remarks) == (1.0, 0, ())


def test_a_run_on_images_that_are_too_low_is_refused_before_it_starts(tmp_path: Path) -> None:
    with suite(tmp_path, 4) as path:
        for refused in (lambda: execute(path, tmp_path / "out"), lambda: estimate(all_on_meta(load_suite(path)))):
            with pytest.raises(UserError, match="does not fit defense 'linear': AutoAttack's square needs images at"):
                refused()
    assert not list((tmp_path / "out").glob("cells/**/*.parquet"))
