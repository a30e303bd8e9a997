"""The doctor sees each known fault of an installation, and survives what it examines."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from harness.cli import doctor


def test_this_installation_is_healthy() -> None:
    failed = [finding for finding in doctor.examine() if finding.status == "failed"]
    assert failed == []


def test_every_requirement_device_dataset_and_checkpoint_is_looked_at() -> None:
    names = {finding.name for finding in doctor.examine()}
    assert {"python", "adversarial-harness", "torch", "robustbench", "torchattacks", "diffusers"} <= names
    assert {"cpu", "cuda", "dataset digits", "dataset cifar10", "weights digits-cnn"} <= names


def test_robustbench_on_disk_is_the_real_one() -> None:
    assert metadata.version("robustbench") == "1.1.1"
    assert doctor.altered(metadata.distribution("robustbench"), "robustbench") == []


@pytest.fixture
def copy(tmp_path: Path) -> metadata.PathDistribution:
    """The installed robustbench, copied to a folder of its own."""
    real = metadata.distribution("robustbench")
    for folder in {file.parts[0] for file in real.files or [] if not file.parts[0].startswith("..")}:
        shutil.copytree(str(real.locate_file(folder)), tmp_path / folder, ignore=shutil.ignore_patterns("*.pyc"))
    (info,) = tmp_path.glob("robustbench-*.dist-info")
    return metadata.PathDistribution(info)


def test_a_faithful_copy_is_whole(copy: metadata.PathDistribution) -> None:
    assert doctor.robustbench_whole(copy).status == "passed"


def test_files_of_torchattacks_in_place_of_robustbench_are_found(copy: metadata.PathDistribution) -> None:
    theirs = metadata.distribution("torchattacks")
    old = [file for file in theirs.files or [] if file.parts[0] == "robustbench" and file.suffix == ".py"]
    assert old, "torchattacks no longer ships robustbench: the fault is gone"
    for file in old:
        copy.locate_file(file).write_text("old = True")  # type: ignore[attr-defined]
    finding = doctor.robustbench_whole(copy)
    assert finding.status == "failed"
    assert "--force-reinstall --no-deps robustbench==1.1.1" in str(finding.remedy)


def test_files_that_an_uninstalled_torchattacks_took_along_are_missed(copy: metadata.PathDistribution) -> None:
    Path(str(copy.locate_file("robustbench/eval.py"))).unlink()
    assert doctor.altered(copy, "robustbench") == ["robustbench/eval.py"]


def test_a_distribution_without_a_list_of_files_is_not_taken_for_whole(copy: metadata.PathDistribution) -> None:
    for record in Path(str(copy.locate_file("."))).glob("*.dist-info/RECORD"):
        record.unlink()
    assert doctor.robustbench_whole(copy).status == "failed"


def test_a_setuptools_without_pkg_resources_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    finding = doctor.pkg_resources_present()
    assert finding.status == "failed" and "setuptools<81" in str(finding.remedy)


def test_a_torchvision_of_another_torch_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "requires", lambda name: ["numpy", "torch (==1.0.0)"])
    finding = doctor.torch_pair()
    assert finding.status == "failed" and "torch==1.0.0" in str(finding.remedy)


def test_an_autoattack_that_cannot_be_imported_is_found() -> None:
    code = (
        "import sys\n"
        "from harness.cli import doctor\n"
        "sys.modules['pyautoattack'] = None\n"
        "finding = doctor.autoattack_alias()\n"
        "assert finding.status == 'failed' and 'pyautoattack' in finding.remedy, finding"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_requirement_out_of_bounds_or_missing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["numpy>=99", "no-such-package>=1", 'nor-this>=1; extra == "ray"', 'pytest>=99; extra == "test"']
    monkeypatch.setattr(metadata, "requires", lambda name: wanted)
    found = {finding.name: finding for finding in doctor.versions()}
    assert found["numpy"].status == "failed" and "'numpy>=99'" in str(found["numpy"].remedy)
    assert found["no-such-package"].status == "failed"
    assert found["nor-this"].status == "warned" and "ray" in found["nor-this"].message
    assert "pytest" not in found


def test_the_doctor_survives_a_torch_that_cannot_be_imported() -> None:
    code = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "from harness.cli import doctor\n"
        "found = {finding.name: finding.status for finding in doctor.examine()}\n"
        "assert found['examination of devices'] == 'failed' and found['python'] == 'passed', found"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
