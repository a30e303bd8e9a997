"""Several processes train as one: their gradient is that of the whole batch, and a run can be stopped and resumed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from defenses.networks.cnn import CNN
from harness import datasets
from harness.errors import UserError
from harness.training import Trainer
from harness.training.launch import launch, run_python
from harness.training.loop import _refuse_indivisible
from harness.training.processes import Processes
from harness.training.recipe import read
from helpers.trained import RECIPE

ROOT = Path(__file__).parents[3]

WORK = """
import signal
from pathlib import Path
import torch
from defenses.networks.cnn import CNN
from harness import datasets
from harness.process.signals import Stopped
from harness.training import loop, train
from harness.training.processes import Processes, leave

# A gradient, from weights that differ at first.
processes = Processes.of_this_launch("cpu")
data = datasets.load("digits")
torch.manual_seed(0 if processes.first else 1)
network = CNN(width=4, num_classes=10)
processes.share_weights(network)
rows = processes.share(torch.arange(30))
loss = torch.nn.functional.cross_entropy(network(data.images[rows]), data.labels[rows])
loss.backward()
own = torch.cat([parameter.grad.flatten() for parameter in network.parameters()]).clone()
processes.average_gradients(network)
mean = torch.cat([parameter.grad.flatten() for parameter in network.parameters()])
facts = [processes.mean(loss.item()), processes.largest(processes.index), len(rows)]
torch.save((own, mean, facts), f"gradient-{processes.index}.pt")

# A run that is not stopped, and one of which one process alone is told to stop.
train(Path("tiny.yaml"), runs=Path("whole"))
step, stopped = loop.step, []


def stepping(recipe, trainer, state, *given):
    loss = step(recipe, trainer, state, *given)
    if state.step == 3 and not processes.first:
        signal.raise_signal(signal.SIGTERM)
    return loss


loop.step = stepping
try:
    train(Path("tiny.yaml"), runs=Path("stopped"))
except Stopped as stop:
    loop.step = step
    at = torch.load("stopped/tiny/checkpoint.pt")["step"]
    train(Path("tiny.yaml"), runs=Path("stopped"))
    Path(f"stopped-{processes.index}").write_text(f"{at} {stop.number}")
leave()

# A thread of the connection that lives on into the interpreter's end can abort it.
threads = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").glob("*")]
Path(f"threads-{processes.index}").write_text(" ".join(threads))
"""


def recipe(folder: Path, steps: int = 4, shift: int = 0, dropout: float = 0.0, name: str = "tiny.yaml") -> Path:
    text = RECIPE.replace("steps: 14", f"steps: {steps}").replace("shift: 1", f"shift: {shift}")
    (folder / name).write_text(text.replace("dropout: 0.5", f"dropout: {dropout}"))
    return folder / name


needs_accelerate = pytest.mark.skipif(find_spec("accelerate") is None, reason="the extra [train] is not installed")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two processes did their work."""
    folder = tmp_path_factory.mktemp("processes")
    recipe(folder, steps=6, shift=1, dropout=0.5)
    (folder / "work.py").write_text(WORK)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run_python(["work.py"], 2) == 0
    return folder


@needs_accelerate
@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="the names of threads are read from /proc")
def test_the_threads_of_the_connection_end_with_it(work: Path) -> None:
    for index in range(2):
        assert "gloo" not in (work / f"threads-{index}").read_text()


@needs_accelerate
@pytest.mark.long
def test_the_gradient_of_two_processes_is_that_of_their_joint_batch(work: Path) -> None:
    (own, mean, facts), (other, same, more) = (torch.load(work / f"gradient-{index}.pt") for index in range(2))
    data = datasets.load("digits")
    torch.manual_seed(0)
    network = CNN(width=4, num_classes=10)
    loss = torch.nn.functional.cross_entropy(network(data.images[:30]), data.labels[:30])
    loss.backward()
    joint = torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])
    assert torch.equal(mean, same) and torch.allclose(mean, joint, rtol=1e-4, atol=1e-7)
    assert not torch.allclose(own, other, rtol=1e-2) and facts == more
    assert facts[0] == pytest.approx(loss.item(), rel=1e-6) and facts[1:] == [1, 15]


@needs_accelerate
@pytest.mark.long
def test_the_weights_of_several_processes_are_their_moving_average(work: Path) -> None:
    whole, saved = load_file(work / "whole/tiny/tiny.safetensors"), torch.load(work / "whole/tiny/checkpoint.pt")
    for name, weight in whole.items():
        assert torch.equal(saved["average"][name], weight)
    assert any(not torch.equal(saved["network"][name], weight) for name, weight in whole.items())


