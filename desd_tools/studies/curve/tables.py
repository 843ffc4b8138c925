"""The summary of a label curve as tables, for the page and as Markdown for a README: generated, never typed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Rows = list[list[str]]


@dataclass
class Table:
    """One table: a title, a line that says how to read it, a head and rows; numbers stand from `numbers_from` on."""

    title: str
    note: str
    head: list[str]
    rows: Rows
    numbers_from: int = 1


def main_tables(summary: Mapping[str, Any]) -> list[Table]:
    """What a reader asks first, the seeds' spread before all: every table that has rows."""
    made = (spread_table(summary), score_table(summary, "dice"), difference_table(summary), ours_table(summary))
    return [table for table in made if table.rows]


def detail_tables(summary: Mapping[str, Any]) -> list[Table]:
    """Labels and steps saved, HD95, classes, tuning and cost: every table that has rows."""
    made = (
        saving_table(summary),
        gap_table(summary),
        speed_table(summary),
        speed_gain_table(summary),
        score_table(summary, "hd95"),
        class_table(summary, "dice"),
        class_table(summary, "hd95"),
        tuning_table(summary),
        cost_table(summary),
    )
    return [table for table in made if table.rows]


def markdown(tables: Sequence[Table], words: Sequence[str]) -> str:
    """Tables and sentences, to be included in a README."""
    parts = []
    for table in tables:
        lines = [table.head, ["---" if i < table.numbers_from else "---:" for i in range(len(table.head))], *table.rows]
        parts.append(
            f"**{table.title}** {table.note}\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines)
        )
    parts += ["\n".join(f"- {word}" for word in words)] if words else []
    return "\n\n".join(parts) + "\n"


def spread_table(summary: Mapping[str, Any]) -> Table:
    """Standard deviation over seeds."""
    note = "Percentage points, of the mean over cases; a gain below it is no gain."
    return _by_labels(summary, "dice", "Standard deviation of Dice over seeds.", note, _spread)


def score_table(summary: Mapping[str, Any], measure: str) -> Table:
    """Mean and interval of every arm at every label count."""
    if measure == "dice":
        seeds = "Arms of fewer seeds saw other labelled scans: the gains below pair them."
        note = f"Mean of classes, with 95 % interval. {seeds}"
        return _by_labels(summary, measure, "Dice on the test cases.", note, _dice)
    note = "Mean of classes, with 95 % interval; a case without the class on either side has none, as counted."
    return _by_labels(summary, measure, "HD95 (mm) on the test cases.", note, _hd95)


def _by_labels(summary: Mapping[str, Any], measure: str, title: str, note: str, cell: Any) -> Table:
    rows = [row for row in summary["scores"] if row["measure"] == measure and row["class"] == "mean"]
    counts = {row["labels"]: label_word(row) for row in sorted(rows, key=lambda row: row["labels"])}
    found = {(row["arm"], row["labels"]): cell(row) for row in rows}
    body = [[arm, *(found.get((arm, n), "–") for n in counts)] for arm in summary["arms"]]
    return Table(title, note, ["arm", *(f"{word} labels" for word in counts.values())], body)


def label_word(row: Mapping[str, Any]) -> str:
    """A label count as people read it."""
    return f"all {row['labels']}" if row.get("all_labels") else str(row["labels"])


def _spread(row: Mapping[str, Any]) -> str:
    count = len(row["seeds"])
    return f"{number(100 * row['seed_sd'], 1)} ({count} seed{'s' * (count > 1)})"


def _dice(row: Mapping[str, Any]) -> str:
    return f"{number(row['mean'], 3)} ({ends(row['interval_95'], 3)})"


def _hd95(row: Mapping[str, Any]) -> str:
    missing = f", {row['without_score']} without" if row["without_score"] else ""
    return f"{number(row['mean'], 1)} ({ends(row['interval_95'], 1)}){missing}"


def number(value: float, digits: int, sign: str = "") -> str:
    """A figure, or a dash for NaN."""
    return "–" if math.isnan(value) else f"{value:{sign}.{digits}f}"


def ends(interval: Sequence[float], digits: int, sign: str = "") -> str:
    """An interval in words."""
    return f"{number(interval[0], digits, sign)} to {number(interval[1], digits, sign)}"


def difference_table(summary: Mapping[str, Any]) -> Table:
    """Every arm against the reference."""
    note = "Percentage points of Dice, paired by seed and case, with 95 % interval over both."
    return _differences(f"Gain over {summary['reference']}.", note, summary["against_reference"])


