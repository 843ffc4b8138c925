"""Runs units, as many at once as there are cores, and says how far it is and how long it will take.

Where from: ours. Every unit is a process of its own with one thread; when this one is stopped, they are too.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from desd_components.base.errors import UserError

from ..steps import print_end
from .units import ROOT, Unit

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
GRACE_SECONDS = 10  # for a child to end after it was asked to


@dataclass
class Job:
    """A unit with the command that runs it, its log, and the JSON that it leaves."""

    unit: Unit
    command: list[str]
    log: Path
    result: Path


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
    """Runs jobs at most `slots` at once.

    Args:
        slots: processes at once.
        total: units of the whole study, for ``[n/N]``.
        done: how many of them are finished already.
        clock_of: what earlier units took.
        later: units that are planned after these, for the estimate.
        headline: a finished unit's JSON -> its result in words.
    """

    def __init__(
        self, slots: int, total: int, done: int, clock_of: Clock, headline: Callable[[Mapping[str, Any]], str]
    ) -> None:
        self.slots, self.total, self.done, self.clock, self.headline = slots, total, done, clock_of, headline
        self.began = time.monotonic()
        self.running: dict[subprocess.Popen, tuple[Job, float]] = {}

    def run(self, jobs: Sequence[Job], finished: set[str], later: Sequence[Unit] = ()) -> None:
        """Run all jobs; one starts when those that it comes after are among `finished`, which grows.

        Raises:
            UserError: when a process fails, after printing the last lines of its log.
        """
        waiting = list(jobs)
        with stopped_cleanly(self):
            while waiting or self.running:
                self._start(waiting, finished)
                for process in [process for process in self.running if process.poll() is not None]:
                    self._finish(process, finished, [*(job.unit for job in waiting), *later])
                time.sleep(0.1)

    def _start(self, waiting: list[Job], finished: set[str]) -> None:
        for job in list(waiting):
            if len(self.running) < self.slots and set(job.unit.after) <= finished:
                waiting.remove(job)
                job.log.parent.mkdir(parents=True, exist_ok=True)
                with open(job.log, "wb") as log:
                    process = subprocess.Popen(
                        job.command,
                        cwd=ROOT,
                        env={**os.environ, **ENVIRONMENT},
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,  # so that Ctrl-C reaches this process alone, which then stops them
                    )
                self.running[process] = (job, time.monotonic())

    def _finish(self, process: subprocess.Popen, finished: set[str], left: Sequence[Unit]) -> None:
        job, began = self.running.pop(process)
        if process.returncode != 0 or not job.result.is_file():
            self._fail(job, process.returncode)
        seconds = time.monotonic() - began
        finished.add(job.unit.name)
        self.clock.add(job.unit, seconds)
        self.done += 1
        going = [running.unit for running, _ in self.running.values()]
        now = f"; now: {', '.join(unit.title for unit in going)}" if going else ""
        print(
            f"[{self.done}/{self.total}] {clock(time.monotonic() - self.began)} elapsed, "
            f"{self.clock.left([*left, *going], self.slots)}: {job.unit.title}"
            f"{self.headline(json.loads(job.result.read_text()))}, {seconds:.0f} s{now}",
            flush=True,
        )

    def _fail(self, job: Job, status: int) -> None:
        print_end(job.log)
        raise UserError(
            f"{job.unit.title}: ended with exit code {status}; its whole log is {job.log}. Mend what it names and "
            "start again: finished runs are kept."
        )

    def stop(self) -> None:
        """Ask all children to end, and end those that do not."""
        for process in self.running:
            process.terminate()
        until = time.monotonic() + GRACE_SECONDS
        for process in self.running:
            try:
                process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.running.clear()


@contextmanager
def stopped_cleanly(pool: Pool) -> Iterator[None]:
    """Within it, SIGINT, SIGTERM and errors end the children first; the signals then end this process, too."""
    before = {number: signal.signal(number, _leave) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        pool.stop()
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(number: int, frame: object) -> None:
    print("stopped; the same command goes on from here", flush=True)
    sys.exit(128 + number)
