"""Run bundles as people do: ``python -m monai.bundle run`` with overlays, from the repository root."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def config_files(bundle: str, *names: str) -> list[str]:
    """The paths of configs of a bundle, by their names without ``.yaml``, relative to the root."""
    return [f"bundles/{bundle}/configs/{name}.yaml" for name in names]


def run_bundle(
    bundle: str, configs: str, *words: str, processes: int = 1, **settings: Any
) -> subprocess.CompletedProcess:
    """Run a bundle and hand back what it printed.

    Args:
        bundle: its name.
        configs: names of its configs, in order, separated by spaces.
        words: what follows ``run``, such as "training".
        processes: more than one starts it by torchrun.
        settings: ``--name value`` each.
    """
    if configs == "inference":  # it has no smoke overlay that turns the page off
        settings = {"page": False, **settings}
    return run_files(config_files(bundle, *configs.split()), *words, processes=processes, **settings)


def run_files(files: list[str], *words: str, processes: int = 1, **settings: Any) -> subprocess.CompletedProcess:
    """The same, for configs anywhere."""
    launcher = [sys.executable, "-m"]
    if processes > 1:
        launcher = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc_per_node={processes}",
            "-m",
        ]
    command = [*launcher, "monai.bundle", "run", *words, "--config_file", str(files) if len(files) > 1 else files[0]]
    for name, value in settings.items():
        command += [f"--{name}", str(value)]
    return subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=600)


def succeed(done: subprocess.CompletedProcess) -> subprocess.CompletedProcess:
    """The same, after a look at the exit code."""
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    return done


def error_line(done: subprocess.CompletedProcess) -> str:
    """What a refused run ends with: a line, and one more for each file where several are at fault."""
    assert done.returncode != 0, done.stdout[-3000:]
    assert "\nerror: " in done.stderr, done.stderr[-3000:]
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    return done.stderr.strip().rpartition("\nerror: ")[2]


def history(output_dir: Path) -> list[dict[str, Any]]:
    """The records of a run."""
    return [json.loads(line) for line in (output_dir / "history.jsonl").read_text().splitlines()]
