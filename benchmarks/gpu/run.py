"""Try all promises, each in a process of its own, and write ``promises.json`` and ``index.html``.

A promise that fails, hangs or takes its process down does not touch the others. All of them end within ten minutes:
one that does not in its own time is killed, and what is left of the time bounds the last. Exit code: 0 where all that
could be tried held, 1 where one did not, 2 where there is no such device.

    python -m benchmarks gpu [--output gpu] [--device cuda] [--quick]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ignite
import monai
import torch

from desd_components.pages.page import Section, html, page
from desd_components.runs.log import commit, machine
from desd_tools.places import ROOT

from .promise import Found, Promise
from .table import PROMISES

FOUND = "found.json"
SECONDS = 590.0  # for all of them
REHEARSAL_SECONDS = 300.0  # for each, wherever a rehearsal runs
WORDS = {True: "held", False: "FAILED", None: "not tried"}


def main(words: Sequence[str] = ()) -> int:
    """Try them; see the module."""
    parser = argparse.ArgumentParser("python -m benchmarks gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("gpu"), help="folder of the JSON, the page and the logs")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a rehearsal without a GPU")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: nothing is measured, everything is run")
    given = parser.parse_args(words)
    if given.device == "cuda" and not torch.cuda.is_available():
        print(f"error: torch {torch.__version__} sees no GPU: nothing was tried. To rehearse: --device cpu --quick.")
        return 2
    (given.output / "logs").mkdir(parents=True, exist_ok=True)
    found = try_all(given.device, given.quick, given.output)
    here = circumstances(given.device, given.quick)
    told = {**here, "promises": {name: {"limit": PROMISES[name].limit, **asdict(each)} for name, each in found.items()}}
    (given.output / "promises.json").write_text(json.dumps(told, indent=1) + "\n")
    (given.output / "index.html").write_text(promises_page(here, found), encoding="utf-8")
    held = sum(each.held is True for each in found.values())
    untried = sum(each.held is None for each in found.values())
    print(f"{held} of {len(found) - untried} held, {untried} not tried; page: {given.output / 'index.html'}")
    return int(held + untried < len(found))


def try_all(device: str, quick: bool, output: Path) -> dict[str, Found]:
    """What came of each promise, by its name; told as it comes."""
    until, found = time.monotonic() + SECONDS, {}
    for name, promise in PROMISES.items():
        most = REHEARSAL_SECONDS if quick else min(promise.seconds, until - time.monotonic())
        found[name] = each = try_one(promise, device, quick, output / "logs", most)
        print(f"{WORDS[each.held]:<10} {name:<18} {each.seconds:5.0f} s  {each.said}", flush=True)
    return found


def try_one(promise: Promise, device: str, quick: bool, logs: Path, most: float) -> Found:
    """Try a promise in a process of its own, for `most` seconds."""
    if most < 1:
        return Found(False, "no time was left for it")
    began, log = time.monotonic(), logs / f"{promise.name.replace(' ', '_').replace(',', '')}.txt"
    with tempfile.TemporaryDirectory() as folder, open(log, "w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.gpu", promise.name, device, str(quick), folder],
            cwd=ROOT,
            env={**os.environ, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"},  # products of matrices repeat bit for bit
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        said = ""
        try:
            process.wait(most)
        except subprocess.TimeoutExpired:
            said = f"did not end within {most:.0f} s"
        finally:
            _kill_group(process)
        result = Path(folder, FOUND)
        if not said and result.is_file():
            found = Found(**json.loads(result.read_text()))
        else:
            found = Found(False, said or f"its process ended with exit code {process.returncode}; see {log}")
    found.seconds = time.monotonic() - began
    return found


def _kill_group(process: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError):  # nothing of it is left
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def circumstances(device: str, quick: bool) -> dict[str, Any]:
    """What was tried on, and when."""
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "device": machine(device),
        "cards": torch.cuda.device_count() if device == "cuda" else 0,
        "sizes": "tiny: a rehearsal, which measures nothing" if quick else "published",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "CUDA": torch.version.cuda,
        "cuDNN": torch.backends.cudnn.version() if device == "cuda" else None,
        "monai": monai.__version__,
        "ignite": ignite.__version__,
        "cores": os.cpu_count(),
        "commit": commit(),
    }


def promises_page(here: Mapping[str, Any], found: Mapping[str, Found]) -> str:
    """The page: what held, then each promise's figures."""
    rows = [
        [name, PROMISES[name].limit, WORDS[each.held], each.said, f"{each.seconds:.0f}"] for name, each in found.items()
    ]
    whole = Section("Promises", [html.table(["promise", "limit", "", "what was found", "s"], rows)])
    return page(
        "What holds on a GPU",
        f"{here['device']}, torch {here['torch']}, {here['date']}; sizes: {here['sizes']}.",
        [
            whole,
            *(Section(name, list(figures_parts(each.figures))) for name, each in found.items() if each.figures),
            Section("Where and when", [html.table(["", ""], [[key, str(value)] for key, value in here.items()])]),
        ],
    )


def figures_parts(figures: Mapping[str, Any]) -> Sequence[str]:
    """A table of the figures, and one of the kernels where there are any."""
    kernels = figures.get("dearest", [])
    plain = [[name, _told(value)] for name, value in figures.items() if name != "dearest"]
    rows = [[name[:100], f"{1000 * seconds:.2f}", f"{calls:g}"] for name, seconds, calls in kernels]
    head = ["dearest kernels of a step", "ms", "calls"]
    return [html.table(["figure", "value"], plain), *([html.table(head, rows)] if rows else [])]


def _told(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{name}: {_told(part)}" for name, part in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_told, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
