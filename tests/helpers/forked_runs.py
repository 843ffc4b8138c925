"""Run a bundle in forked processes: as ``python -m monai.bundle run`` would, without importing everything again.

A forked process can be killed like any other; several of them form a process group as under ``torchrun``.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from bundle_runs import ROOT, config_files
from monai.bundle import ConfigWorkflow

TIMEOUT = 300


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
    files = [*config_files(bundle, *configs.split()), *map(str, more)]
    given = {"output_dir": str(output_dir), **{key: _plain(value) for key, value in settings.items()}}
    fork = multiprocessing.get_context("fork")
    common = processes, _free_port(), files, given, prepare
    children = [fork.Process(target=_train, args=(rank, *common)) for rank in range(processes)]
    for child in children:
        child.start()
    if kill_after is not None:
        children[0].join(kill_after)
        for child in children:
            _kill(child)
    return [_exit_code(child, children, timeout) for child in children]


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _exit_code(child: Any, children: list[Any], timeout: float) -> int:
    child.join(timeout)
    if child.exitcode is None:
        _kill(child)
        child.join()
    if child.exitcode < 0:  # as torchrun does: the others would wait for one that is gone
        for other in children:
            _kill(other)
    return child.exitcode


def _kill(child: Any) -> None:
    """Kill a process, and its loader processes: one that was just being started would wait for it for ever.

    It remembers its parent too late to notice that it is gone (torch's `ManagerWatchdog`), and holds open what
    multiprocessing waits for.
    """
    child.kill()
    with contextlib.suppress(ProcessLookupError):  # killed before it had a group of its own
        os.killpg(child.pid, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _train(
    rank: int,
    processes: int,
    port: int,
    files: list[str],
    settings: dict[str, Any],
    prepare: Callable[[], None] | None,
) -> None:
    os.setpgid(0, 0)
    os.chdir(ROOT)
    os.environ.update(CUDA_VISIBLE_DEVICES="", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(processes))
    said = open(f"{settings['output_dir']}_{rank}.txt", "a", buffering=1)  # noqa: SIM115  # for as long as it lives
    sys.stdout = sys.stderr = said
    logging.basicConfig(stream=said, level=logging.INFO, force=True)
    sys.argv = ["monai/bundle/__main__.py", "run"]  # as the bundle's command sees itself
    if prepare is not None:
        prepare()
    try:
        workflow = ConfigWorkflow(files, workflow_type="train", **settings)
        workflow.initialize()
        workflow.run()
        workflow.finalize()
    except Exception as error:  # multiprocessing would print it in its own way; the command asks the hook
        sys.excepthook(type(error), error, error.__traceback__)
        sys.exit(1)
