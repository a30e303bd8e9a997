"""A question put to a defense under diagnosis, and its answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from harness.diagnosis.subject import NotAsked
from harness.errors import one_line
from harness.process.foreign_code import contained

if TYPE_CHECKING:
    from harness.diagnosis.subject import Subject

Status = Literal["pass", "suspect", "not asked", "error"]
Judgement = tuple[Status, str, dict[str, Any]]
"""Status, message and data of a finding."""

RDC = "Chen et al., Robust Classification via a Single Diffusion Model, 2024, Sec. 4.4"
OBFUSCATED = "Athalye, Carlini & Wagner, Obfuscated Gradients Give a False Sense of Security, 2018, Sec. 3.1"
EVALUATING = "Carlini et al., On Evaluating Adversarial Robustness, 2019"
ADAPTIVE = "Tramèr et al., On Adaptive Attacks to Adversarial Example Defenses, 2020"
ENSEMBLE = "Tramèr et al., Ensemble Adversarial Training, 2018"
AUTOATTACK = "Croce & Hein, Reliable Evaluation of Adversarial Robustness, 2020"
EOT = "Athalye et al., Synthesizing Robust Adversarial Examples, 2018"
INDICATORS = "Pintor et al., Indicators of Attack Failure, 2022"


@dataclass(frozen=True)
class Finding:
    """The answer to one check.

    Args:
        name: of the check, a few words.
        status: `suspect`: a sign of masked gradients, or of an attack too weak to tell; `error`: the defense or an
            attack raised something, and nothing was learnt.
        message: what was seen, with its numbers.
        source: where the check was published.
        data: the numbers behind it, for plots; JSON.
        seconds: it took.
    """

    name: str
    status: Status
    message: str
    source: str
    data: dict[str, Any]
    seconds: float


@dataclass(frozen=True)
class Check:
    """A question. look: answers it for a subject; source: where it was published."""

    name: str
    source: str
    look: Callable[[Subject], Judgement]

    def __call__(self, subject: Subject) -> Finding:
        """The answer. Whatever the defense or an attack raises is a status of its own, never a pass."""
        began = time.perf_counter()
        try:
            with contained():
                status, message, data = self.look(subject)
        except NotAsked as reason:
            status, message, data = "not asked", str(reason), {}
        except Exception as error:
            status, message, data = "error", one_line(error), {}
        return Finding(self.name, status, message, self.source, data, time.perf_counter() - began)


def check(name: str, *sources: str) -> Callable[[Callable[[Subject], Judgement]], Check]:
    """Makes a function of the subject a check."""
    return lambda look: Check(name, "; ".join(sources), look)
