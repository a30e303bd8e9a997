"""Multi-head training: distillation and the direct loss against naive loops."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from defenses.networks.ncsnpp import NCSNpp
from defenses.training.diffusion import noised
from defenses.training.multi_head import MultiHead
from harness import datasets
from harness.errors import UserError
from harness.randomness import fenced
from harness.weights import Checkpoint

LAYOUT = dict(image_size=8, channels=1, nf=8, ch_mult=[1], num_res_blocks=1, attn_resolutions=[], dropout=0.0)
TEACHER = Checkpoint.find("digits-ncsnpp")
EVERY_HEAD = [*range(10), -1]


def alpha(t: int) -> float:
    """alpha_t of the discrete VP schedule, by its definition."""
    return math.prod(1 - (0.1 + (20 - 0.1) * s / 999) / 1000 for s in range(t))


class Heads(nn.Module):
    """Head k answers (k + 1) times a tenth of the input; remembers what it was asked."""

    def __init__(self, heads: int, null_head: bool) -> None:
        super().__init__()
        self.null_head = null_head
        self.gains = nn.Parameter(torch.arange(1, heads + 1) / 10)
        self.asked: list[tuple[Tensor, Tensor]] = []

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        self.asked.append((x, labels))
        return self.gains[:, None, None, None] * x[:, None]


class Nothing(nn.Module):
    """A student that has learnt nothing yet."""

    null_head = True

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return x.new_zeros(len(x), 11, *x.shape[1:])


class Copy(nn.Module):
    """A student that has learnt all there is to learn."""

    null_head = True

    def __init__(self, teacher: nn.Module) -> None:
        super().__init__()
        self.teacher = teacher

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return torch.stack([self.teacher(x, labels, torch.full_like(labels, k)) for k in EVERY_HEAD], 1)


def test_a_student_that_equals_its_teacher_has_no_loss() -> None:
    loss = MultiHead(TEACHER).loss(Copy(TEACHER.network()), torch.rand(3, 1, 8, 8), torch.tensor([3, 1, 4]))
    assert loss.item() == 0


@pytest.mark.parametrize("null_head", [True, False])
def test_distillation_compares_every_head_on_every_image_whatever_its_label(null_head: bool) -> None:
    classes = EVERY_HEAD if null_head else EVERY_HEAD[:-1]
    student, teacher = Heads(len(classes), null_head), TEACHER.network()
    loss = MultiHead(TEACHER).loss(student, torch.rand(2, 1, 8, 8), torch.tensor([7, 7]))
    [(x_t, labels)] = student.asked
    total = 0.0
    for i in range(2):
        for head, k in enumerate(classes):
            taught = teacher(x_t[i : i + 1], labels[i : i + 1], torch.tensor([k]))
            total += ((head + 1) / 10 * x_t[i] - taught).square().mean().item() / (2 * len(classes))
    assert loss.item() == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize("compared", [None, 3])
def test_contrast_weighs_how_heads_differ_and_not_what_they_have_in_common(compared: int | None) -> None:
    student, teacher = Heads(11, True), TEACHER.network()
    x, y = torch.rand(4, 1, 8, 8), torch.zeros(4, dtype=torch.long)
    with fenced(5):
        loss = MultiHead(TEACHER, contrast=7.0, compared=compared).loss(student, x, y)
    [(x_t, labels)] = student.asked
    trainer = MultiHead(TEACHER, compared=compared)
    with fenced(5):  # the noise is drawn first, and then the heads
        noised(x, trainer.schedule)
        asked = trainer._asked(4, 11)
    common, apart = 0.0, 0.0
    for i in range(4):
        heads = [int(k) for k in asked[i]]
        assert len(set(heads)) == (compared or 11)
        errors = [
            (k + 1) / 10 * x_t[i] - teacher(x_t[i : i + 1], labels[i : i + 1], torch.tensor([-1 if k == 10 else k]))[0]
            for k in heads
        ]
        middle = sum(errors) / len(errors)
        common += middle.square().mean().item() / 4
        apart += sum((error - middle).square().mean().item() for error in errors) / (4 * len(errors))
    assert loss.item() == pytest.approx(common + 7 * apart, rel=1e-4)


def test_heads_are_drawn_for_each_image_alike() -> None:
    with fenced(0):
        asked = MultiHead(TEACHER, compared=3)._asked(3000, 11)
    assert asked.unique(dim=0).shape[0] > 500
    assert asked.flatten().bincount(minlength=11).float() / 3000 == pytest.approx([3 / 11] * 11, abs=0.05)


@pytest.mark.parametrize(("arguments", "message"), [({"contrast": -1}, "contrast is -1"), ({"compared": 1}, "1 heads")])
def test_comparisons_that_mean_nothing_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        MultiHead(TEACHER, **arguments)


def test_distillation_trains_every_head_and_not_the_teacher() -> None:
    student, trainer = Heads(11, True), MultiHead(TEACHER)
    trainer.loss(student, torch.rand(2, 1, 8, 8), torch.tensor([7, 7])).backward()
    assert student.gains.grad is not None
    assert (student.gains.grad != 0).all()
    assert trainer.teacher is not None
    assert all(not parameter.requires_grad for parameter in trainer.teacher.parameters())


@pytest.mark.parametrize("null_head", [True, False])
def test_without_a_teacher_the_true_heads_and_the_null_head_learn_the_noise(null_head: bool) -> None:
    network, x, y = Heads(4, null_head), torch.rand(5, 1, 8, 8), torch.tensor([0, 2, 1, 1, 0])
    loss = MultiHead().loss(network, x, y)
    [(x_t, labels)] = network.asked
    errors = []
    for i in range(5):
        a = alpha(int(labels[i]) + 1)
        eps = (x_t[i] - math.sqrt(a) * (2 * x[i] - 1)) / math.sqrt(1 - a)
        heads = [int(y[i]), 3] if null_head else [int(y[i])]
        errors += [((head + 1) / 10 * x_t[i] - eps).square().mean().item() for head in heads]
    assert loss.item() == pytest.approx(sum(errors) / len(errors), rel=1e-3)


def test_a_head_learns_nothing_from_images_of_other_classes_without_a_teacher() -> None:
    network = Heads(4, null_head=True)
    MultiHead().loss(network, torch.rand(5, 1, 8, 8), torch.tensor([0, 2, 2, 2, 0])).backward()
    assert network.gains.grad is not None
    assert network.gains.grad[1] == 0
    assert (network.gains.grad[[0, 2, 3]] != 0).all()


class Oracle(nn.Module):
    """Knows the clean image of each class; its null head knows nothing."""

    null_head = True

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.images = nn.Parameter(2 * images - 1)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        alphas = torch.tensor([alpha(int(label) + 1) for label in labels]).view(-1, 1, 1, 1, 1)
        heads = (x[:, None] - alphas.sqrt() * self.images) / (1 - alphas).sqrt()
        return torch.cat([heads, x[:, None]], 1)


def test_the_clean_accuracy_is_that_of_a_diffusion_classifier() -> None:
    """The oracle's error is alpha/sigma^2 |x - image_y|^2, whatever the noise: logits are known in closed form."""
    images = torch.rand(3, 1, 4, 4)
    logits = MultiHead(timesteps=10).logits(Oracle(images), images, 3)
    ratio = sum(alpha(100 * j) / (1 - alpha(100 * j)) for j in range(1, 11)) / 10
    distances = (2 * images[:, None] - 2 * images).square().flatten(2).mean(2)
    assert logits.detach() == pytest.approx(-ratio * distances, rel=1e-3, abs=1e-5)


