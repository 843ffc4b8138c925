"""The table of faults as people read it, and what in it is not as it should be."""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]


def failures(table: Row) -> list[str]:
    """Faults that harm and were not reported in time in each of their runs, and healthy runs that were."""
    missed = [row["fault"] for row in table["faults"] if row["harms"] and not in_time(row, table["deadline"])]
    return missed + [f"healthy: {row['setting']}, seed {row['seed']}" for row in table["healthy"] if row["alarms"]]


def in_time(row: Row, deadline: int) -> bool:
    """Whether the first alarm of every run came after the onset, and by the deadline."""
    waits = [run["steps_to_alarm"] for run in row["runs"]]
    return all(wait is not None and 0 < wait <= deadline for wait in waits)


def markdown(table: Row) -> str:
    """The table for people."""
    plain = {row["seed"]: row["score"] for row in table["healthy"] if row["setting"] == "plain"}
    healthy = statistics.mean(plain[seed] for seed in table["seeds"])
    lines = [
        *_verdict(table),
        "",
        *_measure(table),
        "",
        "| fault | harms? | score (healthy) | harm | loss | steps to alarm | alarm |",
        "|---|---|---|---|---|---|---|",
        *(_line(row, healthy) for row in table["faults"]),
        "",
        "Healthy runs: " + "; ".join(f"{row['setting']} (seed {row['seed']})" for row in table["healthy"]) + ".",
    ]
    return "\n".join(lines) + "\n"


def _verdict(table: Row) -> list[str]:
    harming = [row for row in table["faults"] if row["harms"]]
    alarmed = sum(bool(row["alarms"]) for row in table["healthy"])
    reported = sum(in_time(row, table["deadline"]) for row in harming)
    return [
        f"**{reported} of {len(harming)} faults that harm are reported within {table['deadline']} steps in each of "
        f"their {len(table['seeds'])} runs; {alarmed} of {len(table['healthy'])} healthy runs raised an alarm.**"
    ]


def _measure(table: Row) -> list[str]:
    plain = [row for row in table["healthy"] if row["setting"] == "plain"]
    scores, gains = [row["score"] for row in plain], [row["score"] - row["untrained"] for row in plain]
    gain, spread, seeds = statistics.mean(gains), statistics.stdev(scores), ", ".join(map(str, table["seeds"]))
    return [
        f"Each fault is put into healthy tiny runs of {table['steps']} steps after step {table['onset']} (seeds "
        f"{seeds}, which nothing was made on; CPU, generated volumes). Score: how often the teacher's encoder finds a "
        "volume that no run trained on more like another view of itself than another volume (0.5: luck). Harm: what "
        "the mean score lost against the healthy runs of the same seeds, in standard deviations between "
        f"{len(plain)} healthy seeds (mean {statistics.mean(scores):.3f}, sd {spread:.3f}; of which {gain:.3f}, or "
        f"{gain / spread:.1f} sd, were learnt); above {table['harm']:g} it counts. So does a loss within 2% of ln K "
        "from 0 or from ln K, where nothing is left to learn, and a run that had to stop.",
        "",
        f"Steps to alarm: from the onset, of each run. Made by `python -m benchmarks faults`, {table['started'][:10]}.",
    ]


def _line(row: Row, healthy: float) -> str:
    cells = [
        row["fault"],
        "yes" if row["harms"] else "not measurably",
        f"{_mean(row['runs'], 'score'):.3f} ({healthy:.3f})",
        f"{row['harm']:.1f}",
        ", ".join(f"{run['loss']:.2f}" for run in row["runs"]),
        ", ".join("–" if run["steps_to_alarm"] is None else str(run["steps_to_alarm"]) for run in row["runs"]),
        _alarm(row),
    ]
    return f"| {' | '.join(cells)} |"


def _mean(runs: Sequence[Row], key: str) -> float:
    return statistics.mean(run[key] for run in runs)


def _alarm(row: Row) -> str:
    names = Counter(run["alarms"][0]["name"] for run in row["runs"] if run["alarms"])
    return f"{', '.join(names)}: {first_sentence(row['message'])}" if names else "none"


def first_sentence(message: str) -> str:
    """What was seen; the remedies follow it in the log."""
    return message.split(". ")[0] + "."