def ours_table(summary: Mapping[str, Any]) -> Table:
    """The arm that is ours against every other but the reference, with few labels."""
    found = [row for row in summary["ours_against_others"] if row["against"] != summary["reference"]]
    return _differences(f"{summary['ours']} against the others.", "As above.", found)


def _differences(title: str, note: str, found: Sequence[Mapping[str, Any]]) -> Table:
    rows = [[row["arm"], row["against"], label_word(row), *_difference(row)] for row in found]
    return Table(title, note, ["arm", "against", "labels", *DIFFERENCE], rows, numbers_from=2)


DIFFERENCE = ("difference", "95 % interval", "SD over seeds", "seeds", "in words")


def _difference(row: Mapping[str, Any]) -> list[str]:
    spread = [number(row["difference"], 1, "+"), ends(row["interval_95"], 1, "+"), number(row["seed_sd"], 1)]
    return [*spread, str(len(row["seeds"])), row["verdict"]]


def saving_table(summary: Mapping[str, Any]) -> Table:
    """How many labels an arm saves."""
    note = (
        f"The label count at which {summary['reference']} (linear in log2 of the labels) reaches the arm's Dice, as a "
        "factor of the arm's; beyond the counts that were run only “at least” or “at most” can be said, "
        "and the interval ends there, too."
    )
    rows = [
        [
            *(row["arm"], str(row["labels"]), f"{row['bound']} {row['needed']:.3g}".strip()),
            *(f"{row['bound']} {number(row['factor'], 2)}".strip(), ends(row["interval_95"], 2)),
        ]
        for row in summary["label_saving"]
    ]
    return Table("Labels saved.", note, ["arm", "labels", "needed otherwise", "factor", "95 % interval"], rows)


def gap_table(summary: Mapping[str, Any]) -> Table:
    """How much of the way to all labels an arm goes."""
    note = f"Share of the way of {summary['reference']} from that many labels to all labels, in %."
    rows = [
        [
            row["arm"],
            str(row["labels"]),
            number(100 * row["share"], 0),
            ends([100 * end for end in row["interval_95"]], 0),
        ]
        for row in summary["gap_closed"]
    ]
    return Table("Gap to all labels closed.", note, ["arm", "labels", "closed (%)", "95 % interval"], rows)


def speed_table(summary: Mapping[str, Any]) -> Table:
    """How soon an arm is as good as the reference in the end."""
    rows = [
        [
            *(row["arm"], str(row["labels"]), number(row["target"], 3)),
            f"{ {'at least': 'at most', 'at most': 'at least'}.get(row['bound'], '') } {row['steps']:.0f}".strip(),
            f"{row['bound']} {number(row['factor'], 2)}".strip(),
        ]
        for row in summary["speed"]
    ]
    note = (
        f"Optimiser steps to the final Dice of {summary['reference']} (each length trained with a schedule of its own, "
        "linear in log2 of the steps between), and how many times fewer these are."
    )
    return Table("Steps saved.", note, ["arm", "labels", "Dice to reach", "steps", "factor"], rows)


def speed_gain_table(summary: Mapping[str, Any]) -> Table:
    """Every arm against the reference when both are fine-tuned for less time."""
    rows = [[row["arm"], label_word(row), str(row["steps"]), *_difference(row)] for row in summary["speed_gains"]]
    note = f"Over {summary['reference']} at the same number of steps; percentage points of Dice, paired as above."
    head = ["arm", "labels", "steps", *DIFFERENCE]
    return Table("Gain after fewer steps.", note, head, rows, numbers_from=2)


def class_table(summary: Mapping[str, Any], measure: str) -> Table:
    """One measure for each class."""
    rows = [row for row in summary["scores"] if row["measure"] == measure and row["class"] != "mean"]
    counts = {row["labels"]: label_word(row) for row in sorted(rows, key=lambda row: row["labels"])}
    cell = _dice if measure == "dice" else _hd95
    found = {(row["arm"], row["class"], row["labels"]): cell(row) for row in rows}
    pairs = dict.fromkeys((row["arm"], row["class"]) for row in rows)
    body = [[*pair, *(found.get((*pair, n), "–") for n in counts)] for pair in pairs]
    title = f"{'Dice' if measure == 'dice' else 'HD95 (mm)'} by class."
    head = ["arm", "class", *(f"{word} labels" for word in counts.values())]
    return Table(title, "With 95 % interval.", head, body, numbers_from=2)