@pytest.mark.slow
def test_the_packaged_network_tells_digits_apart_and_resembles_its_teacher() -> None:
    data = datasets.load("digits", "test").select(range(450, 500))
    x, y, trainer, network = data.images, data.labels, MultiHead(TEACHER), Checkpoint.find("digits-multihead").network()
    with torch.no_grad(), fenced(0):
        assert (trainer.logits(network, x, 10).argmax(1) == y).float().mean() >= 0.94
        apart, size = trainer.loss(network, x, y), trainer.loss(Nothing(), x, y)
    assert apart <= 0.03 * size


def test_a_network_with_a_null_head_tells_its_other_heads_apart() -> None:
    network = NCSNpp(**LAYOUT, heads=4, null_head=True)
    assert network.num_classes == 3
    assert MultiHead().logits(network, torch.rand(2, 1, 8, 8), 3).shape == (2, 3)


@pytest.mark.parametrize("heads", [None, 1])
def test_a_null_head_alone_is_refused(heads: int | None) -> None:
    with pytest.raises(UserError, match="null_head"):
        NCSNpp(**LAYOUT, heads=heads, null_head=True)


def test_a_student_with_other_classes_than_its_teacher_is_refused() -> None:
    with pytest.raises(UserError, match="11 heads for the 10 classes"):
        MultiHead(TEACHER).loss(Heads(11, null_head=False), torch.rand(2, 1, 8, 8), torch.tensor([0, 1]))


def test_a_teacher_that_needs_a_class_cannot_teach_a_null_head() -> None:
    trainer = MultiHead(TEACHER)
    trainer.teacher.knows_no_class = False
    with pytest.raises(UserError, match="never trained without a class"):
        trainer.loss(Heads(11, null_head=True), torch.rand(2, 1, 8, 8), torch.tensor([0, 1]))


def test_a_teacher_that_knows_no_classes_is_refused() -> None:
    with pytest.raises(UserError, match="has no classes"):
        MultiHead(Checkpoint.find("digits-cnn"))
