"""How much better is a segmenter on few labels when its encoder was pre-trained? One command that measures it.

It trains and judges arms x label counts x seeds, every run in a process of its own, and writes one JSON for each; what
is finished is never done again. Learning rate and length are chosen on `validation`; `test` is read by the final runs
alone, after every choice was made.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from desd_components.base.errors import UserError
from desd_components.base.files import read_json, write_json
from desd_components.scans.lists import read_split
from desd_components.scans.names import Scan
from desd_components.scans.planning.machine import Machine
from desd_components.scans.planning.plan import planned_pretraining, planned_segmentation
from desd_components.scans.planning.survey import survey

from . import roles
from .curve import page, tables
from .curve.known_settings import FINETUNE, PRETRAIN
from .curve.plan import Planner
from .curve.pool import Clock, Pool
from .curve.store import Store, code_hash
from .curve.study import Study, read_study
from .curve.summary import chosen_settings, mean_dice, summarize
from .curve.units import Places, Scans, Unit, spec
from .machine import usable_cores
from .steps import Step

DEFAULT = Path(__file__).parent / "curve" / "default.yaml"
Record = dict[str, Any]


def label_curve(
    config: str = "",
    data: str = "",
    output: str = "label_curve",
    bundles: str = "",
    report_only: bool = False,
    accept_other_code: bool = False,
) -> None:
    """Compare fine-tunings on few labels, with and without pre-training, and write OUTPUT/index.html.

    Args:
        config: a YAML file that names arms, label counts, seeds and settings; none: pre-trained against scratch.
        data: a labelled folder in the Decathlon's layout, with splits.json or without.
        output: everything is written there; finished runs are not repeated.
        bundles: the folder of the two bundles; by default that of the repository.
        report_only: run nothing, and make table, plot and page again from what is there.
        accept_other_code: take finished results that an older or newer code computed; the page will say so.
    """
    study = read_study(config or DEFAULT)
    places = prepare(data, output, bundles)
    with locked(places.output):
        planner = planned(study, places)
        planner.check()
        store = Store(places.runs, accept_other_code)
        records = found(planner, store) if report_only else Runner(planner, store).run()
        finish(planner, store, records)


def prepare(data: str, output: str, bundles: str) -> Places:
    """Check the folders.

    Raises:
        UserError: for a missing folder, or an output folder with other things in it.
    """
    if not data:
        raise UserError("desd label-curve: no scans were named: --data FOLDER, labelled, such as Task04_Hippocampus.")
    source, target = Path(data).resolve(), Path(output).resolve()
    if not source.is_dir():
        raise UserError(f"{source}: no such folder. Name a labelled folder such as Task04_Hippocampus: --data.")
    if target.exists() and any(target.iterdir()) and not (target / "runs").is_dir():
        raise UserError(f"{target}: the folder is not empty and no earlier label curve. Choose another --output.")
    folder = roles.bundles_folder(bundles)
    (target / "runs").mkdir(parents=True, exist_ok=True)
    return Places(source, roles.split_file(source, target), target, folder)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a second call out of the folder.

    Raises:
        UserError: when another one is at work there.
    """
    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                f"{folder}: another desd label-curve is at work there. Wait, or name another --output."
            ) from error
        yield


def planned(study: Study, places: Places) -> Planner:
    """The planner, after who trains, validates and tests was found or written down."""
    roles.ensure_split(places.data, places.split, **study.reading)
    labelled = roles.labelled_scans(places.data, places.split, val_fraction=0.0, **study.reading)
    images = roles.pretraining_images(places.data, labelled.sections)
    roles.write_scan_list(places.scans, images)
    train = read_split(places.split, places.data)["train"]
    roles.write_if_new(places.training_split, json.dumps({"train": train}, indent=1))
    roles.write_if_new(places.output / "study.yaml", study.text)
    sizes = [len(part) for part in (labelled.training, labelled.validation, labelled.test)]
    scans = Scans(sizes[0], sizes[1], sizes[2], roles.scans_hash(images, labelled.sections)[:16])
    numbers = {} if study.minutes is None else planned_numbers(study.minutes, places, labelled.training, images)
    return Planner(study, places, scans, code_hash(places.bundles, (*study.overlays, "evaluate")), numbers)


def planned_numbers(minutes: float, places: Places, labelled: Sequence[Scan], images: Sequence[Any]) -> dict[str, Any]:
    """One plan for all runs, by bundle: as a fine-tuning from scratch plans on one core, and pre-training on its grid.

    It is kept in the output, so that a study that goes on, or moves, keeps its numbers.
    """
    if places.plan.is_file():
        known: dict[str, Any] = read_json(places.plan)
        return known
    torch.set_num_threads(1)
    machine = Machine.of("cpu", places.cache, minutes)
    fine = planned_segmentation(survey(labelled, places.data, places.cache), machine)
    grid = {name: fine.get(name) for name in ("spacing", "intensity")}
    encoder = {"preprocessing": grid, "architecture": fine.get("architecture")}
    seen = survey([{"image": image} for image in images], places.data, places.cache)
    plans = {FINETUNE: fine, PRETRAIN: planned_pretraining(seen, machine, known=encoder)}
    numbers = {bundle: plan.overrides() for bundle, plan in plans.items()}
    write_json(places.plan, numbers)
    return numbers


