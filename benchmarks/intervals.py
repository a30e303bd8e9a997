"""How often the tables' 95% intervals hold what they are said to hold: Worst and Avg, over simulated defenses.

    python benchmarks/intervals.py            prints two Markdown tables, in about ten minutes

A simulated defense gets image i right under attack a in a share p_ia of its draws. p is Beta-distributed over images,
by the parameters in `BETAS`: from defenses whose draws hardly vary to such as draw every answer anew, at all rates. It
is the same under all attacks ("equal"), smaller under the first than under others ("nested"), or drawn for each by
itself ("independent"). True are mean_i min_a p_ia and mean_i mean_a p_ia of the population that images come from.

"Minimum" is what Worst used to be: the mean of the minima over attacks of means of few draws, with Wilson's interval.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from harness.reporting.stats.accuracy import Estimate, accuracy, average
from harness.reporting.stats.worst import noisy_worst_case

Array = NDArray[np.float64]

RUNS, POPULATION = 500, 1_000_000
"""Simulated runs of a setting, and images by which its truth is known."""

AVERAGES = 2000
"""Simulated runs of a setting of Avg, whose interval is nearer to 95%."""

SIZES = (32, 100, 512)
VOTES = (1, 2, 5, 10)
ATTACKS = 3
KINDS = ("equal", "nested", "independent")
BETAS = (
    *((0.05, 0.05), (0.2, 0.2), (0.5, 0.5), (2, 2), (50, 50)),  # around a half
    *((5, 1), (2, 0.05), (500, 2), (1, 9), (0.05, 2), (0.02, 3), (2, 500)),  # high and low
)
RATES = ((0.60, 0.65, 0.05), (0.95, 0.97, 0.99), (0.995,) * 3, (0.01, 0.02, 0.005), (0.98,) * 5, (0.85, 0.999))
CORRELATIONS = (0.0, 0.5, 0.95, 0.999)


@dataclass(frozen=True)
class Seen:
    """Over the runs of one defense. bias: of the value, below or above the truth."""

    coverage: float
    bias: float
    width: float


def chances(kind: str, beta: tuple[float, float], shape: tuple[int, int], generator: np.random.Generator) -> Array:
    """p, (attacks, *shape)."""
    if kind == "independent":
        return generator.beta(*beta, (ATTACKS, *shape))
    one = generator.beta(*beta, shape)
    return np.stack([one ** (1 if kind == "equal" else 1 / (1 + 0.5 * attack)) for attack in range(ATTACKS)])


def seen(found: list[Estimate], truth: float) -> Seen:
    return Seen(
        float(np.mean([one.low <= truth <= one.high for one in found])),
        float(np.mean([one.value for one in found]) - truth),
        float(np.mean([one.high - one.low for one in found])),
    )


def simulated(
    kind: str, votes: int, n: int, runs: int, estimate: Callable[[Array], Estimate], reduce: Callable[..., Array]
) -> list[Seen]:
    """One entry per Beta. estimate: of draws (attacks, n, votes); reduce: over attacks, for the truth."""
    results = []
    for beta in BETAS:
        generator = np.random.default_rng(n + votes)
        truth = float(reduce(chances(kind, beta, (1, POPULATION), generator), axis=0).mean())
        p = chances(kind, beta, (runs, n), generator)
        draws = (generator.random((*p.shape, votes)) < p[..., None]).astype(float)
        results.append(seen([estimate(draws[:, run]) for run in range(runs)], truth))
    return results


def worst(draws: Array) -> Estimate:
    return noisy_worst_case(draws, draws.mean(axis=2), "mean")


def minimum(draws: Array) -> Estimate:
    return accuracy(draws.mean(axis=2).min(axis=0))


def mean(draws: Array) -> Estimate:
    return average(draws.mean(axis=2))


def copula(rates: tuple[float, ...], correlation: float, n: int, generator: np.random.Generator) -> Seen:
    """Avg of deterministic attacks with these rates, correlated over images."""
    attacks = len(rates)
    covariance = np.full((attacks, attacks), correlation) + (1 - correlation) * np.eye(attacks)
    latent = generator.multivariate_normal(np.zeros(attacks), covariance, size=(AVERAGES, n))
    robust = (latent < stats.norm.ppf(rates)).astype(float)
    return seen([average(run.T) for run in robust], float(np.mean(rates)))


def row(name: str, found: dict[int, list[Seen]], before: dict[int, list[Seen]]) -> str:
    """Lowest coverage for each n, then bias and width at the largest."""
    most = max(SIZES)
    lowest = [" / ".join(f"{min(one.coverage for one in each[n]):.2f}" for n in SIZES) for each in (found, before)]
    biases = [[100 * one.bias for one in each[most]] for each in (found, before)]
    spans = [f"{min(each):+.1f} to {max(each):+.1f}".replace("-", "−") for each in biases]
    width = 100 * np.mean([one.width for one in found[most]])
    return f"| {name} | {lowest[0]} | {lowest[1]} | {spans[0]} | {spans[1]} | {width:.0f} |"


def worst_table() -> Iterator[str]:
    sizes = " / ".join(map(str, SIZES))
    head = f"lowest coverage at n = {sizes}"
    yield f"| attacks | votes | Worst: {head} | minimum: the same | Worst: bias, points | minimum: bias | width |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for kind in KINDS:
        for votes in VOTES:
            found = {n: simulated(kind, votes, n, RUNS, worst, np.min) for n in SIZES}
            before = {n: simulated(kind, votes, n, RUNS, minimum, np.min) for n in SIZES}
            yield row(f"{kind} | {votes}", found, before)


def average_table() -> Iterator[str]:
    yield f"| of | lowest coverage at n = {' / '.join(map(str, SIZES))} |"
    yield "|---|---:|"
    for rates in RATES:
        generator = np.random.default_rng(0)
        found = [min(copula(rates, c, n, generator).coverage for c in CORRELATIONS) for n in SIZES]
        name = ", ".join(f"{100 * rate:g}%" for rate in rates)
        yield f"| {name} | {' / '.join(f'{each:.3f}' for each in found)} |"
    for votes in VOTES:
        noisy = {n: [one for k in KINDS for one in simulated(k, votes, n, AVERAGES, mean, np.mean)] for n in SIZES}
        lowest = [min(one.coverage for one in noisy[n]) for n in SIZES]
        yield f"| stochastic, {votes} votes | {' / '.join(f'{each:.3f}' for each in lowest)} |"


if __name__ == "__main__":
    for table in (worst_table, average_table):
        for line in table():
            print(line, flush=True)
        print()
