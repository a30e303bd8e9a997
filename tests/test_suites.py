"""The suites that come with the package: they hold water, cost what they may, and are what the paper ran."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.cli.listing import listing
from harness.config.packaged_files import suite_files
from harness.config.registry import entries
from harness.diagnosis import Options
from harness.dry_run.cost import estimate
from harness.dry_run.meta_checkpoints import all_on_meta
from harness.dry_run.placeholders import absent, placeholder_cache
from harness.dry_run.smoke import small
from harness.reporting.tables.reference import named
from harness.suite import Plan, load_suite

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1] / "suites"
CIFAR = sorted(path for path in ROOT.glob("*.yaml") if re.search(r"cifar10\b(?![-_])", path.read_text()))
DIGITS = {path.stem: path for path in sorted((ROOT / "digits").glob("*.yaml"))}
MNIST = {path.stem: path for path in sorted((ROOT / "mnist").glob("*.yaml"))}
PAPER = {
    "table1_sota",
    "table2_unseen",
    "table3_adaptive",
    "fig2a_timesteps",
    "fig2b_budget",
    "fig2c_randomness",
    "ablations",
    "sec44_likelihood_maximizer",
    "appendix_c2_l2",
    "optimal_dc",
}
EVALUATIONS = 160_000_000
"""Of networks of the digits, at most: a bound that no run comes near, since `adaptive` lets images leave that
fall, and leaves out most evaluations of most steps."""
EXACT = {"exact_answers": ("mnist-cnn-a-adv", 3343, 2745), "exact_answers_tiny": ("mnist-madry-tiny", 1406, 8847)}
"""The network of each suite of known adversarial images, and the first and the last index of its published list."""
OURS = {
    "adversarial_training",
    "certificates",
    "diffusion_vit",
    "networks_of_ours",
    "rdc_in_full",
    "steady_gradients",
    "table2_vit",
}
"""Suites on MNIST that the paper has no table for."""
OWN_ROWS = {"undefended", "at_linf", "at_l2", "trades_linf", "cnn_a", "madry_tiny"}
"""Rows on MNIST of networks without a diffusion model: others than the paper's, so under names of their own."""
ALONE = {"at_edm_l2"}
"""Rows without a counterpart on the digits."""