def found(planner: Planner, store: Store) -> list[Record]:
    """The finished results that belong to the study, without running anything."""
    first = [*planner.pretrainings(), *planner.tunings(), *planner.probes()]
    records = _present(planner, store, first)
    chosen = chosen_settings(records, planner.study)
    if planner.study.tuning is not None and len(chosen) < len(planner.study.arms):
        print("the tuning is not finished: there are no final runs to report yet")
        return records
    return records + _present(planner, store, [*planner.finals(chosen), *planner.speeds(chosen)])


def _present(planner: Planner, store: Store, units: Sequence[Unit]) -> list[Record]:
    results = [store.find(unit.name, planner.key(unit), mend=False) for unit in units]
    return [result for result in results if result is not None]


class Runner:
    """Runs what is not finished: first what chooses, then, when every choice is made, what reads `test`."""

    def __init__(self, planner: Planner, store: Store) -> None:
        self.planner, self.store, self.places = planner, store, planner.places
        self.records: dict[str, Record] = {}
        self.gone: dict[str, Unit] = {}  # finished pre-trainings whose encoder was moved away
        self.clock = Clock()

    def run(self) -> list[Record]:
        """All records of the study.

        Raises:
            UserError: when a run fails, or an earlier result is of another study.
        """
        first = [*self.planner.pretrainings(), *self.planner.tunings(), *self.planner.probes()]
        later = self._last({arm: {} for arm in self.planner.study.arms})
        pool = Pool(usable_cores(), len(first) + len(later), self.places.logs, self.clock, self._step, headline)
        self._run(pool, first, later)
        last = self._last(chosen_settings(list(self.records.values()), self.planner.study))
        pool.total = len(first) + len(last)
        self._run(pool, last, [])
        return list(self.records.values())

    def _last(self, chosen: Mapping[str, Mapping[str, Any]]) -> list[Unit]:
        return [*self.planner.finals(chosen), *self.planner.speeds(chosen)]

    def _run(self, pool: Pool, units: Sequence[Unit], later: Sequence[Unit]) -> None:
        for unit in units:
            record = self._finished(unit)
            if record is not None:
                self.records[unit.name] = record
                self.clock.add(unit, record["wall_seconds"] + record["cpu_seconds"]["start"])
        missing = [unit for unit in units if unit.name not in self.records]
        again = [
            self.gone.pop(name)
            for name in dict.fromkeys(n for unit in missing for n in unit.after)
            if name in self.gone
        ]
        for unit in again:
            print(f"{unit.title}: its encoder is gone, and runs need it: it is done again")
            del self.records[unit.name]
        missing = [*again, *missing]
        done, slots = set(self.records), pool.runner.slots
        print(f"{len(missing)} of {pool.total} runs are to be done now, {slots} at once; {len(done)} are finished")
        pool.run(missing, done, later)
        for unit in missing:
            self.records[unit.name] = json.loads(self.store.path(unit.name).read_text())

    def _finished(self, unit: Unit) -> Record | None:
        """The unit's result, where there is one; a pre-training's without its encoder is noted in `gone`."""
        record = self.store.find(unit.name, self.planner.key(unit))
        if record is not None and unit.kind == "pretraining" and not all(path.exists() for path in unit.keep.values()):
            self.gone[unit.name] = unit
        return record

    def _step(self, unit: Unit) -> Step:
        work = self.planner.work(unit)
        work.mkdir(parents=True, exist_ok=True)
        path = work / "spec.json"
        path.write_text(json.dumps(spec(self.places, unit, self.planner.key(unit), work), indent=1))
        command = ["python", "-m", "desd_tools.studies.curve.worker", str(path)]
        return Step(unit.name, unit.title, command, self.store.path(unit.name), unit.after)


def headline(record: Mapping[str, Any]) -> str:
    """A finished run's Dice, for the line of progress."""
    return f": Dice {mean_dice(record):.3f}" if "section" in record else ""


def finish(planner: Planner, store: Store, records: Sequence[Record]) -> None:
    """Analyse, write everything, and print the seeds' spread, the Dice and the gains."""
    study, remarks = planner.study, []
    if study.smoke:
        remarks.append(
            "This was a smoke run: it shows that everything runs. Nothing was learnt, no figure means anything."
        )
    if store.accepted:
        remarks.append(
            f"{len(store.accepted)} of {len(records)} results were computed by other code than the present one, and "
            f"accepted with --accept_other_code (first: {store.accepted[0]})."
        )
    planned_runs = sum(sum(arm.runs.values()) for arm in study.arms.values())
    final = sum(record["kind"] == "final" for record in records)
    if final < planned_runs:
        remarks.append(f"Only {final} of {planned_runs} final runs are finished.")
    summary = summarize(records, study)
    target = page.write_outputs(planner.places, study, summary, records, remarks)
    for remark in remarks:
        print(remark)
    for table in tables.main_tables(summary)[:3]:
        print(plain(table))
    print(f"page: {target}")


def plain(table: tables.Table) -> str:
    """A table for the terminal."""
    lines = [table.head, *table.rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(table.head))]
    rows = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([f"{table.title} {table.note}", *rows, ""])
