"""What the manifest says of a pairing, against what its defense and its attack say themselves."""

from __future__ import annotations

import math
from collections.abc import Iterator

from harness.attack import Attack
from harness.certification.certificate import Certificate
from harness.defense import Defense
from harness.results.facts import CellFacts, CertificateFacts, DefenseFacts
from harness.results.record import Record

ROOM = 1 + 1e-9
"""A cost is a product of floats."""


def misdescribed(facts: CellFacts, attack: Attack) -> Iterator[str]:
    """What the manifest says of an attack, and is not so."""
    if str(attack.threat) != facts.threat:
        yield f"the attack's budget is {attack.threat}, the manifest says {facts.threat}"
    if attack.describe() != facts.method:
        yield f"the attack is '{attack.describe()}', the manifest says '{facts.method}'"
    if attack.nearest != facts.nearest:
        yield f"the attack looks for {_aim(attack.nearest)}, the manifest says {_aim(facts.nearest)}"
    if isinstance(attack, Certificate):
        own = CertificateFacts(n0=attack.n0, n=attack.n, alpha=attack.alpha)
        if facts.certificate != own:
            yield f"the certificate has {own}, the manifest says {facts.certificate}"
    needed = attack.least_cosine()
    if facts.least_cosine is not None and not math.isclose(facts.least_cosine, needed, abs_tol=ROOM - 1):
        yield f"the attack asks for gradients of cosine {needed:.3g}, the manifest says {facts.least_cosine:.3g}"


def misstated(facts: DefenseFacts, defense: Defense) -> Iterator[str]:
    """What the manifest says of a defense, and is not so."""
    if facts.stochastic != defense.stochastic:
        yield f"the defense is {_randomness(defense.stochastic)}, the manifest says {_randomness(facts.stochastic)}"
    for name in ("expected_accuracy", "expected_dataset"):
        then, now = getattr(facts, name), getattr(defense, name)
        if then != now:
            yield f"the card's {name.replace('_', ' ')} is {now}, the manifest says {then}"
    if facts.smoothing_sigma != defense.smoothing_sigma:
        yield f"the defense's sigma is {defense.smoothing_sigma}, the manifest says {facts.smoothing_sigma}"
    if facts.noise_seed != defense.noise_seed:
        yield f"the seed of the defense's noise is {defense.noise_seed}, the manifest says {facts.noise_seed}"


def draws(record: Record, facts: DefenseFacts, votes: int) -> str | None:
    """Why an image cannot have so many votes, or None: a deterministic defense has one, a stochastic one all."""
    expected = votes if facts.stochastic else 1
    for side, votes_cast in (("clean", record.clean_votes), ("adversarial", record.adv_votes)):
        if votes_cast and len(votes_cast) != expected:
            return (
                f"the record has {len(votes_cast)} votes on the {side} image, where the manifest says {expected}, of a "
                f"{_randomness(facts.stochastic)} defense"
            )
    return None


def overspent(record: Record, attack: Attack, num_classes: int) -> str | None:
    """Why a record's passes cannot be, or None. Only of our own attacks, whose `cost_limit` is known to be one."""
    if not type(attack).__module__.startswith("attacks."):
        return None
    most = attack.cost_limit(num_classes)
    for name, spent, bound in (
        ("forward", record.forwards, most.forwards),
        ("backward", record.backwards, most.backwards),
    ):
        if spent > bound * ROOM:
            return f"the record says {spent} {name} passes, where the attack takes at most {bound:g}"
    return None


def _aim(nearest: bool) -> str:
    return "the nearest misclassified image" if nearest else "the worst image within its budget"


def _randomness(stochastic: bool) -> str:
    return "stochastic" if stochastic else "deterministic"
