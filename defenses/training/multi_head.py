"""Training of a noise predictor with a head for each class: one pass gives eps_k(x_t, t) for every class k.

    distilled   loss = E_{t, eps} 1/H sum_k ( ||e_k||^2 + (contrast - 1) ||e_k - e||^2 ) / (C H W)
                e_k  = eps_k(x_t, t) - eps_teacher(x_t, t, k),    e = 1/H sum_k e_k
    direct      loss = E_{t, eps} 1/2 (|| eps_y(x_t, t) - eps ||^2 + || eps_null(x_t, t) - eps ||^2) / (C H W)

k runs over all H heads, the classes and, where there is a null head, no class; or over as many of them, drawn for each
image. Without a null head the direct loss is its first term alone. There a head sees images of its own class only, and
nothing tells it to be wrong about the others: on MNIST the heads grew alike, and classified 22%. A teacher's heads are
compared on every image. What they have in common is nearly all that they predict, and a small network learns it first;
what a diffusion classifier compares is how they differ, and `contrast` is the weight of that. t is uniform over 1..T,
x_t as in Eq. 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from defenses.diffusion import denoiser
from defenses.diffusion.denoiser import NO_CLASS, adapted, knows_no_class
from defenses.diffusion.schedule import discrete_vp
from defenses.diffusion.timesteps import time_grid
from defenses.training.diffusion import classified, how_classified, noised
from harness.errors import UserError
from harness.training import Trainer
from harness.weights import Checkpoint


class MultiHead(Trainer):
    """Trains a network (x_t, labels) -> (N, heads, C, H, W) on the discrete VP diffusion, such as `ncsnpp` with heads.

    Args:
        teacher: a class-conditional diffusion network to be distilled; left out, the heads learn from the images.
        timesteps: of the diffusion classifier that measures the clean accuracy: T' uniform ones, or a list.
        contrast: with a teacher, the weight of the errors in how the heads differ; 1 weighs all errors alike.
        compared: with a teacher, how many heads are compared on an image; left out, all. A step takes as many passes
            of the teacher.

    Raises:
        UserError: a teacher without classes, fewer than two heads to compare, a negative contrast.
    """

    def __init__(
        self,
        teacher: Checkpoint | None = None,
        timesteps: int | list[int] = 10,
        contrast: float = 1.0,
        compared: int | None = None,
    ) -> None:
        if contrast < 0:
            raise UserError(f"contrast is {contrast}", remedy="It is a weight, and not negative")
        if compared is not None and compared < 2:
            raise UserError(
                f"{compared} heads cannot be compared", remedy="Compare two or more, or leave it out for all"
            )
        self.contrast, self.compared = contrast, compared
        self.schedule = discrete_vp()
        self.grid = time_grid(self.schedule, timesteps)
        self.measured = how_classified(timesteps)
        self.teacher = None if teacher is None else Checkpoint.find(teacher).network()
        if self.teacher is not None and not getattr(self.teacher, "num_classes", None):
            raise UserError(f"the teacher '{teacher}' has no classes", remedy="Name a class-conditional one")

    def loss(self, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        x_t, t, eps = noised(x, self.schedule)
        heads = network(x_t, self.schedule.label(t))
        null_head = _has_null_head(network)
        if self.teacher is not None:
            _refuse_unlike(self.teacher, heads.shape[1], null_head)
            rows, asked = torch.arange(len(y), device=x.device)[:, None], self._asked(*heads.shape[:2]).to(x.device)
            labels = torch.where(asked == heads.shape[1] - null_head, NO_CLASS, asked)
            errors = heads[rows, asked] - self._taught(self.teacher, x_t, t, labels)
            apart = errors - errors.mean(1, keepdim=True)
            return errors.square().mean() + (self.contrast - 1) * apart.square().mean()
        picked = [heads[torch.arange(len(y), device=y.device), y], *[heads[:, -1]] * null_head]
        return torch.stack([(head - eps).square().mean() for head in picked]).mean()

    def _asked(self, images: int, heads: int) -> Tensor:
        """The heads that are compared on each image, (images, compared), on the CPU."""
        if self.compared is None or self.compared >= heads:
            return torch.arange(heads).expand(images, -1)
        return torch.rand(images, heads).argsort(1)[:, : self.compared]

    def _taught(self, teacher: nn.Module, x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """The teacher's eps under each image's labels (N, compared), (N, compared, C, H, W), a batch at a time."""
        predictor = adapted(teacher.to(x_t.device), self.schedule)
        with torch.no_grad():
            return torch.stack([predictor.eps(x_t, t, column) for column in labels.unbind(1)], 1)

    def logits(self, network: nn.Module, x: Tensor, num_classes: int) -> Tensor:
        predictor = denoiser.MultiHead(network, self.schedule, null_head=_has_null_head(network))
        return classified(predictor, self.grid, x, num_classes)


def _refuse_unlike(teacher: nn.Module, heads: int, null_head: bool) -> None:
    """Raises UserError for a teacher that does not know what each of the heads is to learn."""
    if heads - null_head != teacher.num_classes:
        raise UserError(
            f"the network has {heads} heads for the {teacher.num_classes} classes of its teacher",
            remedy="Give it a head per class, and one more with null_head",
        )
    if null_head and not knows_no_class(teacher):
        raise UserError("the teacher was never trained without a class", remedy="Leave the null head out")


def _has_null_head(network: nn.Module) -> bool:
    return bool(getattr(network, "null_head", False))
