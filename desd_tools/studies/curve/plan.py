"""From a study to units of work: each a process that trains, evaluates and leaves one JSON.

A training is given a split file that names no validation and no test case, so that nothing can be picked with them: a
run is judged by its last weights. Only the final runs, planned when every tuning is done, read `test`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from desd_components.base.errors import UserError
from desd_components.runs.bundle import config_hash
from desd_components.runs.config import is_known

from ..commands import shown
from .known_settings import FINETUNE, PRETRAIN, bundle_config, refuse_unknown_settings
from .store import Key, file_hash
from .study import ALL, Arm, Label, Pretraining, Study
from .units import Places, Scans, Stage, Unit


class Planner:
    """Makes the units of a study.

    Args:
        study: what is compared.
        places: where everything lies.
        scans: cases by role.
        code: hash of the code, see `code_hash`.
        numbers: by bundle, the settings that were planned for all runs, see `planned_numbers`.
    """

    def __init__(
        self,
        study: Study,
        places: Places,
        scans: Scans,
        code: str,
        numbers: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.study, self.places, self.scans, self.code, self.numbers = study, places, scans, code, numbers or {}
        self._known: dict[tuple[str, ...], dict[str, Any]] = {}

    def key(self, unit: Unit) -> Key:
        """Under which a unit's result counts."""
        return {"settings": config_hash(unit.settings), "data": self.scans.hash, "code": self.code}

    def work(self, unit: Unit) -> Path:
        """The unit's own folder; another one as soon as anything differs, so that no run goes on from a wrong state."""
        return self.places.work / f"{unit.name}-{config_hash(self.key(unit))[:8]}"

    def check(self) -> None:
        """Refuse what cannot be run, before anything starts.

        Raises:
            UserError: for too few cases, an encoder that is not there, or a setting that no config has.
        """
        if not self.scans.test:
            raise UserError(f"{self.places.split}: names no test cases. A label curve is judged on them.")
        if (self.study.tuning or self.study.probes) and not self.scans.validation:
            raise UserError(f"{self.places.split}: names no validation cases, which the tuning and the probes need.")
        for arm in self.study.arms.values():
            self._check_arm(arm)
        refuse_unknown_settings(self.study, self.places.bundles)

    def _check_arm(self, arm: Arm) -> None:
        speed, tuning = self.study.speed, self.study.tuning
        wanted = [n for n in (*arm.runs, speed and speed.labels, tuning and tuning.labels) if isinstance(n, int)]
        if wanted and max(wanted) > self.scans.train:
            raise UserError(
                f"arms, {arm.name}: {max(wanted)} labels are asked for, but {self.places.split} names "
                f"{self.scans.train} cases to train on. Ask for fewer, or for `all`."
            )
        if arm.encoder is not None and not arm.encoder.is_file():
            raise UserError(f"arms, {arm.name}: its encoder {arm.encoder} does not exist. Name an encoder.pt.")

    # the units

    def pretrainings(self) -> list[Unit]:
        """Every pre-training that an arm or a probe asks for."""
        wanted = {arm.pretraining for arm in self.study.arms.values()} | set(self.study.probes)
        parts = [part for name, part in self.study.pretraining.items() if name in wanted]
        return [self._pretraining(part, seed) for part in parts for seed in part.seeds]

    def _pretraining(self, part: Pretraining, seed: int) -> Unit:
        name, target = _pretraining_name(part.name, seed), self.places.encoder(part.name, seed).parent
        settings = {**self._common(PRETRAIN, *self.study.overlays), **part.settings}
        configs = self._configs(PRETRAIN, *self.study.overlays, more=part.overlays)
        settings = {**self._where(PRETRAIN, self.places.scans), **settings, "seed": seed}
        stage = Stage("training", "training", configs, settings)
        return Unit(
            name,
            "pretraining",
            f"pre-train {part.name}, seed {seed}",
            (stage,),
            self._pretraining_settings(part, seed),
            {"pretraining": part.name, "pretraining_seed": seed},
            keep={file: target / file for file in ("encoder.pt", "encoder.json", "history.jsonl", "config.yaml")},
        )

    def probes(self) -> list[Unit]:
        """Frozen probes of each stage, for the pre-trainings that are named for it."""
        parts = [self.study.pretraining[name] for name in self.study.probes]
        return [self._probe(part, seed) for part in parts for seed in part.seeds]

    def _probe(self, part: Pretraining, seed: int) -> Unit:
        configs = (*self.study.overlays, "evaluate")
        encoder = self.places.encoder(part.name, seed)
        common = self._common(PRETRAIN, *configs)
        own = {"data_split": shown(self.places.split), "encoder_checkpoint": shown(encoder)}
        settings = {**self._where(PRETRAIN, self.places.data), **common, **own, "seed": 0}
        stage = Stage("probe", "", self._configs(PRETRAIN, *configs), settings)
        return Unit(
            f"probe-{part.name}-seed-{seed}",
            "probe",
            f"probe {part.name}, seed {seed}",
            (stage,),
            {"kind": "probe", "common": common, "encoder": self._pretraining_settings(part, seed)},
            {"pretraining": part.name, "pretraining_seed": seed},
            metrics="metrics.json",
            after=(_pretraining_name(part.name, seed),),
        )

    def tunings(self) -> list[Unit]:
        """The grid of every arm, judged on `validation`."""
        tuning = self.study.tuning
        if tuning is None:
            return []
        return [
            self._finetuning(arm, tuning.labels, tuning.seed, "tuning", {"learning_rate": rate, "max_epochs": epochs})
            for arm in self.study.arms.values()
            for epochs in tuning.max_epochs
            for rate in tuning.learning_rate
        ]

    def finals(self, chosen: Mapping[str, Mapping[str, Any]]) -> list[Unit]:
        """The runs that are reported, seed by seed, so that every arm is equally far when all is stopped.

        Args:
            chosen: arm -> learning_rate and max_epochs that its tuning chose; empty without tuning.
        """
        arms = self.study.arms.values()
        counts = dict.fromkeys(label for arm in arms for label in arm.runs)
        most = max(count for arm in arms for count in arm.runs.values())
        return [
            self._finetuning(arm, label, seed, "final", chosen.get(arm.name, {}))
            for seed in range(most)
            for label in counts
            for arm in arms
            if seed < arm.runs.get(label, 0)
        ]

    def speeds(self, chosen: Mapping[str, Mapping[str, Any]]) -> list[Unit]:
        """Shorter runs, each with a schedule of its own, at one label count."""
        speed = self.study.speed
        if speed is None:
            return []
        return [
            self._finetuning(arm, speed.labels, seed, "speed", {**chosen.get(arm.name, {}), "max_epochs": epochs})
            for arm in map(self.study.arms.__getitem__, speed.arms)
            for seed in range(arm.runs.get(speed.labels, 0))
            for epochs in speed.epochs
            if epochs != chosen.get(arm.name, {}).get("max_epochs")  # that is the final run
        ]

    def _finetuning(self, arm: Arm, label: Label, seed: int, kind: str, tuned: Mapping[str, Any]) -> Unit:
        section = "validation" if kind == "tuning" else "test"
        settings = {**self._common(FINETUNE, *self.study.overlays), **arm.settings, **tuned}
        source = self._source(arm, seed)
        own = {**settings, "seed": seed, **({} if label == ALL else {"num_labels": label})}
        predicting = kind == "final" and self.study.predictions == (label, seed)
        stages = [self._training(arm, own, seed), self._scoring(section, seed)]
        stages += [self._segmenting()] if predicting else []
        epochs = int(settings.get("max_epochs", 0)) or 1
        return Unit(
            _finetuning_name(kind, arm.name, label, seed, tuned),
            kind,
            f"{kind} {arm.name}, {label} labels, seed {seed}" + _tuned_words(tuned if kind != "final" else {}),
            tuple(stages),
            {"kind": section, "finetuning": own, "overlays": _stamps(self.study.overlays, arm.overlays)}
            | {"evaluation": dict(self.study.evaluation), "encoder": source["encoder"]},
            {"arm": arm.name, "labels": self.scans.train if label == ALL else label, "all_labels": label == ALL}
            | {"label_count": label, "seed": seed, "section": section, "epochs": settings.get("max_epochs")}
            | {"learning_rate": settings.get("learning_rate"), "pretraining": arm.pretraining}
            | {"pretraining_seed": source["seed"], "encoder": source["path"] and self.places.told(source["path"])},
            metrics="metrics.json",
            keep={"predictions": self.places.predictions / arm.name} if predicting else {},
            after=source["after"],
            epochs=epochs,
        )

    def _training(self, arm: Arm, settings: Mapping[str, Any], seed: int) -> Stage:
        path = self._source(arm, seed)["path"]
        encoder = {} if path is None else {"encoder_checkpoint": shown(path)}
        split = {"data_split": shown(self.places.training_split), "val_fraction": 0}
        configs = self._configs(FINETUNE, *self.study.overlays, more=arm.overlays)
        return Stage(
            "training", "training", configs, {**self._where(FINETUNE, self.places.data), **split, **settings, **encoder}
        )

    def _scoring(self, section: str, seed: int) -> Stage:
        split = {"data_split": shown(self.places.split), "section": section}
        configs = self._configs(FINETUNE, *self.study.overlays, "evaluate")
        settings = {**self._where(FINETUNE, self.places.data), **split, "seed": seed, **self.study.evaluation}
        return Stage("evaluation", "", configs, settings)

    def _segmenting(self) -> Stage:
        settings = {
            "bundle_root": shown(self.places.bundles / FINETUNE),
            "dataset_dir": shown(self.places.data),
            "data_split": shown(self.places.split),
            "output_dir": "{work}/predictions",
            "checkpoint": "{work}/model.pt",
        }
        return Stage("inference", "", self._configs(FINETUNE, "inference"), settings)

    def _source(self, arm: Arm, seed: int) -> dict[str, Any]:
        """Where an arm's encoder comes from at this seed: what enters the key, its path, seed and unit."""
        if arm.encoder is not None:
            return {"encoder": {"file": file_hash(arm.encoder)}, "path": arm.encoder, "seed": None, "after": ()}
        if arm.pretraining is None:
            return {"encoder": None, "path": None, "seed": None, "after": ()}
        part = self.study.pretraining[arm.pretraining]
        chosen = part.seeds[seed % len(part.seeds)]
        return {
            "encoder": self._pretraining_settings(part, chosen),
            "path": self.places.encoder(part.name, chosen),
            "seed": chosen,
            "after": (_pretraining_name(part.name, chosen),),
        }

    def _pretraining_settings(self, part: Pretraining, seed: int) -> dict[str, Any]:
        settings = {**self._common(PRETRAIN, *self.study.overlays), **part.settings}
        return {"settings": settings, "seed": seed, "overlays": _stamps(self.study.overlays, part.overlays)}

    def _common(self, bundle: str, *configs: str) -> dict[str, Any]:
        """What was planned, and the common settings that a bundle's config knows."""
        if (bundle, *configs) not in self._known:
            parser = bundle_config(self.places.bundles / bundle, configs)
            common = {**self.numbers.get(bundle, {}), **self.study.common}.items()
            self._known[bundle, *configs] = {name: value for name, value in common if is_known(parser, name)}
        return self._known[bundle, *configs]

    def _configs(self, bundle: str, *names: str, more: Sequence[Path] = ()) -> tuple[str, ...]:
        folder = self.places.bundles / bundle / "configs"
        return tuple(shown(path) for path in (*(folder / f"{name}.yaml" for name in names), *more))

    def _where(self, bundle: str, data: Path) -> dict[str, Any]:
        return {
            "bundle_root": shown(self.places.bundles / bundle),
            "dataset_dir": shown(data),
            "output_dir": "{work}",
            "cache_dir": shown(self.places.cache),
        }


def _pretraining_name(name: str, seed: int) -> str:
    return f"pretraining-{name}-seed-{seed}"


def _finetuning_name(kind: str, arm: str, label: Label, seed: int, tuned: Mapping[str, Any]) -> str:
    name = f"{kind}-{arm}-{label}-labels-seed-{seed}"
    if kind == "tuning":
        return f"{name}-lr-{tuned['learning_rate']:g}-epochs-{tuned['max_epochs']}"
    return f"{name}-epochs-{tuned['max_epochs']}" if kind == "speed" else name


def _tuned_words(tuned: Mapping[str, Any]) -> str:
    return "".join(f", {name} {value:g}" for name, value in tuned.items())


def _stamps(names: Sequence[str], more: Sequence[Path]) -> list[str]:
    """The bundles' own overlays by name, for their content belongs to the code; a study's own by content."""
    return [*names, *(file_hash(path) for path in more)]
