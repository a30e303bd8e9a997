"""A purifier in front of a classifier, and an adaptive attack on it.

Rounding has no gradient: an attack that differentiates through it sees zeros, fails, and the defense looks robust. BPDA
(Athalye et al., 2018, arXiv:1802.00420) replaces the purifier by the identity on the backward pass, and shows that it
is not.

    python examples/write_a_purifier.py
"""

import rich
from torch import Tensor

import harness
from defenses.undefended import Undefended


class Rounding(harness.Defense):
    """Rounds every pixel to one of a few grey levels before the classifier sees it."""

    def __init__(self, classifier: harness.Defense, levels: int = 5) -> None:
        super().__init__()
        self.classifier, self.levels = classifier, levels

    def purify(self, x: Tensor) -> Tensor:
        return (x * (self.levels - 1)).round() / (self.levels - 1)

    def classify(self, x: Tensor) -> Tensor:
        return self.classifier(x)


if __name__ == "__main__":
    classifier = Undefended("digits-cnn")
    attacks = {
        "naive": {"type": "pgd", "loss": "margin", "gradient": "exact"},
        "adaptive": {"type": "pgd", "loss": "margin", "gradient": "bpda"},
    }
    models = {"undefended": classifier, "rounding": Rounding(classifier)}
    results = harness.evaluate(models, attacks, data="digits", size=32, norm="Linf", eps=0.2)
    rich.print(results.table())
