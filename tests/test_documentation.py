"""The documentation site: its commands and code work, what is generated is complete, and every link leads somewhere."""

from __future__ import annotations

import importlib
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import harness
from harness import cli
from harness.config.registry import entries
from harness.results.manifest import Manifest
from harness.results.record import SCHEMA
from harness.suite.schema import Suite
from harness.training.recipe import Data, Description, Optimizer, Recipe, Schedule
from harness.training.recipe import read as read_recipe
from harness.weights import build_network

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SITE = runpy.run_path(str(ROOT / "scripts" / "site_pages.py"))
PAGES: dict[str, str] = SITE["pages"]()

TUTORIALS = sorted(path.name for path in (DOCS / "tutorials").glob("*.md"))
BLOCK = re.compile(r'^```(\w+)(?: title="([\w.]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def navigation() -> list[str]:
    """The pages of mkdocs.yml, in order."""

    def leaves(node: Any) -> list[str]:
        if isinstance(node, str):
            return [node]
        return [leaf for item in (node.values() if isinstance(node, dict) else node) for leaf in leaves(item)]

    return leaves(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])


def pages() -> dict[str, str]:
    """All pages of the site, as mkdocs gets them."""
    written = {path.relative_to(DOCS).as_posix(): path.read_text() for path in DOCS.rglob("*.md")}
    own = {
        name: SITE["relinked"](text, PurePosixPath("docs", name).parent, PurePosixPath(name))
        for name, text in written.items()
    }
    assert not own.keys() & PAGES.keys()
    return own | PAGES


