"""Runs units, as many at once as there are cores, and says how far it is and how long it will take.

Every unit is a process of its own with one thread; see `Runner`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...places import ROOT
from ..steps import Runner, Step
from .units import Unit

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclass
class Clock:
    """What units took so far, to estimate what the others will."""

    seconds: dict[tuple[str, int], list[float]] = field(default_factory=dict)

    def add(self, unit: Unit, seconds: float) -> None:
        """Note what a unit took."""
        self.seconds.setdefault((unit.kind, unit.epochs), []).append(seconds)

    def estimate(self, unit: Unit) -> float | None:
        """Seconds of a unit: as others of its kind and length, else of its kind, else of any fine-tuning; or None."""
        same = self.seconds.get((unit.kind, unit.epochs))
        if same:
            return sum(same) / len(same)
        kinds = {unit.kind} if self._epochs({unit.kind}) else {"tuning", "final", "speed"}
        if unit.kind not in kinds or not self._epochs(kinds):
            return None
        taken = sum(sum(values) for (kind, _), values in self.seconds.items() if kind in kinds)
        return taken / self._epochs(kinds) * unit.epochs

    def _epochs(self, kinds: set[str]) -> int:
        return sum(epochs * len(values) for (kind, epochs), values in self.seconds.items() if kind in kinds)

    def left(self, units: Sequence[Unit], slots: int) -> str:
        """In words, how long `units` will take, `slots` at once."""
        estimates = [self.estimate(unit) for unit in units]
        known = [estimate for estimate in estimates if estimate is not None]
        if not known:
            return "time left: known after the first of each kind" if units else "nothing left"
        unknown = {unit.kind for unit, estimate in zip(units, estimates, strict=True) if estimate is None}
        more = f" and the {', '.join(sorted(unknown))} runs" if unknown else ""
        return f"about {clock(sum(known) / slots)} left{more}"


def clock(seconds: float) -> str:
    """h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


class Pool:
    """Runs units at most `slots` at once.

    Args:
        slots: processes at once.
        total: units of the whole study, for ``[n/N]``.
        logs: folder for what each prints.
        clock_of: what earlier units took.
        step_of: the process of a unit.
        headline: a finished unit's JSON -> its result in words.
    """

    def __init__(
        self,
        slots: int,
        total: int,
        logs: Path,
        clock_of: Clock,
        step_of: Callable[[Unit], Step],
        headline: Callable[[Mapping[str, Any]], str],
    ) -> None:
        self.total, self.clock, self.step_of, self.headline = total, clock_of, step_of, headline
        self.runner, self.began = Runner(ROOT, logs, ENVIRONMENT, slots), time.monotonic()

    def run(self, units: Sequence[Unit], finished: set[str], later: Sequence[Unit] = ()) -> None:
        """Run all units; one starts when those that it comes after are among `finished`, which grows.

        `later` are planned after these, for the estimate of the time left.

        Raises:
            UserError: when a process fails, after printing the last lines of its log.
        """
        left = {unit.name: unit for unit in units}

        def tell(step: Step, seconds: float, peak: float) -> None:
            unit = left.pop(step.name)
            self.clock.add(unit, seconds)
            going = ", ".join(running.step.title for running in self.runner.running.values())
            print(
                f"[{len(finished)}/{self.total}] {clock(time.monotonic() - self.began)} elapsed, "
                f"{self.clock.left([*left.values(), *later], self.runner.slots)}: {unit.title}"
                f"{self.headline(json.loads(step.output.read_text()))}, {seconds:.0f} s{going and f'; now: {going}'}",
                flush=True,
            )

        self.runner.run([self.step_of(unit) for unit in units], finished, tell)
