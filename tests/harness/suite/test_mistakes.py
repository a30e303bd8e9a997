"""Each mistake in a suite is told with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import UserError
from harness.suite import load_suite
from harness.training.recipe import read as read_recipe
from helpers.planned import SUITE, changed, plan, refusal


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
        ("title: A small suite", 'title: "A \\x1b[31m"', 2, r"it contains \x1b, which is not visible to readers"),
        ("title: A small suite", "title: |\n  two\n  lines", 2, r"it contains \n, which is not"),
        ("label: Nothing", 'label: "a\\u202e"', 12, r"it contains \u202e, which is not"),
        ("    steps: 2", '    label: "a\\x9b"', 10, r"it contains \x9b, which is not"),
        ("with: {steps: 9}", 'with: {label: "\\t"}', 26, r"it contains \t, which is not"),
        ("average: [linf, l2]", 'groups: {"a\\nb": [plain]}', 28, r"the key 'a\nb' is not valid: it contains \n"),
        ("votes: 2", "vots: 2", 4, "there is no key 'vots' in protocol. Did you mean 'votes'?"),
        ("votes: 2", "votes: 0", 4, "'protocol.votes' of the file is 0: it should be greater than or equal to 1"),
        ("gates: off", "gates: false", 4, "it should be 'stop', 'mark' or 'off'"),
        ("suite: small", "suite: a/b", 1, "'a/b'"),
        ("suite: small", "suite: a.b", 1, "used as the name of a folder"),
        ("suite: small", "suite: 3", 1, "it should be a string"),
        ("size: 12", "size: 12, first: 3", 3, "both 'size' and 'first'. Keep one"),
        ("size: 12", "first: 3, seed: 1", 3, "'seed' has no effect without 'size'"),
        ("size: 12", "indices: []", 3, "must not be empty"),
        ("size: 12", "indices: [1, 1]", 3, "image 1 appears 2 times"),
        ("digits", "digit", 3, "no dataset 'digit'. Did you mean 'digits'?"),
        ("split: test", "split: tests", 3, "it should be 'train', 'test' or 'validation'"),
        ("  plain: {", "  'pl/ain': {", 12, "the key 'pl/ain' is not valid"),
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
        ("attack: l2", "attack: linf", 24, "the pairing plain/linf appears twice"),
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


@pytest.mark.parametrize(
    ("file", "name", "told"),
    [
        ("table1.yaml", "table1", r"there is no file table1\. Did you mean suites/table1\.yaml or suites/mnist/table1"),
        ("table1.yaml", "table1.yaml", r"Did you mean suites/table1\.yaml or suites/mnist/table1\.yaml"),
        ("table1.yaml", "tabel1", r"there is no file tabel1\. Check the path"),
        ("table1.yaml", "./nowhere/table1", r"there is no file nowhere/table1\. Check the path"),
    ],
)
def test_a_name_as_in_the_list_of_suites_is_answered_with_the_path(
    file: str, name: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("suites", "suites/mnist"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).write_text("suite: x")
    with pytest.raises(UserError, match=told):
        load_suite(name)


def test_a_recipe_is_no_suite_and_a_suite_no_recipe() -> None:
    suites = Path(__file__).parents[3] / "suites"
    with pytest.raises(UserError, match=r"is a recipe, and no suite\. Train by it: harness train .*digits-cnn\.yaml"):
        load_suite(suites / "train" / "digits-cnn.yaml")
    with pytest.raises(UserError, match=r"is a suite, and no recipe\. Run it: harness run .*quickstart\.yaml"):
        read_recipe(suites / "quickstart.yaml")
