"""Units of work of a label curve: what one process runs, what it leaves, and where.

Every stage of a unit is a run of a bundle that a person can repeat; its command goes into the JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..commands import bundle_command, quoted, shown


class Places:
    """Where everything lies.

    Args:
        data: the labelled folder.
        split: who trains, validates and tests.
        output: everything is written below it.
        bundles: folder of the two bundles.

    Attributes:
        runs: one JSON for each finished run.
        work: folders of runs that are going on.
        logs: what each run printed.
        cache: preprocessed volumes.
        predictions: label volumes of one run of each arm.
        scans: data list of the images that pre-training sees.
        plan: the numbers that were planned for all runs.
        training_split: the split that trainings are given: the cases of `train`, and no others.
    """

    def __init__(self, data: Path, split: Path, output: Path, bundles: Path) -> None:
        self.data, self.split, self.output, self.bundles = data, split, output, bundles
        self.runs, self.work, self.logs, self.cache, self.predictions = (
            output / name for name in ("runs", "work", "logs", "cache", "predictions")
        )
        self.scans, self.training_split = output / "pretraining_scans.json", output / "training_split.json"
        self.plan = output / "plan.json"

    def encoder(self, pretraining: str, seed: int) -> Path:
        """The encoder that a pre-training leaves."""
        return self.output / "encoders" / f"{pretraining}_seed{seed}" / "encoder.pt"

    def told(self, path: Path) -> str:
        """A path as results tell it: within the output, or its name alone, never where somebody's folders lie."""
        return str(path.relative_to(self.output)) if path.is_relative_to(self.output) else path.name


@dataclass(frozen=True)
class Scans:
    """Cases by role, and the hash of their files."""

    train: int
    validation: int
    test: int
    hash: str


@dataclass(frozen=True)
class Stage:
    """One run of a bundle: ``python -m monai.bundle run WORD --config_file FILES --NAME VALUE ...``."""

    name: str
    word: str
    configs: tuple[str, ...]
    settings: Mapping[str, Any]

    def command(self) -> str:
        """The command, to be pasted into a shell at the repository's root."""
        return quoted(bundle_command(self.word, self.configs, self.settings))


@dataclass(frozen=True)
class Unit:
    """One process.

    Args:
        name: of its JSON.
        kind: pretraining, probe, tuning, final or speed.
        title: in words.
        stages: what it runs, one after the other; relative paths in ``{work}`` are filled in by `spec`.
        settings: what its key is the hash of.
        about: facts that its JSON carries.
        metrics: the file whose content the JSON takes over, in the work folder; empty for none.
        keep: file or folder in the work folder -> where it goes when all is done.
        after: names of units that must be finished before.
        epochs: its length, for the estimate of time.
    """

    name: str
    kind: str
    title: str
    stages: tuple[Stage, ...]
    settings: Mapping[str, Any]
    about: Mapping[str, Any]
    metrics: str = ""
    keep: Mapping[str, Path] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    epochs: int = 1


def spec(places: Places, unit: Unit, key: Mapping[str, str], work: Path) -> dict[str, Any]:
    """What a unit's process reads: paths filled in, stages, and all that its JSON will say beside the scores."""
    stages = [_filled(stage, shown(work)) for stage in unit.stages]
    return {
        "work": str(work),
        "result": str(places.runs / f"{unit.name}.json"),
        "metrics": unit.metrics,
        "keep": {name: str(path) for name, path in unit.keep.items()},
        "stages": [asdict(stage) for stage in stages],
        "record": {
            "key": dict(key),
            "name": unit.name,
            "kind": unit.kind,
            **unit.about,
            "settings": dict(unit.settings),
            "commands": [without_place(stage.command(), places) for stage in stages],
        },
    }


def _filled(stage: Stage, work: str) -> Stage:
    settings = {n: v.replace("{work}", work) if isinstance(v, str) else v for n, v in stage.settings.items()}
    return replace(stage, settings=settings)


def without_place(command: str, places: Places) -> str:
    """`command` with DIR for the data folder, so that results can be shared without telling where it lay."""
    return command.replace(str(places.data), "DIR")
