"""A suite is checked in full, each mistake is told with its line, and no file ends in a traceback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import UserError
from harness.quantity import Quantity
from harness.suite import Plan, load_suite
from harness.threat import L2, Linf
from harness.weights import packaged
from helpers.modules import source

FAKES = source("typed")

SUITE = """\
suite: small
title: A small suite
dataset: {name: digits, split: test, size: 12}
protocol: {votes: 2, shard: 4, gates: off}
x-shared: &typed
  type: ./fakes.py:Typed
  count: 3
defaults:
  attacks:
    steps: 2
defenses:
  plain: {type: ./fakes.py:Plain, label: Nothing}
  typed:
    <<: *typed
    rate: 1e-1
attacks:
  linf:
    type: ./fakes.py:Ball
    norm: Linf
    eps: 8/255
  l2: {type: ./fakes.py:Ball, norm: L2, eps: 0.5}
pairings:
  - {defense: [typed, plain], attack: linf}
  - defense: plain
    attack: l2
    with: {steps: 9}
report:
  average: [linf, l2]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("suites")
    (folder / "fakes.py").write_text(FAKES)
    return folder


def plan(folder: Path, text: str = SUITE, **options: Any) -> Plan:
    (folder / "suite.yaml").write_text(text)
    return load_suite(folder / "suite.yaml", **options)


def changed(old: str, new: str) -> str:
    assert old in SUITE
    return SUITE.replace(old, new)


def refusal(folder: Path, text: str, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        plan(folder, text, **options)
    return str(caught.value).removeprefix(f"{folder}/")


def typed(folder: Path, arguments: str) -> dict[str, Any]:
    text = changed("    rate: 1e-1\n", "".join(f"    {line}\n" for line in arguments.splitlines()))
    return next(c.defense.arguments for c in plan(folder, text).cells if c.defense.name == "typed")


def test_cells_come_defense_by_defense_in_the_order_of_the_file(folder: Path) -> None:
    cells = plan(folder).cells
    assert [(c.defense.name, c.attack.name) for c in cells] == [("plain", "linf"), ("plain", "l2"), ("typed", "linf")]


def test_without_pairings_all_meet_all(folder: Path) -> None:
    start, end = SUITE.index("pairings:"), SUITE.index("report:")
    cells = plan(folder, SUITE[:start] + SUITE[end:]).cells
    assert [(c.defense.name, c.attack.name) for c in cells] == [
        (defense, attack) for defense in ("plain", "typed") for attack in ("linf", "l2")
    ]


def test_defaults_lie_under_every_entry_and_overrides_over_one_pairing(folder: Path) -> None:
    text = changed("    eps: 8/255\n", "    eps: 8/255\n    steps: null\n")
    steps = {f"{c.defense.name}/{c.attack.name}": c.attack.arguments["steps"] for c in plan(folder, text).cells}
    assert steps == {"plain/linf": 1, "plain/l2": 9, "typed/linf": 1}


def test_arguments_are_typed_and_defaults_are_filled_in(folder: Path) -> None:
    cell = plan(folder).cells[-1]
    assert cell.defense.arguments == {
        "count": 3,
        "rate": 0.1,
        "flag": False,
        "word": "w",
        "mode": "slow",
        "which": "all",
        "pair": (1, 2.0),
        "table": None,
        "file": None,
        "files": (),
        "weights": None,
        "eta": None,
        "free": None,
        "callback": None,
    }
    assert isinstance(cell.attack.arguments["eps"], Quantity) and cell.attack.arguments["eps"].text == "8/255"
    assert cell.attack.build().threat == Linf(Quantity("8/255"))
    assert (cell.defense.label, plan(folder).cells[0].defense.label) == (None, "Nothing")


@pytest.mark.parametrize(
    ("written", "name", "value"),
    [
        ("rate: 2", "rate", 2.0),
        ("flag: true", "flag", True),
        ("which: 7", "which", 7),
        ("which: [1, 2]", "which", [1, 2]),
        ("pair: [3, 4]", "pair", (3, 4.0)),
        ("table: {a: 1, b: 2.5}", "table", {"a": 1.0, "b": 2.5}),
        ("eta: 8/255", "eta", 8 / 255),
        ("free: {x: [1, off]}", "free", {"x": [1, "off"]}),
        ("word: off", "word", "off"),
    ],
)
def test_each_type_takes_what_yaml_says(folder: Path, written: str, name: str, value: object) -> None:
    found = typed(folder, written)[name]
    assert found == value and isinstance(found, type(value))


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("count: '3'", "'count' of defense 'typed' is '3': it should be a whole number."),
        ("count: true", "it should be a whole number"),
        ("count: 3.0", "it should be a whole number"),
        ("flag: 1", "it should be a boolean"),
        ("flag: yes", "it should be a boolean"),
        ("word: 3", "it should be a string"),
        ("rate: '0.5'", "it should be a number"),
        ("rate: 8/255", "it should be a number"),
        ("mode: medium", "it should be 'slow' or 'fast'"),
        ("which: some", "it should be 'all', or it should be a whole number, or it should be a list"),
        ("which: [1, x]", "'[1]' of 'which' of defense 'typed' is 'x': it should be a whole number"),
        ("pair: [1]", "pair"),
        ("table: {a: x}", "'a' of 'table' of defense 'typed' is 'x': it should be a number"),
        ("table: [1]", "it should be a mapping"),
        ("eta: 8/0", "'8/0' divides by zero"),
        ("eta: much", "'much' is not a number or a fraction such as 8/255"),
        ("weights: nowhere", "'weights' of defense 'typed': no checkpoint is called 'nowhere'"),
        ("weights: ./nowhere.pt", "there is no file"),
        ("weights: 3", "3 is not the name or path of a checkpoint"),
        ("callback: x", "which YAML cannot write"),
        ("rats: 1", "defense 'typed' has no argument 'rats'. Did you mean 'rate'?"),
    ],
)
def test_other_values_are_refused_at_their_line(folder: Path, written: str, told: str) -> None:
    message = refusal(folder, changed("    rate: 1e-1\n", f"    {written}\n"))
    assert message.startswith("suite.yaml:15: ") and told in message


