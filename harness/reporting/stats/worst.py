"""The worst case over several attacks, and its interval.

An image counts with its success under the attack that is worst for it. With q_ia the expected success of image i
under attack a, over the draws of the defense, the worst case is

    W = mean over i of min over a of q_ia

On a deterministic defense q itself is observed: W is the mean of s_i = min_a s_ia, with Wilson's interval.

On a stochastic defense means of a few draws are observed. Their minimum is biased downwards, since the attack that
looks worst on an image often had lucky draws: by 18 points for three equally strong attacks, q = 0.5 and 5 draws. The
accuracy under an attacker that can really be carried out is never below W. There are m + 1 such attackers:

    attack a          runs that attack on every image
    the choosing one  runs on each image the attack under which the *other* draws of that image are right least often,
                      and is judged by the draw left out, in turn for every draw. Of tied attacks it takes the one that
                      is stronger on all other images, and averages over them where that ties too

The choosing attacker needs two draws or more, and a rule that is a mean over single draws ("mean" or "single"). With
one draw, or with one verdict by all draws, an attack cannot be chosen by some and judged by others: then only the m
attacks are left.

    value    the lowest accuracy among the attackers, an upper bound of W up to the noise of that choice
    low      Clopper and Pearson's lower end of the mean of the minima, whose expectation is below W (97.5%)
    high     the lowest of the attackers' upper ends, each at 1 - 0.025 / (number of attackers), so that all hold
             together with 97.5% (Bonferroni)

The interval thus holds W with 95% whatever the attacks have in common; `benchmarks/intervals.py` simulates it. It is
wide where few draws cannot distinguish attacks; more votes make it narrower.

An image that ended in an error under an attack is misclassified for low, robust for high, and left out of the value,
unless a deterministic defense misclassifies it under another attack, which decides it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from harness.reporting.stats.accuracy import Estimate, Successes, accuracy, exact, if_right, if_wrong, known_mean
from harness.results.record import Rule

Draws = NDArray[np.float64]
"""Whether each draw is right, 0 or 1: (n, v), or (attacks, n, v); NaN where an image ended in an error."""

TAIL = 0.025
"""The chance that W lies beyond either end of the interval."""


def worst_case(successes: Successes) -> Estimate:
    """The worst case of a deterministic defense. successes: (attacks, n)."""
    return accuracy(weakest(successes))


def weakest(successes: Successes) -> Successes:
    """Success under the attack that is worst for an image: (attacks, n) -> (n,). One misclassification decides it."""
    misclassified = (successes == 0).any(axis=0)
    return np.where(misclassified, 0.0, successes.min(axis=0))


def splittable(draws: int, rule: Rule) -> bool:
    """Whether an attack can be chosen by some draws of an image and judged by others."""
    return draws > 1 and rule in ("mean", "single")


def noisy_worst_case(draws: Draws, successes: Successes, rule: Rule) -> Estimate:
    """The worst case of a stochastic defense.

    Args:
        draws: (attacks, n, v).
        successes: the successes by the rule, (attacks, n).
    """
    n = successes.shape[1]
    attackers = _attackers(draws, successes, rule)
    least = if_wrong(draws.mean(axis=2) if splittable(draws.shape[2], rule) else successes).min(axis=0)
    tail = TAIL / len(attackers)
    high = min(exact(float(if_right(each).sum()), n, tail)[1] for each in attackers)
    value = min(known_mean(each) for each in attackers)
    return Estimate(value, min(exact(float(least.sum()), n, TAIL)[0], value), high, n)


def strongest(draws: Draws, successes: Successes, rule: Rule) -> Successes:
    """Successes on the images under the attacker that leaves the lowest accuracy; arguments as above."""
    return min(_attackers(draws, successes, rule), key=known_mean)


def chosen(draws: Draws, judged: int) -> Successes:
    """Success under the choosing attacker, (n,); NaN where an image ended in an error under any attack.

    Args:
        draws: (attacks, n, v), v >= 2.
        judged: how many draws, from the first on, are left out in turn and used to judge.
    """
    votes = draws.sum(axis=2)
    known = ~np.isnan(votes)
    others = known.sum(axis=1, keepdims=True) - known
    elsewhere = (np.nansum(votes, axis=1, keepdims=True) - if_wrong(votes)) / np.maximum(others, 1)
    shares = []
    for draw in range(judged):
        rest = votes - draws[..., draw]
        tied = rest == rest.min(axis=0)
        least = np.where(tied, elsewhere, np.inf).min(axis=0)
        tied &= elsewhere == least
        shares.append((draws[..., draw] * tied).sum(axis=0) / np.maximum(tied.sum(axis=0), 1))
    return np.asarray(np.mean(shares, axis=0))


def _attackers(draws: Draws, successes: Successes, rule: Rule) -> list[Successes]:
    """Successes under each attack on all images, and under the choosing attacker where there is one."""
    attackers = list(successes)
    if splittable(draws.shape[2], rule):
        choosing = chosen(draws, 1 if rule == "single" else draws.shape[2])
        attackers += [choosing] if not np.isnan(choosing).all() else []
    return attackers
