"""The table of faults: which of them harm a pre-training, how soon its alarms say so, and that healthy runs are quiet.

Where from: ours. Every row is measured on tiny runs over generated volumes (see `fault_runs`): harm is what the
teacher's encoder has lost against the healthy run of the same seed, in units of what healthy seeds differ by.
"""

from __future__ import annotations

import logging
import math
import statistics
import tempfile
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from desd_components.errors import UserError
from desd_components.record import environment
from desd_components.tools.fault_list import FAULTS, Fault
from desd_components.tools.fault_runs import (
    JUDGED,
    Finding,
    Setting,
    TinyRun,
    contexts,
    judged_views,
    varied_settings,
    volumes,
)
from desd_components.weights import write_atomically, write_json

logger = logging.getLogger(__name__)

DEADLINE = 100  # steps from the onset of a fault that harms to its first alarm
HARM = 3.0  # standard deviations between healthy seeds that a score must fall to count as harm
NOTHING_LEFT = 0.02  # of ln K; a loss so near to 0 or to ln K has nothing more to teach
VOLUMES = 96


def faults(steps: int = 130, onset: int = 30, healthy: int = 30, seed: int = 7, output: str = "results") -> int:
    """Measure the table of faults and write faults.json and faults.md.

    Args:
        steps: of each run.
        onset: steps before a fault is put in.
        healthy: runs of different seeds and settings that must stay quiet.
        seed: of the runs that faults are put into; the alarms were made while looking at seed 0.
        output: folder of the two files.

    Returns:
        0 when every fault that harms was reported in time and no healthy run was; 1 otherwise.

    Raises:
        UserError: when a run is too short for its faults, or too few runs are healthy.
    """
    if steps < onset + DEADLINE or healthy < 3:
        raise UserError(f"steps={steps}: give at least {onset + DEADLINE} (onset + {DEADLINE}), and 3 healthy runs.")
    began = time.process_time()
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(Path(scratch), steps, onset, seed=seed)
        quiet = [bench.healthy_row(setting) for setting in healthy_settings(healthy)]
        reference = {row["seed"]: row["score"] for row in quiet if row["setting"] == "plain"}
        if seed not in reference:
            reference[seed] = bench.healthy_row(Setting(seed=seed))["score"]
        rows = [bench.fault_row(fault, reference) for fault in FAULTS]
        for row, fault in zip(rows, FAULTS, strict=True):
            curable = row["harms"] and fault.by_setting
            row["rescue"] = bench.rescue_row(fault, reference.values()) if curable else None
    table = {
        "steps": steps,
        "onset": onset,
        "seed": seed,
        "deadline": DEADLINE,
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


def healthy_settings(count: int) -> list[Setting]:
    """A third of them plain, of different seeds; the others with one setting changed."""
    plain = max(3, count // 3)
    varied = [replace(setting, seed=100 + setting.seed) for setting in varied_settings(count - plain + 1)[1:]]
    return [Setting(seed=seed) for seed in range(plain)] + varied


class Bench:
    """Runs on one set of volumes, which lie in `folder`; those with a fault are of `seed`."""

    def __init__(self, folder: Path, steps: int, onset: int, count: int = VOLUMES, seed: int = 0) -> None:
        torch.set_num_threads(1)
        self.records, self.cache = volumes(folder / "volumes", count), folder / "cache"
        self.steps, self.onset, self.seed = steps, onset, seed
        self._judged, self._known = judged_views(self.records, self.cache), dict[bytes, Any]()
        self._long: float | None = None

    def run(
        self, setting: Setting, fault: Fault | None = None, on_collapse: str = "warn", steps: int | None = None
    ) -> Finding:
        """One run, with a fault or without."""
        dataset = contexts(self.records[:-JUDGED], self.cache, setting.seed, repeats=100)
        known = self._known if setting == Setting(seed=self.seed) else None
        run = TinyRun(setting, dataset, self._judged, steps or self.steps, known, on_collapse)
        return run.run(fault.inject if fault else None, self.onset)

    def healthy_row(self, setting: Setting) -> dict[str, Any]:
        """What a healthy run shows."""
        found = self.run(setting)
        row = {"setting": described(setting), "seed": setting.seed, "score": found.score, "loss": found.loss}
        logger.info("healthy, %s, seed %d: score %.3f", row["setting"], setting.seed, found.score)
        return {**row, "alarms": [{"step": step, "name": name} for step, name, _ in found.alarms]}

    def fault_row(self, fault: Fault, reference: Mapping[int, float]) -> dict[str, Any]:
        """What a fault does; `reference`: seed -> score of healthy runs of the plain setting, with the bench's."""
        found = self.run(Setting(seed=self.seed), fault)
        healthy = reference[self.seed]
        harm = (healthy - found.score) / statistics.stdev(reference.values())
        step, name, message = found.alarms[0] if found.alarms else (None, "", "")
        message = message.replace(f"{self.cache.parent}/", "")  # where the volumes lay is of no interest
        logger.info("%s: harm %.1f, %s after %s", fault.name, harm, name or "no alarm", step and step - self.onset)
        return {
            "fault": fault.name,
            "by_setting": fault.by_setting,
            "score": found.score,
            "healthy_score": healthy,
            "harm": harm,
            "harms": harm > HARM or bool(found.stopped) or nothing_left(found.loss),
            "stopped": bool(found.stopped),
            "loss": found.loss,
            "steps_to_alarm": None if step is None else step - self.onset,
            "alarm": name,
            "message": message,
            "alarms": [{"step": step, "name": name} for step, name, _ in found.alarms],
        }

    def rescue_row(self, fault: Fault, reference: Collection[float]) -> dict[str, Any]:
        """What `on_collapse: rescue` makes of a fault, against a healthy run as long.

        Args:
            fault: one that a setting causes.
            reference: scores of healthy seeds.
        """
        steps = self.steps + DEADLINE  # for the alarm, and to learn again what was lost
        found = self.run(Setting(seed=self.seed), fault, "rescue", steps)
        if self._long is None:
            self._long = self.run(Setting(seed=self.seed), steps=steps).score
        lost = (self._long - found.score) / statistics.stdev(reference)
        saved = lost <= HARM and not found.stopped and not nothing_left(found.loss)
        logger.info("%s, with rescue: %d rescues, %.1f lost", fault.name, found.rescues, lost)
        row = {"steps": steps, "rescues": found.rescues, "score": found.score, "healthy_score": self._long}
        return {**row, "lost": lost, "loss": found.loss, "stopped": found.stopped, "saved": saved}


def nothing_left(loss: float) -> bool:
    """Whether a loss of the plain setting lies at 0 or at ln K, the two ends of a collapse."""
    share = loss / math.log(Setting().num_prototypes)
    return share < NOTHING_LEFT or abs(1 - share) < NOTHING_LEFT


def described(setting: Setting) -> str:
    """What differs from the plain setting, beside the seed."""
    plain = asdict(Setting())
    changed = {key: value for key, value in asdict(setting).items() if value != plain[key] and key != "seed"}
    return ", ".join(f"{key} {value}" for key, value in changed.items()) or "plain"


def failures(table: dict[str, Any]) -> list[str]:
    """Faults that harm and were not reported in time, and healthy runs that were."""
    late = [
        row["fault"]
        for row in table["faults"]
        if row["harms"] and (row["steps_to_alarm"] is None or not 0 < row["steps_to_alarm"] <= table["deadline"])
    ]
    return late + [f"healthy: {row['setting']}, seed {row['seed']}" for row in table["healthy"] if row["alarms"]]


def markdown(table: dict[str, Any]) -> str:
    """The table for people."""
    lines = [
        *_preamble(table),
        "",
        "| fault | harms? | score (healthy) | harm | loss | onset, step | steps to alarm | rescued | alarm |",
        "|---|---|---|---|---|---|---|---|---|",
        *(_line(row, table["onset"]) for row in table["faults"]),
        "",
        "Healthy runs: " + "; ".join(f"{row['setting']} (seed {row['seed']})" for row in table["healthy"]) + ".",
    ]
    return "\n".join(lines) + "\n"


def _preamble(table: dict[str, Any]) -> list[str]:
    quiet, missed = table["healthy"], failures(table)
    harming = [row["fault"] for row in table["faults"] if row["harms"]]
    plain = [row["score"] for row in quiet if row["setting"] == "plain"]
    rescues = [row["rescue"] for row in table["faults"] if row["rescue"]]
    return [
        f"{sum(name not in missed for name in harming)} of {len(harming)} faults that harm are reported within "
        f"{table['deadline']} steps; {sum(bool(row['alarms']) for row in quiet)} of {len(quiet)} healthy runs raised "
        f"an alarm. on_collapse: rescue saves {sum(row['saved'] for row in rescues)} of the {len(rescues)} faults that "
        "harm and come from a setting.",
        "",
        f"Each fault is put into a healthy tiny run after {table['onset']} of {table['steps']} steps (seed "
        f"{table['seed']}; the alarms were made while looking at seed 0; CPU, generated volumes). Score: how often the "
        "teacher's encoder finds a volume that no run trained on more like "
        "another view of itself than another volume (0.5: luck). Harm: what the score lost against the healthy run of "
        f"the same seed, in standard deviations between {len(plain)} healthy seeds (mean {statistics.mean(plain):.3f}, "
        f"sd {statistics.stdev(plain):.3f}); above {HARM:g} it counts; so does a loss within {NOTHING_LEFT:.0%} "
        "of ln K from 0 or from ln K, where nothing is left to learn, and so does a run that had to stop.",
        "",
        f"Rescued: the same fault with on_collapse: rescue, {DEADLINE} steps longer, with its score (that of a healthy "
        "run as long) and the number of rescues; saved when no harm is left by the same measure.",
    ]


def _line(row: dict[str, Any], onset: int) -> str:
    cells = [
        row["fault"],
        "yes" if row["harms"] else "not measurably",
        f"{row['score']:.3f} ({row['healthy_score']:.3f})",
        f"{row['harm']:.1f}",
        f"{row['loss']:.3f}",
        onset,
        "–" if row["steps_to_alarm"] is None else row["steps_to_alarm"],
        _rescued(row["rescue"]),
        f"{row['alarm']}: {first_sentence(row['message'])}" if row["alarm"] else "none",
    ]
    return f"| {' | '.join(map(str, cells))} |"


def _rescued(rescue: dict[str, Any] | None) -> str:
    if rescue is None:
        return ""
    told = f"{rescue['score']:.3f} ({rescue['healthy_score']:.3f}) after {rescue['rescues']}"
    return ("yes: " if rescue["saved"] else "stopped: " if rescue["stopped"] else "no: ") + told


def first_sentence(message: str) -> str:
    """What was seen; the remedies follow it in the log."""
    return message.split(". ")[0] + "."
