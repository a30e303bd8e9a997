"""How far an attack is follows from the passes that it has taken, here and in a worker process."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from attacks.clean import Clean
from attacks.pgd import PGD
from harness.attack import Attack
from harness.evaluation.engines.worker_main import Sender
from harness.evaluation.progress import Progress
from harness.quantity import Quantity
from harness.target import Target
from helpers.linear import Linear, target_of

STEPS = 10


@pytest.fixture
def attack() -> PGD:
    return PGD("Linf", Quantity("0.1"), steps=STEPS)


@pytest.fixture
def target(attack: PGD) -> Target:
    weights = torch.eye(3, 16)
    return target_of(attack, Linear(weights), torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(1)))


def asked(target: Target, rows: list[int], times: int) -> None:
    index = torch.tensor(rows)
    for _ in range(times):
        target.step(target._clean[index], index, lambda logits, rows: logits[:, 0])


def test_the_share_is_passes_taken_of_passes_at_most_and_images_that_fell_are_done(target: Target, attack: PGD) -> None:
    most = attack.cost(3).forwards + attack.cost(3).backwards
    assert Progress.of(target, attack) == Progress(0, 0.0)
    asked(target, [0, 1, 2, 3], 1)
    assert Progress.of(target, attack) == Progress(8, pytest.approx(2 / most))
    asked(target, [0, 1, 2], 3)
    assert Progress.of(target, attack) == Progress(26, pytest.approx((3 * 8 / most + 1) / 4)), "one has left"
    asked(target, [0, 1, 2], 2 * STEPS)
    assert Progress.of(target, attack).share == 1


def test_an_attack_that_says_nothing_of_its_passes_has_no_share(target: Target) -> None:
    class Silent(Clean):
        def cost(self, num_classes: int) -> Any:
            raise NotImplementedError

    attacks: list[Attack] = [Clean(), Silent()]
    assert [Progress.of(target, attack).share for attack in attacks] == [None, None]


class Sent:
    def __init__(self) -> None:
        self.messages: list[Any] = []

    def send(self, message: Any) -> None:
        self.messages.append(message)


def test_a_worker_says_how_far_its_attack_is_as_long_as_it_is_at_work(target: Target, attack: PGD) -> None:
    sent = Sent()
    sender = Sender(sent, pause=0.01)  # type: ignore[arg-type]
    asked(target, [0], 1)
    time.sleep(0.05)
    assert sent.messages == []
    sender.watch(SimpleNamespace(attack=attack), target)  # type: ignore[arg-type]
    limit = time.monotonic() + 20
    while not sent.messages and time.monotonic() < limit:
        time.sleep(0.01)
    sender.rest()
    assert sent.messages and set(sent.messages) == {Progress.of(target, attack)}
    count = len(sent.messages)
    time.sleep(0.05)
    assert len(sent.messages) == count
