"""Optimiser steps of a run, and the volumes of one."""

from __future__ import annotations

import ignite.distributed as idist

from .errors import require_whole


def optimizer_steps(batches: int, epochs: int, accumulation_steps: int = 1) -> int:
    """Optimiser steps of `epochs` epochs of `batches` batches; an epoch's last, shorter accumulation is a step too."""
    require_whole(1, accumulation_steps=accumulation_steps)
    return epochs * -(-batches // accumulation_steps)


def total_batch(batch_size: int, accumulation_steps: int = 1) -> int:
    """Volumes of an optimiser step, over all processes."""
    require_whole(1, batch_size=batch_size, accumulation_steps=accumulation_steps)
    return batch_size * accumulation_steps * idist.get_world_size()
