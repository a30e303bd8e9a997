"""`harness run --smoke`: every path is tried, and nobody takes what comes of it for a result."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from harness import datasets
from harness.config.component import Component
from harness.datasets.by_name import find as find_dataset
from harness.dry_run.placeholders import absent, is_empty, network_of, placeholder_cache, random_images
from harness.dry_run.smoke import TITLE, reduced, same_when_small, smoke
from harness.errors import UserError
from harness.reporting import report
from harness.results.load import find_runs, read_run
from harness.suite import load_suite
from harness.weights.published import find

pytestmark = pytest.mark.slow

DIGITS = Path(__file__).parents[3] / "suites" / "quickstart.yaml"
CPU = torch.device("cpu")
SUITE = """\
suite: real
title: A published classifier
dataset: {name: cifar10, size: 64}
defenses:
  hybvit: {weights: hybvit-cifar10, label: HybViT}
  optimal: {type: optimal_dc, dataset: cifar10, split: test}
attacks:
  linf: {type: autoattack, norm: Linf, eps: 8/255}
pairings:
  - {defense: hybvit, attack: linf}
  - {defense: optimal, attack: linf, with: {type: apgd_dlr_100}}
report: {reference: table1}
"""


@pytest.fixture
def real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A suite of a published checkpoint and a dataset, neither of which is here."""
    for name in ("WEIGHTS", "DATA"):
        monkeypatch.setenv(f"HARNESS_{name}", str(tmp_path / name))
    monkeypatch.setenv("HARNESS_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real.yaml").write_text(SUITE)
    return tmp_path / "real.yaml"


@pytest.mark.long
def test_a_published_classifier_goes_from_its_file_to_the_table(real: Path) -> None:
    folder = smoke(real, None, CPU)
    assert folder == Path("results/real-smoke")
    pairings = [pairing for path in find_runs(folder) for pairing in read_run(path).pairings.values()]
    assert len(pairings) == 2
    for pairing in pairings:
        records = pairing.records
        assert pairing.finished and len(records) == 2
        assert [votes[0] for votes in records["clean_votes"]] == records["label"].tolist()
        assert (records["backwards"] > 0).all()
    told = str(report(folder, "md"))
    assert TITLE in told and "on random images" in told and "HybViT (random weights)" in told and "pub." not in told


def test_the_user_s_cache_and_environment_stay_as_they_were(real: Path) -> None:
    kept = real.parent / "WEIGHTS" / "jem-cifar10" / "CIFAR10_MODEL.pt"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"the user's own")
    before = dict(os.environ)
    smoke(real, None, CPU, only="optimal")
    with pytest.raises(RuntimeError, match="broken off"), placeholder_cache() as root:
        assert find("jem-cifar10").path().read_bytes() == b"the user's own"
        assert is_empty(find("hybvit-cifar10").path()) and not is_empty(find("jem-cifar10").path())
        raise RuntimeError("broken off")
    assert dict(os.environ) == before and not root.exists()
    assert [file for file in (real.parent / "WEIGHTS").rglob("*") if file.is_file()] == [kept]


def test_a_second_smoke_replaces_the_first_and_nothing_else(real: Path, small_suite: Path) -> None:
    first = smoke(real, None, CPU, only="optimal")
    assert smoke(real, None, CPU, only="optimal") == first
    path = first / "optimal" / "run.json"
    path.write_text(path.read_text().replace(TITLE, "Table 1"))
    with pytest.raises(UserError, match=r"not of --smoke.*--out"):
        smoke(real, None, CPU, only="optimal")


def test_an_image_that_ends_in_an_error_is_told(small_suite: Path, tmp_path: Path) -> None:
    small_suite.write_text(small_suite.read_text().replace("fakes.py:Noise", "fakes.py:Crash"))
    with pytest.raises(UserError, match=r"noisy/weak ended in an error: .*planted failure"):
        smoke(small_suite, tmp_path / "out", CPU)


def test_what_is_here_is_used_as_it_is(small_suite: Path, tmp_path: Path) -> None:
    folder = smoke(small_suite, tmp_path / "out", CPU)
    told = str(report(folder, "md"))
    assert "random" not in told and all(
        len(p.records) == 2 for path in find_runs(folder) for p in read_run(path).pairings.values()
    )


