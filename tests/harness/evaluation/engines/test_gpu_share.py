"""Jobs share a GPU as far as the memory of their pairing allows, once that was measured. No GPU is needed here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.errors import UserError
from harness.evaluation.engines import gpu_share
from harness.evaluation.engines.channel import Call
from harness.evaluation.engines.choose import choose
from harness.evaluation.engines.gpu_share import CONTEXT, MOST, SAFETY, GpuMemory, Shares, share_of
from harness.evaluation.job import Job
from harness.results.record import Record
from harness.results.store import Store
from helpers.engines import Notes, contents, finish

GIB = 1 << 30
ATTACKED = Record(0, 0, "robust", [0], [0], [1.0], [1.0], 0, 0, 0, None, 0, forwards=9, backwards=9, seconds=1, seed=0)
SPARED = replace(ATTACKED, clean_votes=[1], verdict="fooled", forwards=0, backwards=0)


@pytest.mark.parametrize("peak", [0, 1, 3, 7, 12, 20, 39, 60, 79, 200])
def test_a_whole_number_of_jobs_fills_a_gpu_and_their_memory_fits(peak: int) -> None:
    share, total = share_of(peak * GIB, 80 * GIB), 80 * GIB
    together = int(1 / share)
    assert together * share == pytest.approx(1, abs=1e-3) and together * share <= 1
    needs = SAFETY * peak * GIB + CONTEXT
    assert together == 1 or together * needs <= total
    assert together == MOST or (together + 1) * needs > total, "another one would not fit"


def test_a_pairing_has_a_gpu_of_its_own_until_an_attacked_shard_was_measured() -> None:
    shares = Shares({})
    assert shares.of("dc/linf") == 1
    shares.learn(GpuMemory(0, 80 * GIB))
    shares.learn(GpuMemory(1 * GIB, 80 * GIB), "dc/linf", [SPARED, SPARED])
    assert shares.of("dc/linf") == 1, "no image of that shard was attacked"
    shares.learn(GpuMemory(20 * GIB, 80 * GIB), "dc/linf", [SPARED, ATTACKED])
    assert (shares.of("dc/linf"), shares.of("dc/l2"), shares.of(None)) == (0.3333, 1, 1)
    shares.learn(GpuMemory(10 * GIB, 80 * GIB), "dc/linf", [ATTACKED])
    assert shares.of("dc/linf") == shares.smallest == 0.3333, "the largest counts"
    shares.learn(GpuMemory(10 * GIB, 40 * GIB), "dc/l2", [ATTACKED])
    assert (shares.of("dc/linf"), shares.of("dc/l2")) == (1, 0.5 if 2 * (SAFETY * 10 + 1) <= 40 else 1)


def test_a_pairing_that_runs_out_of_memory_gets_whole_gpus() -> None:
    shares = Shares({"dc/linf": 2 * GIB})
    shares.learn(GpuMemory(0, 80 * GIB))
    assert shares.of("dc/linf") == 1 / MOST
    failed = replace(ATTACKED, verdict="error", error="OutOfMemoryError: CUDA out of memory. Tried to allocate")
    shares.learn(GpuMemory(9 * GIB, 80 * GIB), "dc/linf", [ATTACKED, failed])
    assert shares.of("dc/linf") == 1


def test_a_share_that_the_user_gives_outweighs_what_was_measured() -> None:
    shares = Shares({"dc/linf": GIB}, given=0.5)
    shares.learn(GpuMemory(0, 80 * GIB))
    assert (shares.of("dc/linf"), shares.of("rdc/linf"), shares.smallest) == (0.5, 0.5, 0.5)
    with pytest.raises(UserError, match="of use to Ray alone"):
        choose("local", "cpu", gpu_share=1.0)


def test_nothing_is_measured_on_a_cpu() -> None:
    gpu_share.begin_measuring("cpu")
    assert gpu_share.measured("cpu") is None


@dataclass
class OneGpu:
    """Stands in for Ray on a cluster of one GPU, which is really this process: a task is computed when it is begun.

    Args:
        asked: the pairing and the share of each task that computes a shard, in order.
    """

    asked: list[tuple[str, float]] = field(default_factory=list)

    exceptions = SimpleNamespace(RayError=type("RayError", (Exception,), {}))

    def is_initialized(self) -> bool:
        return True

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 1, "GPU": 1}

    def put(self, value: Any) -> Any:
        return value

    def get(self, value: Any) -> Any:
        return value.answer if isinstance(value, Task) else value

    def wait(self, tasks: list[Any]) -> tuple[list[Any], list[Any]]:
        return tasks[:1], tasks[1:]

    def remote(self, **options: Any) -> Callable[[Any], Remote]:
        return lambda function: Remote(self, function)


@dataclass(eq=False)
class Task:
    answer: Any


@dataclass
class Remote:
    """A function that Ray would call elsewhere."""

    cluster: OneGpu
    function: Any
    num_gpus: float = 0

    def options(self, **options: Any) -> Remote:
        return replace(self, num_gpus=options.get("num_gpus", self.num_gpus))

    def remote(self, run: str, parcel: list[Any], call: Call, device: str, *others: Any) -> Task:
        assert device == "cuda"
        if isinstance(call.argument, Job):
            self.cluster.asked.append((call.argument.pairing, self.num_gpus))
        return Task(self.function(run, parcel, call, "cpu", *others))


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[OneGpu]:
    """One GPU of 80 GiB, of which every call takes 20."""
    pytest.importorskip("ray")
    from harness.evaluation.engines import ray, ray_task

    made = OneGpu()
    monkeypatch.setattr(ray, "import_ray", lambda: made)
    monkeypatch.setattr(ray_task, "ray", made)
    monkeypatch.setattr(gpu_share, "measured", lambda device: GpuMemory(20 * GIB, 80 * GIB))
    yield made
    ray_task._kept.clear()


def test_what_the_first_shards_of_a_pairing_took_decides_the_share_of_the_later_ones(
    cluster: OneGpu, suite: Path, expected: dict[str, list[Any]], tmp_path: Path
) -> None:
    finish(suite, tmp_path / "out", choose("ray", "cuda", workers=1), Notes())
    shares = {name: [share for other, share in cluster.asked if other == name] for name, _ in cluster.asked}
    assert shares.keys() == expected.keys() and max(map(len, shares.values())) == 3
    assert all(own == [1.0, 0.3333, 0.3333][: len(own)] for own in shares.values()), shares
    assert contents(suite, tmp_path / "out") == expected, "no result depends on the share"


def test_a_later_session_knows_the_shares_and_no_key_depends_on_them(
    cluster: OneGpu, suite: Path, expected: dict[str, list[Any]], tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        finish(suite, tmp_path / "out", choose("ray", "cuda", workers=1), Notes(shards=1))
    (first,) = {name for name, _ in cluster.asked}
    cluster.asked.clear()
    cells = {
        f"{cell['defense']}/{cell['attack']}": cell for cell in (Store(tmp_path / "out").manifest() or {})["cells"]
    }
    assert {name: cell.get("gpu_memory") for name, cell in cells.items()} == {
        name: 20 * GIB if name == first else None for name in expected
    }
    finish(suite, tmp_path / "out", choose("ray", "cuda", workers=1))
    assert {share for name, share in cluster.asked if name == first} == {0.3333}
    finish(suite, tmp_path / "out")
    kept = (Store(tmp_path / "out").manifest() or {})["cells"]
    assert {cell["gpu_memory"] for cell in kept} == {20 * GIB}, "another engine leaves it as it is"
    assert contents(suite, tmp_path / "out") == expected
