"""A defense whose process is struck by a signal at one of the gradients that are asked of it.

Gradients are counted in a file beside this module, which has the name of the class; in another, with the suffix `.at`,
stand the number of the gradient and that of the signal, until it strikes.
"""

import os
from pathlib import Path

from fakes import Noisy
from torch import Tensor


class Struck(Noisy):
    def cost(self) -> float:
        return (
            100  # so dear that no shards are attacked together, and that nobody tries how much memory they would take
        )

    def classify(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            counter = Path(__file__).with_name(type(self).__name__)
            with open(counter, "ab") as file:
                file.write(b".")
            strike = counter.with_suffix(".at")
            if strike.exists():
                count, number = map(int, strike.read_text().split())
                if os.path.getsize(counter) == count:
                    strike.unlink()
                    os.kill(os.getpid(), number)
        return super().classify(x)
