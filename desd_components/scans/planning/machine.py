"""What a machine gets through within a budget: voxels that training steps take in a second, and memory that is free."""

import logging
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...base.errors import UserError
from ...base.files import read_json, require_writable, write_json
from ...base.processes import from_first
from ...base.steps import checked_minutes

logger = logging.getLogger(__name__)

SIDE, CHANNELS = 48, 16  # of the map on which the measuring is done
LEAST_GAIN = 1.3  # of bfloat16 over float32, for which it is taken
HOPELESS = 3.0  # times the seconds of float32, beyond which bfloat16 is not looked at again
MEASURED = 8  # passes, after one that warms up
STEP_SHARE = 0.1  # voxels of a crop through the network, of those through one convolution: between one thread and two
TRAINING_SHARE = 0.85  # of a budget; the rest is reading, preprocessing and saving
MEMORY_SHARE = 0.5  # of what is free
BYTES_PER_VOXEL = 2500  # of a crop, while the network is trained
STEP_SECONDS = 0.05  # of a step beside its voxels: optimiser, random transforms, waiting
LEAST_VOXELS = 2 * 32**3  # of a step: for less a grid is not made coarser, there are fewer steps instead
MINUTES = 10.0  # that a plan is made for where no budget is given
LEAST_STEPS = 50  # that a budget must have room for
SPEEDS_FILE = "convolution_speeds.json"  # in a cache folder


@dataclass(frozen=True)
class Machine:
    """What a device gets through within a budget.

    Attributes:
        seconds: of training.
        speed: voxels of crops a second through a training step of the small network, forward and backward.
        memory: bytes that are free.
        name: of the device, for people.
        minutes: the budget; None for none.
        amp: whether bfloat16 is clearly faster than float32.
        thin: seconds through a kernel that does not reach along one axis, over those of one that reaches along all.
    """

    seconds: float
    speed: float
    memory: float
    name: str
    minutes: float | None
    amp: bool
    thin: float = 1.0

    @classmethod
    def of(cls, device: torch.device | str, cache_dir: str | Path | None, minutes: Any) -> "Machine":
        """Measure a device, or remember what was measured; in a process group the first process does, for all.

        Raises:
            UserError: when `minutes` is no budget.
        """
        budget = checked_minutes(minutes)

        def measured() -> Machine:
            cubes, thin = convolution_speeds(device, cache_dir)
            amp = cubes[1] >= LEAST_GAIN * cubes[0]
            # down to a power of the square root of 2: a plan does not follow what else ran while it was measured
            speed = STEP_SHARE * 2 ** (math.floor(2 * math.log2(cubes[amp])) / 2)
            seconds = 60 * TRAINING_SHARE * (budget or MINUTES)
            relative = round(min(1.0, cubes[amp] / thin[amp]), 1)
            return cls(seconds, speed, free_memory(device), device_name(device), budget, amp, relative)

        return from_first(measured)

    def window(self, steps: int, batch: int, cost: float = 1.0, network: float = 1.0) -> float:
        """Voxels of a window for so many steps of so many windows, each of which costs as much as `cost` crops.

        `network` is the time of a crop, in that of one whose kernels reach along all axes.

        Raises:
            UserError: when the memory has no room for the smallest.
        """
        in_time = max((self.seconds / steps - STEP_SECONDS) * self.speed, LEAST_VOXELS) / network
        in_memory = MEMORY_SHARE * self.memory / BYTES_PER_VOXEL
        if in_memory < LEAST_VOXELS / 8:
            raise UserError(
                f"{self.name}: {self.memory / 1e6:.0f} MB of memory are free, too little for the smallest window: end "
                "other programs, or take another device."
            )
        return min(in_time, in_memory) / (batch * cost)

    def steps(self, batch: int, window: Sequence[int], cost: float = 1.0) -> int:
        """Steps that the budget has room for.

        Raises:
            UserError: when they are fewer than `LEAST_STEPS`.
        """
        steps = self.seconds / (STEP_SECONDS + batch * math.prod(window) * cost / self.speed)
        if self.minutes is not None and steps < LEAST_STEPS:
            raise UserError(
                f"minutes={self.minutes:g}: leaves about {steps:.0f} steps on {self.name}, and {LEAST_STEPS} are the "
                f"least that learn: give {math.ceil(1.1 * self.minutes * LEAST_STEPS / steps)}."
            )
        return max(LEAST_STEPS, round(steps))


