"""Whether a curve over `eot` still falls on its last step, from E to E' draws.

Let the drop be robust accuracy at E minus that at E', with its paired interval and test (see
`harness.reporting.stats.change`):

    still falling    the interval lies above 0, and p < 0.05
    converged        otherwise, if the drop is at most 1 point and its interval ends at 2 points or less
    cannot tell      otherwise: there are too few images
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from harness.reporting.stats.change import Change

LEVEL = 0.05
"""The level of the test for a drop."""

SMALL = 0.01
"""The largest drop that counts as none."""

ROOM = 0.02
"""The largest drop that a converged curve may hide."""

VERDICTS = {"falling": "Still falling", "converged": "Converged", "open": "Cannot tell"}


@dataclass(frozen=True)
class Verdict:
    """The verdict on the last step of a curve over `eot`. kind: a key of `VERDICTS`."""

    kind: Literal["falling", "converged", "open"]
    text: str


def judged(step: Change, where: str, errors: int = 0) -> Verdict:
    """The verdict on a step. where: its name. errors: how many images ended in an error and are left out."""
    drop, low, high = -step.value, -step.high, -step.low
    verb = "rose" if drop < 0 else "fell"
    observed = f"{where}, robust accuracy {verb} by {100 * abs(drop):.1f} points"
    measured = f"{observed} (95% interval of the drop {signed(low)} to {signed(high)} points, {step.n} images)"
    if errors:
        plural = "1 error leaves" if errors == 1 else f"{errors} errors leave"
        return _verdict_of("open", f"{observed} on the images without an error, but {plural} others open")
    if low > 0 and step.p < LEVEL:
        return _verdict_of("falling", measured)
    if drop <= SMALL and high <= ROOM:
        return _verdict_of("converged", measured)
    return _verdict_of(
        "open", f"{observed}, and {step.n} images leave room for a drop of up to {100 * high:.1f} points"
    )


def signed(share: float) -> str:
    """Percentage points with their sign, for differences."""
    text = f"{100 * share:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", "−")


def _verdict_of(kind: Literal["falling", "converged", "open"], text: str) -> Verdict:
    return Verdict(kind, f"{VERDICTS[kind]}: {text}.")
