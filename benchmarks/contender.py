"""One side of a comparison, in a process of its own, which does its work once each time that it is told to.

So sides with packages of one name can take turns: version 0.1 comes from this repository's history. And the most memory
that a side takes is its own.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import resource
import subprocess
import sys
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
OLD = "64ede1cf34bbf608b08452a89c4b428e44e917d1"  # the last commit of version 0.1 before its rooms


def version_01(folder: Path) -> Path:
    """Package and bundles of version 0.1, written into `folder`."""
    command = ["git", "-C", str(ROOT), "archive", OLD, "desd_components", "bundles"]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        sys.exit(f"error: version 0.1 is not in this repository's history ({done.stderr.decode().strip()}).")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


class Contender:
    """A process that waits for its turns.

    Args:
        work: "module:function" of this folder; the function gets `settings` and gives what is called at each turn,
            which may return figures of its own.
        tree: the folder with the package and the bundles that it works with.
        settings: plain values.
    """

    def __init__(self, work: str, tree: Path, **settings: Any) -> None:
        self.work = work
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-W", "ignore", "-m", "benchmarks.contender", work, json.dumps(settings)],
            env={**os.environ, "PYTHONPATH": f"{tree}:{ROOT}", "OMP_NUM_THREADS": "1"},
            cwd=tree,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self) -> dict[str, float]:
        """Take a turn: ``cpu`` and ``seconds`` that it took, ``peak_mb`` of the process so far, and its own figures."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"error: {self.work} ended with exit code {self.process.wait()}; see above.")
        figures: dict[str, float] = json.loads(line)
        return figures

    def end(self) -> None:
        """Let the process end."""
        self.process.communicate()


def by_turns(contenders: Mapping[str, Contender], rounds: int, warmups: int = 1) -> dict[str, dict[str, list[float]]]:
    """What each contender said in each of the rounds, figure by figure; in a round all take their turn once."""
    seen: dict[str, dict[str, list[float]]] = {name: {} for name in contenders}
    for number in range(-warmups, rounds):
        for name, contender in contenders.items():
            for figure, value in contender().items():
                if number >= 0:
                    seen[name].setdefault(figure, []).append(value)
    for contender in contenders.values():
        contender.end()
    return seen


def main() -> None:
    """The process itself."""
    answers, sys.stdout = sys.stdout, sys.stderr
    module, function = sys.argv[1].split(":")
    turn = getattr(importlib.import_module(f"benchmarks.{module}"), function)(**json.loads(sys.argv[2]))
    for _ in sys.stdin:
        cpu, began = time.process_time(), time.perf_counter()
        own = turn() or {}
        times = {"cpu": time.process_time() - cpu, "seconds": time.perf_counter() - began}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
        print(json.dumps(times | {"peak_mb": peak} | own), file=answers, flush=True)


if __name__ == "__main__":
    main()