def test_a_missing_argument_is_named_at_its_entry(folder: Path) -> None:
    message = refusal(folder, changed("  count: 3\n", "  flag: true\n"))
    assert message == "suite.yaml:13: defense 'typed' needs 'count'. Add `count:` to it."


def test_paths_start_from_the_file_they_are_written_in(folder: Path) -> None:
    (folder / "base").mkdir(exist_ok=True)
    (folder / "base" / "base.yaml").write_text(SUITE.replace("./fakes", "../fakes").replace("rate: 1e-1", "file: a/b"))
    found = plan(folder, "extends: base/base.yaml\ndefenses: {typed: {files: [c, /d]}}\n")
    defense = found.cells[-1].defense
    assert defense.arguments["file"] == folder / "base" / "a" / "b"
    assert defense.arguments["files"] == [folder / "c", Path("/d")]
    assert found.resolved()["dataset"]["size"] == 12
    assert defense.resolved()["files"][0] == "c" and defense.resolved()["file"] == "base/a/b"


def test_checkpoints_are_recorded_with_their_hash(folder: Path) -> None:
    name = next(iter(packaged()))
    defense = plan(folder, changed("rate: 1e-1", f"weights: {name}")).cells[-1].defense
    assert defense.resolved()["weights"]["name"] == name and len(defense.resolved()["weights"]["sha256"]) == 64


