"""`--set PATH=VALUE` is as if the file said so: checked alike, part of the keys, kept in the manifest."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import cli
from harness.config.yaml_file import parse
from harness.errors import UserError
from harness.results.load import read_run
from harness.suite.cell_key import Identities
from harness.suite.overrides import overridden
from harness.suite.plan import load_suite

SUITE = """\
suite: s
dataset: {name: digits, first: 4}
defenses:
  plain: {type: undefended, weights: digits-cnn}
  rdc.v2: {type: rdc, weights: digits-ncsnpp, timesteps: 10, eta: 0.1}
  behind: {type: diffpure, weights: digits-ncsnpp, classifier: {type: undefended, weights: digits-cnn}}
attacks:
  linf: {type: pgd, norm: Linf, eps: 0.1, steps: 10}
defaults: {attacks: {eot: 2}}
pairings:
  - {defense: plain, attack: linf, with: {steps: 20}}
sweep: {attack.linf.restarts: [1, 2]}
"""


def changed(*settings: str) -> dict[str, object]:
    return overridden(parse(SUITE, Path("suite.yaml")), settings).data


@pytest.mark.parametrize(
    ("setting", "path", "value"),
    [
        ("defenses.rdc.v2.eta=4/255", ["defenses", "rdc.v2", "eta"], "4/255"),
        (
            "defenses.behind.classifier.weights=digits-pat",
            ["defenses", "behind", "classifier", "weights"],
            "digits-pat",
        ),
        ("defenses.plain.mean=[0.5]", ["defenses", "plain", "mean"], [0.5]),
        ("protocol.votes=3", ["protocol", "votes"], 3),
        ("report.groups.Ours=[plain]", ["report", "groups", "Ours"], ["plain"]),
        ("defaults.defenses.graph_memory=0", ["defaults", "defenses", "graph_memory"], 0),
        ("defenses.new={type: undefended, weights: digits-cnn}", ["defenses", "new", "type"], "undefended"),
        ("pairings.0.with.steps=5", ["pairings", 0, "with", "steps"], 5),
        ("sweep.attack.linf.restarts=[3]", ["sweep", "attack.linf.restarts"], [3]),
        ("title=a=b", ["title"], "a=b"),
        ("dataset.first=", ["dataset", "first"], None),
    ],
)
def test_a_setting_is_the_value_at_its_path_and_leaves_all_others(
    setting: str, path: list[object], value: object
) -> None:
    before, after = parse(SUITE, Path("suite.yaml")).data, changed(setting)
    node = after
    for key in path:
        node = node[key]  # type: ignore[index]
    assert node == value
    top = str(path[0])
    assert {k: v for k, v in after.items() if k != top} == {k: v for k, v in before.items() if k != top}


def test_the_last_of_two_settings_of_one_value_counts() -> None:
    assert changed("protocol.seed=1", "protocol.seed=2")["protocol"] == {"seed": 2}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("attacks.lin.steps=3", "--set attacks.lin.steps=3: the suite has no attack 'lin'. Did you mean 'linf'?"),
        ("datset.first=3", "a suite has no key 'datset'. Did you mean 'dataset'?"),
        ("suite.x=3", "'suite' is s, which has nothing inside"),
        ("defenses.plain.clasifier.weights=x", "the suite has no 'defenses.plain.clasifier'"),
        ("defenses.behind.clasifier.weights=x", "Did you mean 'classifier'?"),
        ("pairings.3.with.steps=5", "the list 'pairings' has no item 3. Choose an item from 0 to 0"),
        ("attacks.linf.restarts=3", "the suite sweeps 'attack.linf.restarts'"),
        ("attacks.linf.steps", "'attacks.linf.steps' is not of the form PATH=VALUE"),
        ("attacks..steps=3", "not of the form"),
        ("=3", "not of the form"),
        ("attacks.linf.eps=[1", "'[1' is no value"),
        ("attacks.linf.eps=1\nb: 2", "is no value"),
    ],
)
def test_a_path_that_leads_nowhere_is_an_error_that_names_it_and_the_nearest_name(setting: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        changed(setting)
    assert message in str(caught.value)


def test_a_setting_that_the_suite_does_not_accept_is_named_in_place_of_the_line(tmp_path: Path) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text(SUITE)
    for setting, message in (
        ("attacks.linf.stps=3", "has no argument 'stps'. Did you mean 'steps'?"),
        ("attacks.linf.eps=8", "for 8-bit units write 8/255"),
        ("dataset.first=x", "it should be a whole number"),
    ):
        with pytest.raises(UserError) as caught:
            load_suite(path, settings=[setting])
        assert str(caught.value).startswith(f"--set {setting}: ") and message in str(caught.value)


def test_a_setting_gives_the_same_keys_as_the_same_text_in_the_file(tmp_path: Path) -> None:
    path, other = tmp_path / "suite.yaml", tmp_path / "other.yaml"
    path.write_text(SUITE)
    other.write_text(SUITE.replace("norm: Linf, eps: 0.1, steps: 10", "norm: Linf, eps: 0.1, steps: 10, momentum: 0.9"))
    known = Identities()
    keys = [
        [(known.key(cell.defense), known.key(cell.attack)) for cell in plan.cells]
        for plan in (load_suite(path, settings=["attacks.linf.momentum=0.9"]), load_suite(other), load_suite(path))
    ]
    assert keys[0] == keys[1] != keys[2]


def test_a_relative_path_starts_at_the_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below/suite.yaml").write_text(SUITE)
    monkeypatch.chdir(tmp_path)
    plan = load_suite("below/suite.yaml", settings=["dataset={name: folder, path: images}"])
    assert plan.suite.dataset.path == Path("below/images")
    assert plan.resolved()["dataset"]["path"] == "images"


def test_a_run_keeps_its_settings_and_can_be_repeated_and_verified_by_them(
    small_suite: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(*arguments: str) -> int:
        with pytest.raises(SystemExit) as ended:
            cli.main(list(arguments))
        return int(ended.value.code or 0)

    out, setting = small_suite.parent / "out", "attacks.weak.eps=1/8"
    command = ["run", str(small_suite), "--out", str(out)]
    assert call(*command, "--set", setting) == 0
    assert read_run(out).manifest.settings == (setting,)
    capsys.readouterr()
    assert call(*command, "--set", setting) == 0
    assert "Nothing to do" in capsys.readouterr().out
    assert call(*command) == 2
    assert f"these results were made with --set {setting}" in capsys.readouterr().err
    assert call("report", str(out)) == 0
    assert f"Suite small with {setting}, seed 0" in " ".join(capsys.readouterr().out.split())
    assert call("verify", str(out), "--suite", str(small_suite), "--trust") == 0
