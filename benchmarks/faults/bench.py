"""The table of faults: which of them harm a pre-training, how soon its alarms say so, and that healthy runs are quiet.

Every row is measured on tiny runs over generated volumes (see `runs`). The measure was fixed, and the alarms were
made, while looking at the seeds 0 to 12 and their settings' seeds, 100 to 130.
"""

import logging
import math
import statistics
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from desd_components.base.errors import UserError
from desd_components.base.files import write_atomically, write_json
from desd_components.runs.log import environment

from .injected import FAULTS, Fault
from .runs import Finding, Setting, TinyRun, contexts, healthy_settings, volumes
from .scores import KnownAgain
from .table import failures, markdown

logger = logging.getLogger(__name__)


DEADLINE = 100  # steps from the onset of a fault that harms to its first alarm
HARM = 2.0  # standard deviations between healthy seeds that the mean score must fall to count as harm
NOTHING_LEFT = 0.02  # of ln K; a loss so near to 0 or to ln K has nothing more to teach
TRAINED, JUDGED = 48, 64  # volumes
PLAIN = 10  # healthy runs of the plain setting, at least: the seeds that harm is measured against


def faults(
    steps: int = 330, onset: int = 30, healthy: int = 30, seed: int = 31, seeds: int = 2, output: str = "results"
) -> int:
    """Measure the table of faults and write faults.json and faults.md.

    Args:
        steps: of each run.
        onset: steps before a fault is put in.
        healthy: runs of different seeds and settings that must stay quiet.
        seed: the first of all runs; the alarms were made while looking at those up to 12.
        seeds: runs that each fault is put into.
        output: folder of the two files.

    Returns:
        0 when every fault that harms was reported in time in each of its runs and no healthy run was; 1 otherwise.

    Raises:
        UserError: when runs are too short for their faults, or too few are healthy.
    """
    if steps < onset + DEADLINE:
        raise UserError(f"steps={steps}: give at least {onset + DEADLINE}, the onset and {DEADLINE} more.")
    if healthy < PLAIN or not 1 <= seeds <= PLAIN:
        raise UserError(
            f"healthy={healthy}, seeds={seeds}: give at least {PLAIN} healthy runs, and 1 to {PLAIN} seeds."
        )
    began = time.process_time()
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(Path(scratch), steps, onset, range(seed, seed + seeds))
        quiet = [bench.healthy_row(setting) for setting in healthy_settings(healthy, seed, PLAIN)]
        rows = bench.fault_rows(FAULTS, quiet[:PLAIN])
    table = {
        "steps": steps,
        "onset": onset,
        "seeds": list(bench.seeds),
        "deadline": DEADLINE,
        "harm": HARM,
        "plain": asdict(Setting()),
        "faults": rows,
        "healthy": quiet,
        "processor_seconds": round(time.process_time() - began),
        **{key: value for key, value in environment("cpu").items() if key in ("versions", "started")},
    }
    folder = Path(output)
    write_json(folder / "faults.json", table)
    write_atomically(folder / "faults.md", markdown(table).encode())
    print(folder / "faults.md")
    return int(bool(failures(table)))


class Bench:
    """Runs on one set of volumes, which lie in `folder`; those with a fault are of `seeds`."""

    def __init__(self, folder: Path, steps: int, onset: int, seeds: Sequence[int], count: int = TRAINED) -> None:
        torch.set_num_threads(1)
        records, self.cache = volumes(folder / "volumes", count + JUDGED), folder / "cache"
        self.records, self.judge = records[:count], KnownAgain(records[count:], self.cache)
        self.steps, self.onset, self.seeds = steps, onset, seeds
        self._known = {seed: dict[bytes, Any]() for seed in seeds}

    def run(self, setting: Setting, fault: Fault | None = None) -> Finding:
        """One run, with a fault or without."""
        setting = replace(setting, **fault.setting) if fault else setting
        dataset = contexts(self.records, self.cache, setting.seed)
        plain = setting == Setting(seed=setting.seed)
        known = self._known.get(setting.seed) if plain else None
        run = TinyRun(setting, dataset, self.judge, self.steps, known)
        return run.run(fault.inject if fault else None, self._onset(fault))

    def _onset(self, fault: Fault | None) -> int:
        return 0 if fault is None or fault.setting else self.onset

    def healthy_row(self, setting: Setting) -> dict[str, Any]:
        """What a healthy run shows."""
        found = self.run(setting)
        row = {"setting": described(setting), "seed": setting.seed, "score": found.score, "untrained": found.untrained}
        logger.info("healthy, %s, seed %d: score %.3f", row["setting"], setting.seed, found.score)
        return {**row, "loss": found.loss, "alarms": named(found)}

    def fault_rows(self, listed: Sequence[Fault], plain: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """What each fault does.

        Args:
            listed: faults.
            plain: rows of healthy runs of the plain setting, those of the bench's seeds among them.
        """
        spread = statistics.stdev(row["score"] for row in plain)
        scores = {row["seed"]: row["score"] for row in plain}
        return [self.fault_row(fault, scores, spread) for fault in listed]

    def fault_row(self, fault: Fault, healthy: Mapping[int, float], spread: float) -> dict[str, Any]:
        """What a fault does to each of the bench's seeds.

        Args:
            fault: put into a run of each.
            healthy: seed -> score of its healthy run.
            spread: standard deviation between such scores.
        """
        found, onset = {seed: self.run(Setting(seed=seed), fault) for seed in self.seeds}, self._onset(fault)
        lost = lost_score(found, healthy) / spread
        runs = [
            {
                "seed": seed,
                "score": one.score,
                "loss": one.loss,
                "stopped": bool(one.stopped),
                "steps_to_alarm": one.alarms[0][0] - onset if one.alarms else None,
                "alarms": named(one),
            }
            for seed, one in found.items()
        ]
        logger.info("%s: harm %.1f, alarms after %s", fault.name, lost, [run["steps_to_alarm"] for run in runs])
        return {
            "fault": fault.name,
            "by_setting": fault.by_setting,
            "onset": onset,
            "harm": lost,
            "harms": lost > HARM or any(map(ended, found.values())),
            "runs": runs,
            "message": self._message(found.values()),
        }

    def _message(self, found: Iterable[Finding]) -> str:
        """Of the first alarm of the first run that has one; where the volumes lay is of no interest."""
        messages = (one.alarms[0][2] for one in found if one.alarms)
        return next(messages, "").replace(f"{self.cache.parent}/", "")


def lost_score(found: Mapping[int, Finding], healthy: Mapping[int, float]) -> float:
    """What runs lost on the mean against the healthy runs of the same seeds."""
    return statistics.mean(healthy[seed] - one.score for seed, one in found.items())


def ended(found: Finding) -> bool:
    """Whether a run had to stop, or has nothing left to learn from."""
    return bool(found.stopped) or nothing_left(found.loss)


def nothing_left(loss: float) -> bool:
    """Whether a loss of the plain setting lies at 0 or at ln K, the two ends of a collapse."""
    share = loss / math.log(Setting().num_prototypes)
    return share < NOTHING_LEFT or abs(1 - share) < NOTHING_LEFT


def named(found: Finding) -> list[dict[str, Any]]:
    """When which alarm sounded."""
    return [{"step": step, "name": name} for step, name, _ in found.alarms]


def described(setting: Setting) -> str:
    """What differs from the plain setting, beside the seed."""
    plain = asdict(replace(Setting(), seed=setting.seed))
    changed = {key: value for key, value in asdict(setting).items() if value != plain[key]}
    return ", ".join(f"{key} {value}" for key, value in changed.items()) or "plain"
