"""Checkpoints are listed without being there, fetched, verified and converted."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import safetensors.torch
import torch

from harness import cli
from harness.errors import UserError
from harness.suite.checkpoints import items
from harness.weights import Checkpoint, manage, packaged, published


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        """Keeps the tests' output clean."""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """Address of a server of one file, net.safetensors, on this machine."""
    folder = tmp_path / "served"
    folder.mkdir()
    safetensors.torch.save_file({"w": torch.arange(4.0)}, folder / "net.safetensors")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/net.safetensors"
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HARNESS_WEIGHTS", str(tmp_path / "cache"))
    monkeypatch.delenv("HARNESS_OFFLINE", raising=False)
    return tmp_path / "cache"


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(["weights", *arguments])
    return int(ended.value.code or 0)


def suite(folder: Path, weights: str) -> Path:
    path = folder / "suite.yaml"
    path.write_text(
        f"suite: s\ndataset: {{name: digits, first: 4}}\nattacks: {{clean: {{}}}}\n"
        f"defenses:\n  mine: {{type: undefended, weights: '{weights}'}}\n"
    )
    return path


def test_every_known_checkpoint_is_listed_with_its_state() -> None:
    listed = {item.ref: item for item in items()}
    assert {*packaged(), *(entry.name for entry in published.entries())} == listed.keys()
    assert listed["digits-cnn"].state == "packaged" and listed["digits-cnn"].size
    assert listed["edm-cifar10-32x32-cond-vp"].state == "to fetch"
    assert listed["cifar10-ddpmpp-deep-continuous-vp"].state == "by hand"


def test_an_absent_published_checkpoint_tells_a_suite_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="harness weights fetch edm-cifar10-32x32-cond-vp"):
        Checkpoint.find("edm-cifar10-32x32-cond-vp")
    (item,) = items(suite(tmp_path, "edm-cifar10-32x32-cond-vp"))
    assert item.state == "to fetch" and item.size is None


def test_a_file_at_an_address_is_fetched_for_a_suite_and_then_loaded(
    tmp_path: Path, served: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = suite(tmp_path, served)
    assert call("list", str(path)) == 0
    assert "to fetch" in capsys.readouterr().out
    with pytest.raises(UserError, match="harness weights fetch"):
        Checkpoint.find(served)
    assert call("fetch", str(path)) == 0
    assert torch.equal(Checkpoint.find(served).tensors()["w"], torch.arange(4.0))
    assert call("verify", str(path)) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("ok ")


def test_a_hash_in_the_address_is_held_to(tmp_path: Path, served: str, capsys: pytest.CaptureFixture[str]) -> None:
    right = hashlib.sha256((tmp_path / "served/net.safetensors").read_bytes()).hexdigest()
    assert call("fetch", f"{served}#sha256={'0' * 64}") == 2
    assert right in capsys.readouterr().err
    assert call("fetch", f"{served}#sha256={right}") == 0
    assert Checkpoint.find(f"{served}#sha256={right}").sha256 == right
    with pytest.raises(UserError, match="0000"):
        Checkpoint.find(f"{served}#sha256={'0' * 64}")


def test_offline_refuses_before_any_connection(served: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("fetch", served, "--offline") == 2
    told = capsys.readouterr().err
    assert "--offline" in told and served in told


def test_verify_tells_a_file_that_changed_after_it_was_fetched(
    tmp_path: Path, served: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = suite(tmp_path, served)
    assert call("fetch", str(path)) == 0
    (file,) = (tmp_path / "cache").rglob("net.safetensors")
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    capsys.readouterr()
    assert call("verify", str(path)) == 1
    assert "failed" in capsys.readouterr().out


def test_any_format_converts_to_safetensors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": {"module.w": torch.ones(3), "module.b": torch.zeros(2)}}, tmp_path / "net.th")
    assert call("import", str(tmp_path / "net.th"), str(tmp_path / "net.safetensors")) == 0
    assert "module." in capsys.readouterr().out
    assert safetensors.torch.load_file(tmp_path / "net.safetensors").keys() == {"w", "b"}
    assert call("import", str(tmp_path / "net.th"), str(tmp_path / "net.safetensors")) == 2
    assert "exists" in capsys.readouterr().err


def test_a_score_sde_training_state_converts_to_its_averaged_weights(tmp_path: Path) -> None:
    source, averaged, last = (
        tmp_path / name for name in ("checkpoint_8.pth", "averaged.safetensors", "last.safetensors")
    )
    model = {"module.sigmas": torch.ones(3), "module.w": torch.zeros(2)}
    ema = {"decay": 0.9999, "num_updates": 1, "shadow_params": [torch.full((2,), 0.5)]}
    torch.save({"optimizer": {}, "model": model, "ema": ema, "step": 1}, source)
    manage.convert(source, averaged)
    manage.convert(source, last, ema=False)
    assert torch.equal(safetensors.torch.load_file(averaged)["w"], torch.full((2,), 0.5))
    assert torch.equal(safetensors.torch.load_file(last)["w"], torch.zeros(2))


def test_unknown_names_are_told_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("fetch", "edm-cifar10-32x32-cond-vq") == 2
    assert "'edm-cifar10-32x32-cond-vp'" in capsys.readouterr().err


def test_the_settings_of_every_command_reach_downloads(
    tmp_path: Path, served: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("HARNESS_WEIGHTS", "HARNESS_DATA", "HARNESS_OFFLINE"):
        monkeypatch.setenv(name, "")  # what the command sets is undone after the test
    with pytest.raises(SystemExit):
        cli.main(["--cache", str(tmp_path / "elsewhere"), "weights", "fetch", served])
    assert str(tmp_path / "elsewhere/weights") in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        cli.main(["--offline", "weights", "fetch", served + "?other"])
    assert ended.value.code == 2 and "switched off" in capsys.readouterr().err


def test_the_listing_shows_the_hash_that_was_first_seen(served: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("fetch", served) == 0
    assert call("list", served) == 0
    assert Checkpoint.find(served).sha256[:8] in capsys.readouterr().out


def test_every_checkpoint_of_a_defense_counts_wherever_the_suite_says_it(tmp_path: Path) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text(
        "suite: s\ndataset: {name: digits, first: 4}\nattacks: {clean: {}}\n"
        "defaults: {defenses: {unconditional: edm-cifar10-32x32-uncond-vp}}\n"
        "defenses:\n  rdc: {weights: edm-cifar10-32x32-cond-vp}\n"
    )
    assert {item.ref for item in items(path)} == {"edm-cifar10-32x32-cond-vp", "edm-cifar10-32x32-uncond-vp"}


def test_a_path_is_verified_where_the_suite_means_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "below").mkdir()
    safetensors.torch.save_file({"w": torch.ones(2)}, tmp_path / "below/net.safetensors")
    path = suite(tmp_path / "below", "./net.safetensors")
    monkeypatch.chdir(tmp_path)
    assert call("verify", str(path)) == 0
    assert call("fetch", str(path)) == 0