def device_name(device: torch.device | str) -> str:
    """A device as a person knows it: a GPU's name, or CPU threads."""
    device = torch.device(device)
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    threads = torch.get_num_threads()
    return f"{threads} CPU thread{'s' * (threads > 1)}"


def convolution_speeds(device: torch.device | str, cache_dir: str | Path | None) -> list[list[float]]:
    """Voxels of a map a second that a block of a convolution of 16 channels gets through, forward and backward.

    Measured once for a machine and kept in `cache_dir`.

    Args:
        device: of the network.
        cache_dir: where what was measured is kept; None keeps nothing.

    Returns:
        in float32 and in bfloat16, of a kernel of 3 x 3 x 3, and of one of 3 x 3 x 1.
    """
    path = None if cache_dir is None else Path(cache_dir).expanduser() / SPEEDS_FILE
    known = read_json(path) if path and path.is_file() else {}
    name = device_name(device)
    if name not in known:
        known[name] = [[SIDE**3 / seconds for seconds in _seconds(torch.device(device), z)] for z in (3, 1)]
        if path is not None:
            require_writable(path.parent, "cache_dir")
            write_json(path, known)
        told = "%s: %.3g voxels a second through a convolution, %.3g in bfloat16; within slices alone %.3g, %.3g"
        logger.info(told, name, *known[name][0], *known[name][1])
    return known[name]


def _seconds(device: torch.device, z: int) -> list[float]:
    """Of a pass in float32 and in bfloat16, by turns; the kernel is 3 x 3 x `z`, and z lies slowest, as in networks.

    On a CPU the work of one thread, shared among all, so that others who use the cores change little.
    """
    convolution = nn.Conv3d(CHANNELS, CHANNELS, (z, 3, 3), padding=(z // 2, 1, 1), bias=False)
    layers = nn.Sequential(convolution, nn.GroupNorm(8, CHANNELS), nn.LeakyReLU(0.01)).to(device)
    volume = torch.ones(1, CHANNELS, SIDE, SIDE, SIDE, device=device, requires_grad=True)
    is_cpu, threads = device.type == "cpu", torch.get_num_threads()
    clock = time.thread_time if is_cpu else time.perf_counter

    def timed(amp: bool) -> float:
        began = clock()
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=amp):
            result = layers(volume)
        result.float().mean().backward()
        float(result.detach().sum())  # waits for a GPU
        return clock() - began

    try:
        torch.set_num_threads(1 if is_cpu else threads)
        first = timed(False), timed(True)
        hopeless = first[1] > HOPELESS * first[0]  # without instructions for it a pass takes seconds
        passes = [(timed(False), first[1] if hopeless else timed(True)) for _ in range(MEASURED)]
    finally:
        torch.set_num_threads(threads)
    return [min(each) / (threads if is_cpu else 1) for each in zip(*passes, strict=True)]


def free_memory(device: torch.device | str) -> float:
    """Bytes that a process may still take, on the device where the network is."""
    device = torch.device(device)
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    said = dict(line.split(":", 1) for line in _lines("/proc/meminfo"))
    free = 1024 * float(said["MemAvailable"].split()[0]) if "MemAvailable" in said else _free_pages()
    limit, used = ("".join(_lines(f"/sys/fs/cgroup/memory.{name}")) for name in ("max", "current"))
    return min(free, float(limit) - float(used)) if limit.isdigit() and used.isdigit() else free


def _free_pages() -> float:
    return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="ascii").splitlines()
    except OSError:
        return []
