"""One unit of a label curve in a process of its own: ``desd_tools.studies.curve.worker SPEC.json``.

It runs the bundles' own configs, as ``python -m monai.bundle run`` does, one after the other in one process, because
importing torch and MONAI takes seconds. When all is done it writes one JSON, moves what is kept, and removes its work
folder.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from desd_components.runs.ending import ended_plainly

from ..machine import peak_memory


def cpu_seconds() -> float:
    """CPU time of this process and of those that it started and that ended."""
    parts = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(part.ru_utime + part.ru_stime for part in parts)


def run_stage(stage: dict[str, Any]) -> dict[str, Any]:
    """Run one bundle config list; returns its CPU seconds and, after a training, the steps it took."""
    from monai.bundle import ConfigWorkflow

    began = cpu_seconds()
    workflow = ConfigWorkflow(config_file=stage["configs"], run_id=stage["word"] or "run", **stage["settings"])
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    facts: dict[str, Any] = {"cpu_seconds": round(cpu_seconds() - began, 1)}
    if stage["word"] == "training":
        state = workflow.parser.get_parsed_content("train#trainer").state
        taken = workflow.parser.get_parsed_content("handlers#rate").step
        facts |= {"steps": taken, "epochs": int(state.epoch)}
    return facts


def run_spec(spec: dict[str, Any]) -> int:
    """Run all stages and leave the result; 0, as an exit code."""
    from desd_components.base.files import write_json
    from desd_components.runs.log import environment

    began, work = time.monotonic(), Path(spec["work"])
    work.mkdir(parents=True, exist_ok=True)
    started, resumed = cpu_seconds(), (work / "state.pt").is_file()
    facts = {stage["name"]: run_stage(stage) for stage in spec["stages"]}
    here = environment()
    result = {
        **spec["record"],
        "steps": facts.get("training", {}).get("steps"),
        "epochs": facts.get("training", {}).get("epochs"),
        "cpu_seconds": {"start": round(started, 1), **{name: fact["cpu_seconds"] for name, fact in facts.items()}},
        "resumed": resumed,  # then the seconds are those since the last start
        "wall_seconds": round(time.monotonic() - began, 1),
        "peak_mb": peak_memory(os.getpid()),
        "versions": here["versions"],
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
    if spec["metrics"]:
        result["metrics"] = json.loads((work / spec["metrics"]).read_text())
    for name, target in spec["keep"].items():
        _keep(work / name, Path(target))
    write_json(Path(spec["result"]), result)
    shutil.rmtree(work)
    return 0


def _keep(source: Path, target: Path) -> None:
    if target.exists() and not source.exists():  # kept by a process that was killed before it had left its result
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.rmtree(target, ignore_errors=True)
    shutil.move(source, target)


def main(path: str) -> int:
    """Run the spec at `path`; 2 after printing a `UserError` as one line."""
    import torch

    torch.set_num_threads(1)
    return ended_plainly(lambda: run_spec(json.loads(Path(path).read_text())))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
