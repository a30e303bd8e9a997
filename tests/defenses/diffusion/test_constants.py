"""What is made of constants once is kept, and is no part of what they are."""

from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace

import torch

from defenses.diffusion.schedule import discrete_vp
from harness.suite.built_state import state


def test_a_copy_for_a_device_is_made_once() -> None:
    schedule, made = discrete_vp(), []

    def make() -> int:
        made.append(None)
        return len(made)

    assert [schedule.kept("somewhere", make) for _ in range(3)] == [1, 1, 1]
    assert schedule.kept("elsewhere", make) == 2


def test_copies_change_neither_the_identity_nor_what_is_pickled() -> None:
    used, fresh = discrete_vp(), discrete_vp()
    used.sigma(torch.tensor([1, 2]))
    assert state(SimpleNamespace(schedule=used)) == state(SimpleNamespace(schedule=fresh))
    for other in (copy.deepcopy(used), pickle.loads(pickle.dumps(used))):
        assert vars(other).keys() == {"signals", "sigmas"}
        assert other.sigmas.equal(fresh.sigmas)