def test_the_resolved_suite_is_json_and_says_only_what_decides_results(folder: Path) -> None:
    text = changed("typed, plain", "plain").replace("    <<: *typed\n    rate: 1e-1\n", "    type: ./fakes.py:Plain\n")
    found = plan(folder, text)
    assert json.loads(json.dumps(found.resolved())) == yaml.safe_load(yaml.safe_dump(found.resolved()))
    assert found.resolved() == {
        "suite": "small",
        "dataset": {"name": "digits", "split": "test", "size": 12, "seed": 0},
        "protocol": {"votes": 2, "seed": 0, "shard": 4, "gates": "off"},
        "defenses": {"plain": {"type": "./fakes.py:Plain", "arguments": {}}},
        "cells": {
            "plain/linf": {"type": "./fakes.py:Ball", "arguments": {"norm": "Linf", "eps": "8/255", "steps": 2}},
            "plain/l2": {"type": "./fakes.py:Ball", "arguments": {"norm": "L2", "eps": "0.5", "steps": 9}},
        },
    }
    other = text.replace("shard: 4", "shard: 4, batch_size: 1").replace("A small", "Another").replace("Nothing", "None")
    assert plan(folder, other).resolved() == found.resolved()
    assert plan(folder, other).presentation() != found.presentation()
    assert plan(folder, text, only="plain/l2").resolved() == found.resolved()
    assert plan(folder, text, limit=5).resolved()["dataset"]["limit"] == 5


def test_a_default_that_is_not_data_cannot_be_recorded(folder: Path) -> None:
    defense = plan(folder, changed("./fakes.py:Plain", "./fakes.py:Badge")).cells[0].defense
    with pytest.raises(UserError, match=r"suite\.yaml:12: 'badge' of defense 'plain' is .* cannot be written"):
        defense.resolved()


def test_another_type_in_a_pairing_keeps_only_the_budget(folder: Path) -> None:
    def first(overrides: str) -> Any:
        return plan(folder, changed("    with: {steps: 9}", f"    with: {overrides}")).cells[1].attack

    other = first("{type: ./fakes.py:Ball}")
    assert other.arguments == {"norm": "L2", "eps": 0.5, "steps": 1} and other.build().threat == L2(Quantity("0.5"))
    assert first("{type: ./fakes.py:Ball, eps: 0.25}").arguments["eps"] == 0.25
    assert first("{type: ./fakes.py:Warp}").arguments == {"bound": 0.05}
    assert first("{}").arguments["steps"] == 2
    assert first("{steps: null}").arguments["steps"] == 1


def test_only_keeps_a_row_or_a_cell(folder: Path) -> None:
    assert [c.attack.name for c in plan(folder, only="plain").cells] == ["linf", "l2"]
    assert [c.attack.name for c in plan(folder, only="plain/l2").cells] == ["l2"]
    assert "no defense 'plan'. Did you mean 'plain'?" in refusal(folder, SUITE, only="plan")
    assert "no attack 'linv'. Did you mean 'linf'?" in refusal(folder, SUITE, only="plain/linv")
    assert "no pairing typed/l2" in refusal(folder, SUITE, only="typed/l2")


def test_the_report_has_all_attacks_unless_it_says_otherwise(folder: Path) -> None:
    report = plan(folder, changed("report:\n  average: [linf, l2]\n", "")).suite.report
    assert report.average == report.worst == ("linf", "l2")
    report = plan(folder, changed("[linf, l2]\n", "[l2]\n")).suite.report
    assert report.average == report.worst == ("l2",)


def test_a_group_of_rows_names_defenses_of_the_suite_and_each_once(folder: Path) -> None:
    def grouped(groups: str) -> str:
        return changed("report:\n  average: [linf, l2]\n", f"report:\n  groups: {groups}\n")

    assert plan(folder, grouped("{Ours: [plain]}")).suite.report.groups == {"Ours": ("plain",)}
    assert "no defense 'plan'. Did you mean 'plain'?" in refusal(folder, grouped("{Ours: [plan]}"))
    assert "'plain' is in the groups 'A' and 'B'" in refusal(folder, grouped("{A: [plain], B: [plain]}"))


def test_a_title_may_be_folded_and_in_any_script(folder: Path) -> None:
    text = changed("title: A small suite", "title: >\n  Ölβ ε∞\n  中文 é")
    assert plan(folder, text).suite.title == "Ölβ ε∞ 中文 é"


def test_empty_sections_are_as_good_as_none(folder: Path) -> None:
    text = changed("report:\n  average: [linf, l2]\n", "report:\n")
    assert plan(folder, text).suite.report.vote == "mean"
    assert "needs 'dataset'" in refusal(folder, changed("dataset: {name: digits, split: test, size: 12}", "dataset:"))


