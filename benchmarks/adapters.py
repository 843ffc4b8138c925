"""What an adapter adds to a step of the network that it adapts, and what each network costs.

A step is a pass forward and back through all stage maps, of two windows of 32 x 32 x 32 voxels in float32. Ours goes
through `NetworkEncoder`; the reference calls the same network as its own package means it. CPU seconds, in turn.

    python -m benchmarks adapters
"""

import functools
import time
from collections.abc import Callable, Sequence

import torch

from benchmarks.pairs import ratios, report, row, time_in_turn, verdict
from desd_components.base.networks import NETWORKS, Adapter, NetworkEncoder

WINDOWS, ROUNDS = (2, 1, 32, 32, 32), 15


def step(maps: Callable[[torch.Tensor], Sequence[torch.Tensor]], windows: torch.Tensor) -> Callable[[], None]:
    """A pass forward and back."""
    return lambda: torch.stack([stage.mean() for stage in maps(windows)]).sum().backward()


def seconds_of(encoder: NetworkEncoder, adapter: Adapter) -> dict[str, list[float]]:
    """CPU seconds of steps both ways, round by round."""
    windows, bare = torch.randn(WINDOWS), functools.partial(adapter.maps, encoder.network)
    ways = {"adapted": step(encoder.stages, windows), "bare": step(bare, windows)}
    return time_in_turn(ways, ROUNDS, clock=time.process_time)


def main() -> None:
    """Measure, print and write the figures."""
    torch.set_num_threads(1)
    lines, figures = [], {}
    for name, adapter in NETWORKS.items():
        encoder = NetworkEncoder(name)
        seconds, weights = seconds_of(encoder, adapter), sum(each.numel() for each in encoder.parameters())
        lines.append(row(f"{name}, {weights / 1e6:.2f} M weights", seconds["bare"], "CPU s"))
        lines.append(verdict(f"{name}, adapted over bare", ratios(seconds["adapted"], seconds["bare"]), at_most=1.02))
        figures[name] = {"weights": weights, "seconds": seconds}
    report("adapters", lines, {"networks": figures})
