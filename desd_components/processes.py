"""What the processes of a training tell each other outside of its steps."""

from __future__ import annotations

import datetime
from typing import Any

import torch.distributed as dist


def distributed() -> bool:
    """Whether a process group exists."""
    return dist.is_available() and dist.is_initialized()


def from_all_processes(items: list[Any], group: Any = None) -> list[Any]:
    """The items of all processes, in the order of their ranks; every process must ask.

    Args:
        items: of this one; anything that can be pickled.
        group: None for the default process group.
    """
    if not distributed():
        return items
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, items, group=group)
    return [item for part in parts for item in part]


def patiently_gathered(items: list[Any]) -> list[Any]:
    """The items of all processes, each once; also the place where they wait for each other, for days if need be.

    A group of its own, because preprocessing may take hours and NCCL's default patience is ten minutes.
    """
    if not distributed() or dist.get_world_size() == 1:
        return items
    group = dist.new_group(backend="gloo", timeout=datetime.timedelta(days=14))
    found = from_all_processes(items, group)
    dist.destroy_process_group(group)
    return list(dict.fromkeys(found))
