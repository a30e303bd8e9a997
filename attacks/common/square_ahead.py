"""Square in Linf, several proposals per image in one batch.

Square changes a window of the image, asks for the logits, keeps the change if it lowered the margin, and goes on from
there. In Linf the windows and their signs do not depend on what was kept before, and few proposals are kept: about one
in twenty on a CIFAR-10 ResNet. So the next few are evaluated in one batch, each as if those before it were not kept.
After the first one that is, the others are made anew. What is kept is what the library keeps, one by one:

    proposal i     x_i = clip(x_best + 2 eps s_i on window i)        to [x - eps, x + eps] and [0, 1]
    it is kept     if margin(x_i) < margin(x_best)
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from attacks.common.early_stop import runs_at_once
from attacks.common.square import Square
from harness.predict import margin
from harness.process import waits

WASTED = 10
"""At most one proposal in so many is evaluated in vain, image by image."""


class Windows(NamedTuple):
    """Where proposals change an image, and how: first row, first column and side, (Q,) each; signs, (Q, C)."""

    top: Tensor
    left: Tensor
    side: Tensor
    signs: Tensor


class Search(NamedTuple):
    """Images that are attacked: labels (N,), their places in the shard (N,), bounds and best images (N, C, H, W), and
    the margins of the best images (N,).
    """

    y: Tensor
    places: Tensor
    low: Tensor
    high: Tensor
    best: Tensor
    margins: Tensor


class SquareAhead(Square):
    """The library's attack in Linf on a deterministic defense, in fewer and larger batches."""

    @torch.no_grad()
    def attack_single_run(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """How many proposals were made for each image, (N,) on the CPU, and the images, (N, C, H, W)."""
        places = self.predict.target.nearest(x)
        best = (x + self.eps * self.random_choice([len(x), x.shape[1], 1, x.shape[3]])).clamp(0, 1)
        margins = margin(self.predict.ask(best, places), y)
        search = Search(y, places, (x - self.eps).clamp(min=0), (x + self.eps).clamp(max=1), best, margins)
        windows = self._windows(x)
        made = torch.zeros(len(x), dtype=torch.int64)
        wasted = torch.zeros_like(made)
        while len(rows := waits.rows(waits.on_host(search.margins > 0) & (made < self.n_queries))):
            most = (self.n_queries - made[rows]).clamp(max=runs_at_once(self.predict, len(rows)))
            ahead = torch.minimum(1 + made[rows] // WASTED - wasted[rows], most)
            steps = self._advance(search, windows, rows, made[rows], ahead)
            made[rows] += steps
            wasted[rows] += ahead - steps
        return made, search.best

    def _advance(self, search: Search, windows: Windows, rows: Tensor, made: Tensor, ahead: Tensor) -> Tensor:
        """Evaluates some proposals for each of these images, and keeps the first one that is better.

        Args:
            rows, made, ahead: images, how many proposals they had, and how many they get: (M,) int64 on the CPU.

        Returns:
            How many of the proposals count, (M,) int64 on the CPU: those up to the one that was kept, or all.
        """
        device = search.best.device
        valid = torch.arange(int(ahead.max())) < ahead[:, None]  # (M, most proposals of an image)
        proposals = (made[:, None] + torch.arange(valid.shape[1]))[valid].to(device)
        each, begins = rows.repeat_interleave(ahead).to(device), (ahead.cumsum(0) - ahead).to(device)
        rows, valid = rows.to(device), valid.to(device)
        images = search.best[each] + self._changes(windows, proposals, search.best)
        images = images.clamp(search.low[each], search.high[each])
        margins = search.margins.new_full(valid.shape, torch.inf)
        margins[valid] = margin(self.predict.ask(images, search.places[each]), search.y[each])
        better = margins < search.margins[rows, None]
        kept, first = better.any(1), better.int().argmax(1)
        search.best[rows] = torch.where(kept.view(-1, 1, 1, 1), images[begins + first], search.best[rows])
        search.margins[rows] = torch.where(kept, margins.gather(1, first[:, None])[:, 0], search.margins[rows])
        return torch.minimum(waits.on_host(torch.where(kept, first + 1, valid.shape[1])), ahead)

    def _windows(self, x: Tensor) -> Windows:
        """All proposals. What the library draws for each is a row, column by column."""
        channels, height, width = x.shape[1:]
        draws = torch.rand(self.n_queries, 2 + channels)
        areas = [self.p_selection(i) * (channels * height * width) / channels for i in range(self.n_queries)]
        side = torch.tensor([max(round(math.sqrt(area)), 1) for area in areas]).clamp(max=min(height, width))
        top, left = ((length - side) * draws[:, i] for i, length in enumerate((height, width)))
        columns = (top.long(), left.long(), side, torch.sign(2 * draws[:, 2:] - 1))
        return Windows(*(column.to(x.device) for column in columns))

    def _changes(self, windows: Windows, proposals: Tensor, x: Tensor) -> Tensor:
        """What proposals (M,) add to an image of the shape of x, (M, C, H, W)."""
        top, left, side, signs = (column[proposals].view(len(proposals), -1, 1, 1) for column in windows)
        down, across = (torch.arange(length, device=x.device) for length in x.shape[-2:])
        inside = (down[:, None] >= top) & (down[:, None] < top + side) & (across >= left) & (across < left + side)
        return 2 * self.eps * signs * inside
