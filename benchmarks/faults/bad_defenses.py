"""Defenses that break their contract, each in one way. All are the packaged network of the digits underneath.

`expected` is what may become of a defense's number: "right" is the number of the bare network (for a fault that the
harness makes harmless), "said" is anything but a plain number.
"""

from __future__ import annotations

import io
import os
import random
import sys
import threading
import time

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from harness.defense import Defense
from harness.weights import Checkpoint


class Base(Defense):
    """The bare network."""

    num_classes: int | None = 10

    def __init__(self) -> None:
        super().__init__()
        self.network = Checkpoint.find("digits-cnn").network()

    def classify(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return logits


def perturbed(x: Tensor) -> Tensor:
    """Whether images are not clean digits, whose pixels are sixteenths: (N,)."""
    return ((x * 16 - (x * 16).round()).abs() > 1e-4).flatten(1).any(1)


class ThroughNumPy(Base):
    def purify(self, x: Tensor) -> Tensor:
        return torch.from_numpy(np.round(x.detach().cpu().numpy() * 8) / 8)


class ThroughPIL(Base):
    def purify(self, x: Tensor) -> Tensor:
        images = []
        for image in x.detach():
            sink = io.BytesIO()
            Image.fromarray((image[0].numpy() * 255).astype(np.uint8)).save(sink, "PNG")
            images.append(torch.from_numpy(np.asarray(Image.open(sink), dtype=np.float32) / 255)[None])
        return torch.stack(images)


class UnderNoGrad(Base):
    def purify(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return x * 1.0


class LogitsDetached(Base):
    def classify(self, x: Tensor) -> Tensor:
        return super().classify(x).detach()


class ArgmaxOnly(Base):
    def classify(self, x: Tensor) -> Tensor:
        return F.one_hot(super().classify(x).argmax(1), 10).float() + 0 * x.sum()


class SubtractsInPlace(Base):
    def purify(self, x: Tensor) -> Tensor:
        x.sub_(0.5)
        return x + 0.5


class BlursInPlace(Base):
    def classify(self, x: Tensor) -> Tensor:
        logits = super().classify(x)
        with torch.no_grad():
            x.zero_()
        return logits


class ChangesOwnWeights(Base):
    def classify(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            for parameter in self.network.parameters():
                parameter.mul_(0.98)
        return super().classify(x)


class ChangesOwnBuffer(Base):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def classify(self, x: Tensor) -> Tensor:
        self.calls += 1  # type: ignore[has-type]
        return super().classify(x) + (1000 * F.one_hot(torch.zeros(len(x), dtype=torch.int64), 10) * (self.calls > 40))


class ChangesEveryNetwork(Base):
    """Of all defenses in the process."""

    def classify(self, x: Tensor) -> Tensor:
        import gc

        for thing in gc.get_objects():
            if isinstance(thing, nn.Linear):
                with torch.no_grad():
                    thing.weight.zero_()
        return super().classify(x)


class NaNWhereAttacked(Base):
    def classify(self, x: Tensor) -> Tensor:
        return super().classify(x).where(~perturbed(x)[:, None], torch.nan)


class InfinityWhereAttacked(Base):
    def classify(self, x: Tensor) -> Tensor:
        return super().classify(x).where(~perturbed(x)[:, None], torch.inf)


class MinusInfinityWhereAttacked(Base):
    def classify(self, x: Tensor) -> Tensor:
        return super().classify(x).where(~perturbed(x)[:, None], -torch.inf)


class OneNaNLogit(Base):
    def classify(self, x: Tensor) -> Tensor:
        spoilt = torch.zeros(10, dtype=torch.bool)
        spoilt[3] = True
        return super().classify(x).where(~(perturbed(x)[:, None] & spoilt), torch.nan)


class NaNGradient(Base):
    def purify(self, x: Tensor) -> Tensor:
        return x + 0 * (x - x).sqrt()


class NaNImages(Base):
    def purify(self, x: Tensor) -> Tensor:
        return x.where(~perturbed(x).view(-1, 1, 1, 1), torch.nan)


class RaisesWhereAttacked(Base):
    def classify(self, x: Tensor) -> Tensor:
        if perturbed(x).any():
            raise RuntimeError("an image that is none")
        return super().classify(x)


class RaisesOnCleanImages(Base):
    def classify(self, x: Tensor) -> Tensor:
        raise RuntimeError("never works")


class RaisesWhenBuilt(Base):
    def __init__(self) -> None:
        raise RuntimeError("no weights")


class ExitsWhenBuilt(Base):
    def __init__(self) -> None:
        sys.exit(0)


class ExitsOnCleanImages(Base):
    def classify(self, x: Tensor) -> Tensor:
        sys.exit(0)


class ExitsWhereAttacked(Base):
    def classify(self, x: Tensor) -> Tensor:
        if perturbed(x).any():
            sys.exit(0)
        return super().classify(x)


class GeneratorExitWhereAttacked(Base):
    def classify(self, x: Tensor) -> Tensor:
        if perturbed(x).any():
            raise GeneratorExit
        return super().classify(x)


class HiddenDropout(Base):
    def purify(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.3, training=True)


class DropoutInAList(Base):
    def __init__(self) -> None:
        super().__init__()
        self.parts = [nn.Dropout(0.3)]

    def purify(self, x: Tensor) -> Tensor:
        return self.parts[0](x).clamp(0, 1)  # type: ignore[no-any-return]


class OwnGenerator(Base):
    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def purify(self, x: Tensor) -> Tensor:
        return (x + 0.3 * torch.randn(x.shape, generator=self.generator)).clamp(0, 1)


class NumPyGenerator(Base):
    def purify(self, x: Tensor) -> Tensor:
        noise = np.random.default_rng().normal(0, 0.3, tuple(x.shape))
        return (x + torch.from_numpy(noise).float()).clamp(0, 1)


class SystemRandomness(Base):
    def purify(self, x: Tensor) -> Tensor:
        return (x + 0.5 * (random.SystemRandom().random() - 0.5)).clamp(0, 1)


class SeededByTime(Base):
    def purify(self, x: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(time.perf_counter_ns())
        return (x + 0.3 * torch.randn(x.shape, generator=generator)).clamp(0, 1)


class Urandom(Base):
    def classify(self, x: Tensor) -> Tensor:
        return super().classify(x * (0.5 + os.urandom(1)[0] / 510))


class NowAndThenRandom(Base):
    """One call in five."""

    def purify(self, x: Tensor) -> Tensor:
        return x.flip(-1) if random.SystemRandom().random() < 0.2 else x


class RandomWhereAttacked(Base):
    def purify(self, x: Tensor) -> Tensor:
        noise = 0.4 * torch.from_numpy(np.random.default_rng().normal(size=tuple(x.shape))).float()
        return (x + noise * perturbed(x).view(-1, 1, 1, 1)).clamp(0, 1)


class CountsCalls(Base):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def purify(self, x: Tensor) -> Tensor:
        self.count += 1
        return x.roll(self.count % 3, -1)


class RemembersImages(Base):
    """Answers a second look as the first at what is near it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, Tensor]] = []

    def classify(self, x: Tensor) -> Tensor:
        answers = super().classify(x)
        rows = []
        for image, logits in zip(x, answers, strict=True):
            near = [old for seen, old in self.seen if (seen - image).abs().max() < 0.2]
            if not near:
                self.seen.append((image.detach().clone(), logits.detach().clone()))
            rows.append(near[0] + 0 * logits if near else logits)
        return torch.stack(rows)


class TrainingBatchNorm(Base):
    def __init__(self) -> None:
        super().__init__()
        self.parts = [nn.BatchNorm2d(1)]

    def purify(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.parts[0](x))  # type: ignore[no-any-return]


class BatchStatistics(Base):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1, track_running_stats=False)

    def purify(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.norm(x))  # type: ignore[no-any-return]


class BatchMaximum(Base):
    def purify(self, x: Tensor) -> Tensor:
        return x / (x.max() + 1e-6)


class BatchMean(Base):
    def classify(self, x: Tensor) -> Tensor:
        logits = super().classify(x)
        return logits - logits.mean(0)


class LooksAtBatchSize(Base):
    def purify(self, x: Tensor) -> Tensor:
        return x if len(x) % 2 else x.flip(-1)


class StaysInTraining(Base):
    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.3)

    def train(self, mode: bool = True) -> StaysInTraining:
        super().train(True)
        return self

    def purify(self, x: Tensor) -> Tensor:
        return self.drop(x).clamp(0, 1)  # type: ignore[no-any-return]


class Half(Base):
    def classify(self, x: Tensor) -> Tensor:
        return super().classify(x).half()


class BFloat(Base):
    def classify(self, x: Tensor) -> Tensor:
        return super().classify(x).bfloat16()


class Double(Base):
    def classify(self, x: Tensor) -> Tensor:
        return super().classify(x).double()


class Integers(Base):
    def classify(self, x: Tensor) -> Tensor:
        return (super().classify(x) * 100).long()


class Probabilities(Base):
    def classify(self, x: Tensor) -> Tensor:
        return super().classify(x).softmax(1)


class HugeLogits(Base):
    def classify(self, x: Tensor) -> Tensor:
        return super().classify(x) * 1e6


class TinyLogits(Base):
    def classify(self, x: Tensor) -> Tensor:
        return super().classify(x) * 1e-13


class AsDictionary(Base):
    def classify(self, x: Tensor) -> Tensor:
        return {"logits": super().classify(x)}  # type: ignore[return-value]


class AsTuple(Base):
    def classify(self, x: Tensor) -> Tensor:
        return super().classify(x), x  # type: ignore[return-value]


class AsNothing(Base):
    def classify(self, x: Tensor) -> Tensor:
        return None  # type: ignore[return-value]


class OneLogit(Base):
    num_classes = None

    def classify(self, x: Tensor) -> Tensor:
        return super().classify(x)[:, :1]


class NineLogits(Base):
    num_classes = None

    def classify(self, x: Tensor) -> Tensor:
        return super().classify(x)[:, :9]


class ElevenLogits(Base):
    num_classes = None

    def classify(self, x: Tensor) -> Tensor:
        return F.pad(super().classify(x), (0, 1), value=-50.0)


class ThousandLogits(Base):
    num_classes = 1000

    def classify(self, x: Tensor) -> Tensor:
        return F.pad(super().classify(x), (0, 990), value=-50.0)


class ForgetsAnImage(Base):
    def classify(self, x: Tensor) -> Tensor:
        return super().classify(x[:-1]) if len(x) > 1 else super().classify(x)


class LogitsOfImages(Base):
    def classify(self, x: Tensor) -> Tensor:
        return super().classify(x)[:, :, None, None].expand(-1, -1, 2, 2)


class PurifiesToAnotherShape(Base):
    def purify(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2)

    def classify(self, x: Tensor) -> Tensor:
        return super().classify(F.interpolate(x, scale_factor=0.5))


class PurifiesBeyondRange(Base):
    def purify(self, x: Tensor) -> Tensor:
        return x * 3 - 1

    def classify(self, x: Tensor) -> Tensor:
        return super().classify((x + 1) / 3)


class SaysStochasticAndIsNot(Base):
    stochastic = True


class SaysElevenClasses(Base):
    num_classes = 11


class SetsDefaultPrecision(Base):
    def classify(self, x: Tensor) -> Tensor:
        torch.set_default_dtype(torch.float64)
        return super().classify(x)


class TurnsGradientsOff(Base):
    def classify(self, x: Tensor) -> Tensor:
        logits = super().classify(x)
        torch.set_grad_enabled(False)
        return logits


class SetsThreads(Base):
    def classify(self, x: Tensor) -> Tensor:
        torch.set_num_threads(1 + threading.active_count())
        return super().classify(x)


class SeedsEveryGenerator(Base):
    def classify(self, x: Tensor) -> Tensor:
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        return super().classify(x)


class OtherUnderGradients(Base):
    """Shows an attacker another network than it is judged by."""

    def classify(self, x: Tensor) -> Tensor:
        return super().classify(x.flip(-1) if x.requires_grad or torch.is_grad_enabled() else x)


class PrintsEscapes(Base):
    def classify(self, x: Tensor) -> Tensor:
        raise RuntimeError("\x1b[2J\x1b]0;owned\x07 all is well\r100.0 robust")


class LongComplaint(Base):
    def classify(self, x: Tensor) -> Tensor:
        raise RuntimeError("lost " * 100_000)
