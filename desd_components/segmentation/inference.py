"""Inference with test-time flips; the sliding window, and the inverse of the preprocessing, are MONAI's."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.inferers import Inferer

from ..base.errors import UserError


class FlipInferer(Inferer):
    """Average the logits of an inferer over all flips of the given axes, each flipped back.

    Args:
        inferer: what runs the network once, such as a `SlidingWindowInferer`.
        axes: spatial axes to flip, 0 = x, 1 = y, 2 = z; none leaves the inferer as it is, three cost eight times as
            much. Flip only what training flipped: a network that tells left from right is confused by axis 0.

    Raises:
        UserError: when an axis is not 0, 1 or 2.
    """

    def __init__(self, inferer: Inferer, axes: Sequence[int] = ()) -> None:
        super().__init__()
        if not set(axes) <= {0, 1, 2}:
            raise UserError(f"flip_axes={list(axes)}: the axes are 0 (x), 1 (y) and 2 (z).")
        self.inferer, self.axes = inferer, sorted(set(axes))

    def __call__(self, inputs: torch.Tensor, network: Callable, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Volume (B, C, X, Y, Z) -> mean logits of the same spatial shape."""
        total: torch.Tensor | None = None
        flips = [flip for n in range(len(self.axes) + 1) for flip in itertools.combinations(self.axes, n)]
        for flip in flips:
            dims = [axis + 2 for axis in flip]
            logits = self.inferer(torch.flip(inputs, dims) if dims else inputs, network, *args, **kwargs)
            logits = torch.flip(logits, dims) if dims else logits
            total = logits if total is None else total + logits
        assert total is not None
        return total / len(flips)


class AutocastInferer(Inferer):
    """An inferer whose network computes in bfloat16 where that does no harm, on a CPU as on a GPU; float32 comes out.

    MONAI's trainers and evaluators enter CUDA's autocast alone, whatever the device. bfloat16 has the range of float32,
    so no gradient is scaled.

    Args:
        inferer: what runs the network, such as a `SlidingWindowInferer`.
        amp: False leaves the inferer as it is.
    """

    def __init__(self, inferer: Inferer, amp: bool = True) -> None:
        super().__init__()
        self.inferer, self.amp = inferer, amp

    def __call__(self, inputs: torch.Tensor, network: Callable, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Volume (B, C, X, Y, Z) -> logits float32."""

        def cast(windows: torch.Tensor, *rest: Any, **named: Any) -> torch.Tensor:
            with torch.autocast(windows.device.type, dtype=torch.bfloat16):
                logits: torch.Tensor = network(windows, *rest, **named)
            return logits.float()

        logits: torch.Tensor = self.inferer(inputs, cast if self.amp else network, *args, **kwargs)
        return logits
