"""On a GPU PyTorch itself reports every wait: there is none but those on purpose, in `harness.process.waits`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from attacks.pgd import PGD
from defenses.dc import DC
from defenses.diffpure import DiffPure
from defenses.rdc import RDC
from defenses.undefended import Undefended
from harness import datasets
from harness.defense import Defense
from harness.process import waits
from harness.quantity import Quantity
from harness.randomness import row_seeds
from harness.target import Target

pytestmark = pytest.mark.gpu


DEFENSES: dict[str, Callable[[], Defense]] = {
    "undefended": lambda: Undefended("digits-cnn"),
    "dc": lambda: DC("digits-ncsnpp", timesteps=5),
    "rdc": lambda: RDC("digits-ncsnpp", timesteps=5, steps=2, sign_gradient="tanh"),
    "diffpure": lambda: DiffPure("digits-ncsnpp", Undefended("digits-cnn"), t_star=0.1, dt=0.05),
}


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Waits are errors, but for those on purpose."""

    def allowed(name: str) -> Callable[..., Any]:
        real = getattr(waits, name)

        def ask(values: torch.Tensor) -> Any:
            before = torch.cuda.get_sync_debug_mode()
            torch.cuda.set_sync_debug_mode("default")
            try:
                return real(values)
            finally:
                torch.cuda.set_sync_debug_mode(before)

        return ask

    for name in ("places", "some", "distinct", "on_host"):
        monkeypatch.setattr(waits, name, allowed(name))
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", DEFENSES)
def test_a_step_waits_for_nothing(name: str, refusing: None) -> None:
    data = datasets.load("digits", "test")
    x, y, rows = data.images[:4].cuda(), data.labels[:4].cuda(), torch.arange(4).cuda()
    defense = DEFENSES[name]().eval().cuda()
    target = Target(defense, x, row_seeds(0, rows))
    loss = PGD("Linf", Quantity("0.1"), steps=1, loss="margin").objective(defense, x, y, None)
    target.step(x, rows, loss)  # constants come to the device
    torch.cuda.set_sync_debug_mode("error")
    step = target.step(x, rows, loss)
    torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(step.grad).all()
