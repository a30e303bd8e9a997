"""`harness verify`: do stored results say what their images show?

    hashes     the files are the ones that were written, and those that the manifest lists, which is sealed itself: this
               finds damage and edits, not a forger who hashes again
    manifest   its images are those that the suite chose; method, budget, randomness and the card's accuracy are what
               the defense and the attack, built again, say of themselves
    images     the dataset on this machine is the one that was attacked, by its fingerprint
    budget     each adversarial image lies in [0, 1] and within its threat model, as far from the clean one as recorded,
               and is what its flow or its parameters make, where it was made from such
    replay     the defense, built again from the manifest and proven the same by the cell's key, answers as recorded

What holds is an upper bound on robustness: these images are allowed, and do what the records say. That the attack did
its best is nothing that images could show.
"""

from __future__ import annotations

from harness.verification.cell_report import CellReport
from harness.verification.run import verify

__all__ = ["CellReport", "verify"]