@pytest.mark.parametrize(
    ("choice", "expected"),
    [("first: 3", [0, 1, 2]), ("indices: [7, 2]", [7, 2]), ("first: 9, limit: 2", [0, 1]), ("split: test", None)],
)
def test_images_are_chosen_as_the_suite_says(folder: Path, choice: str, expected: list[int] | None) -> None:
    text = changed("split: test, size: 12", choice)
    assert plan(folder, text).suite.dataset.choose(20) == (expected or list(range(20)))


def test_a_random_choice_repeats_has_no_duplicates_and_grows_from_its_start(folder: Path) -> None:
    chosen = plan(folder).suite.dataset.choose(500)
    assert len(set(chosen)) == 12 and max(chosen) < 500
    assert plan(folder, limit=5).suite.dataset.choose(500) == chosen[:5]
    assert plan(folder, changed("size: 12", "size: 40")).suite.dataset.choose(500)[:12] == chosen
    assert plan(folder, changed("size: 12", "size: 12, seed: 1")).suite.dataset.choose(500) != chosen


@pytest.mark.parametrize("choice", ["size: 21", "first: 21", "indices: [3, 20]"])
def test_images_that_are_not_there_are_refused(folder: Path, choice: str) -> None:
    with pytest.raises(UserError, match="image 21 of the 20 in the test split of 'digits'"):
        plan(folder, changed("size: 12", choice)).suite.dataset.choose(20)


@pytest.mark.parametrize(
    ("attack", "told"),
    [
        ("Ball, norm: Linf, eps: 8", "the Linf budget of attack 'odd' is 8, more than an image can change. "),
        ("Ball, norm: Linf, eps: 8", "For 8-bit units write 8/255"),
        ("Ball, norm: Linf, eps: -1/255", "the Linf budget of attack 'odd' is -1/255: it must not be negative"),
        ("Ball, norm: L2, eps: 128", "the L2 budget of attack 'odd' is 128"),
        ("Warp, bound: 3", "the Flow budget of attack 'odd' is 3"),
        ("Loose", "attack 'odd' sets no `threat`"),
        ("Worded", "the Linf budget of attack 'odd' is much: it must be a number"),
    ],
)
def test_budgets_that_no_image_has_are_refused(folder: Path, attack: str, told: str) -> None:
    start, end = SUITE.index("defaults:"), SUITE.index("defenses:")
    without = SUITE[:start] + SUITE[end : SUITE.index("pairings:")]
    message = refusal(folder, f"{without}  odd: {{type: ./fakes.py:{attack}}}\n")
    assert message.startswith("suite.yaml:19: ") and told in message


