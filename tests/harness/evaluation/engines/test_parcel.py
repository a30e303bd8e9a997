"""Another process gets the run that was sent, or refuses it."""

from __future__ import annotations

import hashlib
import pickle
import sys
from pathlib import Path

import pytest
import torch

from harness.callback import SILENT
from harness.config.neighbours import Imported, import_folder, imported_folders, module_of
from harness.errors import UserError
from harness.evaluation.context import RunContext
from harness.evaluation.engines import parcel
from harness.evaluation.engines.choose import choose
from harness.evaluation.engines.processes import Processes
from harness.evaluation.job import Job
from harness.evaluation.pending import load_images, pending_work
from harness.evaluation.worker import Worker
from harness.results.store import Store
from harness.suite import load_suite


@pytest.fixture
def context(suite: Path, tmp_path: Path) -> RunContext:
    plan = load_suite(suite)
    dataset, images = load_images(plan)
    cell_runs = pending_work(plan, Store(tmp_path), images, print)
    return RunContext(plan, cell_runs, dataset, images, torch.device("cpu"), SILENT)


def test_a_run_that_was_sent_is_the_same_run(context: RunContext) -> None:
    there = parcel.unpack(parcel.pack(context), "cpu", torch.get_num_threads())
    assert [run.name for run in there.cell_runs] == [run.name for run in context.cell_runs]
    assert [run.seeds for run in there.cell_runs] == [run.seeds for run in context.cell_runs]
    assert [run.parts for run in there.cell_runs] == [run.parts for run in context.cell_runs]
    assert there.protocol == context.protocol
    for ours, theirs in zip(vars(context.images).values(), vars(there.images).values(), strict=True):
        assert torch.equal(ours, theirs)
    job = Job("plain/strong", ((4, 8),))
    ((records, tensors),), ((again, others),) = Worker(context).compute(job), Worker(there).compute(job)
    assert [record.adv_margins for record in records] == [record.adv_margins for record in again]
    assert torch.equal(tensors["images"], others["images"])


def test_another_version_of_the_code_is_refused(context: RunContext, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = parcel.pack(context)
    monkeypatch.setattr(parcel, "code_digest", lambda: "another")
    with pytest.raises(UserError, match="a worker process has another version of the harness"):
        parcel.unpack(sent, "cpu", 1)


def test_a_user_s_file_that_was_changed_since_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("x = 1\n")
    module_of(tmp_path / "mine.py")
    (known,) = [folder for folder in imported_folders(bool) if folder.path == tmp_path]
    import_folder(known)
    (tmp_path / "mine.py").write_text("x = 2\n")
    assert imported_folders(needed=lambda name: name == known.name) == [known]
    with pytest.raises(UserError, match=r"mine\.py is missing, or was changed, since the run began"):
        import_folder(known)


def test_what_was_imported_for_something_else_is_not_sent_and_may_be_gone(context: RunContext, tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text("import sys\nassert sys.once\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "once", True, raising=False)
        module_of(tmp_path / "other.py")
    sent = parcel.pack(context)
    assert tmp_path not in [folder.path for folder in pickle.loads(sent).folders]


def test_modules_get_the_names_that_the_other_process_gave_them(tmp_path: Path) -> None:
    (tmp_path / "odd-name.py").write_text("class Mine: pass\n")
    file = tmp_path / "odd-name.py"
    read = {file: hashlib.sha256(file.read_bytes()).hexdigest()}
    import_folder(Imported(tmp_path, "user_0123abcd_7", read, [file]))
    assert [name for name in sys.modules if name.startswith("user_0123abcd_7.file_")]


def test_a_defense_with_other_values_than_were_examined_is_refused(context: RunContext) -> None:
    worker = Worker(context)
    examined = worker.examine(["cnn/pgd"])["cnn"]
    assert examined.values == Worker(context).examine(["cnn/pgd"])["cnn"].values
    ((records, _),) = worker.compute(Job("cnn/pgd", ((8, 10),), values=examined.values))
    assert len(records) == 2
    with pytest.raises(UserError, match="defense 'cnn' has other weights each time it is built"):
        Worker(context).compute(Job("cnn/pgd", ((8, 10),), values="others"))


@pytest.mark.parametrize(
    ("options", "devices"),
    [
        ({"workers": 2}, ["cpu", "cpu"]),
        ({"devices": ["cpu"]}, ["cpu"]),
        ({"devices": ["cpu"], "workers": 3}, ["cpu", "cpu", "cpu"]),
    ],
)
def test_options_become_workers(options: dict[str, object], devices: list[str]) -> None:
    engine = choose("local", "cpu" if "devices" not in options else None, **options)  # type: ignore[arg-type]
    assert isinstance(engine, Processes) and engine.describe()["workers"] == devices


def test_without_options_a_run_stays_in_its_process() -> None:
    assert choose("local", "cpu") is None


@pytest.mark.parametrize(
    ("name", "device", "options", "why"),
    [
        ("locl", None, {}, "there is no engine 'locl'. Did you mean 'local'?"),
        ("local", None, {"workers": 0}, "a run cannot have 0 workers"),
        ("local", "cpu", {"devices": ["cpu"]}, "there is a device, and a list of devices beside it"),
        ("local", None, {"devices": []}, "the list of devices is empty"),
        ("local", None, {"devices": ["cpu", "cpu"], "workers": 1}, "1 workers leave some of 2 devices idle"),
        ("local", None, {"devices": ["cuda:99"]}, "there is no device 'cuda:99' on this machine"),
        ("local", None, {"devices": ["gpu"]}, "'gpu' is no device"),
        ("local", None, {"address": "auto"}, "an address and a share of a GPU are of use to Ray alone"),
    ],
)
def test_options_that_make_no_sense_are_refused(name: str, device: str | None, options: dict, why: str) -> None:
    with pytest.raises(UserError) as refused:
        choose(name, device, **options)
    assert str(refused.value).startswith(why)
