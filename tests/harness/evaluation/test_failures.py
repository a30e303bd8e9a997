"""What fails is told as a failure: in the records, in what a run prints, and in its status; the rest goes on."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from harness import cli
from harness.evaluation.pending import load_images, pending_work
from harness.results.record import Record
from harness.results.store import Store
from harness.suite import load_suite
from helpers.modules import source

pytestmark = pytest.mark.slow

MINE = source("failing")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path


def suite(*defenses: str, attack: str = "{type: pgd, norm: Linf, eps: 0.05, steps: 2}", images: int = 4) -> Path:
    entries = "\n".join(f"  {name.lower()}: {{type: ./mine.py:{name}}}" for name in defenses)
    path = Path("tries.yaml")
    path.write_text(
        f"suite: tries\ndataset: {{name: digits, first: {images}}}\nprotocol: {{shard: 4}}\n"
        f"defenses:\n{entries}\nattacks:\n  attack: {attack}\n"
    )
    return path


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def line(text: str) -> int:
    """Of the user's file, the first that holds this text."""
    return next(number for number, found in enumerate(MINE.splitlines(), 1) if text in found)


def records(path: Path, pairing: str) -> list[Record]:
    plan = load_suite(path)
    works = pending_work(plan, Store(Path("results/tries")), load_images(plan)[1], lambda _: None, retry_errors=False)
    return next(work.records for work in works if work.name == pairing)


NO_PURIFY = "purify has no gradient: attack it with `gradient: bpda`"
CULPRITS = {
    "Numpy": ("np.round(x.numpy()", "in purify", NO_PURIFY),
    "Pillow": ("np.asarray(image[0])", "in purify", NO_PURIFY),
    "NoGrad": ("@torch.no_grad()", "in purify", NO_PURIFY),
    "Labels": ("class Labels", "in classify", "move what cannot be differentiated into purify"),
    "LeavesAtOnce": ("sys.exit(0)", "in classify", "SystemExit: 0; this would end the whole program"),
    "Interrupts": ("raise KeyboardInterrupt", "in classify", "KeyboardInterrupt: this would end the whole program"),
    "Broken": ('raise OSError("no such', "in __init__", "cannot be built: OSError: no such file"),
    "Helped": ("reshape(3, 5, 7)", "in helper", "the defense fails on clean images: RuntimeError: shape"),
}
"""By class: a text of the line that is to be named, the function, and what is said of it."""


