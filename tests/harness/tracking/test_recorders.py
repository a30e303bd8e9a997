"""The experiment trackers themselves, offline: what they wrote is read back by their own readers."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from harness.callback import Callbacks
from harness.evaluation.run import run
from harness.suite import load_suite
from harness.tracking import Tracker, tracker
from tests.harness.tracking.test_run_tracker import Notebook

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

CPU = torch.device("cpu")


def recorded(suite: Path, out: Path, spec: str) -> list[tuple[str, float, int]]:
    """Sends two pairings to a tracker, and returns what a notebook beside it got: name, value, step."""
    notebook, said = Notebook(), list[str]()
    both = Callbacks([tracker(spec, said.append), Tracker(notebook, "notebook")])
    run(load_suite(suite, only="noisy"), out, CPU, both)
    assert said == []
    return [(name, value, step) for numbers, step in notebook.numbers for name, value in numbers.items()]


def test_tensorboard_reads_back_every_number(small_suite: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sent = recorded(small_suite, tmp_path / "out", f"tensorboard:{tmp_path / 'logs'}")
    events = EventAccumulator(str(tmp_path / "logs" / "small"))
    events.Reload()
    found = [(tag, event.value, event.step) for tag in events.Tags()["scalars"] for event in events.Scalars(tag)]
    assert sorted(found) == [(name, pytest.approx(value), step) for name, value, step in sorted(sent)]
    assert {"run/text_summary", "table/text_summary"} <= set(events.Tags()["tensors"])


def test_mlflow_reads_back_every_number_and_goes_on_in_one_run(
    small_suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.chdir(tmp_path)
    store = (tmp_path / "mlruns").as_uri()
    sent = recorded(small_suite, tmp_path / "out", f"mlflow:{store}")
    recorded(small_suite, tmp_path / "out", f"mlflow:{store}")
    client = mlflow.MlflowClient(tracking_uri=store)
    experiment = client.get_experiment_by_name("adversarial-harness")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.run_name == "small" and found.info.status == "FINISHED"
    assert found.data.params["dataset"] == "digits (test)"
    for name in {name for name, *_ in sent}:
        history = {metric.step: metric.value for metric in client.get_metric_history(found.info.run_id, name)}
        assert history == {step: pytest.approx(value) for other, value, step in sent if other == name}
    assert [file.path for file in client.list_artifacts(found.info.run_id)] == ["table.md"]


BLOCK = 32768


def payloads(data: bytes) -> Iterator[bytes]:
    """The records of a .wandb file: a header of 7 bytes, then LevelDB's log format of blocks with parts of records."""
    at, record = 7, b""
    while at + 7 <= len(data):
        if BLOCK - at % BLOCK < 7:
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or its last part
            yield record
            record = b""


def test_wandb_keeps_every_number_offline(small_suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    for name, value in {"WANDB_DIR": str(tmp_path), "HARNESS_OFFLINE": "1", "WANDB_CACHE_DIR": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    sent = recorded(small_suite, tmp_path / "out", "wandb:project")
    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    found = dict[tuple[str, int], float]()
    for data in payloads(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        values = {"/".join(item.nested_key) or item.key: float(item.value_json) for item in record.history.item}
        step = next((int(value) for name, value in values.items() if name.endswith("/step")), 0)
        found |= {(name, step): value for name, value in values.items()}
    for name, value, step in sent:
        assert found[name, step] == pytest.approx(value)
