"""What this machine has to give to child processes, and what they take of it."""

from __future__ import annotations

import os
from pathlib import Path


def child_environment(most_threads: int) -> dict[str, str]:
    """Variables for child processes that run torch: no more threads than cores are free, and none that spins.

    By default a thread of torch's OpenMP (libgomp) that waits for the others keeps its core busy. Beside other programs
    that is the core which the others need. What the user has set stays.
    """
    free = usable_cores() - round(os.getloadavg()[0])
    wanted = {"OMP_NUM_THREADS": str(max(1, min(most_threads, free))), "OMP_WAIT_POLICY": "passive"}
    return {name: os.environ.get(name) or value for name, value in wanted.items()}


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_memory(process_id: int) -> float:
    """Peak resident memory so far in MB; 0 where the system does not tell (it is no Linux, or the process ended).

    Not the kernel's ru_maxrss, in which a child starts with the memory of the process that started it.
    """
    try:
        status = Path(f"/proc/{process_id}/status").read_text()
    except OSError:
        return 0.0
    lines = [line.split() for line in status.splitlines() if line.startswith("VmHWM:")]
    return round(int(lines[0][1]) * 1024 / 1e6, 1) if lines else 0.0
