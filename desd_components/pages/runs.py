"""Run folders as their runs left them: what the pages are made of.

Where from: ours. Reads only; a run that was stopped half way gives what it has.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from ..base.errors import UserError
from ..runs.log import record_name
from ..scans.planning.plan import PLAN_FILE

#: what leaves records in a folder, by the beginning of their names; a training has none
PARTS = ("", "evaluation", "inference")


@dataclass
class Part:
    """The record of a training, or of an evaluation or inference: its config, environment and warnings."""

    name: str
    config: str = ""
    environment: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


@dataclass
class Run:
    """What one run left in its folder; whatever it did not write is empty."""

    folder: Path
    name: str
    history: list[dict[str, Any]] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)
    scans: dict[str, Any] = field(default_factory=dict)
    parts: list[Part] = field(default_factory=list)
    plan: dict[str, Any] = field(default_factory=dict)

    @property
    def pretraining(self) -> bool:
        """Whether it is a self-distillation: its history tells of a teacher."""
        return any("teacher_entropy" in row for row in self.history)

    @cached_property
    def figures(self) -> dict[str, tuple[list[float], list[float]]]:
        """Steps and finite values of each figure of the history; an evaluation belongs to the last step before it."""
        found: dict[str, tuple[list[float], list[float]]] = {}
        step = 0.0
        for row in self.history:
            step = float(row.get("step", step))
            for key, value in row.items():
                if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
                    steps, values = found.setdefault(key, ([], []))
                    steps.append(step)
                    values.append(float(value))
        return found

    @property
    def kind(self) -> str:
        """What it did, in words."""
        if self.history:
            return "pre-training" if self.pretraining else "fine-tuning"
        if self.scans:
            return "inference"
        return "evaluation of an encoder" if "retrieval" in self.metrics else "evaluation"

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The resolved config of the training, or of whatever else there is.

        Raises:
            UserError: when it is no YAML.
        """
        try:
            found = yaml.safe_load(next((part.config for part in self.parts if part.config), ""))
        except yaml.YAMLError as error:
            reason = " ".join(str(error).split())[:160]
            raise UserError(f"{self.folder}: its config is not YAML ({reason}). Run it again or mend it.") from error
        return found if isinstance(found, dict) else {}


def is_run(folder: Path) -> bool:
    """Whether a folder holds what a run leaves."""
    return any((folder / name).is_file() for name in ("history.jsonl", "metrics.json", "report.json"))


def read_run(folder: str | Path, name: str = "") -> Run:
    """Read a run's folder.

    Raises:
        UserError: when the folder is missing or holds no part of a run, or a file in it cannot be read.
    """
    folder = Path(folder)
    run = Run(folder, name or folder.resolve().name)
    if not is_run(folder):
        raise UserError(
            f"{folder}: neither history.jsonl nor metrics.json nor report.json is there. Name the output_dir of a run."
        )
    try:
        run.history = [json.loads(line) for line in _whole_lines(folder / "history.jsonl")]
        run.metrics, run.scans = _json(folder / "metrics.json"), _json(folder / "report.json")
        run.plan = _json(folder / PLAN_FILE)
        run.parts = [_part(folder, name) for name in PARTS]
    except json.JSONDecodeError as error:
        raise UserError(
            f"{folder}: a record of the run is not JSON ({error}). Run it again or mend the file."
        ) from error
    _ = run.settings  # which may be refused
    return run


def _part(folder: Path, name: str) -> Part:
    config = _text(folder / record_name(name, "config.yaml"))
    environment = _json(folder / record_name(name, "environment.json"))
    return Part(name, config, environment, _warnings(_text(folder / f"{name or 'train'}.log").splitlines()))


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _whole_lines(path: Path) -> list[str]:
    """The lines of a file; a last one whose end was not written, for the run was killed there, is no line."""
    lines = _text(path).splitlines(keepends=True)
    return [line for line in lines if line.endswith("\n") and line.strip()]


def _json(path: Path) -> dict[str, Any]:
    content = _text(path)
    found = json.loads(content) if content else {}
    return found if isinstance(found, dict) else {}


def _warnings(lines: Sequence[str]) -> list[str]:
    """What was said at level WARNING by this package, each once, in order."""
    found = (line.partition(" WARNING ")[2] for line in lines if " WARNING desd_components" in line)
    return list(dict.fromkeys(words.partition(": ")[2] for words in found))
