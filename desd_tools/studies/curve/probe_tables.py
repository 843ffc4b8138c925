"""Frozen encoders as tables: a column for each stage, for the stages are what the method is about."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .tables import Table, ends, number

SCORES = {"dense_dice": "Dice of dense nearest neighbours", "retrieval": "Retrieval", "rank": "Feature rank"}
DIGITS = {"dense_dice": 3, "retrieval": 3, "rank": 1}


def probe_tables(summary: Mapping[str, Any]) -> list[Table]:
    """Frozen encoders against each other, and against untrained ones score by score: every table that has rows."""
    tables = [probe_difference_table(summary), *(probe_table(summary, score) for score in SCORES)]
    return [table for table in tables if table.rows]


def probe_difference_table(summary: Mapping[str, Any]) -> Table:
    """Pre-trainings against each other at each stage."""
    stages = _stages(row["stage"] for row in summary["probe_differences"])
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
    head = ["difference", "seeds", *map(_words, stages)]
    return Table("What each stage knows, pre-trainings compared.", note, head, rows, numbers_from=2)


def probe_table(summary: Mapping[str, Any], score: str) -> Table:
    """One score of every frozen encoder at each stage, under that of untrained ones."""
    probes = [probe for probe in summary["probes"] if score in probe["scores"]]
    stages = _stages(stage for probe in probes for stage in probe["scores"][score])
    digits = DIGITS[score]
    rows: list[list[str]] = []
    for probe in probes:
        figures = probe["scores"][score]
        if not rows:
            rows.append(["untrained", "", *(_plain(figures, stage, "untrained", digits) for stage in stages)])
        cells = [_gain(figures[stage], digits) if stage in figures else "–" for stage in stages]
        rows.append([probe["pretraining"], str(probe["seed"]), *cells])
    covers = probes[0]["covers"] if probes else ""
    note = f"In brackets what it is above untrained encoders, with 95 % interval, which covers {covers}"
    return Table(f"{SCORES[score]}.", note, ["encoder", "seed", *map(_words, stages)], rows, numbers_from=2)


def _stages(names: Iterable[str]) -> Sequence[str]:
    return sorted(set(names))


def _words(stage: str) -> str:
    return stage.replace("_", " ")


def _plain(figures: Mapping[str, Any], stage: str, which: str, digits: int) -> str:
    return number(figures[stage][which], digits) if stage in figures else "–"


def _gain(figures: Mapping[str, Any], digits: int) -> str:
    difference = number(figures["difference"], digits, "+")
    return f"{number(figures['trained'], digits)} ({difference}: {ends(figures['interval_95'], digits, '+')})"


def _with_interval(value: float, interval: Sequence[float], digits: int) -> str:
    return f"{number(value, digits, '+')} ({ends(interval, digits, '+')})"
