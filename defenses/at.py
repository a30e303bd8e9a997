"""Adversarial training (Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", 2018)."""

from __future__ import annotations

from defenses.undefended import Undefended


class AT(Undefended):
    """A classifier trained on the worst images within a budget: the defense is in the weights alone.

    The arguments are those of `Undefended`. `harness train` makes such weights with the `adversarial` trainer;
    `digits-at-linf` and `digits-at-l2` come with the package.
    """