def test_random_weights_are_the_same_every_time_and_leave_no_layer_at_zero() -> None:
    first, second = (network_of(find("hybvit-cifar10")).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(tensor.any() for tensor in first.values() if tensor.dim() > 1)


def component(folder: Path, defense: str, attack: str = "{type: clean}") -> tuple[Component, Component]:
    path = folder / "one.yaml"
    path.write_text(f"suite: one\ndataset: {{name: digits}}\ndefenses: {{d: {defense}}}\nattacks: {{a: {attack}}}\n")
    (cell,) = load_suite(path).cells
    return cell.defense, cell.attack


def test_arguments_are_cut_where_they_cost_and_kept_where_they_do_not(tmp_path: Path) -> None:
    given = "{type: rdc, weights: digits-ncsnpp, steps: 7, eta: 0.2, samples: 1, share_noise: classes}"
    defense = reduced(component(tmp_path, given)[0])
    cut = {name: defense.arguments[name] for name in ("steps", "timesteps", "samples", "purify_timesteps")}
    assert cut == {"steps": 2, "timesteps": 1, "samples": 1, "purify_timesteps": None}
    assert (str(defense.arguments["eta"]), defense.arguments["share_noise"]) == ("0.2", "classes")


def test_what_is_inside_a_defense_or_an_attack_is_cut_too(tmp_path: Path) -> None:
    inner = "{type: dc, weights: digits-ncsnpp, timesteps: [1, 2, 3]}"
    worst = "{type: worst_of, norm: Linf, eps: 0.1, attacks: [{type: pgd, steps: 50}, {type: apgd}]}"
    outer = f"{{type: diffpure, weights: digits-ncsnpp, classifier: {inner}, t_star: 0.2}}"
    defense, attack = map(reduced, component(tmp_path, outer, worst))
    assert defense.arguments["classifier"].arguments["timesteps"] == [1]
    assert defense.build().cost() == 2 + 10
    assert [part.arguments["steps"] for part in attack.arguments["attacks"]] == [2, 2]


OWN = """\
from harness.attack import Attack, Cost
from harness.quantity import Quantity
from harness.threat import Linf


class Annealed(Attack):
    caps = {**Attack.caps, "sweeps": 3}

    def __init__(self, eps: Quantity, sweeps: int = 50, levels: int = 9, eot: int = 20) -> None:
        super().__init__(eot=eot)
        self.threat = Linf(eps)

    @classmethod
    def reduced(cls, arguments):
        cls, arguments = super().reduced(arguments)
        return cls, {**arguments, "levels": arguments["sweeps"]}

    def perturb(self, target, x, y):
        return x

    def cost(self, num_classes):
        return Cost(0, 0)
"""


def test_an_attack_of_the_user_s_says_itself_how_it_looks_in_small(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    given = "{type: './own.py:Annealed', eps: 0.1}"
    _, attack = component(tmp_path, "{type: undefended, weights: digits-cnn}", given)
    small = reduced(attack)
    assert small.cls is attack.cls and small.arguments == {"eps": 0.1, "sweeps": 3, "levels": 3, "eot": 2}


def test_rows_that_are_the_same_once_cut_are_tried_once(tmp_path: Path) -> None:
    path = tmp_path / "one.yaml"
    path.write_text(
        "suite: one\ndataset: {name: digits}\nattacks: {a: {type: pgd, norm: Linf, eps: 0.1, steps: 9}}\n"
        "defenses: {rdc: {weights: digits-ncsnpp}, cnn: {type: undefended, weights: digits-cnn}}\n"
        "sweep: {defense.rdc.timesteps: [5, 10], defense.rdc.share_noise: [none, both], attack.a.steps: [8, 9]}\n"
    )
    plan = load_suite(path)
    firsts = same_when_small(plan)
    assert list(firsts) == list(dict.fromkeys(cell.defense.name for cell in plan.cells))
    tried = [name for name, first in firsts.items() if name == first]
    assert len(firsts) == 5 and len(tried) == 3
    for name, first in firsts.items():
        if name != first:
            assert name.startswith("rdc") and first in tried
    path.write_text(path.read_text().replace("share_noise: [none, both]", "eta: [0.1, 0.2]"))
    assert set(same_when_small(load_suite(path)).values()) == {"cnn", tried[0].replace("share_noise-none", "eta-0.1")}


@pytest.mark.parametrize(("solver", "expected"), [("dopri5", ("euler", 1)), ("rk4", ("rk4", 2))])
def test_a_solver_of_unknown_length_is_replaced(solver: str, expected: tuple[str, int], tmp_path: Path) -> None:
    small = reduced(component(tmp_path, f"{{type: sbgc, weights: digits-ncsnpp, solver: {solver}}}")[0]).arguments
    assert (small["solver"], small["steps"]) == expected


@pytest.mark.parametrize(
    "attack",
    [
        "{type: autoattack, norm: L2, eps: 0.5}",
        "{type: autoattack, norm: Linf, eps: 0.1, version: rand, gradient: bpda}",
        "{type: apgd_dlr_100, norm: Linf, eps: 0.1, gradient: bpda}",
        "{type: pgd80_eot10, norm: L2, eps: 0.5}",
        "{type: autoattack, norm: Linf, eps: 0.1, version: auto}",
        "{type: bpda, norm: Linf, eps: 0.1, eot: 3}",
        "{type: lagrange, norm: Linf, eps: 0.1}",
        "{type: stadv, bound: 0.1, keep: last}",
        "{type: exact_gradient, norm: Linf, eps: 0.1}",
    ],
)
def test_an_attack_in_small_keeps_its_budget_and_its_view(attack: str, tmp_path: Path) -> None:
    full = component(tmp_path, "{type: undefended, weights: digits-cnn}", attack)[1].build()
    small = reduced(component(tmp_path, "{type: undefended, weights: digits-cnn}", attack)[1]).build()
    assert (small.threat, small.gradient, small.eot > 1) == (full.threat, full.gradient, full.eot > 1)
    assert small.cost(10).forwards < min(60, full.cost(10).forwards)


def test_random_images_have_the_shape_and_the_classes_of_the_dataset(real: Path) -> None:
    with placeholder_cache():
        known = find_dataset("cifar10").known
        assert known is not None
        found = datasets.load("npz", path=random_images("cifar10", known))
    assert (found.images.shape[1:], found.num_classes) == ((3, 32, 32), 10)
    assert absent(load_suite(DIGITS).cells[0].defense) == []
