"""A sweep is what writing out its variants by hand would be."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.errors import UserError
from harness.evaluation.pending import load_images, pending_work
from harness.evaluation.run import run
from harness.results.store import Store
from harness.suite import Plan, load_suite
from harness.suite.cell_key import component_hash
from harness.suite.checkpoints import items
from harness.weights import packaged
from helpers.examples import examples

PLAIN = 'plain: {type: "./fakes.py:NearestMean"}'
WEAK = 'weak: {type: "./fakes.py:Noise", eps: 1/16}'


def plan(suite: Path, extra: str, changes: dict[str, str] | None = None, **options: Any) -> Plan:
    """The small suite with some more lines, and other changes."""
    text = suite.read_text()
    for old, new in (changes or {}).items():
        assert old in text
        text = text.replace(old, new)
    path = suite.with_name("swept.yaml")
    path.write_text(text + extra)
    return load_suite(path, **options)


def names(found: Plan) -> list[str]:
    return [f"{cell.defense.name}/{cell.attack.name}" for cell in found.cells]


def refusal(suite: Path, extra: str, changes: dict[str, str] | None = None) -> str:
    with pytest.raises(UserError) as caught:
        plan(suite, extra, changes)
    return str(caught.value).removeprefix(f"{suite.parent}/")


def records(found: Plan, out: Path) -> dict[str, list[dict[str, Any]]]:
    run(found, out, torch.device("cpu"))
    works = pending_work(found, Store(out), load_images(found)[1], lambda note: None)
    return {
        work.name: [asdict(record) | {"seconds": 0} for shard in work.shards.values() for record in shard or []]
        for work in works
    }


def test_variants_stand_where_the_component_stood_with_labels_and_folder_names(small_suite: Path) -> None:
    found = plan(small_suite, "sweep: {defense.plain.strength: [0.5, 1e0], attack.weak.eps: [2/255, 1/16]}\n")
    assert names(found)[:6] == [
        "plain.strength-0.5/weak.eps-2_255",
        "plain.strength-0.5/weak.eps-1_16",
        "plain.strength-0.5/strong",
        "plain.strength-1.0/weak.eps-2_255",
        "plain.strength-1.0/weak.eps-1_16",
        "plain.strength-1.0/strong",
    ]
    assert found.cells[0].defense.label == "plain, strength = 0.5"
    assert found.presentation()["labels"]["attacks"]["weak.eps-2_255"] == "weak, eps = 2/255"
    assert found.cells[0].attack.resolved()["eps"] == "2/255"


@pytest.mark.slow
def test_a_variant_is_what_it_would_be_written_by_hand(small_suite: Path, tmp_path: Path) -> None:
    swept = plan(small_suite, "sweep: {defense.noisy.strength: [2, 3], attack.weak.eps: [1/8]}\n", only="noisy/weak")
    here = records(swept, tmp_path / "swept")
    by_hand = {'"./fakes.py:Noisy"': '"./fakes.py:Noisy", strength: 2', "1/16": "1/8"}
    written = plan(small_suite, "", by_hand, only="noisy/weak")
    assert component_hash(swept.cells[0].defense) == component_hash(written.cells[0].defense)
    assert here["noisy.strength-2/weak.eps-1_8"] == records(written, tmp_path / "written")["noisy/weak"]
    assert here["noisy.strength-2/weak.eps-1_8"] != here["noisy.strength-3/weak.eps-1_8"]


def test_several_paths_of_one_component_make_their_product(small_suite: Path) -> None:
    found = plan(small_suite, "sweep:\n  attack.weak.eps: [0.1, 0.2]\n  attack.weak.pause: [0, 1]\n", only="plain/weak")
    assert [(c.attack.arguments["eps"], c.attack.arguments["pause"]) for c in found.cells] == [
        (0.1, 0),
        (0.1, 1),
        (0.2, 0),
        (0.2, 1),
    ]
    assert names(found)[0] == "plain/weak.eps-0.1.pause-0"
    (sweep,) = found.sweeps
    assert sweep.paths == ("eps", "pause") and list(sweep.variants.values())[1] == (0.1, 1)


def test_a_pairing_of_a_swept_component_is_that_of_all_its_variants(small_suite: Path) -> None:
    found = plan(
        small_suite,
        "sweep: {defense.noisy.strength: [1, 2], attack.weak.eps: [0.1, 0.2]}\n"
        "pairings:\n"
        "  - {defense: plain, attack: strong}\n"
        "  - {defense: [noisy, plain], attack: weak, with: {eps: 0.5, pause: 0.25}}\n",
    )
    assert names(found)[:3] == ["plain/weak.eps-0.1", "plain/weak.eps-0.2", "plain/strong"] and len(found.cells) == 7
    weak = [cell.attack for cell in found.cells if cell.attack.name == "weak.eps-0.2"]
    assert [(attack.arguments["eps"], attack.arguments["pause"]) for attack in weak] == [(0.2, 0.25)] * 3


def test_a_swept_value_holds_in_an_attack_that_stands_in_for_another(small_suite: Path) -> None:
    extra = "pairings:\n  - {defense: plain, attack: [weak, strong], with: {type: pgd, norm: Linf, steps: 3}}\n"
    changes = {WEAK: "weak: {type: pgd, norm: Linf, eps: 1/16}"}
    found = plan(small_suite, f"sweep: {{attack.weak.eot: [1, 2]}}\n{extra}", changes)
    assert [(c.attack.arguments["eot"], c.attack.arguments["steps"]) for c in found.cells] == [(1, 3), (2, 3), (1, 3)]
    assert [str(c.attack.arguments["eps"]) for c in found.cells] == ["1/16", "1/16", "0.9"]


def test_an_argument_of_the_defaults_can_be_swept(small_suite: Path) -> None:
    extra = "defaults: {attacks: {pause: 0.5}}\nsweep: {attack.weak.pause: [0, 1]}\n"
    found = plan(small_suite, extra, only="plain")
    assert [cell.attack.arguments["pause"] for cell in found.cells] == [0, 1, 0.5]


def test_arguments_of_an_attack_inside_another_can_be_swept(small_suite: Path) -> None:
    inner = "attacks: [{type: pgd, steps: 1}, {type: pgd, steps: 2}]"
    changes = {WEAK: f"weak: {{type: worst_of, norm: Linf, eps: 0.1, {inner}}}"}
    found = plan(small_suite, "sweep: {attack.weak.attacks.1.steps: [5, 6]}\n", changes, only="plain/weak")
    steps = [[part.arguments["steps"] for part in cell.attack.arguments["attacks"]] for cell in found.cells]
    assert steps == [[1, 5], [1, 6]]
    assert "[1, 5]" not in refusal(small_suite, "sweep: {attack.weak.attacks.1.stepz: [5]}\n", changes)
    message = refusal(small_suite, "sweep: {attack.weak.norm.x.y: [5]}\n", changes)
    assert message.startswith("swept.yaml:11: attack 'weak' has no entry below 'norm'")


def test_only_takes_all_variants_or_one(small_suite: Path) -> None:
    extra = "sweep: {defense.noisy.strength: [1, 2]}\n"
    assert len(plan(small_suite, extra, only="noisy").cells) == 4
    assert names(plan(small_suite, extra, only="noisy.strength-2/weak")) == ["noisy.strength-2/weak"]
    assert plan(small_suite, extra, only="noisy").resolved() == plan(small_suite, extra).resolved()


def test_the_worst_case_is_over_all_values_and_no_average_is(small_suite: Path) -> None:
    sweep = "sweep: {attack.weak.eps: [0.1, 0.2]}\n"
    report = plan(small_suite, sweep).suite.report
    assert report.average == report.worst == ("strong",)
    report = plan(small_suite, f"{sweep}report: {{worst: [strong, weak]}}\n").suite.report
    assert report.worst == ("strong", "weak.eps-0.1", "weak.eps-0.2")
    message = refusal(small_suite, f"{sweep}report:\n  average: [strong,\n    weak]\n")
    assert (
        message.startswith("swept.yaml:14: the average contains the swept attack 'weak'")
        and "'weak.eps-0.1'" in message
    )


def test_names_stay_short_and_apart(small_suite: Path) -> None:
    found = plan(small_suite, f"sweep: {{attack.weak.eps: [0.1{'0' * 90}/1, 1, 1.0]}}\n", only="plain/weak")
    kept = [cell.attack.name for cell in found.cells]
    assert max(map(len, kept)) == 80 and len(set(kept)) == 3
    changes = {PLAIN: "plain: {type: undefended, weights: digits-cnn}"}
    alike = plan(small_suite, "sweep: {attack.weak.eps: [1/8, 1 / 8]}\n", changes, only="plain/weak")
    assert len({cell.attack.name for cell in alike.cells}) == 2


def test_checkpoints_that_are_swept_are_among_those_that_a_suite_needs(small_suite: Path) -> None:
    refs = list(packaged())[:2]
    changes = {PLAIN: "plain: {type: undefended, weights: digits-cnn}"}
    plan(small_suite, f"sweep: {{defense.plain.weights: {refs}}}\n", changes)
    assert [item.ref for item in items(small_suite.with_name("swept.yaml"))] == refs


@pytest.mark.parametrize(
    ("written", "line", "told"),
    [
        ("defense.plane.strength: [1]", 11, "the suite has no defense 'plane' to sweep. Did you mean 'plain'?"),
        ("defense.plain.strenth: [1]", 11, "defense 'plain' has no argument 'strenth'. Did you mean 'strength'?"),
        ("defense.plain.label: [a]", 11, "defense 'plain' has no argument 'label'"),
        ("defense.plain: [1]", 11, "names no argument. Write defense.NAME.ARGUMENT"),
        ("protocol.votes: [1]", 11, "the sweep path 'protocol.votes' names neither a defense nor an attack"),
        ("defense.plain.strength: []", 11, "'sweep.defense.plain.strength' of the file is []: it must not be empty"),
        ("defense.plain.strength: 3", 11, "it should be a list"),
        (
            "defense.plain.strength: [1,\n  x]",
            12,
            "'strength' of defense 'plain.strength-x' is 'x': it should be a number",
        ),
        ("defense.plain.strength: [1,\n  1]", 12, "the sweep has the value 1 twice"),
        ("attack.weak.eps: [0.1,\n\n  8]", 13, "the Linf budget of attack 'weak.eps-8' is 8"),
    ],
)
def test_mistakes_are_told_with_their_line(small_suite: Path, written: str, line: int, told: str) -> None:
    message = refusal(small_suite, f"sweep: {{{written}}}\n")
    assert message.startswith(f"swept.yaml:{line}: ") and told in message


def test_a_name_that_is_taken_and_an_argument_that_another_type_lacks_are_refused(small_suite: Path) -> None:
    taken = {"  noisy:": '  plain.strength-1: {type: "./fakes.py:Noisy"}\n  noisy:'}
    assert refusal(small_suite, "sweep: {defense.plain.strength: [1]}\n", taken).startswith(
        "swept.yaml:7: the sweep also creates"
    )
    extra = "sweep: {attack.weak.pause: [1]}\npairings:\n  - {defense: plain, attack: weak, with: {type: clean}}\n"
    assert "has no argument 'pause'" in refusal(small_suite, extra)


PATHS = st.sampled_from(
    ["defense.plain.strength", "attack.weak.eps", "attack.weak.eps.x", "attack.", "a", "defense.noisy"]
)
VALUES = st.sampled_from(["1", "x", "null", "[1]", "{a: 1}", "1/8", "true", "'8/255'", "-0", "''", "é", "nan"])


@pytest.mark.slow
@settings(deadline=None, max_examples=examples(150), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(swept=st.dictionaries(PATHS, st.lists(VALUES, max_size=3), max_size=3))
def test_no_sweep_ends_in_anything_but_a_plan_or_a_users_error(small_suite: Path, swept: dict[str, list[str]]) -> None:
    written = ", ".join(f"{path}: [{', '.join(values)}]" for path, values in swept.items())
    try:
        assert plan(small_suite, f"sweep: {{{written}}}\n").cells
    except UserError as error:
        assert "swept.yaml" in str(error)