@pytest.fixture(autouse=True)
def nothing_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches in which there is nothing, and no network to fill them from."""
    monkeypatch.setenv("HARNESS_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("HARNESS_OFFLINE", "1")


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Path]:
    """A cache of stand-ins."""
    with placeholder_cache() as root:
        yield root


def pairs(plan: Plan) -> set[tuple[str, str]]:
    """The cells, of a sweep only the component that was swept."""
    swept = {variant: sweep.name for sweep in plan.sweeps for variant in sweep.variants}
    return {(swept.get(cell.defense.name, cell.defense.name), cell.attack.name) for cell in plan.cells}


def test_all_of_the_paper_is_there_in_both_sizes() -> None:
    assert {path.stem for path in CIFAR} >= PAPER and DIGITS.keys() >= PAPER


def test_every_suite_is_listed_with_a_title_also_those_in_folders() -> None:
    rows = {Path(row["name"]).resolve(): row["summary"] for row in listing("suites")}
    assert {path.resolve() for path in [*CIFAR, *DIGITS.values()]} <= rows.keys()
    assert all(rows.values()) and len(rows) == len(suite_files())


@pytest.mark.parametrize("path", CIFAR, ids=lambda path: path.stem)
def test_a_suite_on_cifar10_is_costed_without_a_single_checkpoint(path: Path, room: Path) -> None:
    plan = all_on_meta(load_suite(path))
    costs = estimate(plan)
    assert len(costs) == len(plan.cells) and all(cost.evaluations > 0 for cost in costs)
    assert plan.resolved()["dataset"]["name"] == "cifar10"
    assert not any((room.parent / "weights").glob("*"))


@pytest.mark.parametrize("name", sorted(DIGITS))
def test_a_suite_on_digits_needs_nothing_and_ends_within_minutes(name: str) -> None:
    plan = load_suite(DIGITS[name])
    assert plan.suite.suite.startswith("digits-") and plan.suite.report.reference is None
    assert sum(cost.evaluations for cost in estimate(plan)) < EVALUATIONS


@pytest.mark.parametrize("name", sorted(PAPER))
def test_rows_and_columns_are_the_same_in_both_sizes(name: str, room: Path) -> None:
    large, little = pairs(load_suite(ROOT / f"{name}.yaml")), pairs(load_suite(DIGITS[name]))
    assert little == {pair for pair in large if pair[0] not in ALONE}


@pytest.mark.parametrize("name", sorted(PAPER))
def test_every_published_number_has_its_place_in_the_table(name: str, room: Path) -> None:
    plan = load_suite(ROOT / f"{name}.yaml")
    numbers = named(plan.suite.report.reference)
    assert bool(numbers) == (not name.startswith("fig2"))
    rows = {cell.defense.name for cell in plan.cells}
    for row, column in numbers:
        assert (row, column) in pairs(plan) or (row in rows and column in ("clean", "average"))


@pytest.mark.parametrize("name", ["table1_sota", "table2_unseen", "table3_adaptive", "appendix_c2_l2"])
def test_the_tables_take_512_images_and_the_hyperparameters_of_section_4_1(name: str, room: Path) -> None:
    plan = load_suite(ROOT / f"{name}.yaml")
    assert plan.suite.dataset.size == 512
    (rdc,) = {cell.defense.name: cell.defense for cell in plan.cells if cell.defense.name == "rdc"}.values()
    assert (rdc.arguments["steps"], rdc.arguments["momentum"]) == (10, 1.0)
    assert str(rdc.arguments["eta"]) == "8/255"
    assert (rdc.arguments["timesteps"], rdc.arguments["samples"], rdc.arguments["share_noise"]) == ("all", 1, "none")
    for cell in plan.cells:
        threat = cell.attack.build().threat
        assert str(threat) in ("Linf 8/255", "L2 0.5", "Flow 0.05")


@pytest.mark.parametrize("name", ["table1_sota", "table2_unseen"])
def test_one_row_is_rdc_as_its_authors_released_it(name: str, room: Path) -> None:
    """Five steps of Adam by 0.05 on one noise level between 0.4 and 0.6 each, in no ball; all cells of sigma after."""
    plan = load_suite(ROOT / f"{name}.yaml")
    released, written = (
        next(cell.defense for cell in plan.cells if cell.defense.name == row) for row in ("rdc_edm_released", "rdc_edm")
    )
    assert "as released" in (released.label or "")
    told = released.resolved()
    assert (told["optimizer"], told["steps"], told["learning_rate"]) == ("adam", 5, 0.05)
    times = told["purify_timesteps"]
    inside = [t for t in range(1, 1001) if 0.4 <= 1e-4 + (t - 1) * (3 - 1e-4) / 1000 <= 0.6]
    assert times == {"random": 1, "low": inside[0], "high": inside[-1]}
    assert (told["norm"], told["eta"], told["weighting"], told["timesteps"]) == ("L2", "100", "edm_reference", "all")
    same = ("weights", "unconditional")
    assert [told[key]["name"] for key in same] == [written.resolved()[key]["name"] for key in same]


def test_diffusion_classifiers_meet_five_restarts_as_the_published_ones_did(room: Path) -> None:
    for name in ("table1_as_published", "table2_as_published"):
        cells = load_suite(ROOT / f"{name}.yaml").cells
        rows = {"sbgc", "dc", "rdc", "dc_edm", "rdc_edm", "rdc_edm_released"}
        attacks = [cell.attack.build() for cell in cells if cell.defense.name in rows and cell.attack.name != "stadv"]
        assert attacks and all((attack.restarts, attack.steps, attack.loss) == (5, 100, "dlr") for attack in attacks)
    for cell in load_suite(ROOT / "table3_adaptive.yaml").cells:
        assert cell.attack.name in ("lagrange", "adaptive") or cell.attack.build().restarts == 5


@pytest.mark.parametrize(
    ("name", "published"), [("table1_sota", "table1_as_published"), ("table2_unseen", "table2_as_published")]
)
def test_the_paper_s_own_attacks_have_a_suite_beside_the_stronger_one(name: str, published: str, room: Path) -> None:
    """The same pairings, of which those of diffusion defenses have another attack."""
    strong, weak = (
        {(cell.defense.name, cell.attack.name): cell.attack.type for cell in load_suite(ROOT / f"{each}.yaml").cells}
        for each in (name, published)
    )
    assert strong.keys() == weak.keys()
    changed = {pairing for pairing in strong if strong[pairing] != weak[pairing]}
    assert {strong[pairing] for pairing in changed} == {"adaptive"}
    assert {defense.partition("_")[0] for defense, _ in changed} <= {"diffpure", "sbgc", "dc", "rdc"}


def test_the_randomness_of_gradients_is_measured_on_100_images(room: Path) -> None:
    assert load_suite(ROOT / "fig2c_randomness.yaml").suite.dataset.size == Options().images == 100


def test_diffpure_purifies_as_much_as_the_paper_says(room: Path) -> None:
    tables = [load_suite(ROOT / f"{name}.yaml") for name in ("table1_sota", "table2_unseen")]
    defenses = {cell.defense.name: cell.defense.arguments for table in tables for cell in table.cells}
    found = {name: float(given["t_star"]) for name, given in defenses.items() if "t_star" in given}
    assert found == {"diffpure_linf": 0.1, "diffpure_l2": 0.075, "diffpure": 0.125}


def test_the_network_that_was_never_released_is_told_with_what_to_do(room: Path) -> None:
    (cell,) = load_suite(ROOT / "table1_sota.yaml", only="rdc/linf").cells
    (entry,) = absent(cell.defense)
    assert entry.name == "ncsnpp-cifar10-cond" and "never released" in entry.summary and entry.manual


def test_every_defense_of_the_package_has_its_clean_accuracy_measured() -> None:
    plan = load_suite(DIGITS["defenses"])
    measured = {cell.defense.type for cell in (*plan.cells, *load_suite(DIGITS["certificates"]).cells)}
    assert {entry.name for entry in entries("defenses")} - measured == {
        "robustbench",
        "module",
        "fixed_noise",
    }  # which have no weights in the package, or those of the defense inside
    assert {cell.attack.name for cell in plan.cells} == {"clean"}


@pytest.mark.parametrize("name", sorted(MNIST))
def test_a_suite_on_mnist_names_checkpoints_that_come_with_the_package_or_can_be_fetched(name: str, room: Path) -> None:
    plan = all_on_meta(load_suite(MNIST[name]))
    assert plan.suite.suite == f"mnist-{name}" and plan.suite.dataset.name == "mnist"
    assert plan.suite.report.reference is None
    assert all(entry.fetchable for cell in plan.cells for entry in absent(cell.defense))
    assert sum(cost.evaluations for cost in estimate(plan)) < 4e7


@pytest.mark.parametrize(
    ("name", "paper"),
    [(name, next(p for p in PAPER if p.startswith(name))) for name in sorted(MNIST.keys() - OURS)],
)
def test_columns_on_mnist_are_the_papers_and_rows_too_as_far_as_there_are_networks(
    name: str, paper: str, room: Path
) -> None:
    large, little = pairs(load_suite(ROOT / f"{paper}.yaml")), pairs(load_suite(MNIST[name]))
    assert {column for _, column in little} == {column for _, column in large}
    assert {pair for pair in little if pair[0] not in OWN_ROWS} <= large


def test_rdc_in_full_has_the_same_pairings_in_three_sizes_and_every_view_of_its_gradient(room: Path) -> None:
    paths = (ROOT / "rdc_in_full.yaml", DIGITS["rdc_in_full"], MNIST["rdc_in_full"])
    large, *small_ones = (load_suite(path) for path in paths)
    assert all(pairs(plan) == pairs(large) for plan in small_ones)
    for plan in (large, *small_ones):
        attacks = {cell.attack.name: cell.attack.build() for cell in plan.cells if cell.defense.name == "rdc"}
        views = {attack.gradient for attack in attacks.values()}
        assert views >= {"exact", "bpda", "straight_through", "tanh", "blind"} and attacks["eot"].eot > 1
        assert str(attacks["eot"].threat) == str(attacks["adaptive"].threat) == str(attacks["rand"].threat)


def test_stadv_moves_pixels_on_mnist_as_far_as_on_cifar10(room: Path) -> None:
    (bound,) = {str(cell.attack.build().threat) for cell in load_suite(MNIST["table2"], only="dc/stadv").cells}
    assert round(float(bound.split()[-1]) * 28, 1) == 0.05 * 32


@pytest.mark.parametrize("name", ["exact_answers", "exact_answers_tiny"])
def test_the_exact_answers_are_20_images_of_a_network_and_a_yardstick_for_attacks(name: str, room: Path) -> None:
    plan = load_suite(ROOT / f"{name}.yaml")
    indices, (weights, first, last) = plan.suite.dataset.indices or (), EXACT[name]
    assert (len(indices), indices[0], indices[-1]) == (20, first, last) and max(indices) < 10_000
    assert {cell.attack.name for cell in plan.cells} == {"pgd", "autoattack", "crossover"}
    assert {str(cell.attack.build().threat) for cell in plan.cells} == {"Linf 0.3"}
    assert {cell.defense.arguments["weights"].ref for cell in plan.cells} == {weights}


@pytest.mark.parametrize("path", [*CIFAR, *DIGITS.values()], ids=lambda path: path.parent.name + "-" + path.stem)
def test_in_small_every_pairing_is_a_few_hundred_evaluations(path: Path, room: Path) -> None:
    plan = small(all_on_meta(load_suite(path)))
    assert max(cost.per_image for cost in estimate(plan)) < 3000
