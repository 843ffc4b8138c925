"""Time things in turn, A B A B, and say how they compare: what every benchmark here shares.

Machines drift in speed; a ratio of two runs side by side does not. Each benchmark prints a table and writes the same
figures, with every single time, to ``benchmarks/results/NAME.json``.
"""

import datetime
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def time_in_turn(
    contenders: Mapping[str, Callable[[], Any]],
    rounds: int,
    warmups: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each contender in each of ``rounds`` rounds; every round runs all of them, one after the other.

    ``clock=time.process_time`` counts what the process itself worked, for computations on a machine that others share.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(-warmups, rounds):
        for name, run in contenders.items():
            started = clock()
            run()
            if turn >= 0:
                seconds[name].append(clock() - started)
    return seconds


def ratios(numerator: list[float], denominator: list[float]) -> list[float]:
    """Round by round, how many times the denominator the numerator took."""
    return [a / b for a, b in zip(numerator, denominator, strict=True)]


def spread(values: list[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def row(label: str, values: list[float], unit: str = "") -> str:
    """One line of a table: what, its median, and the range it was seen in."""
    seen = spread(values)
    return f"{label:<58} {seen['median']:>10.4g} {unit:<8} ({seen['min']:.4g} to {seen['max']:.4g})"


def verdict(label: str, values: list[float], at_least: float | None = None, at_most: float | None = None) -> str:
    """A row that also says whether the median keeps the bound."""
    median = statistics.median(values)
    kept = (at_least is None or median >= at_least) and (at_most is None or median <= at_most)
    bound = f"at least {at_least}" if at_least is not None else f"at most {at_most}"
    return f"{row(label, values, 'x')}  wanted: {bound}: {'kept' if kept else 'MISSED'}"


def report(name: str, lines: list[str], figures: dict[str, Any]) -> Path:
    """Print the table and write the figures with the circumstances to ``benchmarks/results/NAME.json``."""
    circumstances = {
        "date": datetime.date.today().isoformat(),
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    print("\n".join([f"{name}: medians (smallest to largest), {circumstances}", *lines]))
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"benchmark": name, **circumstances, **figures}, indent=1) + "\n")
    print(f"written: {path}")
    return path
