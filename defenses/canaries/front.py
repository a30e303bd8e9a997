"""The base of the canaries that change an image before a classifier sees it."""

from __future__ import annotations

from torch import Tensor

from harness.defense import Defense
from harness.suite.nested import InnerDefense, built


class Front(Defense):
    """A defense that changes images and passes them to another defense. A subclass writes `purify`.

    Args:
        classifier: the defense behind it, an entry of its own; in Python also an instance.
    """

    def __init__(self, classifier: InnerDefense) -> None:
        super().__init__()
        self.classifier: Defense = built(classifier)
        self.num_classes = self.classifier.num_classes
        self.stochastic = self.stochastic or self.classifier.stochastic

    def classify(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(x)
        return logits

    def cost(self) -> float:
        """The classifier's: a transformation costs no evaluation of a network."""
        return self.classifier.cost()
