"""What a label curve compares: arms, label counts, seeds, and how each is tuned; read from a small YAML file.

Nothing here knows an arm by its name: an arm is a pre-training (or an encoder that is there already, or neither) and
settings of the fine-tuning bundle.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from desd_components.base.errors import UserError
from desd_components.base.steps import checked_minutes

ALL = "all"  # every label of `train`
KEYS = (
    *("labels", "seeds", "pretraining", "arms", "reference", "ours", "common", "evaluation", "tuning", "speed"),
    *("probes", "predictions", "minutes", "smoke"),
)
PRETRAINING_KEYS = ("seeds", "settings", "overlays")
ARM_KEYS = ("pretraining", "encoder", "labels", "seeds", "settings", "overlays")
Label = int | str  # a number of labels, or "all"


@dataclass(frozen=True)
class Pretraining:
    """One way of pre-training: settings over desd_pretrain's train.yaml and small.yaml, and the seeds it runs with."""

    name: str
    seeds: tuple[int, ...]
    settings: Mapping[str, Any]
    overlays: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Arm:
    """One way of fine-tuning: where its encoder comes from, and with which label counts and how many seeds it runs."""

    name: str
    pretraining: str | None
    encoder: Path | None
    runs: Mapping[Label, int]
    settings: Mapping[str, Any]
    overlays: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Tuning:
    """The grid from which the labels of `validation` choose, once for each arm."""

    labels: int
    seed: int
    learning_rate: tuple[float, ...]
    max_epochs: tuple[int, ...]


@dataclass(frozen=True)
class Speed:
    """Shorter runs of some arms, or of all, to see how soon they reach the reference's final Dice."""

    labels: int
    epochs: tuple[int, ...]
    arms: tuple[str, ...]


@dataclass(frozen=True)
class Study:
    """The whole comparison; see `read_study` for the file that it is read from."""

    arms: Mapping[str, Arm]
    pretraining: Mapping[str, Pretraining]
    reference: str
    ours: str | None = None
    common: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    tuning: Tuning | None = None
    speed: Speed | None = None
    probes: tuple[str, ...] = ()
    predictions: tuple[Label, int] | None = None
    minutes: float | None = None  # that each training is planned for, all on one grid; None takes the configs' numbers
    smoke: bool = False
    text: str = ""

    @property
    def overlays(self) -> tuple[str, ...]:
        """The bundles' configs of every training, in order."""
        return ("train", "small", "smoke") if self.smoke else ("train", "small")

    @property
    def reading(self) -> dict[str, Any]:
        """How the scans are read, of the common settings."""
        return {name: self.common[name] for name in ("class_names", "in_channels") if name in self.common}


