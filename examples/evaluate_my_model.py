"""Robust accuracy of a model of your own, here a small network on handwritten digits; half a minute on a laptop.

python examples/evaluate_my_model.py
"""

import rich
import torch
from torch import nn

import harness
from harness import datasets


def my_model() -> nn.Module:
    """Any module that takes images (N, C, H, W) in [0, 1] and returns logits (N, K) will do."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    train = datasets.load("digits", "train")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(train.images), train.labels).backward()
        optimizer.step()
    return model


if __name__ == "__main__":
    # The preset "quick" is one attack. Report "standard" or "adaptive": an attack that fails proves nothing.
    results = harness.evaluate(my_model(), attacks="quick", data="digits", size=64)
    rich.print(results.table())  # in a notebook `results` alone shows the table; print() writes Markdown

    (row,) = results.summary.to_dict("records")
    print(f"robust accuracy {row['accuracy']:.1%}, 95% interval {row['low']:.1%} to {row['high']:.1%}")
    misclassified = results.frame.query("verdict == 'fooled'")
    first = misclassified["index"].tolist()[:5]
    print(f"{len(misclassified)} of {len(results.frame)} images misclassified; the first ones: {first}")
