"""Run bundles as people do: ``python -m monai.bundle run`` with overlays, from the repository root."""

import json
import os
import subprocess
import sys
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import fire
from forks import bundle_command

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
BOTH = (
    "train",
    "train small",
    "train smoke",
    "train small smoke",
    "train multi_gpu_train",
    "train small multi_gpu_train",
    "train small smoke multi_gpu_train",
    "train evaluate",
    "train small evaluate",
    "inference",
)
#: a bundle, and configs of it that are laid over each other, by their names
TOGETHER = [
    *((bundle, configs) for bundle in ("desd_pretrain", "desd_seg_finetune") for configs in BOTH),
    ("desd_pretrain", "train small nnunet"),
    ("desd_seg_finetune", "train small self_train"),
    ("desd_seg_finetune", "train small smoke self_train multi_gpu_train"),
]


def config_files(bundle: str, *names: str) -> list[str]:
    """The paths of configs of a bundle, by their names without ``.yaml``, relative to the root."""
    return [f"bundles/{bundle}/configs/{name}.yaml" for name in names]


def run_bundle(bundle: str, configs: str, *words: str, **settings: Any) -> CompletedProcess:
    """Run a bundle and hand back what it printed.

    Args:
        bundle: its name.
        configs: names of its configs, in order, separated by spaces.
        words: what follows ``run``, such as "training".
        settings: ``--name value`` each, and those of `run_files`.
    """
    if configs == "inference":  # it has no smoke overlay that turns the page off
        settings = {"page": False, **settings}
    return run_files(config_files(bundle, *configs.split()), *words, **settings)


def run_files(
    files: list[str], *words: str, processes: int = 1, own_process: bool = False, **settings: Any
) -> CompletedProcess:
    """The same, for configs anywhere.

    Args:
        files: the configs, in order.
        words: what follows ``run``.
        processes: more than one are started by ``torchrun``.
        own_process: start Python anew, where the process itself is what is promised; see `forks`.
        settings: ``--name value`` each.
    """
    command = ["run", *words, "--config_file", str(files) if len(files) > 1 else files[0]]
    for name, value in settings.items():
        command += [f"--{name}", str(value)]
    if processes == 1 and not own_process:
        return bundle_command(command, ROOT, ENVIRONMENT)
    launcher = ["torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", "-m"]
    start = [sys.executable, "-m", *(launcher if processes > 1 else []), "monai.bundle", *command]
    return subprocess.run(start, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=600)


def words_to_settings(*words: str) -> tuple[Any, dict[str, Any]]:
    """What MONAI's ``run`` takes from the words that follow it: the config files, and name -> value of all else."""

    def run(run_id: Any = None, config_file: Any = None, **given: Any) -> tuple[Any, dict[str, Any]]:
        return config_file, given

    return fire.Fire(run, command=list(words), serialize=lambda _: None)


def succeed(done: CompletedProcess) -> CompletedProcess:
    """The same, after a look at the exit code."""
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    return done


def error_line(done: CompletedProcess) -> str:
    """What a refused run ends with: a line, and one more for each file where several are at fault."""
    assert done.returncode != 0, done.stdout[-3000:]
    _, told, line = f"\n{done.stderr.strip()}".rpartition("\nerror: ")
    assert told, done.stderr[-3000:]
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    return line


def history(output_dir: Path) -> list[dict[str, Any]]:
    """The records of a run."""
    return [json.loads(line) for line in (output_dir / "history.jsonl").read_text().splitlines()]