def read_study(path: str | Path) -> Study:
    """Read a study's YAML.

    Raises:
        UserError: when the file is missing or no YAML, a key is unknown, or a value is not of its kind.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such config. Leave it out for the default, or give the path of a YAML file.")
    text = path.read_text(encoding="utf-8")
    try:
        content = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise UserError(f"{path}: is no YAML ({' '.join(str(error).split())[:160]}). Mend it.") from error
    return study_from(content, str(path), path.parent, text)


def study_from(content: Any, where: str, folder: Path, text: str = "") -> Study:
    """The study that `content` describes; overlays and encoders are relative to `folder`."""
    refuse_unknown(content, KEYS, where)
    labels, seeds = _labels(content.get("labels"), f"{where}: labels"), content.get("seeds", 3)
    known = {
        name: _pretraining(name, part, f"{where}: pretraining, {name}", folder)
        for name, part in _named(content.get("pretraining"), f"{where}: pretraining")
    }
    arms = {
        name: _arm(name, part, labels, seeds, f"{where}: arms, {name}", folder)
        for name, part in _named(content.get("arms"), f"{where}: arms")
    }
    if not arms:
        raise UserError(f"{where}: arms is empty. Name at least one, such as `scratch: {{pretraining: null}}`.")
    for arm in arms.values():
        if arm.pretraining is not None:
            _one_of(arm.pretraining, known, f"{where}: arms, {arm.name}, pretraining")
    return Study(
        arms=arms,
        pretraining=known,
        reference=_reference(content.get("reference"), arms, where),
        ours=_one_of(content["ours"], arms, f"{where}: ours") if content.get("ours") else None,
        common=_mapping(content.get("common"), f"{where}: common"),
        evaluation=_mapping(content.get("evaluation"), f"{where}: evaluation"),
        tuning=_tuning(content["tuning"], f"{where}: tuning") if content.get("tuning") else None,
        speed=_speed(content["speed"], arms, f"{where}: speed") if content.get("speed") else None,
        probes=tuple(_one_of(name, known, f"{where}: probes") for name in content.get("probes") or ()),
        predictions=_predictions(content.get("predictions"), labels, f"{where}: predictions"),
        minutes=checked_minutes(content.get("minutes")),
        smoke=bool(content.get("smoke", False)),
        text=text,
    )


def refuse_unknown(content: Any, known: Sequence[str], where: str) -> None:
    """Refuse what is no mapping, or has a key that is not `known`, naming the nearest one."""
    if not isinstance(content, Mapping):
        raise UserError(f"{where}: is {content!r}, but a mapping is wanted, with keys among {', '.join(known)}.")
    for key in content:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.0)[0]
            raise UserError(f"{where}: key {key!r} is not known. Did you mean {near!r}? There are {', '.join(known)}.")


def _one_of(name: Any, known: Iterable[str], where: str) -> str:
    names = list(known)
    if name not in names:
        near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.0)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UserError(f"{where}: {name!r} is not there.{hint} There are: {', '.join(names) or 'none'}.")
    return str(name)


def _named(content: Any, where: str) -> list[tuple[str, Any]]:
    parts = _mapping(content, where)
    for name in parts:
        if not re.fullmatch(r"[A-Za-z0-9_]+", name):
            raise UserError(f"{where}: the name {name!r} becomes part of file names: use letters, digits and _.")
    return [(name, part or {}) for name, part in parts.items()]


def _mapping(content: Any, where: str) -> dict[str, Any]:
    if not isinstance(content or {}, Mapping):
        raise UserError(f"{where}: is {content!r}, but a mapping is wanted.")
    return {str(key): value for key, value in (content or {}).items()}


def _pretraining(name: str, content: Any, where: str, folder: Path) -> Pretraining:
    refuse_unknown(content, PRETRAINING_KEYS, where)
    seeds = _integers(content.get("seeds", [0]), f"{where}: seeds", least=0)
    return Pretraining(name, seeds, _mapping(content.get("settings"), where), _overlays(content, where, folder))


def _arm(name: str, content: Any, labels: Sequence[Label], seeds: Any, where: str, folder: Path) -> Arm:
    refuse_unknown(content, ARM_KEYS, where)
    if content.get("pretraining") is not None and content.get("encoder") is not None:
        raise UserError(f"{where}: has a pretraining and an encoder. Name one of them, or none for a random start.")
    own = _labels(content["labels"], f"{where}: labels") if "labels" in content else labels
    runs = {label: _seed_count(content.get("seeds", seeds), label, f"{where}: seeds") for label in own}
    encoder = None if content.get("encoder") is None else (folder / str(content["encoder"])).resolve()
    settings, overlays = _mapping(content.get("settings"), where), _overlays(content, where, folder)
    return Arm(name, content.get("pretraining"), encoder, runs, settings, overlays)


def _overlays(content: Mapping[str, Any], where: str, folder: Path) -> tuple[Path, ...]:
    paths = [(folder / str(name)).resolve() for name in content.get("overlays") or ()]
    for path in paths:
        if not path.is_file():
            raise UserError(f"{where}: overlay {path} does not exist. Give its path, relative to the config.")
    return tuple(paths)


def _labels(content: Any, where: str) -> list[Label]:
    values = content if isinstance(content, list) else []
    good = [value for value in values if value == ALL or (type(value) is int and value > 0)]
    if not good or len(set(good)) < len(values):
        raise UserError(f"{where}: is {content!r}: give different numbers of labelled scans, such as [4, 8, all].")
    return good


def _seed_count(content: Any, label: Label, where: str) -> int:
    count = content.get(label) if isinstance(content, Mapping) else content
    if type(count) is not int or count < 1:
        raise UserError(
            f"{where}: says {count!r} for {label} labels: give how many seeds, one number or one for each label count "
            "such as {4: 5, all: 3}."
        )
    return count


def _integers(content: Any, where: str, least: int = 1) -> tuple[int, ...]:
    values = content if isinstance(content, list) else [content]
    if not values or not all(type(value) is int and value >= least for value in values):
        raise UserError(f"{where}: is {content!r}: give whole numbers from {least} on, such as [{least}, {least + 1}].")
    return tuple(values)


def _tuning(content: Any, where: str) -> Tuning:
    refuse_unknown(content, ("labels", "seed", "learning_rate", "max_epochs"), where)
    rates = content.get("learning_rate")
    if not isinstance(rates, list) or not rates or not all(isinstance(rate, int | float) for rate in rates):
        raise UserError(f"{where}: learning_rate is {rates!r}: give numbers with a point, such as [1.0e-3, 4.0e-3].")
    epochs = _integers(content.get("max_epochs"), f"{where}: max_epochs")
    [labels] = _integers(content.get("labels"), f"{where}: labels")[:1]
    [seed] = _integers(content.get("seed", 0), f"{where}: seed", least=0)[:1]
    return Tuning(labels, seed, tuple(float(rate) for rate in rates), epochs)


def _speed(content: Any, arms: Iterable[str], where: str) -> Speed:
    refuse_unknown(content, ("labels", "epochs", "arms"), where)
    [labels] = _integers(content.get("labels"), f"{where}: labels")[:1]
    asked = tuple(_one_of(name, arms, f"{where}: arms") for name in content.get("arms") or arms)
    return Speed(labels, _integers(content.get("epochs"), f"{where}: epochs"), asked)


def _predictions(content: Any, labels: Sequence[Label], where: str) -> tuple[Label, int]:
    """The label count and seed whose predictions are kept; 8 labels, or the fewest, and seed 0."""
    numbers = [label for label in labels if label != ALL]
    fallback: Label = 8 if 8 in numbers else min(numbers, key=int, default=ALL)
    if content is None:
        return fallback, 0
    refuse_unknown(content, ("labels", "seed"), where)
    [label] = _labels([content.get("labels", fallback)], where)
    return label, _integers(content.get("seed", 0), where, least=0)[0]


def _reference(asked: Any, arms: Mapping[str, Arm], where: str) -> str:
    """The arm that the others are compared with: as asked for, else the first that starts from nothing."""
    if asked is not None:
        return _one_of(asked, arms, f"{where}: reference")
    fresh = [arm.name for arm in arms.values() if arm.pretraining is None and arm.encoder is None]
    return fresh[0] if fresh else next(iter(arms))
