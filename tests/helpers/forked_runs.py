"""Trainings of a bundle that are killed, or that form a process group as under ``torchrun``; see `forks`."""

import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml
from bundle_runs import ENVIRONMENT, ROOT, config_files
from forks import TIMEOUT, exit_code, fork, kill
from monai.bundle import ConfigWorkflow


def overlay(path: Path, *handlers: dict[str, Any]) -> Path:
    """Write a config that adds handlers to a trainer."""
    path.write_text(yaml.safe_dump({"+train#handlers": list(handlers)}))
    return path


def run_forked(
    bundle: str,
    configs: str,
    output_dir: Path,
    *more: Path,
    processes: int = 1,
    kill_after: float | None = None,
    prepare: Callable[[], None] | None = None,
    timeout: float = TIMEOUT,
    **settings: Any,
) -> list[int]:
    """Train, and hand back the exit code of each process: minus the number of the signal that killed it.

    Args:
        bundle: its name.
        configs: names of its configs, in order, separated by spaces.
        output_dir: the run's folder; what the processes print goes to ``output_N.txt`` beside it.
        more: further overlays.
        processes: more than one want ``multi_gpu_train`` among the configs.
        kill_after: seconds after which all of them are killed.
        prepare: called in each process before it trains.
        timeout: seconds after which a process that hangs is killed.
        settings: overrides.
    """

    def train() -> None:
        sys.argv = ["monai/bundle/__main__.py", "run"]  # as the bundle's command sees itself
        if prepare is not None:
            prepare()
        workflow = ConfigWorkflow(files, workflow_type="train", **given)
        workflow.initialize()
        workflow.run()
        workflow.finalize()

    files = [*config_files(bundle, *configs.split()), *map(str, more)]
    given = {key: str(value) if isinstance(value, Path) else value for key, value in settings.items()}
    given["output_dir"] = str(output_dir)
    group = {**ENVIRONMENT, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": _free_port(), "WORLD_SIZE": str(processes)}
    children = []
    with ExitStack() as stack:
        for rank in map(str, range(processes)):
            said = stack.enter_context(open(f"{output_dir}_{rank}.txt", "a"))
            environment = {**group, "RANK": rank, "LOCAL_RANK": rank}
            children.append(fork([], train, ROOT, environment, said, said))
        if kill_after is not None:
            children[0].join(kill_after)
            for child in children:
                kill(child)
        return [exit_code(child, children, timeout) for child in children]


def _free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])
