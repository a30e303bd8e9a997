"""Where the randomness of a pairing comes from."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from harness.randomness import derive, row_seeds


@dataclass(frozen=True)
class Seeds:
    """Where randomness comes from: the suite's seed and the identities of defense and attack, never their names."""

    suite: int
    defense: str
    attack: str

    def clean(self, index: Tensor) -> Tensor:
        """Of the votes on clean images: the same whatever the attack."""
        return row_seeds(derive(self.suite, self.defense, "clean"), index)

    def search(self, index: Tensor) -> Tensor:
        """Of the attack."""
        return row_seeds(derive(self.suite, self.defense, self.attack, "search"), index)

    def gradient_noise(self, index: Tensor) -> Tensor:
        """Of what is measured before the attack, which no verdict depends on."""
        return row_seeds(derive(self.suite, self.defense, self.attack, "gradient noise"), index)

    def verdict(self, index: Tensor) -> Tensor:
        """Of the votes on adversarial images, which the attack has not seen."""
        return row_seeds(derive(self.suite, self.defense, self.attack, "verdict"), index)
