"""Runs and weights to a server on this machine and back, through the real package huggingface_hub."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest
import yaml

from harness import cli
from harness.errors import UserError
from harness.hub.sharing import pull_run, pull_weights, push_run, push_weights
from helpers.archives import FINISHED, content
from helpers.hub_server import TOKEN, Hub, hub_server

pytest.importorskip("huggingface_hub")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with hub_server() as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
        yield served


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    for suffix in ("safetensors", "yaml"):
        shutil.copy(str(resources.files("defenses") / f"zoo/digits-cnn.{suffix}"), tmp_path / f"mine.{suffix}")
    return tmp_path / "mine.safetensors"


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_comes_back_file_by_file(hub: Hub, tmp_path: Path) -> None:
    url, exported = push_run(FINISHED, "me/run")
    assert url == f"{hub.url}/datasets/me/run" and exported.remarks == ()
    assert pull_run("me/run", tmp_path / "theirs").suite == "quickstart"
    assert tree(tmp_path / "theirs") == tree(FINISHED)


def test_a_run_is_a_dataset_with_its_table_and_its_archive(hub: Hub, tmp_path: Path) -> None:
    push_run(FINISHED, "me/run")
    files = hub.repositories["datasets/me/run"]
    assert set(files) == {"README.md", "run.zip"}
    front, text = files["README.md"].decode().removeprefix("---\n").split("---\n", 1)
    assert yaml.safe_load(front)["tags"] == ["adversarial-robustness", "adversarial-harness"]
    assert "**Digits on a laptop**" in text and "harness pull me/run" in text
    (tmp_path / "run.zip").write_bytes(files["run.zip"])
    assert "check.py" in content(tmp_path / "run.zip")


def test_weights_come_back_with_their_card(hub: Hub, weights: Path, tmp_path: Path) -> None:
    assert push_weights(weights, "me/net") == f"{hub.url}/me/net"
    path = pull_weights("me/net", tmp_path / "new" / "theirs.safetensors")
    assert path.read_bytes() == weights.read_bytes()
    assert path.with_suffix(".yaml").read_bytes() == weights.with_suffix(".yaml").read_bytes()
    assert [file.name for file in sorted(path.parent.iterdir())] == ["theirs.safetensors", "theirs.yaml"]
    assert b"license: mit" in hub.repositories["models/me/net"]["README.md"]


def test_a_private_repository_is_nobody_elses(
    hub: Hub, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push_weights(weights, "me/net", private=True)
    pull_weights("me/net", tmp_path / "a.safetensors")
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(UserError, match="not yours to see"):
        pull_weights("me/net", tmp_path / "b.safetensors")
    with pytest.raises(UserError, match="hf auth login"):
        push_weights(weights, "me/net")


@pytest.mark.parametrize("change", ["weights", "card", "pickle", "no card"])
def test_weights_that_are_not_those_of_their_card_are_refused(
    hub: Hub, weights: Path, tmp_path: Path, change: str
) -> None:
    push_weights(weights, "me/net")
    files = hub.repositories["models/me/net"]
    if change == "no card":
        files["weights.yaml"] = b"a: 1\n"
    elif change == "card":
        files["weights.yaml"] = files["weights.yaml"].replace(b"sha256: d", b"sha256: e")
    else:
        files["weights.safetensors"] = b"\x80\x04N." if change == "pickle" else files["weights.safetensors"][:-1] + b"!"
    with pytest.raises(UserError, match=r"damaged|no card"):
        pull_weights("me/net", tmp_path / "theirs.safetensors")
    assert not list(tmp_path.glob("*theirs*"))


def test_a_run_that_is_none_is_refused(hub: Hub, tmp_path: Path) -> None:
    push_run(FINISHED, "me/run")
    hub.repositories["datasets/me/run"]["run.zip"] = b"PK" * 100
    with pytest.raises(UserError, match="not a zip file"):
        pull_run("me/run", tmp_path / "theirs")
    assert not (tmp_path / "theirs").exists()


def test_weights_without_a_card_or_in_another_format_are_not_pushed(hub: Hub, weights: Path, tmp_path: Path) -> None:
    weights.with_suffix(".yaml").unlink()
    with pytest.raises(UserError, match="has no card"):
        push_weights(weights, "me/net")
    (tmp_path / "net.pt").write_bytes(b"")
    with pytest.raises(UserError, match="harness weights import"):
        push_weights(tmp_path / "net.pt", "me/net")
    assert hub.repositories == {}


@pytest.mark.parametrize(
    ("repository", "revision", "said"),
    [("me/absent", None, "not on the Hub"), ("me/run", "v9", "not on the Hub"), ("no name!", None, "OWNER/NAME")],
)
def test_what_is_not_there_is_said(hub: Hub, tmp_path: Path, repository: str, revision: str | None, said: str) -> None:
    push_run(FINISHED, "me/run")
    with pytest.raises(UserError, match=said):
        pull_run(repository, tmp_path / "theirs", revision=revision)


def test_no_server_is_said(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # the package tries again, for 23 seconds in all
    with pytest.raises(UserError, match="cannot be reached"):
        push_run(FINISHED, "me/run")
    with pytest.raises(UserError, match=r"cannot be reached|not on the Hub"):
        pull_run("me/run", tmp_path / "theirs")


def test_the_commands(
    hub: Hub, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments, said in (
        (["push", str(FINISHED), "me/run"], f"Wrote {hub.url}/datasets/me/run: 25 files, sha256"),
        (["pull", "me/run"], "Wrote results/quickstart."),
        (["push", str(weights), "me/net"], f"Wrote {hub.url}/me/net"),
        (["pull", "me/net", "--weights"], "weights: ./net.safetensors"),
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main(arguments)
        assert not ended.value.code
        assert said in " ".join(capsys.readouterr().out.split())
