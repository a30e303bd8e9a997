"""Our attacks against verdicts that other libraries measured, image by image, on a CIFAR-10 ResNet.

    python benchmarks/peers.py WEIGHTS GOLDEN [--only PATTERN] [--images N]         prints a Markdown table

WEIGHTS is the state dict of a ResNet-20 or a deeper one of its family (He et al. 2016, Sec. 4.2; shortcuts without
parameters). GOLDEN is a folder of three files: the images in `attacks_setA.npz`, clean logits in
`attacks_logits_resnet20_A.npz`, and in `attacks_A.json` the records, whose `schema` says what they hold. PATTERN picks
records by their names, as in `*_L2_*`.

Each attack of ours gets the peer's images, batches, parameters and, for AutoAttack, seed. A verdict is 1 where the
image is classified correctly both clean and attacked. Passes are images sent through the network by the attack itself,
without the clean accuracy and AutoAttack's checks. A peer's seconds are those recorded with its verdicts, on whatever
machine that was; ours are of this process.

AutoAttack shall agree image by image and pass by pass; so shall StAdv, whose last flow counts here as it does for its
peers. PGD leaves an image alone once it is fooled, which saves passes, and draws other random starts: its verdicts
shall agree on all images but one. `--images` takes the first few of a
record's, which makes another batch of them, with other noise, unless the record's own batches are as small.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pyautoattack
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attacks.autoattack import AutoAttack, Stage
from attacks.pgd import PGD
from attacks.stadv import StAdv
from harness.attack import Adversarial, Attack
from harness.defense import Defense
from harness.quantity import Quantity
from harness.target import Target
from harness.weights import formats
from harness.weights.normalization import Normalization

CHECKS = 8
"""Passes per image that AutoAttack takes before it attacks: clean accuracy and its checks of the defense."""

COLUMNS = ("record", "n", "robust, ours", "robust, peer", "same verdict")
PAIRS = ("forwards", "backwards", "seconds")


class ResNet(Defense):
    """The CIFAR ResNet of 6 b + 2 layers, from its published state dict; normalisation is its own.

    Args:
        tensors: by published name.
    """

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self.num_classes = 10
        self.preprocessing = Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
        blocks = len({name.split(".")[1] for name in tensors if name.startswith("layer1.")})
        self.name = f"resnet{6 * blocks + 2}"
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.layer1, self.layer2, self.layer3 = _stage(16, 16, blocks), _stage(16, 32, blocks), _stage(32, 64, blocks)
        self.linear = nn.Linear(64, 10)
        self.load_state_dict(tensors)
        self.eval().requires_grad_(False)

    def classify(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(self.preprocessing(x))))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


class _Block(nn.Module):
    """Two convolutions and a shortcut, which takes every second pixel and pads new channels on both sides."""

    def __init__(self, inside: int, out: int) -> None:
        super().__init__()
        self.stride, self.missing = out // inside, out - inside
        self.conv1 = nn.Conv2d(inside, out, 3, self.stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(out), nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        h = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], [0, 0, 0, 0, self.missing // 2, self.missing // 2])
        return F.relu(h + shortcut)


def _stage(inside: int, out: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(_Block(inside, out), *(_Block(out, out) for _ in range(blocks - 1)))


class SeededAutoAttack(AutoAttack):
    """AutoAttack from the seed that the peer was given, instead of one of the harness."""

    library_seed: int

    def _library(
        self, target: Target, stages: tuple[Stage, ...], classes: int, seed: int, device: torch.device
    ) -> pyautoattack.AutoAttack:
        return super()._library(target, stages, classes, self.library_seed, device)


def autoattack(params: dict[str, Any]) -> Attack:
    names = params.get("attacks")
    version: dict[str, Any] = {"version": "standard"}
    if names:
        version = {"version": "custom", "attacks": [names] if isinstance(names, str) else names}
    attack = SeededAutoAttack(params["norm"], Quantity(params["eps"]), **version)
    attack.library_seed = params.get("seed", 0)
    return attack


def pgd(params: dict[str, Any]) -> Attack:
    eps = Quantity(params["eps"])
    step = Quantity(float(eps) / 4)
    return PGD("Linf", eps, steps=40, step_size=step, loss="ce-plain", random_start=params["random_start"])


def stadv(params: dict[str, Any]) -> Attack:
    return StAdv(Quantity(params["bound"]), steps=params.get("iters", 100), keep="last")


ATTACKS: dict[str, Callable[[dict[str, Any]], Attack]] = {"aa": autoattack, "pgd": pgd, "stadv": stadv}
"""How each job of the records is done here."""


@dataclass(frozen=True)
class Outcome:
    """robust: verdicts, (N,) bool; passes: of the attack, over all images."""

    robust: Tensor
    forwards: int
    backwards: int
    seconds: float


def ours(defense: Defense, attack: Attack, x: Tensor, y: Tensor, batch: int) -> Outcome:
    """Our verdicts on images x, (N, C, H, W), attacked `batch` at a time."""
    robust, passes = [], torch.zeros(2, dtype=torch.int64)
    began = time.perf_counter()
    for images, labels in zip(x.split(batch), y.split(batch), strict=True):
        target = Target(defense, images, torch.arange(len(images)), gradient=attack.gradient, eot=attack.eot)
        found = attack.perturb(target, images, labels)
        attacked = Adversarial.of(found).images
        robust.append(correct(defense, images, labels) & correct(defense, attacked, labels))
        passes += torch.stack([target.forwards.sum(), target.backwards.sum()])
    forwards, backwards = passes.tolist()
    checks = CHECKS * len(x) if isinstance(attack, AutoAttack) else 0
    return Outcome(torch.cat(robust), forwards - checks, backwards, time.perf_counter() - began)


def peers(record: dict[str, Any], images: int) -> Outcome:
    """What a record says: verdicts of its first images, passes and seconds of all."""
    counts, checks = record["total_counts"], record.get("overhead_checks_and_clean", {}).get("images_forwarded", 0)
    robust = torch.tensor(record["robust"][:images], dtype=torch.bool)
    return Outcome(robust, counts["images_forwarded"] - checks, counts["images_backwarded"], record["wall_s"])


def correct(defense: Defense, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return defense(x).argmax(1) == y


def line(record: dict[str, Any], mine: Outcome, theirs: Outcome) -> str:
    n, same = len(mine.robust), int((mine.robust == theirs.robust).sum())
    cells = [record["id"], n, int(mine.robust.sum()), int(theirs.robust.sum()), f"{same}/{n}"]
    found = [f"{mine.forwards:,}", f"{mine.backwards:,}", f"{mine.seconds:.0f}"]
    recorded = [f"{theirs.forwards:,}", f"{theirs.backwards:,}", f"{theirs.seconds:.0f}"]
    pairs = [cell for pair in zip(found, recorded if n == record["n"] else [""] * 3, strict=True) for cell in pair]
    return " | ".join(map(str, ["", *cells, *pairs, ""])).strip()


def read(golden: Path) -> tuple[list[dict[str, Any]], Tensor, Tensor]:
    """The records, and the images (N, C, H, W) and labels (N,) in their order."""
    content = json.loads((golden / "attacks_A.json").read_text())
    data = np.load(golden / "attacks_setA.npz")
    images = torch.from_numpy(data["images"][content["order"]]).permute(0, 3, 1, 2).contiguous().float() / 255
    return content["records"], images, torch.from_numpy(data["labels"][content["order"]])


def load(weights: Path) -> ResNet:
    return ResNet({name.removeprefix("module."): value for name, value in formats.read(weights).tensors.items()})


def check_logits(defense: ResNet, golden: Path, x: Tensor) -> None:
    """Tells how far our network's logits are from the recorded ones, where there are any."""
    path = golden / f"attacks_logits_{defense.name}_A.npz"
    if path.is_file():
        with torch.no_grad():
            apart = (defense(x) - torch.from_numpy(np.load(path)["logits"])).abs().max()
        print(f"{defense.name}: logits of {len(x)} clean images differ by {apart:.1e} at most\n")


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace | None:
    """The arguments, with WEIGHTS and GOLDEN; None without these, once the user is told that they are needed."""
    parser.add_argument("weights", type=Path, nargs="?")
    parser.add_argument("golden", type=Path, nargs="?")
    options = parser.parse_args()
    if options.golden is None:
        print("Not run: it needs WEIGHTS and GOLDEN, which are not part of the project; see benchmarks/peers.py.")
        return None
    return options


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="*")
    parser.add_argument("--images", type=int, default=64)
    options = parsed(parser)
    if options is None:
        return
    defense, (records, x, y) = load(options.weights), read(options.golden)
    check_logits(defense, options.golden, x)
    head = [*COLUMNS, *(f"{name}, {whose}" for name in PAIRS for whose in ("ours", "peer"))]
    print(" | ".join(["", *head, ""]).strip())
    print("|---|" + "---:|" * (len(head) - 1))
    for record in records:
        params, name = record["params"], record["id"]
        if record["job"] in ATTACKS and params["model"] == defense.name and fnmatch(name, options.only):
            n = min(options.images, record["n"])
            found = ours(defense, ATTACKS[record["job"]](params), x[:n], y[:n], record.get("bs", n))
            print(line(record, found, peers(record, n)), flush=True)


if __name__ == "__main__":
    main()
