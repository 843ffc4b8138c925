"""What the processes of a training tell each other outside of its steps."""

from __future__ import annotations

import datetime
from typing import Any

import torch.distributed as dist


def distributed() -> bool:
    """Whether a process group exists."""
    return dist.is_available() and dist.is_initialized()


def gathered(problems: list[Any]) -> list[Any]:
    """The problems of all ranks; also the place where they wait for each other.

    A group of its own, because preprocessing may take hours and NCCL's default patience is ten minutes.
    """
    if not distributed() or dist.get_world_size() == 1:
        return problems
    group = dist.new_group(backend="gloo", timeout=datetime.timedelta(days=14))
    lists: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(lists, problems, group=group)
    dist.destroy_process_group(group)
    return list(dict.fromkeys(line for part in lists for line in part))
