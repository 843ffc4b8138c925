"""Results of single runs as the label curve's processes leave them, made of given scores."""

from collections.abc import Mapping, Sequence
from typing import Any

CLASSES = ("background", "front", "back")


def record(
    arm: str, labels: int, seed: int, dice: Mapping[str, Sequence[float | None]], kind: str = "final", **more: Any
) -> dict[str, Any]:
    """One run: `dice` maps a case to the Dice of each class; HD95 is 10 mm times what is missing to 1."""
    cases = [
        {
            "image": case,
            "dice": dict(zip(CLASSES[1:], values, strict=True)),
            "hd95": {n: None if v is None else 10 * (1 - v) for n, v in zip(CLASSES[1:], values, strict=True)},
        }
        for case, values in dice.items()
    ]
    present = [value for values in dice.values() for value in values if value is not None]
    mean = sum(present) / len(present) if present else None
    facts: dict[str, Any] = {
        "name": f"{kind}-{arm}-{labels}-labels-seed-{seed}",
        "kind": kind,
        "arm": arm,
        "labels": labels,
        "all_labels": False,
        "label_count": labels,
        "seed": seed,
        "section": "test",
        "steps": 60,
        "epochs": 6,
        "metrics": {"classes": list(CLASSES), "cases": cases, "mean": {"dice": {"mean": mean}}},
        "cpu_seconds": {"start": 5.0, "training": 85.0},
        "commands": ["python -m monai.bundle run training"],
        "key": {"settings": "s" * 16, "data": "d" * 16, "code": "c" * 16},
        "date": "2026-01-01 10:00 UTC",
        "versions": {"torch": "2.13.0"},
    }
    return {**facts, **more}


def level(arm: str, labels: int, seed: int, dice: float, cases: int = 3, **more: Any) -> dict[str, Any]:
    """A run with the same Dice everywhere."""
    return record(arm, labels, seed, {f"case_{n}.nii.gz": (dice, dice) for n in range(cases)}, **more)
