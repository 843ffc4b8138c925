"""What every page has: alarms and warnings, pictures, settings, provenance, and where the files are.

Where from: ours; read off the records that the run left.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..base.files import readable
from ..runs.log import record_name
from .page import Section, html
from .pictures import FOLDER, read_pictures
from .runs import Part, Run

FILES = {
    "encoder.pt": "the pre-trained (teacher's) encoder",
    "encoder.json": "its manifest: architecture and preprocessing",
    "model.pt": "the best segmentation network",
    "model.json": "its manifest",
    "state.pt": "the whole state, to resume from",
    "history.jsonl": "every logged figure, one line each",
    "metrics.json": "Dice and HD95 of every case",
    "config.yaml": "all settings, resolved",
    "environment.json": "versions, command, hashes",
    "data.json": "the list of scans",
    "report.json": "the scans, and those that failed",
    "evaluation_config.yaml": "all settings of the evaluation, resolved",
    "inference_config.yaml": "all settings, resolved",
    "train.log": "the log",
    "evaluation.log": "the log of the evaluation",
    "inference.log": "the log",
}
WARNINGS_SHOWN = 8
#: of environment.json: what it is called on the page
FACTS = {
    "started": "started (UTC)", "finished": "finished (UTC)", "device": "device", "machine": "machine",
    "processes": "processes", "threads": "threads", "peak_memory_mb": "peak memory (MB)",
    "peak_gpu_memory_mb": "peak GPU memory (MB)", "commit": "commit", "config_hash": "config hash",
    "data_hash": "data hash",
}  # fmt: skip
PICTURE_TITLES = {
    "evaluation": "What it looks like",
    "inference": "Some of the scans",
    "features": "What the encoder sees",
}


def alarms_section(run: Run) -> Section:
    """When which alarm sounded, and what it said; further warnings of the log below."""
    rows, said = [], dict.fromkeys(warning for part in run.parts for warning in part.warnings)
    by_iteration: dict[str, list[str]] = {}
    for warning in reversed(said):
        if found := re.search(r"\biteration (\d+)\b", warning):
            by_iteration.setdefault(found[1], []).append(warning)
    for onset, name in alarm_onsets(run.history):
        step, epoch = onset.get("step", 0), onset.get("epoch", "")
        there = by_iteration.get(f"{onset.get('iteration', step):.0f}")
        words = there.pop() if there else ""
        said.pop(words, None)
        rows.append([f"{step:.0f}", epoch, name.replace("_", " "), words or "the log has no words for it"])
    parts = [html.table(["step", "epoch", "alarm", "what was seen, and what to do"], rows)] if rows else []
    shown, more = list(said)[:WARNINGS_SHOWN], list(said)[WARNINGS_SHOWN:]
    parts += [html.note(warning, warn=True) for warning in shown]
    if more:
        parts.append(html.folded(f"{len(more)} more warnings", "\n".join(more), wrap=True))
    watched = any(key.startswith("alarm_") for row in run.history for key in row)
    if watched and not rows:
        parts.insert(0, html.note("No alarm sounded: neither side of a collapse was seen."))
    return Section("Health", parts)


def alarm_onsets(history: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Mapping[str, Any], str]]:
    """The record where an alarm begins to sound, and its name, for each time it does."""
    on: set[str] = set()
    for row in history:
        for key in [key for key in row if key.startswith("alarm_")]:
            if row[key] and key not in on:
                yield row, key.removeprefix("alarm_")
            on = on | {key} if row[key] else on - {key}


def pictures_section(run: Run, part: str) -> Section:
    """The pictures that a part of the run left."""
    folder = run.folder / FOLDER
    shown = [
        html.stack((folder / p.file).read_bytes(), p.alt, p.title, p.caption, p.slices, p.first)
        if p.slices > 1
        else html.picture((folder / p.file).read_bytes(), p.alt, p.title, p.caption)
        for p in read_pictures(run.folder, part)
    ]
    return Section(PICTURE_TITLES[part], shown)


def scans_section(run: Run) -> Section:
    """The scans of an inference: size, time, volume of each class, what was odd; those that failed stand above."""
    if not run.scans:
        return Section("Scans")
    failed = [[scan["image"], scan["error"]] for scan in run.scans.get("failed", [])]
    parts = [html.table(["could not be used", "why"], failed)] if failed else []
    scans = run.scans.get("scans", [])
    root = os.path.commonpath([os.path.dirname(scan["image"]) for scan in scans]) if scans else ""
    names = list(dict.fromkeys(name for scan in scans for name in scan.get("volumes_ml", {})))
    rows = [
        [
            os.path.relpath(scan["image"], root) if root else scan["image"],
            " x ".join(map(str, scan["shape"])),
            " x ".join(f"{side:.3g}" for side in scan["spacing_mm"]),
            scan["seconds"],
            *(scan.get("volumes_ml", {}).get(name) for name in names),
            "; ".join(scan["warnings"]),
        ]
        for scan in sorted(scans, key=lambda scan: (not scan["warnings"], scan["image"]))
    ]
    head = ["scan", "voxels", "spacing (mm)", "seconds", *(f"{name} (ml)" for name in names), "warnings"]
    if rows:
        where = f"In {root}. " if root else ""
        parts.append(html.paragraph(f"{where}Scans with a warning stand first; a click on a heading sorts by it."))
        parts.append(html.sortable(head, rows, sorted_by=len(head) - 1, numbers_from=3, words=[len(head) - 1]))
    return Section("Scans", parts)


def plan_section(run: Run) -> Section:
    """What was planned, with its reasons."""
    rows = [[name, str(number["value"]), number["why"]] for name, number in run.plan.items()]
    return Section("Plan", [html.table(["number", "value", "reason"], rows, code=(1,))] if rows else [])


def settings_section(runs: Sequence[Run]) -> Section:
    """Every resolved config, folded."""
    found = [(run, part) for run in runs for part in run.parts if part.config]
    shown = [
        html.folded(f"{_called(run, part)}: {run.folder / record_name(part.name, 'config.yaml')}", part.config)
        for run, part in found
    ]
    return Section("Settings", shown)


def provenance_section(runs: Sequence[Run]) -> Section:
    """Per run: seed, dates, device, memory, commit and hashes; below, the versions and the commands."""
    found = [(run, part) for run in runs for part in run.parts if part.environment]
    if not found:
        return Section("Provenance")
    rows = [["seed", *(_fact(run.settings.get("seed")) for run, _ in found)]]
    rows += [[words, *(_fact(part.environment.get(key)) for _, part in found)] for key, words in FACTS.items()]
    rows = [row for row in rows if row[0] == "seed" or any(fact != "–" for fact in row[1:])]
    versions = found[0][1].environment.get("versions", {})
    rows.append(["versions", ", ".join(f"{name} {version}" for name, version in versions.items())])
    body = [html.table(["", *(_called(run, part) for run, part in found)], rows)]
    for run, part in found:
        command = part.environment.get("command")
        if command:
            words = command if isinstance(command, str) else " ".join(map(str, command))
            body.append(html.folded(f"{_called(run, part)}: command", words, wrap=True))
    return Section("Provenance", body)


def _called(run: Run, part: Part) -> str:
    return f"{run.name}, {part.name}" if part.name else run.name


def _fact(value: Any) -> str:
    """A fact for a narrow column: a time without its zone, which is UTC."""
    return "–" if value is None else str(value).removesuffix("+00:00")


def files_section(runs: Sequence[Run], more: Mapping[str, str] | None = None) -> Section:
    """Where every file is; ``more``: path -> what it is."""
    rows: list[list[str]] = []
    for run in runs:
        for name, what in FILES.items():
            path = run.folder / name
            if path.is_file():
                rows.append([str(path), f"{run.name}: {what}", readable(path.stat().st_size)])
    rows += [[path, what, ""] for path, what in (more or {}).items()]
    head = ["file", "what it is", "size"]
    return Section("Where every file is", [html.table(head, rows, numbers_from=2, code=[0])] if rows else [])
