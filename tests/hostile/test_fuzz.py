"""Manifests, suites and shards with random damage: an error for the user, or what is so. Never anything else."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.errors import UserError
from harness.reporting import report
from harness.results.manifest import find_manifest
from harness.results.store import CellStore, Damaged, Store
from harness.suite import load_suite
from harness.verification import verify
from helpers import hostile
from helpers.examples import examples

FUZZ = settings(deadline=None, max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture])

ODD = [
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2**31,
        2**63 - 1,
        0.5,
        -0.0,
        1e300,
        "",
        "x",
        "../../x",
        "/etc/passwd",
        "\0",
        "é" * 9,
    ),
    *(
        [],
        {},
        [None],
        {"a": 1},
        [[[]]],
        "Linf 8/255",
        "digits",
        "9" * 5000,
        "plain",
        "noise",
        [0, 1],
        "\x1b[31m",
        "1/0",
    ),
]
"""What a place of a manifest is given instead of what it had."""


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = hostile.sound(tmp_path_factory.mktemp("sound"))
    return folder


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a piece of JSON."""
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return found + [place for key, item in items for place in places(item, (*path, key))]


def damage(content: Any, draw: Callable[[Any], Any]) -> None:
    """Some places are given something odd, or lost."""
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(places(content)))
        around = content
        for key in path[:-1]:
            around = around[key]
        if draw(st.booleans()) and isinstance(around, dict):
            del around[path[-1]]
        else:
            around[path[-1]] = draw(st.sampled_from(ODD))


@pytest.mark.slow
@FUZZ
@given(data=st.data())
def test_a_damaged_manifest_is_refused_or_told(sound: Path, tmp_path: Path, data: st.DataObject) -> None:
    """What is changed and still read is at least seen by `verify`."""
    root = tmp_path / "run"
    if not root.exists():
        shutil.copytree(sound, root)
    whole = json.loads((sound / "run.json").read_text())
    content = json.loads((sound / "run.json").read_text())
    damage(content, data.draw)
    (root / "run.json").write_text(json.dumps(content))
    try:
        found = find_manifest(Store(root))
        report(root, data.draw(st.sampled_from(["html", "json", "csv", "latex", "md", "table"])))
    except UserError:
        return
    outcomes = {each.name: each.outcome for each in verify(root, torch.device("cpu"), replay=False)}
    assert found and (found.document() == whole or set(outcomes.values()) != {"holds"})


@FUZZ
@given(cuts=st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=4), st.integers(0, 4)), min_size=1, max_size=3))
def test_a_damaged_shard_is_damaged_or_whole(sound: Path, tmp_path: Path, cuts: list[tuple[float, bytes, int]]) -> None:
    facts = json.loads((sound / "run.json").read_text())["cells"][0]
    whole = Store(sound).cell("plain", "noise", facts["key"])
    cell = CellStore(tmp_path, facts["key"])
    for suffix in ("parquet", "safetensors"):
        shutil.copy(whole.folder / f"00000-00002.{suffix}", tmp_path)
    content = (tmp_path / "00000-00002.parquet").read_bytes()
    for share, inserted, removed in cuts:
        start = int(share * len(content))
        content = content[:start] + inserted + content[start + removed :]
    (tmp_path / "00000-00002.parquet").write_bytes(content)
    try:
        assert repr(cell.read(0, 2)) == repr(whole.read(0, 2))
    except Damaged as error:
        assert len(str(error)) < 400


WORDS = (
    *(
        "suite:",
        "extends: other.yaml",
        "extends: [",
        "&a",
        "*a",
        "<<: *a",
        "- ",
        "{",
        "}",
        "[",
        "]",
        ": ",
        "\n  ",
        "\t",
    ),
    *("defenses", "null", "~", "1e999", "0x" + "f" * 5000, "9" * 5000, "!!python/object:os.system", "'", '"', "|", ">"),
    *("sweep: {attack.noise.eps: [1]}", "---", "...", "%YAML 1.1", "\u2028", "\0", "[" * 300, "? ", "#", "@", "`"),
)


@FUZZ
@given(seed=st.integers(0, 2**32), words=st.lists(st.sampled_from(WORDS), min_size=1, max_size=4))
def test_a_damaged_suite_is_refused_or_read(tmp_path: Path, seed: int, words: list[str]) -> None:
    """Each word is put somewhere into a sound suite."""
    text, chance = hostile.SUITE, random.Random(seed)
    for word in words:
        place = chance.randrange(len(text))
        text = text[:place] + word + text[place + chance.choice((0, 0, 1, 10)) :]
    path = tmp_path / "suite.yaml"
    path.write_bytes(text.encode())
    with contextlib.suppress(UserError):
        assert load_suite(path).cells
