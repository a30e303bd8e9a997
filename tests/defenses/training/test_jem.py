"""JEM: Langevin dynamics on a quadratic energy, the loss by hand, and a buffer that outlives an interruption."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from defenses.training.jem import JEM, langevin
from harness.errors import UserError
from harness.training import loop, train


class Bowl(nn.Module):
    """Two classes, E(u) = curvature |u|^2 / 2 of the image u = 2 x - 1: both logits are its negative less log 2."""

    def __init__(self, curvature: float) -> None:
        super().__init__()
        self.curvature = nn.Parameter(torch.tensor(curvature))

    def forward(self, x: Tensor) -> Tensor:
        logit = -self.curvature / 2 * (2 * x - 1).square().flatten(1).sum(1) - math.log(2)
        return torch.stack([logit, logit], dim=1)


def quadratic(u: Tensor) -> Tensor:
    return 2 * u.square().flatten(1).sum(1)  # curvature 4


def test_a_chain_without_noise_is_gradient_descent() -> None:
    start = 2 * torch.rand(3, 1, 4, 4) - 1
    end = langevin(quadratic, start, steps=5, step_size=0.1, temperature=0)
    assert torch.allclose(end, start * (1 - 0.1 * 4) ** 5, atol=1e-6)


def test_a_chain_on_a_quadratic_energy_has_the_spread_of_an_autoregression() -> None:
    """u <- (1 - a c) u + s eps has the variance s^2 / (1 - (1 - a c)^2) once it forgot its start."""
    torch.manual_seed(0)
    end = langevin(quadratic, torch.ones(100, 1, 10, 10), steps=40, step_size=0.05, temperature=0.1)
    assert end.std().item() == pytest.approx(math.sqrt(0.01 / (1 - 0.8**2)), rel=0.03)
    assert abs(end.mean().item()) < 0.01


def test_chains_stay_among_images() -> None:
    end = langevin(lambda u: -quadratic(u), 2 * torch.rand(3, 1, 4, 4) - 1, steps=9, step_size=0.5, temperature=0.1)
    assert end.abs().max() <= 1


def test_the_loss_equals_its_terms_by_hand() -> None:
    x, y = torch.rand(6, 1, 4, 4), torch.randint(2, (6,))
    options = {"steps": 1, "step_size": 0.1, "temperature": 0, "noise": 0, "buffer": 6, "restart": 0}
    trainer = JEM(**options, weight=0.5, regularisation=0.25)
    start = 2 * torch.rand(6, 1, 4, 4) - 1
    trainer.restore({"buffer": start.clone()})
    network = Bowl(3.0)
    loss = trainer.loss(network, x, y)
    real = 1.5 * (2 * x - 1).square().flatten(1).sum(1)
    drawn = 1.5 * (start * (1 - 0.1 * 3)).square().flatten(1).sum(1)
    expected = math.log(2) + 0.5 * (real.mean() - drawn.mean()) + 0.25 * (real**2).mean() + 0.25 * (drawn**2).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    loss.backward()
    slope = (0.5 * (real.mean() - drawn.mean()) + 0.5 * (real**2).mean() + 0.5 * (drawn**2).mean()) / 3
    assert network.curvature.grad.item() == pytest.approx(slope.item(), rel=1e-4)


def test_chains_go_on_from_the_buffer_and_return_to_it() -> None:
    trainer, x = JEM(steps=1, step_size=0.1, temperature=0, buffer=8, restart=0), torch.rand(4, 1, 4, 4)
    before = torch.rand(8, 1, 4, 4)
    trainer.restore({"buffer": before.clone()})
    trainer.loss(Bowl(3.0), x, torch.zeros(4, dtype=torch.int64))
    moved = torch.isclose(trainer.state()["buffer"], 0.7 * before).flatten(1).all(1)
    kept = (trainer.state()["buffer"] == before).flatten(1).all(1)
    assert (moved.sum(), kept.sum()) == (4, 4)


def test_chains_that_restart_forget_the_buffer() -> None:
    trainer, x = JEM(steps=1, step_size=0.1, temperature=0, buffer=50, restart=1), torch.rand(50, 1, 4, 4)
    trainer.restore({"buffer": torch.zeros(50, 1, 4, 4)})
    trainer.loss(Bowl(3.0), x, torch.zeros(50, dtype=torch.int64))
    assert trainer.state()["buffer"].std().item() == pytest.approx(0.7 / math.sqrt(3), rel=0.1)


RECIPE = """\
recipe: tiny
trainer: {type: jem, steps: 2, buffer: 150, shift: 1}
network: {type: jem_wrn, depth: 10, width: 1, in_channels: 1}
dataset: {name: digits}
steps: 5
batch_size: 100
card: {summary: a test, licence: MIT, source: this test}
"""


def test_a_run_that_was_stopped_ends_with_the_weights_of_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(RECIPE)

    def trained(runs: str) -> bytes:
        return train(recipe, runs=tmp_path / runs).read_bytes()

    whole, step = trained("whole"), loop.step
    monkeypatch.setattr(loop, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(loop, "SAVING_SHARE", math.inf)

    def crashing(*arguments: object) -> float:
        if arguments[2].step == 3:
            raise MemoryError
        return step(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "step", crashing)
        with pytest.raises(MemoryError):
            trained("stopped")
    assert torch.load(tmp_path / "stopped/tiny/checkpoint.pt")["trainer"]["buffer"].shape == (150, 1, 8, 8)
    assert trained("stopped") == whole


@pytest.mark.parametrize(
    ("name", "value"),
    [("steps", 0), ("buffer", 0), ("weight", -1), ("regularisation", -1), ("noise", -1), ("shift", -1), ("restart", 2)],
)
def test_an_argument_that_means_nothing_is_told(name: str, value: int) -> None:
    with pytest.raises(UserError, match=f"{name} is {value}"):
        JEM(**{name: value})