def follow(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """Does what a tutorial says, from top to bottom, in an empty folder, and returns what its commands printed."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("COLUMNS", "120")
    for kind, file, text in BLOCK.findall((DOCS / "tutorials" / name).read_text()):
        if file:
            Path(file).write_text(text.replace("{name: cifar10, size: 256,", "{name: npz, path: cifar.npz, size: 8,"))
        elif kind == "sh":
            for line in text.splitlines():
                program, *arguments = shlex.split(line, comments=True)
                if program == "python":
                    runpy.run_path(arguments[0], run_name="__main__")
                    continue
                assert program == "harness"
                with pytest.raises(SystemExit) as ended:
                    cli.main(arguments)
                assert not ended.value.code, f"{line}\n{''.join(capsys.readouterr())}"
    return capsys.readouterr().out


@pytest.mark.long
def test_a_cifar10_model_is_evaluated_as_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On images of the size of CIFAR-10's, since the data set itself is a download; all else is as written."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (16, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "cifar.npz", images=images, labels=np.arange(16) % 10, classes=[str(i) for i in range(10)])
    shown = follow("cifar10.md", tmp_path, monkeypatch, capsys)
    assert "My network on CIFAR-10" in shown and "Wrote my-cifar10.zip" in shown
    assert (tmp_path / "results" / "my-cifar10" / "report.html").is_file()


@pytest.mark.long
def test_a_purifier_is_broken_as_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = follow("break-a-purifier.md", tmp_path, monkeypatch, capsys)
    (row,) = re.findall(r"^rounding .*", shown, re.MULTILINE)
    clean, naive, adaptive, *_ = map(float, re.findall(r"\d+\.\d", row))
    assert clean > 90 and naive > 90 and adaptive < 10
    assert "zero throughout" in " ".join(shown.split()) and "misleading" in shown


@pytest.mark.long
def test_a_defense_is_added_as_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = follow("add-a-defense.md", tmp_path, monkeypatch, capsys)
    assert "smooth/linf: 32/32 images" in shown and "mean of 5 draws" in shown


def test_every_tutorial_is_followed_here() -> None:
    here = Path(__file__).read_text()
    assert len(TUTORIALS) == 3 and all(f'follow("{name}"' in here for name in TUTORIALS)


def test_the_navigation_has_every_page_once() -> None:
    assert sorted(navigation()) == sorted(pages())


def test_every_link_of_the_site_leads_to_a_page_or_a_picture() -> None:
    found = pages()
    for name, text in found.items():
        plain = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", plain):
            path = os.path.normpath(PurePosixPath(name).parent / target)
            assert path in found or (DOCS / path).is_file(), f"{name}: {target}"


def test_links_out_of_the_site_become_the_path_in_words() -> None:
    relinked = SITE["relinked"]
    folder, page = PurePosixPath("docs/a"), PurePosixPath("a/page.md")
    assert relinked("[see](../../setup.cfg)", folder, page) == "see (`setup.cfg`)"
    assert relinked("[see](../../README.md#x)", folder, page) == "[see](../index.md#x)"
    assert relinked("[see](https://a.b/c)", folder, page) == "[see](https://a.b/c)"


def test_the_suite_reference_has_every_key_of_every_section() -> None:
    text = PAGES["reference/suite.md"]
    for name, info in Suite.model_fields.items():
        assert f"| `{name}` |" in text
        assert info.description is None or info.description in text
    for section in ("Dataset", "Protocol", "Entry", "PairingEntry", "Report", "Defaults"):
        assert f"## {section}\n" in text
    assert "| `with` |" in text and "`overrides`" not in text


def test_the_recipe_reference_has_every_key_of_every_section() -> None:
    text = PAGES["reference/recipe.md"]
    for model in (Recipe, Data, Optimizer, Schedule, Description):
        assert f"## {model.__name__}\n" in text
        assert all(f"| `{name}` |" in text for name in model.model_fields)


def test_the_recipe_of_the_page_on_training_can_be_followed(tmp_path: Path) -> None:
    (block,) = [text for kind, _, text in BLOCK.findall((DOCS / "training.md").read_text()) if kind == "yaml"]
    (tmp_path / "mine.yaml").write_text(block)
    plan = read_recipe(tmp_path / "mine.yaml")
    plan.trainer.build()
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in build_network(plan.recipe.network).parameters()) > 10**7


def test_the_results_reference_has_every_column_and_field() -> None:
    text = PAGES["reference/results.md"]
    assert all(f"| `{field.name}` | `{field.type}` |" in text for field in SCHEMA)
    assert all(f"| `{name}` |" in text for name in Manifest.model_fields)


@pytest.mark.parametrize("kind", ["defenses", "attacks", "trainers"])
def test_every_one_that_has_a_page_is_there_with_its_arguments(kind: str) -> None:
    sections = re.split(r"^## ", PAGES[f"reference/{kind}.md"], flags=re.MULTILINE)[1:]
    found = {section.split("`")[1]: section for section in sections}
    listed = list(entries(kind))
    assert found.keys() == {entry.name for entry in listed}
    for entry in listed:
        assert all(f"| `{parameter.name}` |" in found[entry.name] for parameter in entry.parameters)


def test_the_page_on_python_has_every_public_object() -> None:
    named = re.findall(r"^::: ([\w.]+)$", (DOCS / "python.md").read_text(), re.MULTILINE)
    objects = [getattr(importlib.import_module(path.rpartition(".")[0]), path.rpartition(".")[2]) for path in named]
    absent = {name for name in harness.__all__ if getattr(harness, name) not in objects}
    assert absent <= {"Adversarial", "Cost", "InnerAttack", "InnerDefense"}


@pytest.mark.long
def test_the_site_builds_strictly_and_asks_nobody_for_anything(tmp_path: Path) -> None:
    """`make docs` does it in an environment with the extra [docs]."""
    for package in ("mkdocs", "material", "mkdocstrings_handlers"):
        pytest.importorskip(package)
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    html = "".join(path.read_text() for path in tmp_path.rglob("*.html"))
    assert not re.findall(
        r'<(?:script|img|iframe)[^>]+src="(?:https?:)?//[^"]+"|<link[^>]+stylesheet[^>]+//[^>]+>', html
    )
