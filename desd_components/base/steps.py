"""Optimiser steps: what everything scheduled counts, whatever the batches, the accumulation and the processes."""

import math
from typing import Any

from .errors import UserError, require_whole
from .processes import place


def checked_minutes(minutes: Any) -> float | None:
    """A budget in minutes; None for none.

    Raises:
        UserError: when it is no positive number.
    """
    if minutes is None:
        return None
    if isinstance(minutes, bool) or not isinstance(minutes, int | float) or not 0 < minutes < math.inf:
        raise UserError(f"minutes={minutes!r}: give a number above 0, such as 10, or null for no budget.")
    return float(minutes)


class Steps:
    """Optimiser steps, which everything scheduled counts: an epoch's last, shorter accumulation is a step too.

    Args:
        batches: of an epoch, on each process.
        batch_size: volumes or crops of a batch, on each process.
        max_epochs: that the schedules are made for.
        accumulation_steps: batches of an optimiser step.

    Attributes:
        per_epoch, total: optimiser steps; without data `total` is 1, so that a trainer can be built and looked at.
        volumes: of an optimiser step, over all processes.

    Raises:
        UserError: when a number is no whole one, or too small.
    """

    def __init__(self, batches: int, batch_size: int, max_epochs: int, accumulation_steps: int = 1) -> None:
        require_whole(1, batch_size=batch_size, accumulation_steps=accumulation_steps)
        require_whole(0, max_epochs=max_epochs)
        self.max_epochs, self.per_epoch = max_epochs, -(-batches // accumulation_steps)
        self.total = self.of_epochs(max_epochs) if batches else 1
        self.volumes = batch_size * accumulation_steps * place()[1]

    def of_epochs(self, epochs: int) -> int:
        """The steps of so many epochs."""
        return epochs * self.per_epoch

    def share(self, fraction: float) -> int:
        """The steps of a share of the run.

        Raises:
            UserError: when it is no share below 1.
        """
        if not 0 <= fraction < 1:
            raise UserError(f"{fraction} of the steps: give a share of the run, from 0 to below 1.")
        return round(fraction * self.total)

    def scaled(self, learning_rate: float) -> float:
        """A learning rate given for 256 volumes a step, in proportion to the volumes of a step."""
        return learning_rate * self.volumes / 256