def tuning_table(summary: Mapping[str, Any]) -> Table:
    """The grid and what was chosen from it."""
    rows = [
        [
            *(row["arm"], f"{row['learning_rate']:g}", str(row["epochs"]), str(row["steps"])),
            *(number(row["dice"], 3), "chosen" if row["chosen"] else ""),
        ]
        for row in summary["tuning"]
    ]
    head = ["arm", "learning rate", "epochs", "steps", "Dice on validation", ""]
    return Table("Learning rate and length.", "Chosen once for each arm, by the labels of validation.", head, rows)


def cost_table(summary: Mapping[str, Any]) -> Table:
    """Core-hours."""
    rows = [
        [row["kind"], str(row["runs"]), f"{row['core_hours']:.2f}", f"{row['seconds']:.0f}"] for row in summary["costs"]
    ]
    total = sum(row["core_hours"] for row in summary["costs"])
    rows.append(["together", str(sum(row["runs"] for row in summary["costs"])), f"{total:.2f}", ""])
    head = ["kind of run", "runs", "core-hours", "CPU seconds a run"]
    return Table("What it took.", "CPU time of one thread a run.", head, rows)


PROBE_SCORES = {"dense_dice": "Dice of dense nearest neighbours", "retrieval": "Retrieval", "rank": "Feature rank"}
PROBE_DIGITS = {"dense_dice": 3, "retrieval": 3, "rank": 1}


def probe_tables(summary: Mapping[str, Any]) -> list[Table]:
    """Frozen encoders against each other, and against untrained ones score by score: every table that has rows."""
    tables = [probe_difference_table(summary), *(probe_table(summary, score) for score in PROBE_SCORES)]
    return [table for table in tables if table.rows]


def probe_difference_table(summary: Mapping[str, Any]) -> Table:
    """Pre-trainings against each other at each stage."""
    stages = sorted({row["stage"] for row in summary["probe_differences"]})
    found: dict[tuple[str, str], dict[str, str]] = {}
    for row in summary["probe_differences"]:
        seeds = " and ".join(map(str, row["seeds"]))
        pair = f"{row['pretraining']} − {row['against']}", seeds
        found.setdefault(pair, {})[row["stage"]] = _with_interval(row["difference"], row["interval_95"], 1)
    rows = [[*pair, *(cells.get(stage, "–") for stage in stages)] for pair, cells in found.items()]
    note = (
        "Percentage points of the frozen dense probe's Dice, paired by volume, with 95 % interval over volumes; number "
        "of pre-training seeds on either side."
    )
    head = ["difference", "seeds", *(stage.replace("_", " ") for stage in stages)]
    return Table("What each stage knows, pre-trainings compared.", note, head, rows, numbers_from=2)


def probe_table(summary: Mapping[str, Any], score: str) -> Table:
    """One score of every frozen encoder at each stage, under that of untrained ones."""
    probes = [probe for probe in summary["probes"] if score in probe["scores"]]
    stages = sorted({stage for probe in probes for stage in probe["scores"][score]})
    digits = PROBE_DIGITS[score]
    rows: list[list[str]] = []
    for probe in probes:
        figures = probe["scores"][score]
        if not rows:
            plain = [number(figures[s]["untrained"], digits) if s in figures else "–" for s in stages]
            rows.append(["untrained", "", *plain])
        cells = [_gain(figures[stage], digits) if stage in figures else "–" for stage in stages]
        rows.append([probe["pretraining"], str(probe["seed"]), *cells])
    covers = probes[0]["covers"] if probes else ""
    note = f"In brackets what it is above untrained encoders, with 95 % interval, which covers {covers}"
    head = ["encoder", "seed", *(stage.replace("_", " ") for stage in stages)]
    return Table(f"{PROBE_SCORES[score]}.", note, head, rows, numbers_from=2)


def _gain(figures: Mapping[str, Any], digits: int) -> str:
    difference = number(figures["difference"], digits, "+")
    return f"{number(figures['trained'], digits)} ({difference}: {ends(figures['interval_95'], digits, '+')})"


def _with_interval(value: float, interval: Sequence[float], digits: int) -> str:
    return f"{number(value, digits, '+')} ({ends(interval, digits, '+')})"
