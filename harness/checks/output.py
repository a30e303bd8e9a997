"""What a defense returns: one float per image and class, or else why that is no answer to count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from harness.checks.finding import Outcome, check
from harness.checks.probe import Disagreement, Probe
from harness.defense import Defense

SHOWN = 6
"""Keys of a dictionary that a message names."""


@check("logits' shape", passes=0)
def shape(probe: Probe) -> Outcome:
    if unfit := _unfit(probe.answer, len(probe.x), probe.defense.num_classes, probe.disagreement):
        return "failed", "; ".join(unfit)
    return "passed", f"{tuple(probe.logits.shape)}"


def misshapen(defense: Defense, x: Tensor, disagreement: Disagreement) -> tuple[str, str] | None:
    """What keeps a defense's answers from being a logit per class, and what to do about it, or None.

    Args:
        x: images, (N, C, H, W) in [0, 1], on the defense's device; two do.
        disagreement: of their dataset, see `datasets.Dataset.disagreement`.

    Returns:
        None too where the defense fails on these images, which is for others to tell.
    """
    try:
        answer = Probe(defense, x).answer
    except Exception:  # its row fails, and says why
        return None
    return _unfit(answer, len(x), defense.num_classes, disagreement)


def _unfit(answer: Any, count: int, declared: int | None, disagreement: Disagreement | None) -> tuple[str, str] | None:
    """As `misshapen`, of whatever a defense returned for `count` images.

    Args:
        declared: how many classes the defense says that it tells apart, or None.
        disagreement: None if the dataset is not known.
    """
    if not isinstance(answer, Tensor):
        return _no_tensor(answer)
    found = tuple(answer.shape)
    if found in ((count,), (count, 1)):
        if not answer.is_floating_point():
            return (
                f"it returns {found} for {count} images, one class index for each",
                "Return the logits, (N, K), that the index is taken from",
            )
        return (
            "it returns 1 logit per image; two classes need two logits",
            "For the logit z of class 1, (N,), return torch.stack([torch.zeros_like(z), z], 1)",
        )
    if len(found) != 2 or found[0] != count:
        return f"it returns {found} for {count} images, not ({count}, K)", "Return one row of logits per image"
    return _miscounted(found[1], declared, disagreement)


def _miscounted(found: int, declared: int | None, disagreement: Disagreement | None) -> tuple[str, str] | None:
    if declared not in (None, found):
        return (
            f"it returns {found} logits per image, and declares num_classes = {declared}",
            "Correct the wrong one",
        )
    if disagreement and (unfit := disagreement(found)):
        return f"it returns {found} logits per image, {unfit[0]}", unfit[1]
    return None


def _no_tensor(answer: Any) -> tuple[str, str]:
    kind = type(answer).__name__
    if answer is None:
        return "it returns nothing (None)", "End classify(x) with `return logits`"
    if isinstance(answer, Mapping):
        keys = [str(key) for key in answer]
        listed = ", ".join(f"'{key}'" for key in keys[:SHOWN]) + (", …" if len(keys) > SHOWN else "")
        named = f"dict with keys {listed}" if type(answer) is dict else f"{kind} with keys {listed}"
        return f"it returns a {named}", f"Return the logits tensor, such as output['{_likely(keys)}']"
    if isinstance(answer, Sequence) and not isinstance(answer, str | bytes):
        inside = ", ".join(type(item).__name__ for item in answer[:SHOWN])
        return f"it returns a {kind} of {len(answer)} ({inside})", "Return the logits tensor alone, such as output[0]"
    return f"it returns {'an' if kind[0] in 'aeiou' else 'a'} {kind}", "Return the logits as a torch.Tensor, (N, K)"


def _likely(keys: list[str]) -> str:
    """The key under which the logits probably are."""
    return next((key for key in keys if "logit" in key.lower()), keys[0] if keys else "logits")