@pytest.mark.parametrize(
    ("old", "new", "line", "told"),
    [
        ("title:", "titel:", 2, "there is no key 'titel' in the file. Did you mean 'title'?"),
        ("title: A small suite", "titel:", 2, "there is no key 'titel' in the file. Did you mean 'title'?"),
        ("size: 12", "sise:", 3, "there is no key 'sise' in dataset. Did you mean 'size'?"),
        ("gates: off", "gate:", 4, "there is no key 'gate' in protocol. Did you mean 'gates'?"),
        ("    steps: 2", "    stepz:", 10, "attack 'linf' has no argument 'stepz'. Did you mean 'steps'?"),
        ("label: Nothing", "lable:", 12, "defense 'plain' has no argument 'lable'"),
        ("with: {steps: 9}", "wiht:", 26, "no key 'wiht' in pairings[1]. Did you mean 'with'?"),
        ("with: {steps: 9}", "with: {step:}", 26, "attack 'l2' has no argument 'step'. Did you mean 'steps'?"),
        ("average: [linf, l2]", "averag:", 28, "there is no key 'averag' in report. Did you mean 'average'?"),
        ("title: A small suite", 'title: "A \\x1b[31m"', 2, r"it holds \x1b, which readers would not see as it is"),
        ("title: A small suite", "title: |\n  two\n  lines", 2, r"it holds \n, which readers"),
        ("label: Nothing", 'label: "a\\u202e"', 12, r"it holds \u202e, which readers"),
        ("    steps: 2", '    label: "a\\x9b"', 10, r"it holds \x9b, which readers"),
        ("with: {steps: 9}", 'with: {label: "\\t"}', 26, r"it holds \t, which readers"),
        ("average: [linf, l2]", 'groups: {"a\\nb": [plain]}', 28, r"the key 'a\nb' will not do: it holds \n"),
        ("votes: 2", "vots: 2", 4, "there is no key 'vots' in protocol. Did you mean 'votes'?"),
        ("votes: 2", "votes: 0", 4, "'protocol.votes' of the file is 0: it should be greater than or equal to 1"),
        ("gates: off", "gates: false", 4, "it should be 'stop', 'mark' or 'off'"),
        ("suite: small", "suite: a/b", 1, "'a/b'"),
        ("suite: small", "suite: a.b", 1, "it names a folder"),
        ("suite: small", "suite: 3", 1, "it should be a string"),
        ("size: 12", "size: 12, first: 3", 3, "both 'size' and 'first'. Keep one"),
        ("size: 12", "first: 3, seed: 1", 3, "'seed' draws nothing without 'size'"),
        ("size: 12", "indices: []", 3, "must not be empty"),
        ("size: 12", "indices: [1, 1]", 3, "image 1 is there 2 times"),
        ("digits", "digit", 3, "no dataset 'digit'. Did you mean 'digits'?"),
        ("split: test", "split: tests", 3, "it should be 'train' or 'test'"),
        ("  plain: {", "  'pl/ain': {", 12, "the key 'pl/ain' will not do"),
        ("./fakes.py:Plain", "plane", 12, "there is no defense 'plane'"),
        ("./fakes.py:Plain", "./fakes.py:Plan", 12, "Did you mean 'Plain'?"),
        ("./fakes.py:Plain", "./fakes.py:Ball", 12, "not a subclass of harness.defense.Defense"),
        ("./fakes.py:Plain", "./fakes.py:Hinted", 12, "'Nowhere' is not defined"),
        ("./fakes.py:Plain", "3", 12, "it should be a string"),
        ("label: Nothing", "label: [x]", 12, "it should be a string"),
        ("label: Nothing", "strength: 2", 12, "defense 'plain' has no argument 'strength'. Valid names: none"),
        ("    steps: 2", "    stepz: 2", 10, "attack 'linf' has no argument 'stepz'. Did you mean 'steps'?"),
        ("  attacks:\n    steps: 2", "  atacks:\n    steps: 2", 9, "no key 'atacks' in defaults"),
        ("eps: 8/255", "eps: 8", 20, "the Linf budget of attack 'linf' is 8, more than an image can change"),
        ("eps: 8/255", "eps: -8/255", 20, "must not be negative"),
        ("eps: 0.5", "eps: 128", 21, "the L2 budget of attack 'l2' is 128"),
        ("attack: l2", "attack: l3", 25, "the suite has no attack 'l3'. Valid names: l2, linf"),
        ("[typed, plain]", "[typed, plane]", 23, "the suite has no defense 'plane'. Did you mean 'plain'?"),
        ("[typed, plain]", "[]", 23, "must not be empty"),
        ("attack: l2", "attack: linf", 24, "the pairing plain/linf is there twice"),
        ("with: {steps: 9}", "wiht: {steps: 9}", 26, "no key 'wiht' in pairings[1]. Did you mean 'with'?"),
        ("with: {steps: 9}", "with: {step: 9}", 26, "attack 'l2' has no argument 'step'. Did you mean 'steps'?"),
        ("with: {steps: 9}", "with: {type: pgdd}", 26, "there is no attack 'pgdd'. Did you mean 'pgd'?"),
        ("    attack: l2\n", "", 24, "needs 'attack'"),
        ("average: [linf, l2]", "average: [linf, l3]", 28, "the suite has no attack 'l3'"),
        ("average: [linf, l2]", "vote: median", 28, "it should be 'mean', 'single', 'majority' or 'worst'"),
        ("[linf, l2]\n", "[linf, l2\n", 29, "not YAML"),
    ],
)
def test_each_mistake_is_told_with_its_line(folder: Path, old: str, new: str, line: int, told: str) -> None:
    message = refusal(folder, changed(old, new))
    assert message.startswith(f"suite.yaml:{line}: ") and told in message