def test_a_failure_names_the_user_s_own_line_and_the_remedy_and_the_others_go_on(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = suite(*CULPRITS, "Means")
    assert call("run", path) == 1
    shown = capsys.readouterr().out
    for name, (text, function, told) in CULPRITS.items():
        (reason,) = re.findall(rf"failed: {name.lower()}/attack: 4 of 4 images ended in errors:\n +(.*)", shown)
        number = line(text) + (1 if text.startswith("class") else 0)
        assert f"(mine.py:{number}, {function})" in reason and told in reason, reason
        assert {record.verdict for record in records(path, f"{name.lower()}/attack")} == {"error"}
        assert {record.error for record in records(path, f"{name.lower()}/attack")} == {reason}
    assert "means/attack: 4/4 images, clean 100.0%, robust 100.0%" in shown
    assert "8 pairings failed. The same command repeats what failed." in shown
    assert "robust 0.0%" not in shown and "failed: means" not in shown


@pytest.mark.parametrize(
    "attack",
    [
        "{type: autoattack, norm: Linf, eps: 0.05, version: custom, attacks: [apgd-ce]}",
        "{type: stadv, bound: 0.05, steps: 1}",
        "{type: lagrange, norm: Linf, eps: 0.05, steps: 1, gradient: exact}",
        "{type: torchattacks, name: FGSM, norm: Linf, eps: 0.05}",
        "{type: worst_of, norm: Linf, eps: 0.05, attacks: [{type: pgd, steps: 1}]}",
    ],
)
def test_whatever_the_attack_a_purifier_without_gradient_is_an_error_that_names_it(
    folder: Path, capsys: pytest.CaptureFixture[str], attack: str
) -> None:
    if "lagrange" in attack:
        (folder / "mine.py").write_text(MINE + "\n\nMeans.energy = lambda self, x: x.flatten(1).square().sum(1)\n")
    path = suite("Numpy", "Detached", attack=attack, images=2)
    assert call("run", path) == 1
    shown = capsys.readouterr().out
    assert shown.count(NO_PURIFY) == 2 and shown.count(", in purify)") == 2


@pytest.mark.parametrize("name", ["Numpy", "Pillow", "Detached", "NoGrad"])
def test_the_remedy_works(folder: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    path = suite(name, attack="{type: pgd, norm: Linf, eps: 0.9, steps: 5, gradient: bpda}")
    assert call("run", path) == 0
    assert "robust 0.0%" in capsys.readouterr().out
    assert {record.verdict for record in records(path, f"{name.lower()}/attack")} == {"fooled"}


def test_errors_are_tried_again_unless_the_user_says_otherwise(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = suite("Perhaps")
    monkeypatch.setenv("FAIL", "yes")
    assert call("run", path) == 1 and "Computed 1 shard. 1 pairing failed" in capsys.readouterr().out
    monkeypatch.delenv("FAIL")
    assert call("run", path, "--no-retry-errors") == 1
    shown = capsys.readouterr().out
    assert "RuntimeError: not today" in shown and "without --no-retry-errors repeats" in shown
    assert "Nothing to do" not in shown and "Computed" not in shown
    assert call("run", path) == 0 and "trying them again" in capsys.readouterr().out
    assert call("run", path) == 0 and "Nothing to do" in capsys.readouterr().out


def test_a_defense_that_fails_at_first_is_described_in_full_once_it_works(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = MINE.replace("    def __init__(self):\n        raise OSError", "    def __init__(self):\n        1 / FAIL\n")
    (folder / "mine.py").write_text(f"import os\nFAIL = int(os.environ.get('FAIL', '1'))\n{text}".replace('("no', "#"))
    path = suite("Broken", "Means")
    monkeypatch.setenv("FAIL", "0")
    assert call("run", path) == 1
    manifest = Store(Path("results/tries")).manifest() or {}
    assert list(manifest["defenses"]) == ["broken", "means"] and manifest["defenses"]["broken"]["stochastic"] is False


def test_a_program_that_ends_itself_while_it_is_attacked_ends_no_command_with_status_0(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "mine.py").write_text(
        MINE.replace("class Leaves(Means):", "class Leaves(Means):\n    stochastic = True\n")
    )
    path = suite("Leaves")
    for command in (("run", path), ("eot", path, "--only", "leaves/attack", "--draws", "1,2")):
        assert call(*command, "--limit", "2") == 1
        assert "SystemExit: 0; this would end the whole program (mine.py:" in capsys.readouterr().out
    assert call("diagnose", path, "--images", "2", "--queries", "1") == 1
    assert call("check", "mine.py:LeavesAtOnce") == 1
    assert "it raises SystemExit" in " ".join(capsys.readouterr().out.split())


def test_a_defense_that_ends_the_program_leaves_its_results_unverified(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = MINE.replace('raise RuntimeError("not today")', "sys.exit(0)")
    (folder / "mine.py").write_text(text)
    path = suite("Perhaps")
    assert call("run", path) == 0 and call("verify", "results/tries", "--suite", path, "--trust") == 0
    monkeypatch.setenv("FAIL", "yes")
    assert call("verify", "results/tries", "--suite", path, "--trust") == 3
    assert "SystemExit: 0" in capsys.readouterr().out


@pytest.mark.parametrize("body", ["sys.exit(0)", "1 / 0", "raise KeyboardInterrupt"])
def test_code_of_the_user_s_that_no_fence_surrounds_ends_in_one_paragraph(
    folder: Path, capsys: pytest.CaptureFixture[str], body: str
) -> None:
    (folder / "mine.py").write_text(f"{MINE}\n\nclass Costly(Means):\n    def cost(self):\n        {body}\n")
    assert call("show", suite("Costly")) == 2
    shown = capsys.readouterr().err.strip()
    assert shown.startswith("error: ") and "\n" not in shown and "mine.py:" in shown and "in cost)" in shown


def test_a_pairing_that_takes_images_from_a_failed_one_fails_on_those_images_alone(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "mine.py").write_text(
        MINE
        + "\n\nclass Some(Means):\n    def classify(self, x):\n        logits = super().classify(x)\n"
        + "        bright = x.flatten(1).sum(1) > 21.9\n"
        + "        return torch.where(bright[:, None], torch.nan, logits)\n"
    )
    path = suite("Some", "Means")
    text = path.read_text() + "  moved: {type: transfer, from: some, attack: attack, norm: Linf, eps: 0.05}\n"
    path.write_text(text + "pairings: [{defense: some, attack: attack}, {defense: means, attack: moved}]\n")
    assert call("run", path) == 1
    shown, origin = capsys.readouterr().out, records(path, "some/attack")
    failed = {record.index for record in origin if record.verdict == "error"}
    assert 0 < len(failed) < 4
    assert {r.index for r in records(path, "means/moved") if r.verdict == "error"} == failed
    assert "some/attack, which has its image, failed: " in shown


def test_results_deleted_while_they_are_made_are_an_error(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = suite("Means", images=12)
    from harness.cli.run_progress import Display

    for gone in ("results/tries", "results/tries/cells/means/attack/00000-00004.parquet", "results/tries/run.json"):
        shutil.rmtree("results", ignore_errors=True)

        def lose(display: Display, *_: object, gone: Path = Path(gone)) -> None:
            shutil.rmtree(gone) if gone.is_dir() else gone.unlink(missing_ok=True)

        with monkeypatch.context() as patched:
            patched.setattr(Display, "finished", lose)
            assert call("run", path) == 2
        assert "deleted" in capsys.readouterr().err
        assert call("run", path) == 0
