"""A Ray cluster: `harness run SUITE --engine ray [--address ADDRESS]`, with the packages of `pip install '.[ray]'`.

Every job is a task of Ray. Ray places it, begins it again where a machine or a process was lost, and starts processes
while there is room. A process keeps the defenses that it has built, and computes one job after another.
"""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from harness.errors import UserError, one_line
from harness.evaluation.context import RunContext
from harness.evaluation.engines.calling import CallingEngine, Limit
from harness.evaluation.engines.channel import Call
from harness.evaluation.engines.engine import TRIES, Lost
from harness.evaluation.engines.gpu_share import Shares
from harness.evaluation.engines.parcel import pack
from harness.evaluation.job import Job
from harness.process.signals import ENDING

AHEAD = 2
"""Jobs handed to Ray for each that it has room for. The others still follow new measurements of what takes long."""

ALL_GPUS_VISIBLE = "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"
"""Tells Ray to leave CUDA_VISIBLE_DEVICES as it is, so that a process can use another GPU for its next task."""


SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_agent_register_timeout_ms": "180000",
    "RAY_raylet_start_wait_time_s": "180",
}
"""Of Ray, unless the environment says otherwise: it reports to nobody, and a busy machine has time to start it."""


class Ray(CallingEngine):
    """Computes on a Ray cluster, as many jobs at a time as it has room for.

    Args:
        address: of the cluster; None for one that runs on this machine or that $RAY_ADDRESS names, or else for a new
            one on this machine, which ends with the run.
        workers: the largest number of jobs at a time, among which the cores are divided. By default a job takes one
            core, and where the cluster has GPUs a share of one.
        device: "cuda" for a GPU to each job, "cpu" for none, "auto" for a GPU if the cluster has any.
        gpu_share: the part of a GPU that a job takes; by default what the memory of its pairing comes to as soon as it
            is measured, and all of it before.

    Raises:
        UserError: Ray is not installed.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        workers: int | None = None,
        device: str = "auto",
        gpu_share: float | None = None,
    ) -> None:
        self._ray, self._address, self._workers = import_ray(), address, workers
        self._device, self._gpu_share = device, gpu_share
        self._tasks: _Tasks | None = None

    def workers(self) -> int:
        return self._at_work().room()

    def describe(self) -> dict[str, Any]:
        tasks = self._at_work()
        return {"engine": "ray", "workers": [tasks.device] * tasks.room(), "worker_threads": tasks.threads}

    @contextmanager
    def working(self, context: RunContext) -> Iterator[None]:
        with self._connected():
            self._tasks = _Tasks(self._ray, context, self._workers, self._device, self._gpu_share)
            try:
                yield
            finally:
                self._tasks.cancel()
                self._tasks = None

    def call(self, take: Callable[[], Call | None], limit: Limit) -> Iterator[tuple[Call, Any]]:
        return self._at_work().run(take, limit)

    @contextmanager
    def _connected(self) -> Iterator[None]:
        """Connects to the cluster, or starts one, unless this process is connected already."""
        if self._ray.is_initialized():
            yield
            return
        handlers = {number: signal.getsignal(number) for number in ENDING}
        try:
            self._ray.init(
                address=self._address,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
                runtime_env={"env_vars": {ALL_GPUS_VISIBLE: "1"}},
            )
        except Exception as error:  # Ray raises plain exceptions too
            what = f"the Ray cluster at {self._address}" if self._address else "Ray"
            raise UserError(
                f"{what} cannot be reached: {one_line(error)}",
                remedy="Start a cluster with `ray start --head`, or leave out the address to use this machine alone. "
                "If it asks for a token (Ray's do, where ~/.ray/auth_token exists), set RAY_AUTH_MODE=token, too",
            ) from error
        finally:
            for number, handler in handlers.items():  # Ray replaces that of SIGTERM
                if handler is not None:
                    signal.signal(number, handler)
        try:
            yield
        finally:
            self._ray.shutdown()

    def _at_work(self) -> _Tasks:
        if self._tasks is None:
            raise RuntimeError("the engine is used outside of its `working` block")
        return self._tasks


class _Tasks:
    """The tasks of a run.

    Attributes:
        device: of each task, "cpu" or "cuda"; threads: of each task.

    Args:
        ray: the module, connected to a cluster.
        context: of the run.
        workers, device, gpu_share: see `Ray`.
    """

    def __init__(
        self, ray: ModuleType, context: RunContext, workers: int | None, device: str, gpu_share: float | None
    ) -> None:
        from harness.evaluation.engines.ray_task import answer

        self._ray, self._workers, self._note = ray, workers, context.callback.note
        self._notes: set[str] = set()
        self._pending: dict[Any, Call] = {}
        self._limits: dict[Any, float | None] = {}
        resources = ray.cluster_resources()
        if device == "auto":
            device = "cuda" if resources.get("GPU") else "cpu"
        self.device = device.partition(":")[0]
        if self.device == "cuda" and not resources.get("GPU"):
            raise UserError("the Ray cluster has no GPU", remedy="Choose the device cpu")
        self._shares = Shares(context.gpu_memory, gpu_share) if self.device == "cuda" else None
        self.threads = max(1, int(resources.get("CPU", 1)) // workers) if workers else 1
        self._answer = ray.remote(max_calls=0, max_retries=TRIES - 1, retry_exceptions=True)(answer)
        self._run = uuid.uuid4().hex
        self._parcel = [ray.put(pack(context))]

    def room(self) -> int:
        """How many tasks the cluster computes at a time, as it is now."""
        resources = self._ray.cluster_resources()
        rooms = [int(resources.get("CPU", 1)) // self.threads]
        if self._shares:
            rooms.append(int(resources.get("GPU", 0) / self._shares.smallest))
        if self._workers:
            rooms.append(self._workers)
        return max(1, min(rooms))

    def run(self, take: Callable[[], Call | None], limit: Limit) -> Iterator[tuple[Call, Any]]:
        """Hands calls to Ray until there are no more, and yields what each returned, or `Lost`.

        Args:
            limit: of each call, as far as it is known when the call is handed over. A process that works longer ends
                itself: only it knows when it began, since Ray keeps calls waiting.

        Raises:
            UserError: a call refused to go on.
        """
        ahead = 1 if self._workers else AHEAD
        while True:
            while len(self._pending) < ahead * self.room() and (call := take()):
                most = limit(call)
                task = self._begin(call, most)
                self._pending[task], self._limits[task] = call, most
            if not self._pending:
                return
            for task in self._ray.wait(list(self._pending))[0]:
                yield self._pending[task], self._outcome(task, self._pending.pop(task))

    def cancel(self) -> None:
        """Ends the tasks that are left."""
        for task in self._pending:
            self._ray.cancel(task, force=True)

    def _begin(self, call: Call, most: float | None) -> Any:
        """The task that answers a call within a limit of seconds."""
        gpus = self._shares.of(_pairing(call)) if self._shares else 0
        task = self._answer.options(num_cpus=self.threads, num_gpus=gpus)
        return task.remote(self._run, self._parcel, call, self.device, self.threads, most)

    def _outcome(self, task: Any, call: Call) -> Any:
        try:
            found = self._ray.get(task)
        except self._ray.exceptions.RayError as error:
            cause, most = getattr(error, "cause", None) or error, self._limits.pop(task)
            limit = "" if most is None else f" (one that works longer than {most:.0f} s, its limit, ends itself)"
            return Lost(f"{TRIES} processes were lost over it{limit}: {one_line(cause)}")
        del self._limits[task]
        for text in found.notes:
            if text not in self._notes:  # though every process may make it
                self._notes.add(text)
                self._note(text)
        if found.refused is not None:
            raise found.refused
        if self._shares and found.memory:
            pairing = _pairing(call)
            records = [record for records, _ in found.result for record in records] if pairing else []
            self._shares.learn(found.memory, pairing, records)
        return found.result


def _pairing(call: Call) -> str | None:
    """Of which a call computes a shard, if it does."""
    return call.argument.pairing if isinstance(call.argument, Job) else None


def import_ray() -> ModuleType:
    """Ray, with settings that it reads when it is imported.

    Raises:
        UserError: it is not installed.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as error:
        raise UserError("Ray is not installed", remedy="Install it: pip install 'adversarial-harness[ray]'") from error
    module: ModuleType = ray
    return module