def test_what_a_constructor_refuses_is_told_at_the_argument_it_names(folder: Path) -> None:
    def built(old: str, new: str) -> str:
        defense = plan(folder, changed(old, new)).cells[-1].defense
        with pytest.raises(UserError) as caught:
            defense.build()
        return str(caught.value).removeprefix(f"{folder}/")

    assert built("count: 3", "count: -1") == "suite.yaml:7: defense 'typed': count is -1; it must not be negative."
    assert built("count: 3", "count: 13") == "suite.yaml:7: defense 'typed': the count 13 is unlucky. Take another."
    assert "defense 'typed' cannot be built: ZeroDivisionError: float division by zero (fakes.py:" in built("1e-1", "0")


def test_a_limit_of_no_images_is_refused(folder: Path) -> None:
    assert "limit is 0" in refusal(folder, SUITE, limit=0)


def test_missing_files_are_refused() -> None:
    with pytest.raises(UserError, match=r"no file nowhere\.yaml"):
        load_suite(Path("nowhere.yaml"))


# fmt: off
SCALARS = st.sampled_from([
    "8", "-1", "0", "1e9", "9" * 400, "'3'", ".nan", "8/0", "2024-13-45", "true", "null", "~", "[]", "{}", "[1, 2]",
    "{a: 1}", "*typed", "*linf", "&a", "&a x", "!!int", "!!int x", "|", "?", "-", "- x", "'", '"', "'\0'", '"\\0"', "é",
    "\u2028", "linf", "plain", "pgd", "dc", "os:path", "./fakes.py:Ball", "./fakes.py:Loose", "./nofile.py:X",
    "nowhere.yaml", "mutant.yaml",
])
# fmt: on
KEYS = st.sampled_from(["extends", "defaults", "<<", "x-y", "pairings", "type", "with", "path", "limit"])


@st.composite
def mutations(draw: st.DrawFn) -> str:
    """The suite after one to three accidents."""
    lines = SUITE.splitlines()
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(lines) - 1))
        accident = draw(st.integers(0, 6))
        if accident == 0 and len(lines) > 1:
            del lines[at]
        elif accident == 1:
            lines.insert(draw(st.integers(0, len(lines))), lines[at])
        elif accident == 2:
            lines[at] = " " * draw(st.integers(0, 6)) + lines[at].lstrip()
        elif accident == 3:
            key, colon, _ = lines[at].partition(":")
            lines[at] = f"{key}{colon} {draw(SCALARS)}"
        elif accident == 4:
            words = lines[at].split(" ")
            words[draw(st.integers(0, len(words) - 1))] = draw(SCALARS)
            lines[at] = " ".join(words)
        elif accident == 5:
            cut = draw(st.integers(0, len(lines[at])))
            lines[at] = lines[at][:cut] + draw(st.text(max_size=3)) + lines[at][cut:]
        else:
            lines.insert(at, " " * draw(st.integers(0, 4)) + f"{draw(KEYS)}: {draw(SCALARS)}")
    return "\n".join(lines)


@settings(deadline=None, max_examples=400)
@given(text=mutations())
def test_no_mutation_of_a_suite_ends_in_anything_but_a_plan_or_a_users_error(folder: Path, text: str) -> None:
    path = folder / "mutant.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        found = load_suite(path)
    except UserError as error:
        assert "mutant.yaml" in str(error)
        assert "Traceback" not in str(error)
    else:
        assert found.cells


@settings(deadline=None, max_examples=100)
@given(content=st.binary(max_size=60))
def test_no_bytes_end_in_anything_but_a_users_error(folder: Path, content: bytes) -> None:
    (folder / "bytes.yaml").write_bytes(content)
    with pytest.raises(UserError, match=r"bytes\.yaml"):
        load_suite(folder / "bytes.yaml")