@needs_accelerate
@pytest.mark.long
def test_two_processes_that_were_stopped_end_as_two_that_were_not(work: Path) -> None:
    for index in range(2):  # although one of them alone got the signal
        assert (work / f"stopped-{index}").read_text() == f"3 {signal.SIGTERM:d}"
    files = [work / runs / "tiny/tiny.safetensors" for runs in ("whole", "stopped")]
    assert files[0].read_bytes() == files[1].read_bytes()


@needs_accelerate
@pytest.mark.long
def test_the_command_starts_processes_of_which_the_first_one_speaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe(tmp_path, steps=6, shift=1, dropout=0.5)
    command = [sys.executable, "-m", "harness", "train", "tiny.yaml", "--processes", "2"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("clean accuracy") == ended.stdout.count("Wrote runs/tiny/tiny.safetensors") == 1
    assert "Traceback" not in ended.stderr
    whole = (work / "whole/tiny/tiny.safetensors").read_bytes()
    assert Path("runs/tiny/tiny.safetensors").read_bytes() == whole


def test_one_process_is_the_whole_batch_and_needs_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    alone = Processes.of_this_launch("cpu")
    rows = torch.arange(7)
    assert torch.equal(alone.share(rows), rows) and alone.first
    assert (alone.mean(2.5), alone.largest(-3)) == (2.5, -3)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"needs the package 'accelerate'. Install it: pip install '.*\[train\]'"):
        Processes.of_this_launch("cpu")


def test_shares_are_a_partition_of_the_batch() -> None:
    rows = torch.randperm(12)
    shares = [Processes(index, 3, torch.device("cpu")).share(rows) for index in range(3)]
    assert {len(share) for share in shares} == {4}
    assert torch.equal(torch.cat(shares).sort().values, torch.arange(12))


@needs_accelerate
def test_the_launchers_own_log_stays_off_the_terminal(tmp_path: Path) -> None:
    # The launcher knows of a process a moment after it began, and would leave it behind if it were stopped before.
    work = "import os, signal, time; time.sleep(2); os.kill(os.getppid(), signal.SIGTERM); time.sleep(30)"
    (tmp_path / "end.py").write_text(work)
    start = "import sys; from harness.training.launch import run_python; sys.exit(run_python(['end.py'], 1))"
    ended = subprocess.run([sys.executable, "-c", start], cwd=tmp_path, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout + ended.stderr) == (128 + signal.SIGTERM, "")


SLOW = """
import os, time
from pathlib import Path
from defenses.training.classifier import Classifier

class Slow(Classifier):
    def loss(self, network, x, y):
        Path(f"{os.environ['RANK']}.pid").write_text(str(os.getpid()))
        time.sleep(0.1)
        return super().loss(network, x, y)
"""


@needs_accelerate
def test_processes_whose_launcher_was_killed_stop_with_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    path = recipe(tmp_path, steps=10**6)
    path.write_text(path.read_text().replace("type: classifier", "type: ./slow.py:Slow"))
    command = [sys.executable, "-m", "harness", "train", "tiny.yaml", "--processes", "2"]
    launcher = subprocess.Popen(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)})
    pids = [tmp_path / f"{rank}.pid" for rank in range(2)]
    wait_until(lambda: all(pid.exists() and pid.read_text() for pid in pids))
    launcher.kill()
    launcher.wait()
    wait_until(lambda: not any(Path("/proc", pid.read_text()).exists() for pid in pids))
    assert torch.load(tmp_path / "runs/tiny/checkpoint.pt")["step"] > 0


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


class Remembers(Trainer):
    """A trainer that keeps something between steps."""

    def loss(self, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        raise NotImplementedError

    def state(self) -> dict[str, Tensor]:
        return {}


def test_recipes_that_cannot_be_divided_are_refused_with_their_line(tmp_path: Path) -> None:
    plan = read(recipe(tmp_path))
    with pytest.raises(UserError, match=r"tiny.yaml:6: a batch of 100 images cannot be divided equally among 3"):
        _refuse_indivisible(plan, plan.trainer.build(), Processes(0, 3, torch.device("cpu")))
    with pytest.raises(UserError, match=r"tiny.yaml:2: the trainer Remembers keeps a state between steps"):
        _refuse_indivisible(plan, Remembers(), Processes(0, 2, torch.device("cpu")))
    _refuse_indivisible(plan, Remembers(), Processes(0, 1, torch.device("cpu")))


@needs_accelerate
def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match="4 processes need a GPU each, and this machine has 2"):
        launch([], 4, torch.device("cuda"))
